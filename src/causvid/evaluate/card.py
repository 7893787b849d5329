"""Write the model card of a bundle from its report: no number in it is typed by hand."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import safe_open

from causvid.config import GenerationConfig
from causvid.evaluate.adherence import Tally
from causvid.evaluate.report import EvaluationReport, Target, targets
from causvid.loading.bundle import CARD, REPORT, SAMPLES, read_settings, words_command

if TYPE_CHECKING:
    from PIL.Image import Image

_PARTS = {
    "transformer": "student (causal transformer)",
    "teacher": "teacher (bidirectional transformer)",
    "vae": "video autoencoder",
    "text_encoder": "text encoder",
    "classifier": "attribute classifier (for measuring only)",
}
_HEAD = """---
license: apache-2.0
language:
  - en
pipeline_tag: text-to-video
library_name: causvid
tags:
  - text-to-video
  - video-diffusion
  - streaming
  - distillation
---

# CausVid {name}

A sentence becomes a video that streams: a causal student makes it chunk by chunk, each chunk in a few denoising \
steps, with its history in a key-value cache. It was distilled from a bidirectional teacher by the recipe of \
[CausVid](https://arxiv.org/abs/2412.07772).

Video: {own.width} × {own.height} pixels at {own.fps:g} frames a second.
Chunks: {own.first}, then {own.chunk} latent frames each; visible history: the last {own.window} latent frames and the \
first {own.sink}.

```python
from causvid import Pipeline

pipeline = Pipeline.from_pretrained("path/of/this/folder")
for frames in pipeline.stream("a paper airplane flying over a lake", seconds=5, seed=0):
    ...  # uint8 [T, H, W, 3]
```"""


def write_card(bundle_path: str | Path, report: EvaluationReport, samples: "Image | None" = None) -> None:
    """Write README.md and evaluation.json into a bundle, and a contact sheet of its videos where there is one.

    Raises:
        ValueError: the folder is not a bundle.
    """
    folder = Path(bundle_path)
    if samples is not None:
        samples.quantize(256).save(folder / SAMPLES, optimize=True)
    text = render_card(folder, report)
    (folder / REPORT).write_text(report.model_dump_json(indent=2) + "\n", encoding="utf-8")
    (folder / CARD).write_text(text, encoding="utf-8")


def render_card(bundle_path: str | Path, report: EvaluationReport) -> str:
    """Compose the card of a bundle as Markdown with the YAML header of Hugging Face."""
    folder = Path(bundle_path)
    own, provenance = read_settings(folder)
    sections = [
        _HEAD.format(name=provenance.get("preset", "model"), own=own),
        f"![Generated videos, stills of each in a row]({SAMPLES})" if (folder / SAMPLES).is_file() else "",
        _sizes(folder),
        _training(provenance),
        _adherence(report),
        target_section(targets(report)),
        _speed(report),
        "## Measure it again\n\n```sh\n" + "\n".join(report.commands) + "\n```" if report.commands else "",
        _limits(report, provenance, own),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def target_section(targets: Sequence[Target]) -> str:
    """List targets, those that are not reached in bold."""
    missed = [target for target in targets if not target.reached]
    summary = "Every target is reached." if not missed else f"{len(missed)} of {len(targets)} targets are NOT reached."
    rows = [[target.wanted, target.measured, "reached" if target.reached else "**NOT reached**"] for target in targets]
    return f"## Targets\n\n{summary}\n\n" + table(["target", "measured", ""], rows)


def table(columns: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Write a table."""
    head = list(columns)
    lines = [head, ["---"] * len(head), *(list(row) for row in rows)]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def share(tally: Tally | None) -> str:
    """Write a fraction with its counts; a dash where nothing was counted."""
    return f"{tally.accuracy:.1%} ({tally.correct}/{tally.count})" if tally is not None and tally.count else "–"


def _sizes(folder: Path) -> str:
    rows = []
    for part, meaning in _PARTS.items():
        if files := sorted((folder / part).glob("*.safetensors")):
            count, size = sum(map(_parameters, files)), sum(path.stat().st_size for path in files)
            rows.append([f"`{part}/`", meaning, f"{count / 1e6:.2f} M", f"{size / 2**20:.1f} MiB"])
    return "## Sizes\n\n" + table(["part", "what", "parameters", "on disk"], rows) if rows else ""


def _training(provenance: Mapping[str, Any]) -> str:
    stages: Mapping[str, Mapping[str, Any]] = provenance.get("stages") or {}
    facts = [f"- {key}: {_fact(value)}" for key, value in provenance.items() if key not in ("stages", "preset")]
    columns = list(dict.fromkeys(key for stage in stages.values() for key in stage))
    rows = [[name, *(_fact(stage.get(key)) for key in columns)] for name, stage in stages.items()]
    parts = ["\n".join(facts), table(["stage", *columns], rows) if rows else ""]
    return "\n\n".join(["## Training", *filter(None, parts)]) if any(parts) else ""


def _adherence(report: EvaluationReport) -> str:
    """One row an attribute, one column a source of video."""
    student, drift = report.student.adherence, report.drift
    columns = {"renders (ceiling)": report.ceiling}
    if report.teacher is not None:
        columns["teacher"] = report.teacher.adherence
    columns["student"] = student
    if drift is not None:
        edge, whole = drift.edge_seconds, drift.video_seconds
        columns[f"student, 0–{edge:g} s of {whole:g} s"] = drift.first
        columns[f"student, {whole - edge:g}–{whole:g} s of {whole:g} s"] = drift.last
    head = ["attribute", *columns, "student's 95 % interval (Wilson)", "student misreads most"]
    rows = []
    for name in report.ceiling.attributes:
        counts = [share(column.attributes.get(name)) for column in columns.values()]
        low, high = student.attributes[name].interval
        rows.append([name, *counts, f"{low:.1%}–{high:.1%}", _weakest(student.values.get(name, {}))])
    long = "" if drift is None else f" Long videos: {drift.videos}, of the first of these prompts."
    return (
        "## Does it show what the prompt says?\n\n"
        f"{report.prompts} held-out prompts, seed {report.seed}. A classifier trained on renders of the world reads "
        "each attribute off each clip; its score on renders of the same prompts is the ceiling."
        f"{long}\n\n{table(head, rows)}"
    )


def _speed(report: EvaluationReport) -> str:
    rows = []
    for made in filter(None, (report.teacher, report.student)):
        speed = made.speed
        times = [f"{speed.clip_seconds:.2f}", f"{speed.first_frame_seconds:.2f}", f"{speed.fps:.1f}"]
        rows.append([made.mode, str(made.steps), f"{speed.frames}", *times])
    if report.teacher is not None:
        student, teacher = report.student.speed, report.teacher.speed
        wait = teacher.first_frame_seconds / max(student.first_frame_seconds, 1e-9)
        rows.append(["student's gain", "", "", "", f"{wait:.1f} ×", f"{student.fps / teacher.fps:.2f} ×"])
    columns = ["", "steps", "frames", "seconds a clip", "first frame after (s)", "frames a second"]
    return f"## Speed\n\n{report.machine}; one clip at a time, decoder included.\n\n" + table(columns, rows)


def _limits(report: EvaluationReport, provenance: Mapping[str, Any], own: GenerationConfig) -> str:
    lines = list(report.notes)
    if world := provenance.get("world"):
        lines.append(f"It knows the procedural world `{world}` alone: `{words_command(provenance)}` lists its words.")
    lines.append(f"It was trained on videos of {own.width} × {own.height} pixels only.")
    lines.append("The classifier reads what is named in the tables, not beauty: look at clips as well.")
    return "## Limits\n\n" + "\n".join(f"- {line}" for line in lines)


def _weakest(tallies: Mapping[str, Tally]) -> str:
    """Name up to three values whose clips were misread most often."""
    failed = [(word, tally) for word, tally in tallies.items() if tally.correct < tally.count]
    failed.sort(key=lambda item: (item[1].accuracy, -item[1].count))
    return ", ".join(f"{word} ({tally.correct}/{tally.count})" for word, tally in failed[:3])


def _fact(value: Any) -> str:
    if value is None or isinstance(value, str):
        return value or "–"
    if isinstance(value, float):
        return f"{value:.1f}" if abs(value) >= 1 else f"{value:.3g}"
    return f"{value:,}" if type(value) is int else json.dumps(value)


def _parameters(path: Path) -> int:
    """Count the weights in a safetensors file without reading them; the factors of 8-bit ones are none."""
    with safe_open(path, framework="pt") as file:
        names = [name for name in file.keys() if not name.endswith(".weight_scale")]  # noqa: SIM118
        return sum(math.prod(file.get_slice(name).get_shape()) for name in names)
