"""A stage's metrics: a row of JSON every few steps, and TensorBoard's curves where it is installed."""

import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path

METRICS = "metrics.jsonl"
Log = Callable[[int, float, Mapping[str, float]], None]
"""Takes the steps done, the seconds they took, and metrics."""


@contextmanager
def open_log(folder: Path, name: str, step: int) -> Iterator[Log]:
    """Open the log of stage `name`, whose last checkpoint is of `step`: rows of later steps are dropped."""
    _drop_rows_after(step, folder / METRICS)
    with (folder / METRICS).open("a", encoding="utf-8") as rows, _curves(folder / "tensorboard", step) as draw:

        def log(done: int, seconds: float, metrics: Mapping[str, float]) -> None:
            rows.write(json.dumps({"step": done, "seconds": round(seconds, 2), **metrics}) + "\n")
            rows.flush()
            for metric, value in metrics.items():
                draw(f"{name}/{metric}", value, done)

        yield log


def last_row(folder: Path) -> Mapping[str, float] | None:
    """Return the last whole row of a stage's folder, None if there is none."""
    path = folder / METRICS
    for line in reversed(path.read_text(encoding="utf-8").splitlines() if path.is_file() else []):
        if (row := _read(line)) is not None:
            return row
    return None


def _read(line: str) -> dict[str, float] | None:
    """Read a row; None for one that was cut short, or is not a row."""
    with suppress(ValueError):
        row = json.loads(line)
        if isinstance(row, dict) and all(isinstance(row.get(key), int | float) for key in ("step", "seconds")):
            return row
    return None


def _drop_rows_after(step: int, path: Path) -> None:
    """Drop the rows of steps after the last checkpoint, which will be taken again, and what is not a row."""
    if not path.exists():
        return
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    kept = [line for line in lines if (row := _read(line)) is not None and row["step"] <= step]
    partial = path.with_suffix(".partial")
    partial.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")
    os.replace(partial, path)


@contextmanager
def _curves(folder: Path, step: int) -> Iterator[Callable[[str, float, int], None]]:
    """Open TensorBoard's log from `step` on."""
    if find_spec("tensorboard") is None:
        print("tensorboard is not installed: curves are in metrics.jsonl alone", file=sys.stderr)
        yield lambda name, value, at: None
        return
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(log_dir=str(folder), purge_step=step) as writer:
        yield writer.add_scalar
