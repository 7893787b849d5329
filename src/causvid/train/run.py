"""A run: its folder, seed, device and deadline; its stages in order, and the weights that they leave there."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from causvid.data.shards import load_tensors
from causvid.files.writing import write_tensors
from causvid.preset import Preset
from causvid.train.curves import Follower
from causvid.train.distributed import Ranks

ORDER = ("autoencoder", "classifier", "data", "reader", "teacher", "decoder", "pairs", "ode", "dmd")
"""The stages, in the order of the recipe."""
RESULTS = {
    "autoencoder": ("autoencoder.safetensors",),
    "classifier": ("classifier_model",),
    "reader": ("reader.safetensors",),
    "teacher": ("teacher.safetensors", "text_encoder"),
    "decoder": ("decoder.safetensors",),
    "ode": ("student_ode.safetensors",),
    "dmd": ("student.safetensors",),
}
"""What a finished stage leaves in the run's folder. `data` and `pairs` leave shards, in folders of their names."""
OF_A_WORLD = frozenset({"autoencoder", "classifier", "data", "reader", "decoder"})
"""Stages that need what is rendered, or what its scenes show."""

ALONE = Ranks()


@dataclass(frozen=True)
class Run:
    """Where, on what and how long: what the person who starts a stage decides.

    deadline: stop with a checkpoint, to be resumed, once `time.monotonic()` is past it; None runs to the end.
    compiled: compile what is trained of transformers and text encoders; None does on CUDA. On a CPU it halves the time
    of a step and costs half a minute for every shape of batch. ranks: the processes that train together. log: who draws
    the metrics as curves; None is TensorBoard, where it is installed.
    """

    folder: Path
    seed: int = 0
    device: torch.device = torch.device("cpu")  # noqa: RUF009, a device is a value
    deadline: float | None = None
    compiled: bool | None = None
    checkpoint_minutes: float = 4.0
    sample_minutes: float = 8.0
    ranks: Ranks = ALONE
    log: Follower | None = None

    @property
    def is_over(self) -> bool:
        """Tell whether the time is up."""
        return self.deadline is not None and time.monotonic() >= self.deadline

    @property
    def compiles(self) -> bool:
        """Tell whether transformers are compiled; not where processes exchange tokens in their blocks."""
        if self.ranks.together > 1:
            return False
        return self.device.type == "cuda" if self.compiled is None else self.compiled

    def result(self, stage: str) -> Path:
        """Return where a stage leaves its weights."""
        return self.folder / RESULTS[stage][0]

    def lora(self, stage: str) -> Path:
        """Return the folder in which a stage leaves its LoRA, if it trains one."""
        return self.folder / f"{RESULTS[stage][0].removesuffix('.safetensors')}_lora"


def deadline_in(minutes: float | None) -> float | None:
    """Return a deadline so many minutes from now, None for none."""
    return None if minutes is None else time.monotonic() + 60 * minutes


def needed(preset: Preset) -> tuple[str, ...]:
    """Return the stages that a preset's whole recipe is made of, in order.

    Left out are stages without settings, those that need a world where there is none, those whose result the preset's
    `start` has, the reader where nothing trained asks it, and ODE initialisation where the student begins with the
    teacher's weights.
    """
    recipe = preset.recipe
    unused = {name for name in ORDER if getattr(recipe, name) is None}
    if recipe.dmd is not None and recipe.dmd.start == "teacher":
        unused |= {"pairs", "ode"}
    if preset.world is None:
        unused |= OF_A_WORLD
    if preset.start is not None:
        unused |= {"classifier", *ORDER[: ORDER.index(preset.start_at)]} - {"data", "reader"}
    if "teacher" in unused and not (recipe.dmd is not None and recipe.dmd.reward):
        unused |= {"reader"}
    return tuple(name for name in ORDER if name not in unused)


def save_weights(state: Mapping[str, Tensor], path: Path) -> None:
    """Write the weights of a module."""
    write_tensors(path, state, {})


def load_weights(module: nn.Module, path: Path, *, made_by: str, mapped: bool = False) -> None:
    """Read weights into a module of the same sizes. mapped: they stay in the file, and take no memory.

    Raises:
        ValueError: naming the stage they are made by if they are missing or damaged, or what does not fit.
    """
    weights = load_tensors(path, made_by=made_by)
    copy_weights({name: t.to(torch.float32) for name, t in weights.items()}, module, source=str(path), mapped=mapped)


def copy_weights(weights: Mapping[str, Tensor], module: nn.Module, *, source: str, mapped: bool = False) -> None:
    """Load a state dict; `ValueError` names its source and what does not fit."""
    try:
        module.load_state_dict(weights, assign=mapped)
    except RuntimeError as error:
        raise ValueError(f"{source} does not fit the preset: {str(error).splitlines()[1].strip()}") from None
