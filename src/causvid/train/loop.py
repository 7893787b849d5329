"""The one training loop: budget, checkpoint, metrics, samples, resume.

A stage is data: the objects whose state must survive (`state`), and a function that performs step n. Everything random
in step n is drawn from `step_generator(seed, stage, n)`, so a run that was interrupted and resumed takes exactly the
steps an unbroken one takes.
"""

import json
import os
import pickle
import time
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor

from causvid.interrupt import gentle_interrupt

CHECKPOINT = "checkpoint.pt"


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

    step: perform training step n and return scalar metrics as tensors. sample: write pictures of the present state into
    a folder, given the steps done. finish: write the stage's result once the last step is done.
    """

    name: str
    steps: int
    state: Mapping[str, Stateful]
    step: Callable[[int], dict[str, Tensor]]
    finish: Callable[[], None]
    sample: Callable[[Path, int], None] | None = None


def step_generator(seed: int, stage: str, step: int) -> torch.Generator:
    """Return the CPU generator of one step; streams of different stages and steps are unrelated."""
    return torch.Generator().manual_seed(zlib.crc32(f"{stage}/{step}".encode()) + (seed << 32))


def save_atomically(value: object, path: Path) -> None:
    """Write with `torch.save` beside the target and rename, so that no reader sees half a file."""
    partial = path.with_suffix(".partial")
    torch.save(value, partial)
    os.replace(partial, path)


def _save(stage: Stage, path: Path, step: int, seconds: float) -> None:
    state = {name: part.state_dict() for name, part in stage.state.items()}
    save_atomically({"step": step, "seconds": seconds, "state": state}, path)


def _load(stage: Stage, path: Path, device: torch.device) -> tuple[int, float]:
    if not path.exists():
        return 0, 0.0
    try:
        saved = torch.load(path, map_location=device, weights_only=True)
        for name, part in stage.state.items():
            part.load_state_dict(saved["state"][name])
    except (RuntimeError, KeyError, ValueError, EOFError, OSError, pickle.UnpicklingError) as error:
        line = next(iter(str(error).splitlines()), type(error).__name__)
        raise ValueError(f"{path} does not fit this stage ({line}): use another --out or delete the file") from None
    return saved["step"], saved["seconds"]


def train(stage: Stage, run: Run) -> bool:
    """Run a stage to its end or to the end of its budget; return whether it is done.

    Picks up at the checkpoint in `run.folder / stage.name` if there is one. Appends metrics to `metrics.jsonl` and to
    TensorBoard every few steps. Ctrl-C ends the step, saves a checkpoint, and raises `KeyboardInterrupt`.
    """
    from torch.utils.tensorboard import SummaryWriter

    folder = run.folder / stage.name
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / CHECKPOINT
    done, spent = _load(stage, path, run.device)
    if done >= stage.steps:
        stage.finish()
        return True

    begin = saved_at = sampled_at = time.monotonic()
    every = max(1, min(20, stage.steps // 50))
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with (
        SummaryWriter(log_dir=str(folder / "tensorboard"), purge_step=done) as writer,
        (folder / "metrics.jsonl").open("a", encoding="utf-8") as log,
        Progress(*columns, TimeRemainingColumn(), TextColumn("{task.fields[note]}")) as progress,
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
                    writer.add_scalar(f"{stage.name}/{name}", value, done)
                progress.update(bar, note=" ".join(f"{k} {v:.4g}" for k, v in row.items()))
            progress.update(bar, completed=done)
            over = run.minutes is not None and now - begin > 60 * run.minutes
            if stop.is_set() or over or done == stage.steps or now - saved_at > 60 * run.checkpoint_minutes:
                _save(stage, path, done, seconds)
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
