"""The recipe: its stages by name, one at a time or all as one resumable chain that ends in a bundle."""

import os
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from pathlib import Path

import torch

from causvid.engine.memory import keep_freed_blocks, map_large_blocks, release, weight_bytes
from causvid.models.transformer import Transformer
from causvid.preset import Preset
from causvid.seeding import without_contents
from causvid.staging import only_process
from causvid.train.autoencoder import autoencoder_stage, decoder_stage
from causvid.train.classifier import classifier_stage
from causvid.train.data import data_stage
from causvid.train.dmd import dmd_stage
from causvid.train.export import export_bundle
from causvid.train.loop import Stage, train
from causvid.train.ode import ode_stage, pairs_stage
from causvid.train.reader import reader_stage
from causvid.train.roles import Roles
from causvid.train.run import ORDER, Run, needed
from causvid.train.teacher import teacher_stage

STAGES: dict[str, Callable[[Preset, Run], Stage]] = {
    "autoencoder": autoencoder_stage,
    "classifier": classifier_stage,
    "data": data_stage,
    "reader": reader_stage,
    "teacher": teacher_stage,
    "decoder": decoder_stage,
    "pairs": pairs_stage,
    "ode": ode_stage,
    "dmd": dmd_stage,
}
BUNDLE = "bundle"
LARGE = 2**30
"""Bytes of a transformer's weights from which memory is scarcer than time."""


def run(name: str, preset: Preset, where: Run, *, with_teacher: bool = True) -> bool:
    """Run one stage of the recipe, or `all` that it needs; return whether it is done.

    The same call resumes wherever it was interrupted. `all`, like the last stage, ends with a bundle in the folder
    `bundle` of the run, which has the teacher in it if asked.

    Raises:
        ValueError: if there is no such stage, the run's folder cannot be written to or is in use, or a stage cannot
        run.
    """
    if name not in (*ORDER, "all"):
        raise ValueError(f"stage={name} is not one of {', '.join((*ORDER, 'all'))}")
    stages = needed(preset) if name == "all" else (name,)
    if not stages:
        raise ValueError(f"preset={preset.name} has no stage to run: its recipe has no settings")
    check_folder(where.folder)
    with only_process(where.folder) if where.ranks.is_main else nullcontext():
        where.ranks.wait()
        return _run(stages, preset, where, with_teacher=with_teacher)


def _run(stages: Sequence[str], preset: Preset, where: Run, *, with_teacher: bool) -> bool:
    done = run_in_turn(stages, preset, where)
    if done and stages[-1] == ORDER[-1] and where.ranks.is_main:
        if "classifier" in needed(preset) and Roles(preset, where).classifier() is None:
            print("no bundle yet: run `causvid train classifier`, then `causvid train dmd` again", file=sys.stderr)
        else:
            export_bundle(preset, where, where.folder / BUNDLE, with_teacher=with_teacher)
    return done


def run_in_turn(names: Iterable[str], preset: Preset, where: Run) -> bool:
    """Run stages one after another until the run's deadline; return whether all are done."""
    if where.device.type == "cpu":
        with without_contents():
            model = Transformer(preset.transformer)
        (map_large_blocks if weight_bytes(model) > LARGE else keep_freed_blocks)()
    for number, name in enumerate(names):
        if where.compiles:
            # A compiled block has room for few graphs, and those of an earlier stage are of no more use.
            torch.compiler.reset()
        if number and where.is_over:
            return False
        done = train(STAGES[name](preset, where), where)
        release()
        if not done:
            return False
    return True


def check_folder(out: Path) -> None:
    """Raise `ValueError` unless `out` can be written to, or be made; nothing is written yet."""
    nearest = next(place for place in (out, *out.parents) if place.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
        raise ValueError(f"out={out}: {nearest.absolute()} is not a folder that can be written to")
