"""A run: its folder, and the files by which a finished stage passes its result to later ones."""

import time
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn

from causvid.data.shards import load_tensors, save_tensors
from causvid.preset import Preset

ORDER = ("autoencoder", "classifier", "data", "teacher", "decoder", "pairs", "ode", "dmd")
"""The stages, in the order of the recipe."""
RESULTS = {
    "autoencoder": ("autoencoder.safetensors",),
    "classifier": ("classifier_model",),
    "teacher": ("teacher.safetensors", "text_encoder"),
    "decoder": ("decoder.safetensors",),
    "ode": ("student_ode.safetensors",),
    "dmd": ("student.safetensors",),
}
"""What a finished stage leaves in the run's folder. `data` and `pairs` leave shards, in folders of their names."""
OF_A_WORLD = frozenset({"autoencoder", "classifier", "data", "decoder"})
"""Stages that train on rendered pixels, or store what is rendered."""


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


def needed(preset: Preset) -> tuple[str, ...]:
    """Return the stages that a preset's whole recipe is made of, in order.

    Left out are stages without settings, those that need a world where there is none, those whose result the preset's
    `start` has, and ODE initialisation where the student begins with the teacher's weights.
    """
    recipe = preset.recipe
    unused = {name for name in ORDER if getattr(recipe, name) is None}
    if recipe.dmd is not None and recipe.dmd.start == "teacher":
        unused |= {"pairs", "ode"}
    if preset.world is None:
        unused |= OF_A_WORLD
    if preset.start is not None:
        unused |= {"classifier", *ORDER[: ORDER.index(preset.start_at)]} - {"data"}
    return tuple(name for name in ORDER if name not in unused)


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
