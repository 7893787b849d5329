"""A loss and what it moves: the unit that the loop optimises.

The loss of a step is the mean over `accumulate` micro-batches. A stage returns objectives; gradients, clipping,
learning rates and averages are the loop's.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from causvid.recipe import StageConfig
from causvid.seeding import step_generator
from causvid.train.optimizer import Ema, adamw, learning_rate
from causvid.train.run import Run

Metrics = dict[str, Tensor]


@dataclass(frozen=True)
class Micro:
    """The micro-batch that a loss is asked for, and its sources of randomness.

    noise: on the run's device, different for every micro-batch. choices: on the CPU, which has to know what is chosen
    and would have to wait for a device that draws; for what decides how many passes are run, which must be the same
    in all processes that train together.
    """

    step: int
    update: int
    index: int
    noise: torch.Generator
    choices: torch.Generator


@dataclass(frozen=True)
class Objective:
    """One loss of a stage, with its parameters and optimizer.

    loss: returns a scalar to differentiate and detached scalars to follow. learning_rate: by step. updates: how often
    it is optimised in a step. averages: of the modules that the parameters are in.
    """

    name: str
    loss: Callable[[Micro], tuple[Tensor, Metrics]]
    parameters: Sequence[nn.Parameter]
    optimizer: torch.optim.Optimizer
    learning_rate: Callable[[int], float]
    max_norm: float
    accumulate: int = 1
    updates: int = 1
    averages: Mapping[str, Ema[Any]] = field(default_factory=dict)


def make_objective(
    name: str,
    loss: Callable[[Micro], tuple[Tensor, Metrics]],
    parameters: Sequence[nn.Parameter],
    config: StageConfig,
    *,
    rate: float | None = None,
    updates: int = 1,
    averages: Mapping[str, Ema[Any]] | None = None,
) -> Objective:
    """Make an objective with AdamW and the schedule of a stage's settings; `rate` replaces their learning rate."""
    return Objective(
        name,
        loss,
        parameters,
        adamw(parameters, config),
        lambda step: learning_rate(config, step, rate),
        max_norm=config.max_norm,
        accumulate=config.accumulate,
        updates=updates,
        averages=averages or {},
    )


def optimise(objective: Objective, stage: str, run: Run, step: int) -> Metrics:
    """Take an objective's updates of one step; return its loss, gradient norm and metrics, averaged over them."""
    rows = []
    for update in range(objective.updates):
        source = f"{stage}/{objective.name}/{update}"
        losses = []
        for index in range(objective.accumulate):
            micro = Micro(
                step=step,
                update=update,
                index=index,
                noise=step_generator(run.seed, source, step, run.device, part=index),
                choices=step_generator(run.seed, f"{source} choices", step, part=index),
            )
            loss, metrics = objective.loss(micro)
            (loss / objective.accumulate).backward()
            losses.append({"loss": loss.detach(), **metrics})
        norm = nn.utils.clip_grad_norm_(objective.parameters, objective.max_norm)
        for group in objective.optimizer.param_groups:
            group["lr"] = objective.learning_rate(step)
        objective.optimizer.step()
        objective.optimizer.zero_grad(set_to_none=True)  # no gradients in memory while others are computed
        for average in objective.averages.values():
            average.update()
        rows.append({**_mean(losses), "grad_norm": norm.detach()})
    return _mean(rows)


def _mean(rows: Sequence[Metrics]) -> Metrics:
    return {name: torch.stack([row[name].float() for row in rows]).mean() for name in rows[0]}
