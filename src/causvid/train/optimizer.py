"""Optimiser, learning-rate schedule, precision and weight averaging of every stage. Master weights are fp32."""

import copy
from collections.abc import Iterable
from typing import Any, Generic, TypeVar

import torch
from torch import nn

from causvid.recipe import StageConfig

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


def autocast(device: torch.device) -> torch.autocast:
    """Return the precision of a training pass: bf16 products where the machine is fast at them, else fp32.

    Weights stay fp32. Without the cache of cast weights, in which a pass that needs gradients can find what one without
    them has cast: https://github.com/pytorch/pytorch/issues/112583
    """
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=has_fast_bf16(device), cache_enabled=False)


def has_fast_bf16(device: torch.device) -> bool:
    """Tell whether bf16 products pay: on CUDA, and on a CPU that has instructions for them."""
    if device.type != "cpu":
        return device.type == "cuda"
    has: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()  # torch 2.11 cannot tell
    return bool(has.get("avx512_bf16") or has.get("amx_bf16"))


class Ema(Generic[M]):
    """A running average of a module's weights, kept in fp32; young averages forget faster."""

    def __init__(self, module: M, decay: float) -> None:
        self.module = module
        self.decay = decay
        self.updates = 0
        self.weights = {name: p.detach().float().clone() for name, p in module.state_dict().items()}

    @torch.no_grad()
    def update(self) -> None:
        """Move the average towards the module's present weights."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        state = self.module.state_dict()
        averages = list(self.weights.values())
        torch._foreach_lerp_(averages, [state[name].float() for name in self.weights], 1 - decay)

    def averaged(self) -> M:
        """Return a copy of the module with the average as its weights, ready for use."""
        module = copy.deepcopy(self.module)
        module.load_state_dict(self.weights)
        return module.eval()

    def state_dict(self) -> dict[str, Any]:
        """Return the average and its age."""
        return {"updates": self.updates, "weights": self.weights}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore an average."""
        self.updates = state_dict["updates"]
        for name, value in state_dict["weights"].items():
            self.weights[name].copy_(value)
