"""Begin a run where a bundle ended: its autoencoder and classifier serve as they are, its teacher is trained on."""

import json
import shutil
from pathlib import Path

from causvid.config import Preset
from causvid.models.bundle import load_bundle
from causvid.models.text import TextEncoder
from causvid.models.transformer import Transformer
from causvid.train.artifacts import load_weights, save_weights
from causvid.train.data import new_text_encoder
from causvid.train.loop import Run

TEACHER = "teacher_start.safetensors"
TEXT = "text_encoder_start.safetensors"
EARLIER = "earlier_stages.json"
KEPT = ("autoencoder", "classifier", "data", "teacher")
"""Stages whose work goes into the weights that a run begun from a bundle starts with."""


def start_from(folder: Path, preset: Preset, run: Run) -> None:
    """Lay the parts of a bundle into the folder of a new run.

    Raises:
        ValueError: if the run has begun already, or the bundle has no teacher or knows other words than the preset's
            world.
    """
    if run.folder.exists() and any(run.folder.iterdir()):
        raise ValueError(f"out={run.folder} is not empty: a run starts from a bundle in a new folder")
    bundle = load_bundle(folder)
    if bundle.teacher is None:
        raise ValueError(f"start={folder} has no teacher to train on")
    if bundle.text_encoder.tokenizer.get_vocab() != new_text_encoder(preset, run).tokenizer.get_vocab():
        raise ValueError(f"start={folder} knows other words than the world of preset={preset.name}")
    run.folder.mkdir(parents=True, exist_ok=True)
    save_weights(bundle.autoencoder, run.folder / "autoencoder.safetensors")
    save_weights(bundle.teacher, run.folder / TEACHER)
    save_weights(bundle.text_encoder, run.folder / TEXT)
    earlier = {
        name if "," in name else f"{name}, earlier run": facts
        for name, facts in bundle.provenance.get("stages", {}).items()
        if name.split(",")[0] in KEPT
    }
    (run.folder / EARLIER).write_text(json.dumps(earlier, indent=2) + "\n", encoding="utf-8")
    if bundle.classifier is not None:
        shutil.copytree(bundle.classifier, run.folder / "classifier_model")


def load_start(teacher: Transformer, text: TextEncoder, run: Run) -> None:
    """Give a teacher and its text encoder the weights they are to start from, if the run was begun from a bundle."""
    if (run.folder / TEACHER).is_file():
        load_weights(teacher, run.folder / TEACHER, made_by="teacher --start")
        load_weights(text, run.folder / TEXT, made_by="teacher --start")
