"""The recipe: its stages by name, in order, and all of them as one resumable chain."""

import os
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import torch

from causvid.preset import Preset, load_preset
from causvid.train.loop import CHECKPOINT, Run, train

ORDER = ("autoencoder", "classifier", "data", "teacher", "decoder", "pairs", "ode", "dmd")
OPTIONAL = ("decoder",)
"""Stages that `all` takes only where the preset has settings for them."""
BUNDLE = "bundle"
RESULTS = {
    "autoencoder": ("autoencoder.safetensors",),
    "classifier": ("classifier_model",),
    "teacher": ("teacher.safetensors", "text_encoder.safetensors"),
    "decoder": ("decoder.safetensors",),
    "ode": ("student_ode.safetensors",),
    "dmd": ("student.safetensors",),
}
"""What a finished stage leaves in the run's folder. Stages `data` and `pairs` leave shards that can be made again."""
LAST_READER = {"data": "dmd", "pairs": "ode"}


def run(
    name: str,
    preset_name: str,
    out: str | Path,
    *,
    max_minutes: float | None = None,
    device: str = "cpu",
    seed: int = 0,
    with_teacher: bool = True,
) -> bool:
    """Run one stage of the recipe, or `all` of them, in folder `out`; return whether it is done.

    `all` passes over what is finished, so the same command goes on wherever it was interrupted, and ends with a bundle
    in `out / "bundle"`, which has the teacher in it if asked.
    """
    preset = load_preset(preset_name)
    if name not in (*ORDER, "all"):
        raise ValueError(f"stage={name} is not one of {', '.join((*ORDER, 'all'))}")
    check_folder(Path(out))
    where = Run(Path(out), seed=seed, device=torch.device(device), minutes=max_minutes)
    if name == "all":
        missing = (stage for stage in needed(preset) if not _came_finished(stage, where.folder))
        done = run_in_turn(missing, preset, where, countdown(max_minutes))
    else:
        done = _run_stage(name, preset, where)
    if done and name in (ORDER[-1], "all"):
        if (where.folder / "classifier_model").is_dir():
            _export(preset, where, with_teacher)
        else:
            print("no bundle yet: run `causvid train classifier`, then `causvid train dmd` again", file=sys.stderr)
    return done


def start(bundle: Path, preset_name: str, out: Path, *, at: str = "teacher") -> None:
    """Begin a new run in `out` from a bundle, whose teacher is to be trained on, or `at="autoencoder"` that first."""
    from causvid.train.start import start_from

    start_from(bundle, load_preset(preset_name), Run(out), at=at)


def check_folder(out: Path) -> None:
    """Raise `ValueError` unless `out` can be written to, or be made; nothing is written yet."""
    nearest = next(place for place in (out, *out.parents) if place.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
        raise ValueError(f"out={out}: {nearest.absolute()} is not a folder that can be written to")


def needed(preset: Preset) -> tuple[str, ...]:
    """Return the stages that a preset's whole recipe is made of, in order."""
    recipe = preset.recipe
    unused = {name for name in OPTIONAL if getattr(recipe, name) is None}
    if recipe.dmd.start == "teacher":
        unused |= {"pairs", "ode"}
    return tuple(name for name in ORDER if name not in unused)


def countdown(minutes: float | None) -> Callable[[], float | None]:
    """Start a clock; return a function that tells how much is left of so many minutes, None if they have no end."""
    begin = time.monotonic()
    return lambda: None if minutes is None else minutes - (time.monotonic() - begin) / 60


def run_in_turn(names: Iterable[str], preset: Preset, where: Run, left: Callable[[], float | None]) -> bool:
    """Run stages one after another for as long as minutes are left; return whether all are done."""
    for name in names:
        minutes = left()
        if (minutes is not None and minutes <= 0) or not _run_stage(name, preset, replace(where, minutes=minutes)):
            return False
    return True


def _came_finished(name: str, folder: Path) -> bool:
    """Tell whether another machine handed over the result of a stage, or of the last one that needs its shards."""
    name = LAST_READER.get(name, name)
    whole = all((folder / result).exists() for result in RESULTS[name])
    return whole and not (folder / name / CHECKPOINT).exists()


def _run_stage(name: str, preset: Preset, where: Run) -> bool:
    if where.device.type == "cuda":
        torch.compiler.reset()  # a compiled block has room for few graphs, and those of an earlier stage serve no more
    stage = getattr(import_module(f"causvid.train.{name}"), f"{name}_stage")
    return train(stage(preset, where), where)


def _export(preset: Preset, where: Run, with_teacher: bool) -> None:
    from causvid.train.export import export_bundle

    export_bundle(preset, where, where.folder / BUNDLE, with_teacher=with_teacher)
