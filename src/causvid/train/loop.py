"""The one training loop: budget, updates, checkpoints, metrics, samples, resume.

A stage is data: modules and objectives for the loop to optimise, or a function that computes shard n. Everything random
in a step is drawn from `step_generator(seed, stage, step)`, so a run that was interrupted and resumed takes exactly the
steps of an unbroken one.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rich import progress as bars
from rich.console import Console
from torch import nn

from causvid.engine.memory import release
from causvid.interrupt import gentle_interrupt
from causvid.train.alarm import CriticAlarm
from causvid.train.checkpoint import METRICS, Checkpoints, Progress, Stateful, open_log, read_rows
from causvid.train.distributed import is_sharded
from causvid.train.objective import Metrics, Objective, optimise
from causvid.train.run import Run
from causvid.train.speed import Speed

COLUMNS = (
    bars.TextColumn("{task.description}"),
    bars.BarColumn(),
    bars.MofNCompleteColumn(),
    bars.TimeElapsedColumn(),
    bars.TimeRemainingColumn(),
    bars.TextColumn("{task.fields[note]}"),
)


@dataclass(frozen=True)
class Stage:
    """One stage of the recipe as the loop sees it.

    settings: plain values that a checkpoint remembers, and that must be the same for whoever resumes from it.
    finish: write the stage's result once the last step is done. objectives: what is trained, in the order of a step.
    make: instead, compute and write what step n makes. sample: write pictures of the present state into a folder, after
    so many steps.
    """

    name: str
    steps: int
    settings: Mapping[str, Any]
    finish: Callable[[], None]
    objectives: Sequence[Objective] = ()
    make: Callable[[int], Metrics] | None = None
    sample: Callable[[Path, int], None] | None = None

    @property
    def modules(self) -> dict[str, nn.Module]:
        """Return what is trained."""
        return {name: module for objective in self.objectives for name, module in objective.modules.items()}

    def clips_of(self, step: int) -> int:
        """Return how many clips a step trains on."""
        return max((objective.config.clips_of(step) for objective in self.objectives), default=0)

    @property
    def is_whole(self) -> bool:
        """Tell whether nothing that is trained is sharded."""
        return not any(map(is_sharded, self.modules.values()))

    @property
    def state(self) -> dict[str, Stateful]:
        """Return everything that must survive an interruption: modules, optimizers and averages."""
        parts: dict[str, Stateful] = dict(self.modules)
        for objective in self.objectives:
            parts |= {f"{objective.name} {name}": one for name, one in objective.optimizers.items()}
            averages = objective.averages
            parts |= {f"{name} average": averages[one] for name, one in objective.modules.items() if one in averages}
        return parts


def take_step(stage: Stage, run: Run, step: int) -> Metrics:
    """Take one step of a stage: every objective's updates, in order, or what the stage makes.

    Metrics are named for their objective where there are several.
    """
    metrics = {} if stage.make is None or step >= stage.steps else stage.make(step)
    for objective in stage.objectives:
        prefix = f"{objective.name}_" if len(stage.objectives) > 1 else ""
        values = optimise(objective, stage.name, run, step)
        metrics |= {f"{prefix}{name}": value for name, value in values.items()}
    return metrics


def train(stage: Stage, run: Run) -> bool:
    """Run a stage to its end or to the deadline; return whether it is done.

    Resumes from the checkpoint in `run.folder / stage.name` if there is one. Ctrl-C ends the step, saves a checkpoint,
    and raises `KeyboardInterrupt`. Of several processes the main one alone logs, samples and writes the result. A line
    of warning says when student and critic come apart.

    Raises:
        ValueError: if a metric is not finite, at once and with the last checkpoint kept; or if the checkpoint cannot be
            resumed from.
    """
    folder, ranks, is_main = run.folder / stage.name, run.ranks, run.ranks.is_main
    folder.mkdir(parents=True, exist_ok=True)
    settings = {"seed": run.seed, **stage.settings}
    checkpoints = Checkpoints(folder, stage.state, settings=settings, run=run, whole=stage.is_whole)
    before = checkpoints.load()
    done = saved = before.step
    if done >= stage.steps:
        _in_main_process(stage, run, stage.finish)
        return True

    begin = saved_at = sampled_at = time.monotonic()
    every = max(1, min(20, stage.steps // 50))
    with (
        open_log(folder, stage.name, done, follower=run.log, settings=settings)
        if is_main
        else nullcontext(_no_log) as log,
        bars.Progress(*COLUMNS, console=Console(stderr=True), disable=not is_main) as progress,
        gentle_interrupt() as stop,
    ):
        bar = progress.add_task(stage.name, total=stage.steps, completed=done, note="")
        speed, alarm = Speed(run.device), CriticAlarm(read_rows(folder / METRICS) if is_main else ())
        while done < stage.steps:
            step = done if stage.make is None else done + ranks.rank  # what is made is shared out, a step to each
            after = done + 1 if stage.make is None else min(done + ranks.size, stage.steps)
            logs = after % every == 0 or after == stage.steps
            taken = speed.take(partial(_measured, stage, run, step), stage.clips_of(step), counts=logs and is_main)
            metrics, done = taken, after
            now = time.monotonic()
            due = now - saved_at > 60 * run.checkpoint_minutes, now - sampled_at > 60 * run.sample_minutes
            spoiled = not all(map(math.isfinite, metrics.values()))
            common = {} if stage.make else metrics
            means, flags = ranks.agree(common, (stop.is_set(), run.is_over, *due, spoiled))
            stopped, over, saves, samples, spoiled = flags
            metrics |= means
            if spoiled:  # the weights are, too, and must not be saved
                checkpoints.wait()
                found = (f"{name}={value}" for name, value in metrics.items() if not math.isfinite(value))
                kept = f"the checkpoint of step {saved} is kept" if saved else "no checkpoint was written yet"
                where = f"stage {stage.name} stopped at step {done}"
                raise ValueError(f"{where}: {next(found, 'a metric of another process is not finite')}; {kept}")
            seconds = before.seconds + now - begin
            if logs and is_main:
                metrics = {name: round(value, 6) for name, value in metrics.items()}
                more, line = alarm.add(metrics)
                log(done, seconds, {**metrics, **more, **speed.row()})
                progress.update(bar, note=" ".join(f"{k} {v:.4g}" for k, v in list(metrics.items())[:2]))
                if line is not None:
                    progress.console.print(f"warning: stage {stage.name}, step {done}: {line}", soft_wrap=True)
            progress.update(bar, completed=done)
            ends = stopped or over or done == stage.steps
            if ends or saves:
                checkpoints.save(Progress(done, seconds))
                saved, saved_at = done, now
            if ends:
                checkpoints.wait()
            if stopped:
                raise KeyboardInterrupt
            if over:
                break
            if stage.sample and samples and not ends:
                _sample(stage, run, partial(stage.sample, folder, done))
                sampled_at = time.monotonic()
    if stage.sample:
        _sample(stage, run, partial(stage.sample, folder, done))
    if done >= stage.steps:
        _in_main_process(stage, run, stage.finish)
    return done >= stage.steps


def _measured(stage: Stage, run: Run, step: int) -> dict[str, float]:
    """Take a step and wait for its metrics."""
    return {name: float(value) for name, value in take_step(stage, run, step).items()}


def _sample(stage: Stage, run: Run, act: Callable[[], None]) -> None:
    """Make samples: in the main process or, where weights are sharded, in all, of which the main one writes."""
    if stage.is_whole:
        _in_main_process(stage, run, act)
    else:
        release()
        act()
        run.ranks.wait()


def _in_main_process(stage: Stage, run: Run, act: Callable[[], None]) -> None:
    """Do what must be done once, with whole weights; other processes wait."""
    release()  # an allocator keeps gigabytes of an update
    with ExitStack() as stack:
        for objective in stage.objectives:
            stack.enter_context(objective.gathered(run.ranks))
        if run.ranks.is_main:
            act()
    run.ranks.wait()


def _no_log(done: int, seconds: float, metrics: Mapping[str, float]) -> None:
    """Log nothing."""
