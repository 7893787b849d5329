"""The end of the recipe: everything a run trained becomes one bundle."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import nn

from causvid.config import GenerationConfig
from causvid.engine.machine import describe_machine
from causvid.evaluate.card import write_card
from causvid.evaluate.report import EvaluationReport
from causvid.loading.assemble import load_bundle
from causvid.loading.bundle import REPORT, save_bundle
from causvid.preset import Preset
from causvid.data.clips import load_autoencoder
from causvid.train.loop import Run
from causvid.train.stages import RESULTS
from causvid.train.start import EARLIER
from causvid.train.teacher import load_text_encoder, new_transformer

LEFT_OUT = "The teacher was measured before it was left out of this folder."
"""What the card of a bundle says that had a teacher when it was measured."""


def export_bundle(preset: Preset, run: Run, folder: Path, *, student: str = "dmd", with_teacher: bool = True) -> None:
    """Write what a run trained as a bundle in half precision: models, classifier and, if asked, the teacher.

    A bundle of the same student that is replaced hands on what was measured of it; its card is composed anew.

    Args:
        student: the stage whose student it is, `ode` or `dmd`.

    Raises:
        ValueError: naming the stage whose result is missing.
    """
    classifier = run.folder / "classifier_model"
    if not classifier.is_dir():
        raise ValueError(f"{classifier} is missing: run `causvid train classifier` first, with the same --out")
    transformer = new_transformer(preset, run, weights=RESULTS[student][0], made_by=student)
    autoencoder, text_encoder = load_autoencoder(preset, run), load_text_encoder(preset, run)
    measured = _measured(folder, preset.generation, transformer, autoencoder, text_encoder)
    save_bundle(
        folder,
        transformer=transformer,
        teacher=new_transformer(preset, run, weights="teacher.safetensors") if with_teacher else None,
        autoencoder=autoencoder,
        text_encoder=text_encoder,
        classifier=classifier,
        generation=preset.generation,
        provenance=provenance(preset, run),
        card_from=folder if measured else None,
        dtype=torch.float16,
    )
    if measured:
        left_out = measured.teacher is not None and not with_teacher
        notes = (*(note for note in measured.notes if note != LEFT_OUT), *((LEFT_OUT,) if left_out else ()))
        write_card(folder, measured.model_copy(update={"notes": notes}))


def _measured(
    folder: Path, generation: GenerationConfig, transformer: nn.Module, autoencoder: nn.Module, text_encoder: nn.Module
) -> EvaluationReport | None:
    """Return what was measured of the bundle in a folder, where it makes the same videos."""
    if not (folder / REPORT).is_file():
        return None
    try:
        report = EvaluationReport.model_validate_json((folder / REPORT).read_text(encoding="utf-8"))
        bundle = load_bundle(folder)
    except ValueError:  # what is damaged is replaced
        return None
    pairs = ((bundle.transformer, transformer), (bundle.autoencoder, autoencoder), (bundle.text_encoder, text_encoder))
    same = bundle.generation == generation and all(_same(old, new) for old, new in pairs)
    return report if same else None


def _same(stored: nn.Module, model: nn.Module) -> bool:
    """Tell whether a module was stored in half precision from another's weights."""
    old, new = stored.state_dict(), model.state_dict()
    return old.keys() == new.keys() and all(torch.equal(old[name], new[name].cpu().half().float()) for name in old)


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
