"""`world` and `evaluate` on the command line, at toy size; and the built-in model from end to end."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import av
import pytest
import torch
from PIL import Image

from causvid import cli
from causvid.cli import evaluate
from causvid.config import GenerationConfig
from causvid.evaluate.card import REPORT, EvaluationReport
from causvid.evaluate.classifier import AttributeClassifier
from causvid.pipeline import Pipeline
from causvid.worlds.storybook import ATTRIBUTES

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


class NoiseMaker:
    """A pipeline that shows noise, whatever it is asked for."""

    fps = 8.0
    clip_seconds = 3.125

    def __init__(self, folder: Path) -> None:
        self.generation = GenerationConfig(
            height=32, width=48, fps=8, clip_frames=7, first=1, chunk=3, window=3, sink=1, shift=3.0,
            timesteps=(1000, 500), teacher_steps=10, guidance=3.0,
        )  # fmt: skip
        self.bundle = SimpleNamespace(
            folder=folder, classifier=folder / "classifier", provenance={"world": "nano"}, teacher=object()
        )
        settings = {"format": 1, "generation": self.generation.model_dump(mode="json"), "provenance": {"world": "nano"}}
        (folder / "causvid.json").write_text(json.dumps(settings))
        attributes = {name: ATTRIBUTES[name] for name in ("subject", "colour", "place", "motion")}
        AttributeClassifier(attributes, width=4).save(folder / "classifier")

    def stream(self, prompt: str, *, seconds: float, seed: int) -> Iterator[torch.Tensor]:
        yield self.generate_batch([prompt], seeds=[seed], seconds=seconds)[0]

    def generate_batch(
        self, prompts: list[str], *, seeds: list[int], seconds: float, mode: str = "student"
    ) -> torch.Tensor:
        generator = torch.Generator().manual_seed(seeds[0])
        size = (len(prompts), round(seconds * self.fps), 32, 48, 3)
        return torch.randint(256, size, generator=generator, dtype=torch.uint8)


def test_adherence_is_scored_shown_and_written_to_the_card(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(evaluate, "load_pipeline", lambda model, device: NoiseMaker(tmp_path))
    options = ("--prompts", 4, "--long-prompts", 2, "--long-seconds", 10, "--note", "Noise follows no prompt.")
    assert run("evaluate", "adherence", *options) == 0
    out = capsys.readouterr().out
    for part in ("subject", "motion", "renders", "teacher", "student", "FPS", "MISSED"):
        assert part in out
    assert not (tmp_path / "README.md").exists()
    assert run("evaluate", "adherence", *options, "--card") == 0
    report = EvaluationReport.model_validate_json((tmp_path / REPORT).read_text())
    assert report.prompts == 4
    assert report.teacher is not None and report.drift is not None
    assert report.drift.videos == 2
    assert report.notes == ("Noise follows no prompt.",)
    asked = "--prompts 4 --long-prompts 2 --long-seconds 10.0"
    assert report.commands == (f"causvid evaluate adherence {asked}",)
    assert "Noise follows no prompt." in (tmp_path / "README.md").read_text()


def test_the_command_on_the_card_measures_the_same_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluate, "load_pipeline", lambda model, device: NoiseMaker(tmp_path))
    options = ("--model", tmp_path, "--prompts", 2, "--long-prompts", 0, "--no-teacher", "--seed", 3, "--device", "cpu")
    assert run("evaluate", "adherence", *options, "--card") == 0
    asked = "--model path/of/this/folder --prompts 2 --long-prompts 0 --no-teacher --seed 3 --device cpu"
    assert f"causvid evaluate adherence {asked}\n" in (tmp_path / "README.md").read_text()


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
