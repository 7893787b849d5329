"""Begin a run where a bundle ended: the teacher is trained on, the autoencoder if asked, the classifier stays."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

from torch import nn

from causvid.loading.assemble import load_bundle
from causvid.preset import Preset
from causvid.train.artifacts import load_weights, save_weights
from causvid.train.loop import Run

AUTOENCODER = "autoencoder_start.safetensors"
TEACHER = "teacher_start.safetensors"
TEXT = "text_encoder_start.safetensors"
EARLIER = "earlier_stages.json"
KEPT = ("autoencoder", "classifier", "data", "teacher", "decoder")
"""Stages whose work goes into the weights that a run begun from a bundle starts with."""


def start_from(folder: Path, preset: Preset, run: Run, *, at: str = "teacher") -> None:
    """Lay the parts of a bundle into the folder of a new run.

    Args:
        at: the first stage that trains on what the bundle has, `autoencoder` or `teacher`. The teacher learns new
            latents after a new autoencoder.

    Raises:
        ValueError: if the run has begun already, or the bundle has no teacher or knows other words than the preset's
            world.
    """
    from causvid.data.clips import new_text_encoder

    if run.folder.exists() and any(run.folder.iterdir()):
        raise ValueError(f"out={run.folder} is not empty: a run starts from a bundle in a new folder")
    bundle = load_bundle(folder)
    if bundle.teacher is None:
        raise ValueError(f"start={folder} has no teacher to train on")
    if bundle.text_encoder.tokenizer.get_vocab() != new_text_encoder(preset, run).tokenizer.get_vocab():
        raise ValueError(f"start={folder} knows other words than the world of preset={preset.name}")
    run.folder.mkdir(parents=True, exist_ok=True)
    trained_on = at == "autoencoder"
    save_weights(bundle.autoencoder, run.folder / (AUTOENCODER if trained_on else "autoencoder.safetensors"))
    save_weights(bundle.teacher, run.folder / TEACHER)
    save_weights(bundle.text_encoder, run.folder / TEXT)
    earlier: dict[str, dict[str, float]] = {}
    for name, facts in bundle.provenance.get("stages", {}).items():
        stage = name.split(",")[0]
        if stage in KEPT:
            before = earlier.setdefault(f"{stage}, earlier run", {})
            before.update({key: before.get(key, 0) + value for key, value in facts.items()})
    (run.folder / EARLIER).write_text(json.dumps(earlier, indent=2) + "\n", encoding="utf-8")
    if bundle.classifier is not None:
        shutil.copytree(bundle.classifier, run.folder / "classifier_model")


def load_start(run: Run, parts: Mapping[str, nn.Module]) -> bool:
    """Give modules the weights, by file name, that they are to start from; tell whether the run has such weights."""
    begun = [name for name in parts if (run.folder / name).is_file()]
    for name in begun:
        load_weights(parts[name], run.folder / name, made_by="--start")
    return bool(begun)
