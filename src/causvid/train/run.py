"""A run: its folder, seed, device and deadline, and the weights that its stages leave there."""

import time
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn

from causvid.data.shards import load_tensors, save_tensors


@dataclass(frozen=True)
class Run:
    """Where, on what and how long: what the person who starts a stage decides.

    deadline: stop with a checkpoint, to be resumed, once `time.monotonic()` is past it; None runs to the end.
    """

    folder: Path
    seed: int = 0
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    deadline: float | None = None
    checkpoint_minutes: float = 4.0
    sample_minutes: float = 8.0

    @property
    def is_over(self) -> bool:
        """Tell whether the time is up."""
        return self.deadline is not None and time.monotonic() >= self.deadline


def deadline_in(minutes: float | None) -> float | None:
    """Return a deadline so many minutes from now, None for none."""
    return None if minutes is None else time.monotonic() + 60 * minutes


def save_weights(module: nn.Module, path: Path) -> None:
    """Write a module's weights."""
    save_tensors(module.state_dict(), path)


def load_weights(module: nn.Module, path: Path, *, made_by: str) -> None:
    """Read weights into a module of the same sizes.

    Raises:
        ValueError: naming the stage they are made by if they are missing or damaged, or what does not fit.
    """
    weights = load_tensors(path, made_by=made_by)
    try:
        module.load_state_dict({name: t.to(torch.float32) for name, t in weights.items()})
    except RuntimeError as error:
        line = str(error).splitlines()[1].strip()
        raise ValueError(f"{path} does not fit the preset: {line}") from None
