"""The report of the ablations says what its numbers say: which claim held, by which measure, and what is missing."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from causvid.evaluate.ablations import (
    CLAIMS,
    MEASURED,
    REPORT,
    TITLES,
    AblationReport,
    Exam,
    Row,
    drifted,
    findings,
    measure_row,
    render_report,
    write_report,
)
from causvid.evaluate.adherence import Adherence, Drift, Measurement, Speed, Tally
from causvid.evaluate.classifier import AttributeClassifier
from causvid.evaluate.frechet import clip_features


def adherence(correct: int, count: int = 200) -> Adherence:
    return Adherence(attributes={"colour": Tally(correct=correct, count=count)}, values={})


def row(name: str, *, correct: int = 150, frechet: float = 9.0, last: int = 45, steps: int = 280) -> Row:
    student = name != "teacher"
    drift = Drift(videos=50, video_seconds=30, edge_seconds=5, first=adherence(50, 50), last=adherence(last, 50))
    return Row(
        name=name,
        training={"teacher": {"steps": 13360, "minutes": 140.5}, "dmd": {"steps": steps}},
        made=Measurement(
            mode="student" if student else "teacher",
            steps=4 if student else 50,
            video_seconds=2,
            adherence=adherence(correct),
            speed=Speed(clip_seconds=2, first_frame_seconds=0.25, frames=25),
        ),
        frechet=frechet,
        drift=drift if student else None,
    )


def report(*rows: Row, missing: dict[str, str] | None = None) -> AblationReport:
    return AblationReport(
        model="nano, finished some day",
        versions={"causvid": "1.2.3"},
        machine="A Processor",
        command="causvid evaluate ablations runs/nano",
        prompts=200,
        seed=3,
        ceiling=adherence(198),
        floor=1.25,
        rows=rows,
        missing=missing or {},
    )


def verdicts(*rows: Row) -> dict[tuple[str, str], str]:
    return {(one.claim.row, one.measure): one.verdict for one in findings(report(*rows))}


def test_a_claim_holds_in_the_measures_in_which_the_recipe_is_better() -> None:
    found = verdicts(row("full", correct=180), row("no-ode", correct=120, frechet=8.9, last=46))
    assert found == {
        ("no-ode", "adherence"): "held",
        ("no-ode", "Fréchet distance"): "did not hold, error unknown",
        ("no-ode", "drift"): "did not hold, within the error",
    }
    found = verdicts(row("full", frechet=7), row("no-dmd", last=10), row("teacher", correct=151))
    assert found[("no-dmd", "adherence")] == "did not hold, within the error"  # equal is not better
    assert found[("no-dmd", "Fréchet distance")] == "held, error unknown"
    assert found[("no-dmd", "drift")] == "held"
    assert found[("teacher", "adherence")] == "did not hold, within the error"
    assert ("teacher", "drift") not in found  # it makes no long videos
    found = verdicts(row("full"), row("teacher"))
    assert found[("teacher", "Fréchet distance")] == "held, error unknown"  # equal is no worse


def test_variants_are_compared_with_a_recipe_run_for_as_long() -> None:
    rows = [row("full", correct=190), row("short", correct=100), *(row(claim.row, correct=150) for claim in CLAIMS)]
    found = verdicts(*rows)
    assert found[("no-ode", "adherence")] == found[("causal-teacher", "adherence")] == "did not hold"
    assert found[("no-dmd", "adherence")] == found[("teacher", "adherence")] == "held"


def test_the_report_shows_every_row_and_names_what_is_missing(tmp_path: Path) -> None:
    rows = (row(name, correct=100 if name == "full" else 150) for name in TITLES if name != "no-ode")
    made = report(*rows, missing={"no-ode": "causvid train ablations"})
    write_report(tmp_path / "deep" / "ablations", made)
    text = (tmp_path / "deep" / "ablations" / REPORT).read_text()
    for part in ("A Processor", "causvid 1.2.3", "evaluate ablations runs/nano", "seed 3", "200 held-out", "1.25"):
        assert part in text
    for number in ("75.0% (150/200), 69–80", "9.00", "-10.0", "12.5", "0.25", "13,360 (140.5 min)", "280"):
        assert number in text
    for name, title in TITLES.items():
        assert text.count(f"| {title} |") == {"no-ode": 0, "teacher": 2}.get(name, 4)
    assert f"{TITLES['no-ode']}: `causvid train ablations`" in text
    for claim in CLAIMS:
        assert (claim.text in text) == (claim.row != "no-ode")
    assert "| **did not hold** |" in text and "| did not hold, within the error |" in text
    again = AblationReport.model_validate_json((tmp_path / "deep" / "ablations" / MEASURED).read_text())
    assert again == made and render_report(again) == text
    assert drifted(row("full").drift) == -10  # type: ignore[arg-type]


class Renders:
    """A pipeline that shows the same clips as the renders it is compared with, or brighter ones."""

    fps = 8.0

    def __init__(self, more: int = 0) -> None:
        self.more = more

    def stream(self, prompt: str, *, seconds: float, seed: int) -> Iterator[torch.Tensor]:
        yield self.generate_batch([prompt], seeds=[seed], seconds=seconds)[0]

    def generate_batch(
        self, prompts: list[str], *, seeds: list[int], seconds: float, mode: str = "student"
    ) -> torch.Tensor:
        size = (round(seconds * self.fps), 16, 24, 3)
        clips = [torch.randint(200, size, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
        return (torch.stack(clips) + self.more).to(torch.uint8)


@pytest.mark.parametrize("mode", ["student", "teacher"])
def test_a_row_is_read_from_every_prompt_and_only_students_make_long_videos(mode: str) -> None:
    classifier = AttributeClassifier({"colour": ("red", "blue")}, width=4, rows=16, frames=9).eval()
    reference = clip_features(classifier, Renders().generate_batch(["x"] * 5, seeds=[*range(5)], seconds=2))
    labels = {"colour": torch.tensor([0, 1, 0, 1, 0])}
    exam = Exam(classifier, ["x"] * 5, labels, reference, seed=0, batch=2)
    same, brighter = (
        measure_row(
            exam,
            Renders(more),
            name="full",
            training={},
            mode=mode,
            steps=4,
            seconds=2,
            long_prompts=2,
            long_seconds=10,
        )  # type: ignore[arg-type]
        for more in (0, 50)
    )
    assert same.frechet == pytest.approx(0, abs=1e-9) and brighter.frechet > 1e-6
    assert same.made.adherence.attributes["colour"].count == 5 and same.made.mode == mode
    assert (same.drift is None) == (mode == "teacher")
    if same.drift is not None:
        assert same.drift.videos == 2 and same.drift.first.attributes["colour"].count == 2
