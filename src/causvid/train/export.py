"""The end of the recipe: everything a run trained becomes one bundle."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import nn

from causvid.config import GenerationConfig
from causvid.engine.memory import describe_machine
from causvid.evaluate.card import write_card
from causvid.evaluate.report import EvaluationReport
from causvid.loading.assemble import assemble
from causvid.loading.bundle import REPORT, Bundle, read_settings, save_bundle
from causvid.loading.layout import find_layout
from causvid.loading.spec import ModelSpec
from causvid.models.transformer import Transformer
from causvid.opening import read_text
from causvid.preset import Preset
from causvid.seeding import without_contents
from causvid.train.checkpoint import last_row
from causvid.train.roles import Roles
from causvid.train.run import ORDER, Run, load_weights

OF_THE_STUDENT = {"pairs", "ode", "dmd"}
"""Stages whose work is in no other weights than the student's."""
Stages = Mapping[str, Mapping[str, float]]
"""Steps and minutes of stages, by name."""
LEFT_OUT = "The teacher was measured before it was left out of this folder."
"""What the card of a bundle says that had a teacher when it was measured."""


def export_bundle(
    preset: Preset,
    run: Run,
    folder: Path,
    *,
    student: str = "dmd",
    with_teacher: bool = True,
    earlier: Stages | None = None,
) -> None:
    """Write what a run trained as a bundle in half precision: models, classifier and, if asked, the teacher.

    A bundle of the same student that is replaced passes on what was measured of it; its card is written again.

    Args:
        student: the stage whose student it is, `ode` or `dmd`.
        earlier: stages of other runs that went into the weights, besides those of the preset's `start`.

    Raises:
        ValueError: naming the stage whose result is missing.
    """
    roles = Roles(preset, replace(run, device=torch.device("cpu"), compiled=False))
    with without_contents():
        transformer = Transformer(preset.transformer)
    load_weights(transformer, run.result(student), made_by=student, mapped=True)
    autoencoder, text_encoder = roles.autoencoder(), roles.text_encoder()
    measured = _measured(folder, preset.generation, transformer, autoencoder, text_encoder)
    bundle = Bundle(
        transformer=transformer,
        teacher=roles.teacher() if with_teacher else None,
        autoencoder=autoencoder,
        text_encoder=text_encoder,
        classifier=roles.classifier(),
        generation=preset.generation,
        provenance=provenance(preset, run, earlier=earlier),
        folder=folder if measured else None,
    )
    save_bundle(folder, bundle, dtype=torch.float16)
    if measured:
        left_out = measured.teacher is not None and not with_teacher
        notes = (*(note for note in measured.notes if note != LEFT_OUT), *((LEFT_OUT,) if left_out else ()))
        write_card(folder, measured.model_copy(update={"notes": notes}))


def _measured(
    folder: Path, generation: GenerationConfig, transformer: nn.Module, autoencoder: nn.Module, text_encoder: nn.Module
) -> EvaluationReport | None:
    """Return what was measured of the bundle in a folder, if it generates the same videos."""
    if not (folder / REPORT).is_file():
        return None
    try:
        report = EvaluationReport.model_validate_json(read_text(folder / REPORT))
        bundle = assemble(ModelSpec(model=str(folder), dtype="fp16", accelerate="none"))
    except ValueError:  # what is damaged is replaced
        return None
    stored = {"model": bundle.transformer, "decoder": bundle.autoencoder, "text": bundle.text_encoder}
    trained = {"model": transformer, "decoder": autoencoder, "text": text_encoder}
    old, new = nn.ModuleDict(stored).state_dict(), nn.ModuleDict(trained).state_dict()
    same = old.keys() == new.keys() and all(torch.equal(old[name].half(), new[name].half()) for name in old)
    return report if same and bundle.generation == generation else None


def provenance(preset: Preset, run: Run, *, earlier: Stages | None = None) -> dict[str, Any]:
    """Return where the weights come from: the preset, its data, and what every stage took by its log."""
    rows = {name: row for name in ORDER if (row := last_row(run.folder / name)) is not None}
    stages = {name: {"steps": row["step"], "minutes": round(row["seconds"] / 60, 1)} for name, row in rows.items()}
    return {
        "preset": preset.name,
        "world": preset.world,
        **({} if preset.data is None else {"data": Path(preset.data).name}),
        **({} if preset.start is None else {"start": Path(preset.start).name}),
        "machine": describe_machine(),
        "finished": datetime.now(UTC).date().isoformat(),
        "stages": {**_stages_of_start(preset), **(earlier or {}), **stages},
    }


def _stages_of_start(preset: Preset) -> dict[str, dict[str, float]]:
    """Return what the stages of `start` took whose work is in this run's weights, all earlier runs of one together."""
    layout = None if preset.start is None else find_layout(preset.start, transformer=False, autoencoder=False)
    if layout is None or layout.kind != "bundle":
        return {}
    total: dict[str, dict[str, float]] = {}
    for name, facts in read_settings(layout.folder)[1].get("stages", {}).items():
        stage = name.split(",")[0]
        if stage not in OF_THE_STUDENT:
            before = total.setdefault(f"{stage}, earlier run", {})
            before.update({key: before.get(key, 0) + value for key, value in facts.items()})
    return total
