"""The recipe: its stages by name, in order, and all of them as one resumable chain."""

import time
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import torch

from causvid.config import Preset, load_preset
from causvid.train.loop import Run, train

ORDER = ("autoencoder", "classifier", "data", "teacher", "pairs", "ode", "dmd")
BUNDLE = "bundle"


def run(
    name: str,
    preset_name: str,
    out: str | Path,
    *,
    max_minutes: float | None = None,
    device: str = "cpu",
    seed: int = 0,
) -> bool:
    """Run one stage of the recipe, or `all` of them, in folder `out`; return whether it is done.

    `all` passes over what is finished, so the same command goes on wherever it was interrupted, and ends with a bundle
    in `out / "bundle"`.
    """
    preset = load_preset(preset_name)
    where = Run(Path(out), seed=seed, device=torch.device(device), minutes=max_minutes)
    if name == "all":
        return _run_all(preset, where)
    if name not in ORDER:
        raise ValueError(f"stage={name} is not one of {', '.join((*ORDER, 'all'))}")
    done = _run_stage(name, preset, where)
    if done and name == ORDER[-1]:
        _export(preset, where)
    return done


def _run_stage(name: str, preset: Preset, where: Run) -> bool:
    stage = getattr(import_module(f"causvid.train.{name}"), f"{name}_stage")
    return train(stage(preset, where), where)


def _run_all(preset: Preset, where: Run) -> bool:
    begin = time.monotonic()
    for name in ORDER:
        left = None if where.minutes is None else where.minutes - (time.monotonic() - begin) / 60
        if (left is not None and left <= 0) or not _run_stage(name, preset, replace(where, minutes=left)):
            return False
    _export(preset, where)
    return True


def _export(preset: Preset, where: Run) -> None:
    from causvid.train.export import export_bundle

    export_bundle(preset, where, where.folder / BUNDLE)
