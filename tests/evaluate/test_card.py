"""The model card says what the report says, and no more."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import causvid
from causvid.evaluate.adherence import Adherence, Drift, Tally
from causvid.evaluate.card import render_card, write_card
from causvid.evaluate.report import EvaluationReport, Measurement, Speed, targets
from causvid.evaluate.videos import Maker
from causvid.loading.bundle import REPORT

BUILT_IN = Path(causvid.__file__).parent / "bundles" / "nano"


def _adherence(subject: int, colour: int) -> Adherence:
    values = {"subject": {"swan": Tally(correct=subject - 40, count=50), "mammoth": Tally(correct=40, count=50)}}
    tallies = {"subject": Tally(correct=subject, count=100), "colour": Tally(correct=colour, count=100)}
    return Adherence(attributes=tallies, values=values)


def _measurement(mode: Maker, subject: int, colour: int, seconds: float) -> Measurement:
    return Measurement(
        mode=mode,
        steps=4 if mode == "student" else 48,
        video_seconds=5.0,
        adherence=_adherence(subject, colour),
        speed=Speed(clip_seconds=seconds, first_frame_seconds=seconds / 8, frames=41),
    )


def _report(student: int = 90, late: int = 88, seconds: float = 2.0) -> EvaluationReport:
    return EvaluationReport(
        prompts=100,
        seed=7,
        machine="A Processor, 2 cores, torch 2",
        native_fps=8.0,
        ceiling=_adherence(98, 99),
        student=_measurement("student", student, 97, seconds),
        teacher=_measurement("teacher", 92, 98, 30.0),
        drift=Drift(
            videos=33, video_seconds=30.0, edge_seconds=5.0, first=_adherence(91, 97), last=_adherence(late, 96)
        ),
        commands=("causvid evaluate adherence --prompts 100",),
        notes=("Small shapes are hard at this size.",),
    )


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    settings: dict[str, Any] = {
        "format": 1,
        "generation": {
            "width": 96,
            "height": 64,
            "fps": 8.0,
            "clip_frames": 13,
            "first": 1,
            "chunk": 3,
            "window": 12,
            "sink": 1,
            "shift": 3.0,
            "timesteps": [1000, 500],
            "teacher_steps": 48,
            "guidance": 3.0,
        },
        "provenance": {
            "preset": "nano",
            "world": "storybook",
            "stages": {"teacher": {"steps": 12345, "minutes": 67.89}, "dmd": {"steps": 222, "machine": "a laptop"}},
        },
    }
    (tmp_path / "causvid.json").write_text(json.dumps(settings))
    (tmp_path / "transformer").mkdir()
    save_file({"a": torch.zeros(300, 1000), "b": torch.zeros(20_000)}, tmp_path / "transformer" / "model.safetensors")
    return tmp_path


def test_card_states_what_was_measured(bundle: Path) -> None:
    card = render_card(bundle, _report())
    header = card.split("---")[1]
    assert "license: apache-2.0" in header and "pipeline_tag: text-to-video" in header
    assert "98.0% (98/100)" in card and "90.0% (90/100)" in card and "88.0% (88/100)" in card
    assert "0.32 M" in card and "12,345" in card and "67.9" in card and "a laptop" in card
    assert "| student | 4 | 41 | 2.00 | 0.25 | 20.5 |" in card
    assert "| teacher | 48 | 41 | 30.00 | 3.75 | 1.4 |" in card
    assert "A Processor" in card and "causvid evaluate adherence" in card and "96 × 64" in card
    assert "| mammoth (40/50) |" in card and "| student's gain |  |  |  | 15.0 × | 15.00 × |" in card
    assert "Small shapes are hard" in card and "Long videos: 33," in card


@pytest.mark.parametrize(("world", "command"), [("nano", "`causvid world words`"), ("full", "words --preset full`")])
def test_card_points_to_the_words_of_its_own_world(bundle: Path, world: str, command: str) -> None:
    settings = json.loads((bundle / "causvid.json").read_text())
    settings["provenance"]["world"] = world
    (bundle / "causvid.json").write_text(json.dumps(settings))
    assert command in render_card(bundle, _report())


def test_every_target_flips_with_what_was_measured(bundle: Path) -> None:
    assert all(target.reached for target in targets(_report()))
    assert "Every target is reached." in render_card(bundle, _report())
    for report, count in [(_report(student=83), 2), (_report(late=85), 1), (_report(seconds=6.0), 1)]:
        missed = [target for target in targets(report) if not target.reached]
        card = render_card(bundle, report)
        assert len(missed) == count
        assert card.count("**NOT reached**") == count and "Every target is reached." not in card


def test_exactly_the_limit_is_reached() -> None:
    report = _report(student=87)
    gap = next(target for target in targets(report) if target.wanted.startswith("subject: at most"))
    assert gap.measured == "5.0 points below" and gap.reached


def test_card_can_be_written_again_from_the_bundle_alone(bundle: Path) -> None:
    write_card(bundle, _report())
    card = (bundle / "README.md").read_text()
    write_card(bundle, EvaluationReport.model_validate_json((bundle / REPORT).read_text()))
    assert (bundle / "README.md").read_text() == card


def test_a_report_without_teacher_or_long_videos_still_makes_a_card(bundle: Path) -> None:
    card = render_card(bundle, _report().model_copy(update={"teacher": None, "drift": None}))
    assert "| student |" in card and "| teacher | 48" not in card and "the teacher" not in card.split("## Targets")[1]
    assert "NOT" not in card


def test_mistakes_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"causvid\.json"):
        write_card(tmp_path, _report())
    assert not list(tmp_path.iterdir())


def test_the_report_of_the_built_in_model_is_still_readable() -> None:
    report = EvaluationReport.model_validate_json((BUILT_IN / REPORT).read_text())
    assert report.ceiling.attributes["colour"] == Tally(correct=100, count=100)
    assert all(target.reached for target in targets(report))
