"""`world` and `evaluate` on the command line, at toy size; and the built-in model from end to end."""

import shutil
from pathlib import Path

import av
import pytest
from PIL import Image

from causvid import cli
from causvid.evaluate.report import EvaluationReport
from causvid.loading.bundle import REPORT
from causvid.pipeline import Pipeline

BUILT_IN = Path(cli.__file__).parent.parent / "bundles" / "nano"
built_in = pytest.mark.skipif(not BUILT_IN.is_dir(), reason="this checkout ships no model")


def run(*arguments: str | Path) -> int:
    with pytest.raises(SystemExit) as caught:
        cli.main([str(argument) for argument in arguments])
    return int(caught.value.code or 0)


def test_world_preview_draws_clips_and_a_sheet(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "preview"
    size = ("--height", 32, "--width", 48, "--seconds", 0.5, "--clips", 3, "--preset", "nano")
    assert run("world", "preview", "-o", folder, *size) == 0
    clips = sorted(folder.glob("*.mp4"))
    assert len(clips) == 3
    assert ["swan" in clips[0].name, "plane" in clips[1].name, "mammoth" in clips[2].name] == [True] * 3
    with av.open(str(clips[0])) as container:
        assert sum(1 for _ in container.decode(video=0)) == 6
    with Image.open(folder / "contact_sheet.png") as sheet:
        assert sheet.width > 4 * 48
    assert str(folder) in capsys.readouterr().out
    assert run("world", "preview", "-o", tmp_path / "missing" / "deep") == 2


def test_world_words_names_what_the_model_knows(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("world", "words") == 0
    out = capsys.readouterr().out
    for word in ("subjects: swan, paper airplane, woolly mammoth", "morphing", "tundra"):
        assert word in out


@pytest.fixture
def bundle(toy_bundle: Path, tmp_path: Path) -> Path:
    """A bundle of a test's own, to write a card into."""
    return shutil.copytree(toy_bundle, tmp_path / "bundle")


def test_adherence_is_scored_shown_and_written_to_the_card(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (bundle / "README.md").read_text()
    few = ("--prompts", 4, "--long-prompts", 2, "--long-seconds", 10, "--note", "It follows no prompt.")
    options = ("--model", bundle, *few, "--device", "cpu")
    assert run("evaluate", "adherence", *options) == 0
    out = capsys.readouterr().out
    for part in ("subject", "motion", "renders", "teacher", "student", "FPS", "MISSED"):
        assert part in out
    assert (bundle / "README.md").read_text() == before
    assert run("evaluate", "adherence", *options, "--card") == 0
    report = EvaluationReport.model_validate_json((bundle / REPORT).read_text())
    assert report.prompts == 4
    assert report.teacher is not None and report.drift is not None
    assert report.drift.videos == 2
    assert report.notes == ("It follows no prompt.",)
    asked = "--model path/of/this/folder --prompts 4 --long-prompts 2 --long-seconds 10.0 --device cpu"
    assert report.commands == (f"causvid evaluate adherence {asked}",)
    card = (bundle / "README.md").read_text()
    assert "It follows no prompt." in card and f"causvid evaluate adherence {asked}\n" in card
    assert (bundle / "contact_sheet.png").is_file()


def test_videos_are_made_and_judged(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, model = tmp_path / "videos", ("--model", bundle, "--device", "cpu")
    assert run("evaluate", "videos", "-o", folder, *model, "--prompts", 3, "--seeds", 2, "--teacher") == 0
    assert len(list(folder.glob("*.mkv"))) == 6 and "6 videos" in capsys.readouterr().out
    assert run("evaluate", "adherence", folder, *model) == 0
    assert "teacher" in capsys.readouterr().out
    assert run("evaluate", "adherence", folder, *model, "--card") == 2
    assert "card: no option" in capsys.readouterr().err
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a red swan\n")
    assert run("evaluate", "videos", "-o", tmp_path / "own", *model, "--file", prompts, "--seconds", 1.0) == 0
    assert [file.name for file in sorted((tmp_path / "own").iterdir())] == ["00000-0.mkv", "manifest.json"]
    capsys.readouterr()
    assert run("evaluate", "adherence", tmp_path / "nothing", *model) == 2
    assert capsys.readouterr().err.count("\n") == 1


@built_in
def test_the_built_in_model_makes_the_same_video_twice(tmp_path: Path) -> None:
    for name in ("a.mp4", "b.mp4"):
        prompt = "a paper airplane morphing into a swan"
        assert run("generate", prompt, "-o", tmp_path / name, "--seconds", 2, "--device", "cpu") == 0
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()
    with av.open(str(tmp_path / "a.mp4")) as container:
        assert float(container.streams.video[0].average_rate) == Pipeline.from_pretrained().fps


@built_in
@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["", "-o", "a.mp4"], "prompt"),
        (["swan " * 200, "-o", "a.mp4"], "tokens"),
        (["a swan", "-o", "a.mp4", "--seconds", "0"], "seconds=0"),
        (["a swan", "-o", "a.mp4", "--seconds", "-3"], "seconds=-3"),
        (["a swan", "-o", "a.mp4", "--seconds", "nan"], "seconds=nan"),
        (["a swan", "-o", "a.mp4", "--seconds", "1e9"], "seconds=1e+09"),
        (["a swan", "-o", "a.mp4", "--height", "65"], "height=65"),
        (["a swan", "-o", "a.mp4", "--width", "9999999"], "width=9999999"),
        (["a swan", "-o", "a.mp4", "--steps", "0"], "steps=0"),
        (["a swan", "-o", "a.mp4", "--model", "nowhere"], "nowhere"),
        (["a swan", "-o", "a.mp4", "--device", "banana"], "device=banana"),
    ],
)
def test_a_mistake_gets_one_line_and_no_file(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    line: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run("generate", *arguments) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ") and err.count("\n") == 1 and line in err
    assert not list(tmp_path.iterdir())


@built_in
def test_a_damaged_bundle_is_named_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(BUILT_IN, broken)
    weights = broken / "transformer" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    assert run("generate", "a swan", "-o", tmp_path / "a.mp4", "--model", broken) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and str(weights) in err
    assert not (tmp_path / "a.mp4").exists()
