"""Write the model card of a bundle from its report: no number in it is typed by hand."""

import json
import math
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from causvid.evaluate.adherence import Adherence, Tally
from causvid.evaluate.markdown import share, table, target_section
from causvid.evaluate.report import EvaluationReport, targets
from causvid.loading.bundle import CARD, REPORT, SAMPLES, words_command

if TYPE_CHECKING:
    from PIL.Image import Image

_HEADER = """---
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
---"""
_PARTS = {
    "transformer": "student (causal transformer)",
    "teacher": "teacher (bidirectional transformer)",
    "vae": "video autoencoder",
    "text_encoder": "text encoder",
    "classifier": "attribute classifier (for measuring only)",
}


def write_card(bundle_path: str | Path, report: EvaluationReport, samples: "Image | None" = None) -> None:
    """Write README.md and evaluation.json into a bundle, and a contact sheet of its videos where there is one.

    Raises:
        ValueError: the folder is not a bundle.
    """
    folder = Path(bundle_path)
    if samples is not None:
        samples.save(folder / SAMPLES, optimize=True)
    text = render_card(folder, report)
    (folder / REPORT).write_text(report.model_dump_json(indent=2) + "\n", encoding="utf-8")
    (folder / CARD).write_text(text, encoding="utf-8")


def render_card(bundle_path: str | Path, report: EvaluationReport) -> str:
    """Compose the card of a bundle as Markdown with the YAML header of Hugging Face."""
    folder = Path(bundle_path)
    try:
        settings = json.loads((folder / "causvid.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"bundle={folder}: expected a folder with a readable causvid.json ({error})") from error
    provenance = settings.get("provenance") or {}
    generation = settings.get("generation") or settings
    sections = [
        _HEADER,
        _introduction(provenance, generation),
        f"![Generated videos, stills of each in a row]({SAMPLES})" if (folder / SAMPLES).is_file() else "",
        _sizes(folder),
        _training(provenance),
        _adherence(report),
        target_section(targets(report)),
        _speed(report),
        _again(report),
        _limits(report, provenance, generation),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _introduction(provenance: Mapping[str, Any], generation: Mapping[str, Any]) -> str:
    name = provenance.get("preset", "model")
    lines = [
        f"# CausVid {name}",
        "",
        "A sentence becomes a video that streams: a causal student makes it chunk by chunk, each chunk in a few "
        "denoising steps, with its history in a key-value cache. It was distilled from a bidirectional "
        "teacher by the recipe of [CausVid](https://arxiv.org/abs/2412.07772).",
        "",
    ]
    if {"width", "height", "fps"} <= set(generation):
        lines.append(f"Video: {_size(generation)} at {generation['fps']:g} frames a second.")
    if {"first", "chunk", "window", "sink"} <= set(generation):
        lines.append(
            f"Chunks: {generation['first']}, then {generation['chunk']} latent frames each; "
            f"visible history: the last {generation['window']} latent frames and the first {generation['sink']}."
        )
    lines += [
        "",
        "```python",
        "from causvid import Pipeline",
        "",
        'pipeline = Pipeline.from_pretrained("path/of/this/folder")',
        'for frames in pipeline.stream("a paper airplane flying over a lake", seconds=5, seed=0):',
        "    ...  # uint8 [T, H, W, 3]",
        "```",
    ]
    return "\n".join(lines)


def _sizes(folder: Path) -> str:
    rows = []
    for part, meaning in _PARTS.items():
        files = sorted((folder / part).glob("*.safetensors"))
        if files:
            count = sum(_parameters(path) for path in files)
            size = sum(path.stat().st_size for path in files) / 2**20
            rows.append([f"`{part}/`", meaning, f"{count / 1e6:.2f} M", f"{size:.1f} MiB"])
    return "## Sizes\n\n" + table(["part", "what", "parameters", "on disk"], rows) if rows else ""


def _training(provenance: Mapping[str, Any]) -> str:
    stages: Mapping[str, Mapping[str, Any]] = provenance.get("stages") or {}
    facts = [f"- {key}: {_fact(value)}" for key, value in provenance.items() if key not in ("stages", "preset")]
    if not stages and not facts:
        return ""
    columns = list(dict.fromkeys(key for facts_of_stage in stages.values() for key in facts_of_stage))
    rows = [[name, *(_fact(stage.get(key)) for key in columns)] for name, stage in stages.items()]
    stages_table = table(["stage", *columns], rows) if rows else ""
    return "\n\n".join(part for part in ("## Training", "\n".join(facts), stages_table) if part)


def _adherence(report: EvaluationReport) -> str:
    """One row an attribute, one column a source of video."""
    columns: dict[str, Adherence] = {"renders (ceiling)": report.ceiling}
    if report.teacher is not None:
        columns["teacher"] = report.teacher.adherence
    columns["student"] = report.student.adherence
    if report.drift is not None:
        edge, whole = report.drift.edge_seconds, report.drift.video_seconds
        columns[f"student, 0–{edge:g} s of {whole:g} s"] = report.drift.first
        columns[f"student, {whole - edge:g}–{whole:g} s of {whole:g} s"] = report.drift.last
    rows = []
    for name in report.ceiling.attributes:
        rows.append([name, *(share(column.attributes.get(name)) for column in columns.values())])
    reach = max((high - low) / 2 for low, high in (t.interval for t in report.student.adherence.attributes.values()))
    lines = [
        "## Does it show what the prompt says?",
        "",
        f"{report.prompts} held-out prompts, seed {report.seed}. A classifier trained on renders of the world reads "
        "each attribute off each clip; its score on renders of the same prompts is the ceiling.",
        "",
        table(["attribute", *columns], rows),
        "",
        f"95 % intervals (Wilson) of the student's fractions reach up to ±{100 * reach:.1f} points.",
    ]
    if report.drift is not None:
        lines += ["", f"Long videos: {report.drift.videos}, of the first of these prompts."]
    weak = [line for name, tallies in report.student.adherence.values.items() if (line := _weakest(name, tallies))]
    return "\n".join([*lines, *(["", "Where the student fails most:", "", *weak] if weak else [])])


def _speed(report: EvaluationReport) -> str:
    rows = []
    for made in filter(None, (report.teacher, report.student)):
        speed = made.speed
        rows.append(
            [
                made.mode,
                str(made.steps),
                f"{speed.frames}",
                f"{speed.clip_seconds:.2f}",
                f"{speed.first_frame_seconds:.2f}",
                f"{speed.fps:.1f}",
            ]
        )
    columns = ["", "steps", "frames", "seconds a clip", "first frame after (s)", "frames a second"]
    text = f"## Speed\n\n{report.machine}; one clip at a time, decoder included.\n\n" + table(columns, rows)
    if report.teacher is None:
        return text
    ratio = report.student.speed.fps / report.teacher.speed.fps
    wait = report.teacher.speed.first_frame_seconds / max(report.student.speed.first_frame_seconds, 1e-9)
    return (
        f"{text}\n\nFrames a second, student over teacher: {ratio:.2f}. "
        f"Wait for the first frame, teacher over student: {wait:.1f}."
    )


def _again(report: EvaluationReport) -> str:
    if not report.commands:
        return ""
    return "## Measure it again\n\n```sh\n" + "\n".join(report.commands) + "\n```"


def _limits(report: EvaluationReport, provenance: Mapping[str, Any], generation: Mapping[str, Any]) -> str:
    lines = [f"- {note}" for note in report.notes]
    world = provenance.get("world")
    if world:
        lines.append(
            f"- It was trained on renders of the procedural world `{world}` alone and knows nothing else: "
            f"`{words_command(provenance)}` lists the words it knows."
        )
    if {"width", "height"} <= set(generation):
        lines.append(f"- It was trained on videos of {_size(generation)} only.")
    lines.append("- The classifier reads what is named in the tables, not beauty: look at clips as well.")
    return "## Limits\n\n" + "\n".join(lines)


def _size(generation: Mapping[str, Any]) -> str:
    return f"{generation['width']} × {generation['height']} pixels"


def _weakest(name: str, tallies: Mapping[str, Tally]) -> str:
    """Name up to three values whose clips were misread most often."""
    failed = [(word, tally) for word, tally in tallies.items() if tally.correct < tally.count]
    failed.sort(key=lambda item: (item[1].accuracy, -item[1].count))
    words = ", ".join(f"{word} ({tally.correct}/{tally.count})" for word, tally in failed[:3])
    return f"- {name}: {words}" if words else ""


def _fact(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.1f}" if abs(value) >= 1 else f"{value:.3g}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return value if isinstance(value, str) else json.dumps(value)


def _parameters(path: Path) -> int:
    """Count the numbers in a safetensors file from its header alone."""
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
    return sum(math.prod(entry["shape"]) for name, entry in header.items() if name != "__metadata__")
