"""Measure the recipe beside itself with one idea taken out, and write down which of the paper's claims hold here.

Every row is asked the same prompts with the same seeds. Renders of the prompts' scenes are the first row: what the
classifier reads off perfect video, and the floor of the Fréchet distance, since the renders that all are compared with
show other scenes.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from causvid.config import Settings
from causvid.evaluate.adherence import (
    Adherence,
    Drift,
    Measurement,
    Mode,
    Progress,
    Tally,
    VideoMaker,
    make,
    measure_drift,
    measure_speed,
    score,
)
from causvid.engine.bench import gap, pooled
from causvid.evaluate.classifier import AttributeClassifier
from causvid.evaluate.frechet import clip_features, frechet_distance
from causvid.evaluate.markdown import Report, share, share_within, table

REPORT = "README.md"
MEASURED = "ablations.json"
TITLES = {
    "teacher": "teacher, sees the whole clip",
    "no-ode": "student without ODE initialisation",
    "causal-teacher": "student of a causal teacher",
    "no-dmd": "student without distribution matching",
    "short": "the recipe, `dmd` as short as in the variants",
    "full": "the recipe",
}
"""What the rows are, by name, in their order."""


@dataclass(frozen=True)
class Claim:
    """What the paper found when it compared the recipe with a row, and the scores of both."""

    text: str
    row: str
    paper: str


CLAIMS = (
    Claim("ODE initialisation makes the student better", "no-ode", "94.7 / 64.4 / 30.1 and 93.4 / 60.6 / 29.4"),
    Claim(
        "a teacher that sees the whole clip is better for the student than a causal one",
        "causal-teacher",
        "94.7 / 64.4 / 30.1 and 91.9 / 61.7 / 28.2",
    ),
    Claim(
        "distribution matching adds to ODE initialisation alone",
        "no-dmd",
        "94.7 / 64.4 / 30.1 and 92.9 / 48.1 / 25.3",
    ),
    Claim("the student is no worse than its teacher", "teacher", "94.7 / 64.4 / 30.1 and 94.6 / 62.7 / 29.6"),
)
"""The scores are temporal quality, frame quality and text alignment in CausVid (2412.07772), table 4."""


class Row(Settings):
    """What was measured of one way to train. training: stage → what it took, such as its steps."""

    name: str
    training: dict[str, dict[str, float]]
    made: Measurement
    frechet: float
    drift: Drift | None = None


class AblationReport(Report):
    """Everything that was measured.

    ceiling, floor: adherence and Fréchet distance of renders. missing: row → the command that makes it.
    """

    prompts: int
    seed: int
    ceiling: Adherence
    floor: float
    rows: tuple[Row, ...]
    missing: dict[str, str]


@dataclass(frozen=True)
class Exam:
    """What all rows are asked. labels: attribute → int64 [prompts]. reference: features of other renders [N, D]."""

    classifier: AttributeClassifier
    prompts: list[str]
    labels: dict[str, Tensor]
    reference: Tensor
    seed: int
    batch: int = 8

    def grade(self, videos: Iterable[Tensor]) -> tuple[Adherence, float]:
        """Score a clip of every prompt, in batches as `score` takes them, and measure their Fréchet distance."""
        seen: list[Tensor] = []

        def watched() -> Iterator[Tensor]:
            for pixels in videos:
                seen.append(clip_features(self.classifier, pixels))
                yield pixels

        adherence = score(self.classifier, watched(), self.labels)
        return adherence, frechet_distance(torch.cat(seen), self.reference)


def measure_row(
    exam: Exam,
    pipeline: VideoMaker,
    *,
    name: str,
    training: Mapping[str, Mapping[str, float]],
    mode: Mode,
    steps: int,
    seconds: float,
    long_prompts: int,
    long_seconds: float,
    progress: Progress | None = None,
    long_progress: Progress | None = None,
) -> Row:
    """Make a clip of every prompt and, with a student, long videos of the first of them; read and time them."""
    seed, batch = exam.seed, exam.batch
    videos = make(pipeline, exam.prompts, mode=mode, seconds=seconds, seed=seed, batch=batch, progress=progress)
    adherence, frechet = exam.grade(videos)
    speed = measure_speed(pipeline, exam.prompts[0], mode=mode, seconds=seconds, seed=seed)
    drift = None
    if mode == "student" and long_prompts:
        drift = measure_drift(
            pipeline,
            exam.classifier,
            exam.prompts[:long_prompts],
            {attribute: values[:long_prompts] for attribute, values in exam.labels.items()},
            seconds=long_seconds,
            seed=seed,
            progress=long_progress,
        )
    return Row(
        name=name,
        training={stage: dict(facts) for stage, facts in training.items()},
        made=Measurement(mode=mode, steps=steps, video_seconds=seconds, adherence=adherence, speed=speed),
        frechet=frechet,
        drift=drift,
    )


@dataclass(frozen=True)
class Finding:
    """One claim by one measure: what the recipe and the row beside it reach, and by how much the recipe is better.

    error: how far chance alone may move `better`, with 95 % probability; None where it is not known.
    """

    claim: Claim
    measure: str
    recipe: str
    other: str
    better: float
    error: float | None

    @property
    def verdict(self) -> str:
        """Say whether the claim held."""
        no_worse = self.claim.row == "teacher"
        held = self.better >= 0 if no_worse else self.better > 0
        word = "held" if held else "did not hold"
        if self.error is None:
            return f"{word}, error unknown"
        return f"{word}, within the error" if abs(self.better) < self.error else word


def findings(report: AblationReport) -> list[Finding]:
    """Compare what was measured with what the paper claims, where both rows are there."""
    rows = {row.name: row for row in report.rows}
    result = []
    for claim in CLAIMS:
        trained_anew = claim.row in ("no-ode", "causal-teacher")
        recipe = rows.get("short") if trained_anew and "short" in rows else rows.get("full")
        other = rows.get(claim.row)
        if recipe is None or other is None:
            continue
        ours, theirs = pooled(recipe.made.adherence.attributes), pooled(other.made.adherence.attributes)
        result.append(
            Finding(claim, "adherence", share(ours), share(theirs), gap(theirs, ours), _error([ours, theirs]))
        )
        distances = (f"{recipe.frechet:.2f}", f"{other.frechet:.2f}")
        result.append(Finding(claim, "Fréchet distance", *distances, other.frechet - recipe.frechet, None))
        if recipe.drift is not None and other.drift is not None:
            ends = [pooled(end.attributes) for row in (recipe.drift, other.drift) for end in (row.first, row.last)]
            better = drifted(recipe.drift) - drifted(other.drift)
            texts = (f"{drifted(recipe.drift):+.1f}", f"{drifted(other.drift):+.1f}")
            result.append(Finding(claim, "drift", *texts, better, _error(ends)))
    return result


def drifted(drift: Drift) -> float:
    """Return the last seconds' adherence less the first ones', all attributes together, in percentage points."""
    return gap(pooled(drift.first.attributes), pooled(drift.last.attributes))


def _error(tallies: Sequence[Tally]) -> float:
    """Return the half width of the 95 % interval of a sum or difference of fractions, in percentage points."""
    halves = ((high - low) / 2 for low, high in (tally.interval for tally in tallies))
    return 100.0 * sum(half * half for half in halves) ** 0.5


def write_report(folder: Path, report: AblationReport) -> None:
    """Write measurements and report into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MEASURED).write_text(report.model_dump_json(indent=2) + "\n", encoding="utf-8")
    (folder / REPORT).write_text(render_report(report), encoding="utf-8")


def render_report(report: AblationReport) -> str:
    """Compose the report as Markdown."""
    sections = (_introduction(report), _rows(report), _missing(report), _claims(report), _long(report), _steps(report))
    return "\n\n".join(section for section in sections if section) + "\n"


def _introduction(report: AblationReport) -> str:
    return "\n\n".join(
        [
            report.heading("What each part of the recipe is good for"),
            "Made by this command, every number. The recipe of [CausVid](https://arxiv.org/abs/2412.07772), and the "
            f"same with one idea taken out. {report.prompts} held-out prompts, seed {report.seed}, the same for every "
            "row. A classifier trained on renders of the world reads the attributes off every clip. The Fréchet "
            f"distance is that of its features: {report.prompts} clips against renders of {report.prompts} other "
            "held-out scenes. Renders of the prompts' own scenes are the first row: what perfect video would reach.",
        ]
    )


def _rows(report: AblationReport) -> str:
    attributes = list(report.ceiling.attributes)
    clips = f"Fréchet distance ({report.prompts} clips)"
    columns = ["", "denoising steps", *attributes, "all", clips, "drift (points)", "frames a second", "first frame (s)"]

    def read(adherence: Adherence) -> list[str]:
        counted = [share(adherence.attributes.get(name)) for name in attributes]
        return [*counted, share_within(pooled(adherence.attributes))]

    rows = [["renders", "", *read(report.ceiling), f"{report.floor:.2f}", "", "", ""]]
    for row in report.rows:
        speed = row.made.speed
        rows.append(
            [
                TITLES[row.name],
                str(row.made.steps),
                *read(row.made.adherence),
                f"{row.frechet:.2f}",
                "–" if row.drift is None else f"{drifted(row.drift):+.1f}",
                f"{speed.fps:.1f}",
                f"{speed.first_frame_seconds:.2f}",
            ]
        )
    return "\n\n".join(
        [
            "## The rows",
            table(columns, rows),
            "Fractions with counts; all attributes together also with Wilson's 95 % interval in percent. Drift is the "
            "adherence of a long video's last seconds less that of its first. Speed is that of one clip at a time, "
            "decoder included.",
        ]
    )


def _missing(report: AblationReport) -> str:
    if not report.missing:
        return ""
    lines = [f"- {TITLES[name]}: `{command}`" for name, command in report.missing.items()]
    return "\n\n".join(["## Not measured", "Rows that were not there, and what makes them:", "\n".join(lines)])


def _claims(report: AblationReport) -> str:
    found = findings(report)
    if not found:
        return ""
    rows, named = [], None
    for one in found:
        first = one.claim is not named
        named = one.claim
        text, paper = (one.claim.text, one.claim.paper) if first else ("", "")
        verdict = "**did not hold**" if one.verdict == "did not hold" else one.verdict
        rows.append([text, paper, one.measure, one.recipe, one.other, verdict])
    short = next((row for row in report.rows if row.name == "short"), None)
    beside = ""
    if short is not None:
        steps = short.training["dmd"]["steps"]
        beside = f" Variants with {steps:g} steps of `dmd` are compared with the recipe run for as many."
    return "\n\n".join(
        [
            "## The paper's claims, here",
            "The paper's numbers are temporal quality, frame quality and text alignment of the recipe and of what it "
            f"is compared with, of its own large model; ours are those of the table above.{beside} A difference within "
            "the error is one that chance alone exceeds more often than in one of twenty comparisons, attributes "
            "counted as independent. For the Fréchet distance it is not known; that of renders is the scale.",
            table(["claim", "paper", "measure", "recipe", "compared with", ""], rows),
        ]
    )


def _long(report: AblationReport) -> str:
    attributes = list(report.ceiling.attributes)
    rows, about = [], ""
    for row in report.rows:
        if row.drift is None:
            continue
        drift, edge = row.drift, row.drift.edge_seconds
        about = f"{drift.videos} videos of {drift.video_seconds:g} s each, of the first of the prompts."
        for part, read in ((f"first {edge:g} s", drift.first), (f"last {edge:g} s", drift.last)):
            counted = [share(read.attributes.get(name)) for name in attributes]
            rows.append([TITLES[row.name], part, *counted, share_within(pooled(read.attributes))])
    return "\n\n".join(["## Long videos", about, table(["", "", *attributes, "all"], rows)]) if rows else ""


def _steps(report: AblationReport) -> str:
    # From the row with most stages on, so that all stand in the order in which they are run.
    longest_first = sorted(report.rows, key=lambda row: -len(row.training))
    stages = list(dict.fromkeys(stage for row in longest_first for stage in row.training))
    rows = [[TITLES[row.name], *(_took(row.training.get(stage)) for stage in stages)] for row in report.rows]
    return "\n\n".join(
        [
            "## What each row was trained with",
            "Steps, and minutes, by the logs of the stages. A row that has no number of its own for a stage did not "
            "run it; what a variant did not run anew is the run's own.",
            table(["", *stages], rows),
        ]
    )


def _took(facts: Mapping[str, float] | None) -> str:
    if facts is None or "steps" not in facts:
        return "–"
    minutes = f" ({facts['minutes']:g} min)" if "minutes" in facts else ""
    return f"{facts['steps']:,.0f}{minutes}"
