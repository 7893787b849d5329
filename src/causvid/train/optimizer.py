"""Optimiser, learning-rate schedule, precision and weight averaging of every stage. Master weights are fp32."""

from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from causvid.config import StageConfig
from causvid.train.loop import Run

M = TypeVar("M", bound=nn.Module)


def learning_rate(config: StageConfig, step: int, base: float | None = None) -> float:
    """Return the rate at a step: linear warmup, constant, then linear to zero over the last `cooldown` of the stage."""
    rate = config.learning_rate if base is None else base
    warm = min(1.0, (step + 1) / max(1, config.warmup))
    left = (config.steps - step) / max(1.0, config.cooldown * config.steps)
    return rate * warm * min(1.0, left)


def adamw(parameters: Iterable[nn.Parameter], config: StageConfig) -> torch.optim.AdamW:
    """Make AdamW with the stage's betas; weight decay touches matrices only."""
    parameters = list(parameters)
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    groups = [g for g in groups if g["params"]]
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=config.betas, fused=True)


def autocast(run: Run) -> torch.autocast:
    """Return the precision of a training pass: bf16 products where the machine is fast at them, else fp32.

    Weights stay fp32. Without the cache of cast weights, which can hand a pass that needs gradients what one without
    them has cast: https://github.com/pytorch/pytorch/issues/112583
    """
    return torch.autocast(run.device.type, dtype=torch.bfloat16, enabled=has_fast_bf16(run.device), cache_enabled=False)


def has_fast_bf16(device: torch.device) -> bool:
    """Tell whether bf16 products pay: on CUDA, and on a CPU that has instructions for them."""
    if device.type != "cpu":
        return device.type == "cuda"
    has: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()  # torch 2.11 cannot tell
    return bool(has.get("avx512_bf16") or has.get("amx_bf16"))


def update(
    optimizer: torch.optim.Optimizer, loss: Tensor, parameters: Sequence[nn.Parameter], *, rate: float, clip: float
) -> Tensor:
    """Take one step on `loss` at the given rate; return the gradient's norm before clipping."""
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    norm = nn.utils.clip_grad_norm_(parameters, clip)
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.step()
    return norm.detach()


class Ema:
    """A running average of a module's weights, kept in fp32; young averages forget faster."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.updates = 0
        self.weights = {name: p.detach().float().clone() for name, p in module.state_dict().items()}

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Move the average towards the module's present weights."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        state = module.state_dict()
        averages = list(self.weights.values())
        torch._foreach_lerp_(averages, [state[name].float() for name in self.weights], 1 - decay)

    def copy_to(self, module: M) -> M:
        """Write the average into a module and return it, ready for use."""
        module.load_state_dict(self.weights)
        return module.eval()

    def state_dict(self) -> dict[str, Any]:
        """Return the average and its age."""
        return {"updates": self.updates, "weights": self.weights}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take an average back."""
        self.updates = state_dict["updates"]
        for name, value in state_dict["weights"].items():
            self.weights[name].copy_(value)
