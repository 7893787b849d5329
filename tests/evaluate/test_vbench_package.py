"""The vbench package is driven as it is: here a stand-in of its interface, as vbench 0.1.5 has it."""

import json
import sys
from pathlib import Path

import pytest
from tests.evaluate.test_vbench import moving

from causvid import cli
from causvid.evaluate.vbench import DIMENSIONS, video_files
from causvid.evaluate.vbench_package import _cut, _verdict, find_python, judge_folder
from causvid.media import VideoWriter, read_video

FAKE = """
import json, os
UNSUPPORTED = ["object_class", "multiple_objects", "scene", "appearance_style", "color", "spatial_relationship"]
class VBench:
    def __init__(self, device, full_info_dir, output_path):
        self.device, self.listed, self.output = device, full_info_dir, output_path
        os.makedirs(output_path, exist_ok=True)
    def evaluate(self, videos_path, name, prompt_list=[], dimension_list=None, local=False, read_frame=False,
                 mode="vbench_standard", **kwargs):
        print("noise on stdout")
        (dimension,) = dimension_list
        if dimension == "motion_smoothness":
            raise NotImplementedError("UnImplemented\\ndimension")
        if mode == "custom_input":
            assert dimension not in UNSUPPORTED, f"dimensions : {dimension} not supported for custom input"
            assert sorted(prompt_list) == sorted(os.listdir(videos_path))
        else:
            assert not prompt_list and json.load(open(self.listed))
        videos = [{"video_path": os.path.join(videos_path, file), "video_results": 80 if "imaging" in name else 0.8}
                  for file in os.listdir(videos_path)]
        with open(os.path.join(self.output, name + "_eval_results.json"), "w") as file:
            json.dump({dimension: [0.8 if mode == "custom_input" else 0.5, videos]}, file)
"""


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package that is named vbench, without weights: return its cache."""
    package = tmp_path / "packages" / "vbench"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(FAKE)
    listed = [{"prompt_en": "In a still frame, a stop sign", "dimension": ["temporal_flickering"]}]
    (package / "VBench_full_info.json").write_text(json.dumps(listed))
    monkeypatch.setenv("PYTHONPATH", str(package.parent))
    monkeypatch.setenv("VBENCH_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


def give_weights(cache: Path, *names: str) -> None:
    for file in (cache / file for name in names for file in DIMENSIONS[name].files):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()


def write_video(file: Path, frames: int = 9) -> Path:
    file.parent.mkdir(exist_ok=True)
    with VideoWriter(file, fps=8, height=64, width=96) as writer:
        writer.write(moving(frames).numpy())
    return file.parent


def test_each_dimension_is_scored_or_says_why_not(fake: Path, tmp_path: Path) -> None:
    give_weights(fake, "imaging_quality", "motion_smoothness", "color")
    folder = write_video(tmp_path / "videos" / "a red swan-0.mkv")
    found = {one.dimension: one for one in judge_folder(folder, python=Path(sys.executable))}
    assert set(found) == set(DIMENSIONS)
    scored = {name: (one.score, dict(one.videos)) for name, one in found.items() if one.score is not None}
    of_each = (0.8, {"a red swan-0.mkv": 0.8})
    assert scored == {"temporal_flickering": of_each, "imaging_quality": of_each}
    assert found["motion_smoothness"].missing == "UnImplemented dimension"
    assert "not supported for custom input" in found["color"].missing
    assert found["dynamic_degree"].missing == f"needs RAFT: {fake}/raft_model/models/raft-things.pth"


def test_a_video_of_the_standard_list_is_judged_by_it(fake: Path, tmp_path: Path) -> None:
    folder = write_video(tmp_path / "videos" / "In a still frame, a stop sign-3.mp4")
    (found,) = judge_folder(folder, python=Path(sys.executable), dimensions=["temporal_flickering"])
    assert found.score == 0.5
    write_video(folder / "In a still frame, a stop sign-3.mkv")
    with pytest.raises(ValueError, match=r"sign-3\.mkv and In a still frame, a stop sign-3\.mp4"):
        list(judge_folder(folder, python=Path(sys.executable)))


def test_long_videos_are_judged_by_their_clips(fake: Path, tmp_path: Path) -> None:
    folder = write_video(tmp_path / "videos" / "a red swan-0.mkv", frames=39)
    write_video(folder / "a blue swan-0.mp4")
    own = _cut(video_files(folder), fake.parent)
    assert [file.name for file in own.values()] == ["a blue swan-0.mp4", *["a red swan-0.mkv"] * 2]
    frames = [len(list(read_video(fake.parent / name, height=64, width=96, fps=8))) for name in own]
    assert frames == [9, 16, 23]
    found = {"dimension": "scene", "score": 0.9, "videos": dict(zip(own, (0.2, 0.4, 0.6), strict=True))}
    verdict = _verdict(found, own)
    assert verdict.videos == {"a blue swan-0.mp4": 0.2, "a red swan-0.mkv": 0.5}
    assert verdict.score == pytest.approx(0.35)
    (judged,) = judge_folder(folder, python=Path(sys.executable), dimensions=["temporal_flickering"], long=True)
    assert judged.score == pytest.approx(0.8) and set(judged.videos) == set(verdict.videos)


def run(*arguments: str | Path) -> int:
    with pytest.raises(SystemExit) as caught:
        cli.main([str(argument) for argument in arguments])
    return int(caught.value.code or 0)


def test_both_scores_stand_in_one_table(fake: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_video(tmp_path / "videos" / "a red swan-0.mp4")
    command = ("evaluate", "vbench", folder, "-o", tmp_path / "numbers.json")
    assert run(*command) == 0
    assert "vbench is not installed here" in capsys.readouterr().out
    assert run(*command, "--python", sys.executable) == 0
    out = capsys.readouterr().out
    assert "0.8000" in out and "scene: needs Tag2Text" in out
    numbers = json.loads((tmp_path / "numbers.json").read_text())["a red swan-0.mp4"]
    assert numbers["vbench temporal_flickering"] == 0.8 != numbers["temporal_flickering"]
    give_weights(fake, *DIMENSIONS)
    assert run(*command, "--python", tmp_path / "nowhere") == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_package_that_cannot_be_imported_is_one_line(fake: Path, tmp_path: Path) -> None:
    (tmp_path / "packages" / "vbench" / "__init__.py").write_text("import nothing_of_this_name")
    folder = write_video(tmp_path / "videos" / "a red swan-0.mp4")
    with pytest.raises(ValueError, match="vbench cannot be run: ModuleNotFoundError"):
        list(judge_folder(folder, python=Path(sys.executable)))


def test_an_interpreter_without_vbench_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTHONPATH", raising=False)
    assert find_python(None) is None
    with pytest.raises(ValueError, match="has no vbench"):
        find_python(Path(sys.executable))
