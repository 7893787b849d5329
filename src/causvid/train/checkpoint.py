"""Checkpoints of a stage: everything that must survive an interruption, in one file that is whole or absent."""

import os
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

CHECKPOINT = "checkpoint.pt"


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
    value = {
        "step": progress.step,
        "seconds": progress.seconds,
        "started_with": dict(settings),
        "state": {name: part.state_dict() for name, part in state.items()},
    }
    partial = path.with_suffix(".partial")
    try:
        torch.save(value, partial)
        os.replace(partial, path)
    except RuntimeError as error:  # torch's, for a disk that is full
        raise OSError(f"{path} cannot be written: {str(error).splitlines()[0]}") from None
    finally:
        partial.unlink(missing_ok=True)


def load_checkpoint(
    path: Path, state: Mapping[str, Stateful], *, settings: Mapping[str, Any], device: torch.device
) -> Progress:
    """Restore a checkpoint if there is one; return how far it had come.

    Raises:
        ValueError: if it is damaged, does not fit the state, or was started with other settings.
    """
    if not path.exists():
        return Progress()
    try:
        saved = torch.load(path, map_location=device, weights_only=True)
    except (RuntimeError, ValueError, EOFError, OSError, pickle.UnpicklingError):
        raise ValueError(f"{path} is damaged: delete it, and the stage starts again") from None
    try:
        before = saved["started_with"]
        for key, value in settings.items():
            if key in before and value != before[key]:
                raise ValueError(f"{key}={value}, but {path} was started with {before[key]}: use another --out")
        progress, parts = Progress(saved["step"], saved["seconds"]), saved["state"]
    except (KeyError, TypeError, AttributeError):
        raise ValueError(f"{path} is not a checkpoint of a stage: use another --out or delete the file") from None
    try:
        for name, part in state.items():
            part.load_state_dict(parts[name])
    except (RuntimeError, KeyError, ValueError, TypeError, AttributeError) as error:
        lines = str(error).splitlines() or [type(error).__name__]
        line = lines[min(1, len(lines) - 1)].strip()  # torch says what is wrong in the second line
        raise ValueError(f"{path} does not fit this stage ({line}): use another --out or delete the file") from None
    return progress
