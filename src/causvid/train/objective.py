"""A loss and what it moves: the unit that the loop optimises, with optimiser, schedule, precision and averages.

The loss of a step is the mean over `accumulate` micro-batches, which processes that train together share. A stage
returns objectives; gradients, clipping, learning rates and averages are the loop's. Master weights are fp32.
"""

import copy
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from causvid.models.transformer import Transformer
from causvid.recipe import StageConfig, TransformerStage
from causvid.seeding import step_generator
from causvid.train.distributed import Ranks, average_buffers, clip_gradients, gather, is_sharded, local, unsharded
from causvid.train.muon import Muon
from causvid.train.run import Run

Metrics = dict[str, Tensor]
M = TypeVar("M", bound=nn.Module)


@dataclass(frozen=True)
class Micro:
    """The micro-batch that a loss is asked for, and its sources of randomness.

    noise: on the run's device, different for every micro-batch. choices: on the CPU, the same for all micro-batches of
    an update, for what decides how many passes are run: processes that train together must run as many, and know it
    without waiting for a device.
    """

    step: int
    update: int
    index: int
    noise: torch.Generator
    choices: torch.Generator


class Ema:
    """A running average of a module's weights, kept in fp32; young averages forget faster."""

    def __init__(self, module: nn.Module, decay: float) -> None:
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
        present = [local(state[name]).float() for name in self.weights]
        torch._foreach_lerp_([local(weight) for weight in self.weights.values()], present, 1 - decay)

    def state_dict(self) -> dict[str, Any]:
        """Return the average and its age."""
        return {"updates": self.updates, "weights": self.weights}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore an average."""
        self.updates = state_dict["updates"]
        for name, value in state_dict["weights"].items():
            self.weights[name].copy_(value)


@dataclass
class Objective:
    """One loss of a stage, and the modules whose parameters it trains as the stage's settings say.

    loss: returns a scalar to differentiate and detached scalars to follow. rate: replaces the learning rate of the
    settings. updates: how often it is optimised in a step. has_average: average the weights, unless `ema` is 0. then:
    goes on with the backward pass where the loss's ends.
    """

    name: str
    loss: Callable[[Micro], tuple[Tensor, Metrics]]
    modules: Mapping[str, nn.Module]
    config: StageConfig
    rate: float | None = None
    updates: int = 1
    has_average: bool = True
    then: Callable[[], None] = lambda: None

    def __post_init__(self) -> None:
        self.parameters = [p for module in self.modules.values() for p in module.parameters() if p.requires_grad]
        self.optimizers = optimizers(self.modules.values(), self.parameters, self.config)
        averaged = self.modules.values() if self.has_average and self.config.ema else ()
        self.averages = {module: Ema(module, self.config.ema) for module in averaged}
        self._gathered: dict[nn.Module, dict[str, Tensor]] = {}

    def state(self, module: nn.Module) -> dict[str, Tensor]:
        """Return the state that `averaged` has, without a copy."""
        if is_sharded(module):
            return self._gathered[module]
        own = module.state_dict()
        average = self.averages[module].weights if module in self.averages else own
        return {name: average[name].to(tensor.dtype) for name, tensor in own.items()}

    @contextmanager
    def shown(self, *modules: nn.Module) -> Iterator[None]:
        """Exchange the averages of modules' weights for what is trained until the block ends, a tensor at a time.

        All processes that share sharded weights must enter.
        """
        training = [module.training for module in modules]
        for module in modules:
            self._exchange(module.eval())
        try:
            yield
        finally:
            for module, trains in zip(modules, training, strict=True):
                self._exchange(module.train(trains))

    @torch.no_grad()
    def _exchange(self, module: nn.Module) -> None:
        average = self.averages[module].weights if module in self.averages else {}
        state = module.state_dict() if average else {}
        for name, tensor in state.items():
            if not tensor.is_floating_point():
                continue
            own, other = local(tensor), local(average[name])
            before = own.clone()
            own.copy_(other)
            other.copy_(before)

    def averaged(self, module: M) -> M:
        """Return a copy of a module with the average of its weights, ready for use; a sharded one inside `gathered`."""
        if is_sharded(module):
            return unsharded(module, self._gathered[module]).eval()
        result = copy.deepcopy(module)
        if module in self.averages:
            result.load_state_dict(self.averages[module].weights)
        return result.eval()

    @contextmanager
    def gathered(self, ranks: Ranks) -> Iterator[None]:
        """Hold in the main process all that is sharded whole, for `averaged`; all processes must enter."""
        for module in filter(is_sharded, self.modules.values()):
            weights = self.averages[module].weights if module in self.averages else module.state_dict()
            self._gathered[module] = gather(weights, ranks)
        yield
        self._gathered.clear()


def optimise(objective: Objective, stage: str, run: Run, step: int) -> Metrics:
    """Take an objective's updates of one step; return its loss, gradient norm and metrics, averaged over them."""
    config, rows = objective.config, []
    share = run.ranks.share(config.accumulate)
    for update in range(objective.updates):
        source = f"{stage}/{objective.name}/{update}"
        losses = []
        for index in share:
            noise = step_generator(run.seed, source, step, run.device, part=index)
            choices = step_generator(run.seed, f"{source} choices", step)
            loss, metrics = objective.loss(Micro(step, update, index, noise, choices))
            (loss / len(share)).backward()
            objective.then()
            losses.append({"loss": loss.detach(), **metrics})
        norm = clip_gradients(objective.parameters, config.max_norm, run.ranks)
        for optimizer in objective.optimizers.values():
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(config, step, objective.rate)
            optimizer.step()
        for module in objective.modules.values():
            average_buffers(module, run.ranks)
        for optimizer in objective.optimizers.values():
            optimizer.zero_grad(set_to_none=True)  # no gradients in memory while others are computed
        for average in objective.averages.values():
            average.update()
        rows.append({**_mean(losses), "grad_norm": norm.detach()})
    return _mean(rows)


def learning_rate(config: StageConfig, step: int, base: float | None = None) -> float:
    """Return the rate at a step: linear warmup, constant, then linear to zero over the last `cooldown` of the stage."""
    rate = config.learning_rate if base is None else base
    warm = min(1.0, (step + 1) / max(1, config.warmup))
    left = (config.steps - step) / max(1.0, config.cooldown * config.steps)
    return rate * warm * min(1.0, left)


def optimizers(
    modules: Collection[nn.Module], parameters: Sequence[nn.Parameter], config: StageConfig
) -> dict[str, torch.optim.Optimizer]:
    """Make what moves a stage's parameters, by the name its state has in a checkpoint.

    Muon moves the matrices inside transformer blocks, AdamW the rest, at one learning rate.

    Raises:
        ValueError: if Muon is asked for and the matrices are spread over processes.
    """
    if not isinstance(config, TransformerStage) or config.optimizer == "adamw":
        return {"optimizer": adamw(parameters, config)}
    inside = {
        id(parameter)
        for module in modules
        if isinstance(module, Transformer)
        for parameter in module.blocks.parameters()
        if parameter.ndim == 2
    }
    if any(map(is_sharded, modules)):
        raise ValueError('optimizer="muon" needs whole matrices: train in one process, or with optimizer="adamw"')
    matrices = [parameter for parameter in parameters if id(parameter) in inside]
    others = [parameter for parameter in parameters if id(parameter) not in inside]
    dtype = torch.bfloat16 if half_is_fast(matrices[0].device) else torch.float32
    muon = Muon(matrices, lr=config.learning_rate, weight_decay=config.weight_decay, dtype=dtype)
    return {"optimizer": adamw(others, config), "muon": muon}


def adamw(parameters: Iterable[nn.Parameter], config: StageConfig) -> torch.optim.AdamW:
    """Make AdamW with the stage's betas; weight decay touches matrices only."""
    matrices: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for parameter in parameters:
        (matrices if parameter.ndim >= 2 else others).append(parameter)
    groups = [{"params": matrices, "weight_decay": config.weight_decay}, {"params": others, "weight_decay": 0.0}]
    groups = [group for group in groups if group["params"]]
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=config.betas, fused=True)


def autocast(device: torch.device) -> torch.autocast:
    """Return the precision of a training pass: bf16 products where the machine is fast at them, else fp32.

    That is on CUDA, and on a CPU that has instructions for them. Weights stay fp32. Without the cache of cast weights,
    in which a pass that needs gradients can find what one without them has cast:
    https://github.com/pytorch/pytorch/issues/112583
    """
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=half_is_fast(device), cache_enabled=False)


def half_is_fast(device: torch.device) -> bool:
    """Tell whether the machine is faster at bf16 products than at fp32 ones."""
    if device.type != "cpu":
        return device.type == "cuda"
    has: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()  # torch 2.11 cannot tell
    return bool(has.get("avx512_bf16") or has.get("amx_bf16"))


def _mean(rows: Sequence[Metrics]) -> Metrics:
    return {name: torch.stack([row[name].float() for row in rows]).mean() for name in rows[0]}
