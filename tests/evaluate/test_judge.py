"""A folder of videos is judged as the videos in memory are, and a model by the folders it makes."""

from pathlib import Path

import pytest

from causvid.evaluate.adherence import score, wanted
from causvid.evaluate.judge import evaluate, judge_adherence, judge_folder, load_judge
from causvid.evaluate.videos import Manifest, Prompt, held_out, make_videos
from causvid.pipeline import Pipeline


@pytest.fixture(scope="module")
def toy(toy_bundle: Path) -> Pipeline:
    return Pipeline.from_pretrained(toy_bundle, teacher=True)


def test_a_folder_scores_as_the_videos_in_memory(toy: Pipeline, tmp_path: Path) -> None:
    classifier, world = load_judge(toy.bundle)
    asked = held_out(world, 5, seed=3)
    make_videos(toy, asked, tmp_path, seed=3, batch=2)
    clips = [toy.generate_batch([prompt.text], seeds=[3 + n]) for n, prompt in enumerate(asked)]
    labels = wanted(classifier, [prompt.labels for prompt in asked])
    assert judge_adherence(tmp_path, classifier) == score(classifier, clips, labels)
    found = judge_folder(tmp_path, toy)
    assert list(found) == ["renders", "student"] and found["renders"].attributes["place"].count == 5


def test_long_videos_are_judged_at_both_ends(toy: Pipeline, tmp_path: Path) -> None:
    _, world = load_judge(toy.bundle)
    make_videos(toy, held_out(world, 2, seed=0), tmp_path, seconds=10.0, seeds=2)
    found = judge_folder(tmp_path, toy)
    assert list(found) == ["renders", "student", "first 5 s", "last 5 s"]
    assert found["renders"].attributes["motion"].count == 2 and found["last 5 s"].attributes["motion"].count == 4


def test_prompts_without_labels_are_refused(toy: Pipeline, tmp_path: Path) -> None:
    make_videos(toy, [Prompt(text="a swan")], tmp_path)
    with pytest.raises(ValueError, match="describe no scene"):
        judge_folder(tmp_path, toy)


def test_prompts_with_labels_are_judged_without_renders(toy: Pipeline, tmp_path: Path) -> None:
    _, world = load_judge(toy.bundle)
    asked = [Prompt(text="a thing", labels={"subject": one, "place": None}) for one in world.subjects[:2]]
    make_videos(toy, asked, tmp_path)
    found = judge_folder(tmp_path, toy)
    assert list(found) == ["student"] and found["student"].attributes["subject"].count == 2


def test_a_model_without_a_classifier_is_refused(small: Pipeline) -> None:
    with pytest.raises(ValueError, match="no classifier"):
        load_judge(small.bundle)


def test_a_model_is_measured_by_the_folders_it_makes(toy: Pipeline, tmp_path: Path) -> None:
    stages: dict[str, list[tuple[int, int]]] = {}
    report = evaluate(
        toy,
        tmp_path,
        prompts=3,
        long_prompts=2,
        long_seconds=10.0,
        teacher=True,
        seed=1,
        stage=lambda name: lambda *done: stages.setdefault(name, []).append(done),
    )
    assert stages == {"student": [(3, 3)], "teacher": [(3, 3)], "long videos": [(2, 2)]}
    assert report.teacher is not None and report.teacher.steps == 1 and report.student.steps == 1
    assert report.drift is not None and (report.drift.videos, report.drift.video_seconds) == (2, 10.0)
    assert report.student.speed.frames == 13 and report.student.speed.first_frame_seconds > 0
    assert report.teacher.speed.first_frame_seconds == report.teacher.speed.clip_seconds
    assert [video.seed for video in Manifest.load(tmp_path / "long").videos] == [1, 2]
