"""The end of the recipe: everything a run trained becomes one bundle."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from causvid.config import Preset
from causvid.evaluate.adherence import describe_machine
from causvid.models.bundle import save_bundle
from causvid.train.data import load_autoencoder
from causvid.train.loop import Run
from causvid.train.start import EARLIER
from causvid.train.teacher import load_text_encoder, new_transformer


def export_bundle(preset: Preset, run: Run, folder: Path) -> None:
    """Write student, teacher, autoencoder, text encoder and classifier of a run as a bundle in half precision.

    Raises `ValueError` naming the stage whose result is missing.
    """
    classifier = run.folder / "classifier_model"
    if not classifier.is_dir():
        raise ValueError(f"{classifier} is missing: run `causvid train classifier` first, with the same --out")
    save_bundle(
        folder,
        transformer=new_transformer(preset, run, weights="student.safetensors", made_by="dmd"),
        teacher=new_transformer(preset, run, weights="teacher.safetensors"),
        autoencoder=load_autoencoder(preset, run),
        text_encoder=load_text_encoder(preset, run),
        classifier=classifier,
        generation=preset.generation,
        provenance=provenance(preset, run),
        dtype=torch.float16,
    )


def provenance(preset: Preset, run: Run) -> dict[str, Any]:
    """Say where the weights come from: the preset, its world, and what every stage took by its own log."""
    stages = {}
    for log in run.folder.glob("*/metrics.jsonl"):
        rows = log.read_text(encoding="utf-8").splitlines()
        if not rows:  # begun, and stopped before its first row
            continue
        row = json.loads(rows[-1])
        stages[log.parent.name] = {"steps": row["step"], "minutes": round(row["seconds"] / 60, 1)}
    order = [name for name in type(preset.recipe).model_fields if name in stages]
    earlier = run.folder / EARLIER
    before = json.loads(earlier.read_text(encoding="utf-8")) if earlier.is_file() else {}
    return {
        "preset": preset.name,
        "world": preset.world,
        "machine": describe_machine(),
        "finished": datetime.now(UTC).date().isoformat(),
        "stages": {**before, **{name: stages[name] for name in order}},
    }
