"""The recipe with one idea taken out of it: variants of a finished run, trained in folders within it.

A variant borrows from the run what it does not change, as second names of the same files where the file system can.
"""

import filecmp
import os
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from causvid.config import Settings
from causvid.preset import Preset, load_preset
from causvid.recipe import required
from causvid.train.export import Stages, export_bundle, provenance
from causvid.train.order import RESULTS
from causvid.train.run import Run, deadline_in
from causvid.train.stages import BUNDLE, check_folder, run_in_turn

FOLDER = "ablations"
WORLD = ("autoencoder", "classifier", "data", "teacher", "decoder")


@dataclass(frozen=True)
class Variant:
    """One way to leave the recipe.

    borrowed: stages whose results are the run's. stages: those that are run anew. student: the stage whose student is
    the variant's.
    """

    name: str
    preset: Preset
    borrowed: tuple[str, ...]
    stages: tuple[str, ...]
    student: str = "dmd"


def variants(preset: Preset) -> tuple[Variant, ...]:
    """Return the variants of a recipe, those that take least to train first.

    Source: what the ablation of CausVid (2412.07772, table 4) compares.
    """
    recipe, settings = preset.recipe, preset.recipe.ablations
    teacher, dmd = required(recipe.teacher, "teacher"), required(recipe.dmd, "dmd")
    short = min(settings.dmd_steps or dmd.steps, dmd.steps)
    # Single frames cannot teach what to do without the future; and a rate that falls for long keeps what is known.
    phases = (teacher.phases[-1].model_copy(update={"until": 1.0}),)
    steps = settings.causal_steps
    warmup = min(teacher.warmup, steps // 5)
    causal = {"causal": True, "steps": steps, "warmup": warmup, "cooldown": 0.8, "phases": phases}

    def changed(name: str, **stages: dict[str, Any]) -> Preset:
        stages.setdefault("dmd", {})["steps"] = short
        updates: dict[str, Settings] = {
            stage: getattr(recipe, stage).model_copy(update=update) for stage, update in stages.items()
        }
        return preset.model_copy(update={"name": f"{preset.name} {name}", "train": recipe.model_copy(update=updates)})

    found = [
        Variant("no-dmd", changed("no-dmd"), (*WORLD, "ode"), (), student="ode"),
        Variant("no-ode", changed("no-ode", dmd={"start": "teacher"}), WORLD, ("dmd",)),
        Variant("causal-teacher", changed("causal-teacher", teacher=causal), WORLD, ("teacher", "pairs", "ode", "dmd")),
    ]
    if short < dmd.steps:
        found.insert(1, Variant("short", changed("short"), (*WORLD, "ode"), ("dmd",)))
    return tuple(found)


def run(
    preset_name: str, out: str | Path, *, max_minutes: float | None = None, device: str = "cpu", seed: int = 0
) -> bool:
    """Train the variants of a finished run in `out / "ablations"`, each to a bundle; return whether all are done.

    The same command goes on wherever it was interrupted. The run itself is left as it is.

    Raises:
        ValueError: naming the stage whose result the run lacks, or a borrowed file that is the run's no more.
    """
    preset, device_of_all = load_preset(preset_name), torch.device(device)
    lender = Run(Path(out), seed=seed, device=device_of_all, deadline=deadline_in(max_minutes))
    check_folder(lender.folder)
    todo = variants(preset)
    lent = [_lent(variant, preset, lender.folder) for variant in todo]  # all, before anything is written
    for variant, files in zip(todo, lent, strict=True):
        where = replace(lender, folder=lender.folder / FOLDER / variant.name)
        for source, name in files:
            _borrow(source, where.folder, name)
        changed = variant.preset
        if "teacher" in variant.stages:  # the run's bundle has the weights that its own teacher begins with
            changed = changed.model_copy(update={"start": str(lender.folder / BUNDLE)})
        if (where.is_over and variant.stages) or not run_in_turn(variant.stages, changed, where):
            return False
        export_bundle(
            variant.preset,
            where,
            where.folder / BUNDLE,
            student=variant.student,
            with_teacher=False,
            earlier=_earlier(variant, preset, lender),
        )
    return True


def _lent(variant: Variant, preset: Preset, folder: Path) -> list[tuple[Path, str]]:
    """Return the files of the run that a variant needs, and what it calls them."""
    files = []
    for stage in variant.borrowed:
        if getattr(preset.recipe, stage) is None or stage in variant.stages:
            continue
        for pattern in RESULTS.get(stage, (f"{stage}/*.safetensors",)):
            found = sorted(folder.glob(pattern))
            if not found:
                raise ValueError(
                    f"{folder / pattern} is missing: run `causvid train {stage}` first, with the same --out"
                )
            inside = (inner for place in found for inner in (place, *place.rglob("*")))
            files += [(file, file.relative_to(folder).as_posix()) for file in inside if file.is_file()]
    return files


def _borrow(source: Path, folder: Path, name: str) -> None:
    """Give a file a second name in a folder, or copy it; `ValueError` if another file has that name."""
    target = folder / name
    if target.exists():
        if not target.samefile(source) and not filecmp.cmp(source, target, shallow=False):
            raise ValueError(f"{target} was borrowed when {source} was another: delete {folder} to train it anew")
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_suffix(".partial")
    partial.unlink(missing_ok=True)
    try:
        os.link(source, partial)
    except OSError:
        shutil.copyfile(source, partial)
    os.replace(partial, target)


def _earlier(variant: Variant, preset: Preset, lender: Run) -> Stages:
    """Return what the run's stages took that went into a variant, for where its weights come from."""
    behind = {*variant.borrowed, *(("pairs",) if "ode" in variant.borrowed else ())}
    return {
        f"{name}, bidirectional" if name in variant.stages else name: facts
        for name, facts in provenance(preset, lender)["stages"].items()
        if name.split(",")[0] in behind
    }
