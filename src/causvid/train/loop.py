"""The one training loop: budget, checkpoint, metrics, samples, resume.

A stage is data: the objects whose state must survive (`state`), and a function that performs step n. Everything random
in step n is drawn from `step_generator(seed, stage, n)`, so a run that was interrupted and resumed takes exactly the
steps an unbroken one takes.
"""

import json
import os
import pickle
import sys
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor

from causvid.interrupt import gentle_interrupt

CHECKPOINT = "checkpoint.pt"
METRICS = "metrics.jsonl"


class Stateful(Protocol):
    """Anything that can hand over its state and take it back."""

    def state_dict(self) -> dict[str, Any]:
        """Return the state."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> Any:
        """Take a state back."""


@dataclass(frozen=True)
class Run:
    """Where, how long and how often: what the person who starts a stage decides.

    minutes: stop (with a checkpoint, to be resumed) after so long; None runs to the end of the stage.
    """

    folder: Path
    seed: int = 0
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    minutes: float | None = None
    checkpoint_minutes: float = 4.0
    sample_minutes: float = 8.0


@dataclass(frozen=True)
class Stage:
    """One stage of the recipe as the loop sees it.

    settings: plain values that a checkpoint remembers, and that must be the same for whoever goes on from it.
    step: perform training step n and return scalar metrics as tensors. sample: write pictures of the present state into
    a folder, given the steps done. finish: write the stage's result once the last step is done.
    """

    name: str
    steps: int
    settings: Mapping[str, Any]
    state: Mapping[str, Stateful]
    step: Callable[[int], dict[str, Tensor]]
    finish: Callable[[], None]
    sample: Callable[[Path, int], None] | None = None


def step_generator(seed: int, stage: str, step: int, device: torch.device | str = "cpu") -> torch.Generator:
    """Return the generator of one step; streams of different stages, steps and kinds of device are unrelated."""
    # Within 32 bits, since a generator on the CPU ignores all others.
    return torch.Generator(device).manual_seed(zlib.crc32(f"{stage}/{step}".encode(), seed))


def save_atomically(value: object, path: Path) -> None:
    """Write with `torch.save` beside the target and rename, so that no reader sees half a file."""
    partial = path.with_suffix(".partial")
    torch.save(value, partial)
    os.replace(partial, path)


def _save(stage: Stage, run: Run, path: Path, step: int, seconds: float) -> None:
    state = {name: part.state_dict() for name, part in stage.state.items()}
    started_with = {"seed": run.seed, **stage.settings}
    save_atomically({"step": step, "seconds": seconds, "started_with": started_with, "state": state}, path)


def _load(stage: Stage, run: Run, path: Path) -> tuple[int, float]:
    if not path.exists():
        return 0, 0.0
    try:
        saved = torch.load(path, map_location=run.device, weights_only=True)
    except (RuntimeError, ValueError, EOFError, OSError, pickle.UnpicklingError):
        raise ValueError(f"{path} is damaged: delete it, and stage {stage.name} begins anew") from None
    now = {"seed": run.seed, **stage.settings}
    before = saved.get("started_with", {}) if isinstance(saved, dict) else {}
    for key, value in now.items():
        if key in before and value != before[key]:
            raise ValueError(f"{key}={value}, but {path} was started with {before[key]}: use another --out")
    try:
        for name, part in stage.state.items():
            part.load_state_dict(saved["state"][name])
        return saved["step"], saved["seconds"]
    except (RuntimeError, KeyError, ValueError, TypeError, AttributeError) as error:
        lines = str(error).splitlines() or [type(error).__name__]
        line = lines[min(1, len(lines) - 1)].strip()  # torch says what is wrong in the second line
        raise ValueError(f"{path} does not fit this stage ({line}): use another --out or delete the file") from None


def _forget_metrics_after(step: int, path: Path) -> None:
    """Drop the rows of steps that were taken after the last checkpoint, and will be taken again."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
        with suppress(ValueError):  # the end of a row may be missing
            if json.loads(line)["step"] <= step:
                kept.append(line)
    partial = path.with_suffix(".partial")
    partial.write_text("".join(kept), encoding="utf-8")
    os.replace(partial, path)


@contextmanager
def _curves(folder: Path, step: int) -> Iterator[Callable[[str, float, int], None]]:
    """Open TensorBoard's log from `step` on; where it is not installed, `metrics.jsonl` alone has the curves."""
    if find_spec("tensorboard") is None:
        print("tensorboard is not installed: curves are in metrics.jsonl alone", file=sys.stderr)
        yield lambda name, value, at: None
        return
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(log_dir=str(folder), purge_step=step) as writer:
        yield writer.add_scalar


def train(stage: Stage, run: Run) -> bool:
    """Run a stage to its end or to the end of its budget; return whether it is done.

    Picks up at the checkpoint in `run.folder / stage.name` if there is one. Appends metrics to `metrics.jsonl` and to
    TensorBoard every few steps, if it is installed. Ctrl-C ends the step, saves a checkpoint, and raises
    `KeyboardInterrupt`.
    """
    folder = run.folder / stage.name
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / CHECKPOINT
    done, spent = _load(stage, run, path)
    if done >= stage.steps:
        stage.finish()
        return True

    _forget_metrics_after(done, folder / METRICS)
    begin = saved_at = sampled_at = time.monotonic()
    every = max(1, min(20, stage.steps // 50))
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with (
        _curves(folder / "tensorboard", done) as draw,
        (folder / METRICS).open("a", encoding="utf-8") as log,
        Progress(*columns, TimeRemainingColumn(), TextColumn("{task.fields[note]}"), console=console) as progress,
        gentle_interrupt() as stop,
    ):
        bar = progress.add_task(stage.name, total=stage.steps, completed=done, note="")
        while done < stage.steps:
            metrics = stage.step(done)
            done += 1
            now = time.monotonic()
            seconds = spent + now - begin
            if done % every == 0 or done == stage.steps:
                row = {name: round(float(value), 6) for name, value in metrics.items()}
                log.write(json.dumps({"step": done, "seconds": round(seconds, 2), **row}) + "\n")
                log.flush()
                for name, value in row.items():
                    draw(f"{stage.name}/{name}", value, done)
                progress.update(bar, note=" ".join(f"{k} {v:.4g}" for k, v in list(row.items())[:2]))
            progress.update(bar, completed=done)
            over = run.minutes is not None and now - begin > 60 * run.minutes
            if stop.is_set() or over or done == stage.steps or now - saved_at > 60 * run.checkpoint_minutes:
                _save(stage, run, path, done, seconds)
                saved_at = now
            if stop.is_set():
                raise KeyboardInterrupt
            if over:
                break
            if stage.sample and now - sampled_at > 60 * run.sample_minutes:
                stage.sample(folder, done)
                sampled_at = time.monotonic()
    if stage.sample:
        stage.sample(folder, done)
    if done >= stage.steps:
        stage.finish()
    return done >= stage.steps
