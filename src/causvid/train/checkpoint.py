"""What a stage writes while it runs: checkpoints that are whole or absent, and rows of metrics.

A checkpoint is a file, or a folder where weights are sharded; either resumes on any number of processes. Metrics are a
row of JSON every few steps, and curves beside them.
"""

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from zipfile import BadZipFile, ZipFile

import torch

from causvid.files.writing import new_file
from causvid.opening import open_regular
from causvid.train import sharded
from causvid.train.curves import Follower, open_curves
from causvid.train.run import Run

CHECKPOINT = "checkpoint.pt"
METRICS = "metrics.jsonl"
LARGEST = 2**53
"""Most steps or seconds a file may state."""
Log = Callable[[int, float, Mapping[str, float]], None]
"""Takes the steps done, the seconds they took, and metrics."""


class Stateful(Protocol):
    """Anything that can return its state and restore it."""

    def state_dict(self) -> dict[str, Any]:
        """Return the state."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> object:
        """Restore a state."""


@dataclass(frozen=True)
class Progress:
    """How far a stage has come."""

    step: int = 0
    seconds: float = 0.0


def save_checkpoint(
    path: Path, state: Mapping[str, Stateful], progress: Progress, *, settings: Mapping[str, Any]
) -> None:
    """Write a checkpoint; `settings` are plain values that must be the same for whoever resumes from it.

    Raises:
        OSError: if it cannot be written; the checkpoint before it is then still there.
    """
    saved = {name: part.state_dict() for name, part in state.items()}
    with new_file(path) as partial:
        torch.save({**vars(progress), "started_with": dict(settings), "state": saved}, partial)


def load_checkpoint(
    path: Path,
    state: Mapping[str, Stateful],
    *,
    settings: Mapping[str, Any],
    device: torch.device,
    spreads: bool = False,
) -> Progress:
    """Restore a checkpoint if there is one; return how far it had come.

    spreads: the state is sharded, and takes of the checkpoint what is its own.

    Raises:
        ValueError: if it is damaged, does not fit the state, or was started with other settings.
    """
    if not path.exists():
        return Progress()
    try:
        open_regular(path).close()
        with ZipFile(path) as parts:  # torch writes the checksum of each, and reads without comparing it
            # A part that is marked as a folder would be read as nothing at all.
            if parts.testzip() is not None or any(part.external_attr for part in parts.infolist()):
                raise BadZipFile
        saved = torch.load(path, map_location="cpu" if spreads else device, weights_only=True)
    except (MemoryError, torch.OutOfMemoryError, PermissionError):
        raise
    except Exception:  # whatever a flipped bit makes of a file, in two libraries
        raise ValueError(f"{path} is damaged: delete it, and the stage starts again") from None
    progress = _begun(path, saved, settings)
    with _fitting(path):
        _restore(state, sharded.spread(saved["state"], _template(state)) if spreads else saved["state"])
    return progress


class Checkpoints:
    """The checkpoints of one stage: a file that the main process writes or, where weights are sharded, a folder.

    whole: whether no weights are sharded.
    """

    def __init__(
        self, folder: Path, state: Mapping[str, Stateful], *, settings: Mapping[str, Any], run: Run, whole: bool
    ) -> None:
        self.folder = folder
        self.state = state
        self.settings = settings
        self.run = run
        self.writer = None if whole else sharded.Writer(folder, run.ranks)

    def load(self) -> Progress:
        """Restore the newest checkpoint, if there is one; raise `ValueError` as `load_checkpoint` does."""
        path, place = self.folder / CHECKPOINT, sharded.newest(self.folder)
        if place is None or (path.exists() and path.stat().st_mtime > (place / sharded.LIST).stat().st_mtime):
            device, spreads = self.run.device, self.writer is not None
            return load_checkpoint(path, self.state, settings=self.settings, device=device, spreads=spreads)
        facts = sharded.read_list(place)
        progress = _begun(place, facts, self.settings, "files")
        with _fitting(place):
            _restore(self.state, sharded.read(place, _template(self.state), facts["plain"]))
        return progress

    def save(self, progress: Progress) -> None:
        """Write a checkpoint, or begin to; raise `OSError` if it cannot be written."""
        path = self.folder / CHECKPOINT
        if self.writer is not None:
            state = {name: part.state_dict() for name, part in self.state.items()}
            self.writer.save(state, {**vars(progress), "started_with": dict(self.settings)})
        elif self.run.ranks.is_main:
            save_checkpoint(path, self.state, progress, settings=self.settings)
            shutil.rmtree(self.folder / sharded.FOLDER, ignore_errors=True)

    def wait(self) -> None:
        """Wait until what `save` began is whole, in all processes."""
        if self.writer is not None and self.writer.wait() and self.run.ranks.is_main:
            (self.folder / CHECKPOINT).unlink(missing_ok=True)  # one that a single process had written
        self.run.ranks.wait()


def _begun(path: Path, saved: Any, settings: Mapping[str, Any], stored: str = "state") -> Progress:
    """Return how far a checkpoint had come; `ValueError` if it is none, or was started with other settings."""
    try:
        if not isinstance(saved, dict) or not all(isinstance(saved[name], dict) for name in ("started_with", stored)):
            raise TypeError
        before = saved["started_with"]
        for key, value in settings.items():
            if key in before and value != before[key]:
                raise ValueError(f"{key}={value}, but {path} was started with {before[key]}: use another --out")
        progress = Progress(saved["step"], saved["seconds"])
        if not (isinstance(progress.step, int) and _is_count(progress.step) and _is_count(progress.seconds)):
            raise TypeError
    except (LookupError, TypeError, AttributeError, RuntimeError):  # a tensor in place of what was written, too
        raise ValueError(f"{path} is not a checkpoint of a stage: use another --out or delete the file") from None
    return progress


@contextmanager
def _fitting(path: Path) -> Iterator[None]:
    """Turn what torch says of a checkpoint of another stage into one line."""
    try:
        yield
    except (RuntimeError, LookupError, ValueError, TypeError, AttributeError) as error:
        lines = str(error).splitlines() or [type(error).__name__]
        line = lines[min(1, len(lines) - 1)].strip()  # torch says what is wrong in the second line
        raise ValueError(f"{path} does not fit this stage ({line}): use another --out or delete the file") from None


def _template(state: Mapping[str, Stateful]) -> dict[str, Any]:
    """Return the present state, in which optimizers have what they have after a step."""
    for part in state.values():
        if isinstance(part, torch.optim.Optimizer):
            sharded.fill(part)
    return {name: part.state_dict() for name, part in state.items()}


def _restore(state: Mapping[str, Stateful], saved: Any) -> None:
    for name, part in state.items():
        part.load_state_dict(saved[name])


@contextmanager
def open_log(
    folder: Path, name: str, step: int, *, follower: Follower | None = None, settings: Mapping[str, Any] | None = None
) -> Iterator[Log]:
    """Open the log of stage `name`, whose last checkpoint is of `step`: rows of later steps are dropped."""
    path = folder / METRICS
    kept = [row for row in read_rows(path) if row["step"] <= step]
    with new_file(path) as partial:
        partial.write_text("".join(f"{json.dumps(row)}\n" for row in kept), encoding="utf-8")
    with path.open("a", encoding="utf-8") as file, open_curves(follower, folder, name, step, settings or {}) as draw:

        def log(done: int, seconds: float, metrics: Mapping[str, float]) -> None:
            file.write(json.dumps({"step": done, "seconds": round(seconds, 2), **metrics}) + "\n")
            file.flush()
            draw(metrics, done)

        yield log


def last_row(folder: Path) -> Mapping[str, float] | None:
    """Return the last whole row of a stage's folder, None if there is none."""
    return next(reversed(read_rows(folder / METRICS)), None)


def read_rows(path: Path) -> list[dict[str, float]]:
    """Read rows of metrics, without those that were cut short or are none."""
    rows = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []:
        with suppress(ValueError, RecursionError):
            row = json.loads(line)
            if isinstance(row, dict) and all(_is_count(row.get(key)) for key in ("step", "seconds")):
                rows.append(row)
    return rows


def _is_count(value: object) -> bool:
    return isinstance(value, int | float) and 0 <= value <= LARGEST
