"""Every command that makes video, from its arguments to its files, with a small model on the disk."""

import json
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from causvid import cli
from causvid.cli import generate, output
from causvid.config import GenerationConfig
from causvid.engine.latents import load_latents, save_latents
from causvid.loading import layout
from causvid.loading.names import to_foreign
from causvid.loading.spec import ModelSpec
from causvid.loading.wan_config import to_wan_config
from causvid.media import VideoWriter, read_video
from causvid.pipeline import Pipeline
from causvid.timeline import Timeline

SWAN, MAMMOTH = "a red swan over the snow", "a blue mammoth"
FPS = 8
PRESET = """
name = "small"
extends = "test"
[generation]
height = 32
width = 48
fps = 8
clip_frames = 7
first = 1
chunk = 3
window = 3
sink = 1
timesteps = [1000, 500]
"""


@pytest.fixture(scope="module")
def model(small: Pipeline, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "small"
    small.save_pretrained(folder)
    return folder


@pytest.fixture
def inputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small: Pipeline) -> Path:
    """A folder with a video, a picture, a script and latents, in which commands run; the model is there already."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(output, "load_pipeline", lambda spec, device: small)
    Image.new("RGB", (96, 64), "red").save("it.png")
    with VideoWriter("in.mp4", fps=FPS, height=32, width=48) as writer:
        writer.write(np.random.default_rng(0).integers(0, 256, (14, 32, 48, 3), np.uint8))
    return tmp_path


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as caught:
        cli.main([str(argument) for argument in arguments])
    return int(caught.value.code or 0)


def frames_in(path: str) -> int:
    with av.open(path) as container:
        return sum(1 for _ in container.decode(video=0))


def pixels_of(path: str) -> np.ndarray:
    return np.stack(list(read_video(path, height=32, width=48, fps=FPS)))


def test_a_image_becomes_a_video_that_its_script_makes_again(inputs: Path) -> None:
    kept = ("--save-timeline", "a.toml", "--latents", "a.safetensors")
    assert run("generate", SWAN, "-o", "a.mp4", "--image", "it.png", "--seconds", 3, "--seed", 4, *kept) == 0
    assert frames_in("a.mp4") == 24
    latents, fps = load_latents(inputs / "a.safetensors")
    assert latents.shape == (1, 7, 4, 4, 6) and fps == FPS
    assert run("play", "a.toml", "-o", "b.mp4", "--save-timeline", "b.json") == 0
    assert Path("a.mp4").read_bytes() == Path("b.mp4").read_bytes()
    assert Timeline.load("b.json") == Timeline.load("a.toml")


def test_latents_are_decoded_and_gone_on_from(inputs: Path, model: Path) -> None:
    assert run("generate", SWAN, "-o", "a.mp4", "--seconds", 2, "--latents", "a.safetensors", "--scale", 1) == 0
    assert run("decode", "a.safetensors", "-o", "b.mp4", "--model", model, "--scale", 1) == 0
    assert frames_in("a.mp4") == 16 and frames_in("b.mp4") == 25, "latents are of whole chunks"
    near = np.abs(pixels_of("a.mp4").astype(int) - pixels_of("b.mp4")[:16].astype(int))
    assert near.mean() < 4
    kept = ("--latents", "c.safetensors")
    assert run("extend", "a.safetensors", MAMMOTH, "-o", "c.mp4", "--seconds", 2, *kept, "--scale", 1) == 0
    assert frames_in("c.mp4") == 25 + 16
    assert load_latents(inputs / "c.safetensors")[0].shape[1] == 7 + 6


@pytest.mark.parametrize(("options", "frames"), [((), 14 + 25), (("--only-new", "--seconds", 1), 8)])
def test_a_video_is_extended(inputs: Path, options: tuple[object, ...], frames: int) -> None:
    assert run("extend", "in.mp4", SWAN, "-o", "out.mp4", *options, "--save-timeline", "s.toml") == 0
    assert frames_in("out.mp4") == frames
    assert run("play", "s.toml", "-o", "new.mp4") == 0
    assert frames_in("new.mp4") == frames - 14 * (not options), "a script makes what is new"


@pytest.mark.parametrize("options", [(), ("--adapt", "--strength", 0.2), ("--seconds", 1)])
def test_a_video_is_made_anew_at_its_own_length(inputs: Path, options: tuple[object, ...]) -> None:
    assert run("translate", "in.mp4", MAMMOTH, "-o", "out.mp4", *options, "--save-timeline", "s.json") == 0
    frames = 8 if "--seconds" in options else 14
    assert frames_in("out.mp4") == frames
    script = Timeline.load("s.json")
    assert script.seconds == frames / FPS and Path(script.source or "").samefile("in.mp4")


def test_a_folder_of_frames_is_made_anew(inputs: Path) -> None:
    Path("frames").mkdir()
    for number in range(5):
        Image.new("RGB", (48, 32), (40 * number, 0, 0)).save(f"frames/{number}.png")
    assert run("translate", "frames", SWAN, "-o", "out.gif") == 0
    with Image.open("out.gif") as image:
        assert image.n_frames == 5  # type: ignore[attr-defined]


def test_a_film_written_by_hand_is_played(inputs: Path) -> None:
    Path("film.toml").write_text(
        f'''
        seconds = 4
        seed = 3
        [[shots]]
        at = 0
        prompt = "{SWAN}"
        [[shots]]
        at = 1.5
        prompt = "{MAMMOTH}"
        mode = "blend"
        [[shots]]
        at = 3
        prompt = "{SWAN}"
        image = "it.png"
        '''
    )
    assert run("play", "film.toml", "-o", "out.webm") == 0
    assert frames_in("out.webm") == 32


@pytest.mark.parametrize("options", [(), ("--policy", "recompute"), ("--image", "it.png")])
def test_variations_are_files_of_their_own_and_a_contact_sheet(
    inputs: Path, capsys: pytest.CaptureFixture[str], options: tuple[str, ...]
) -> None:
    assert run("generate", SWAN, "-o", "swan.mp4", "--variations", 3, "--seconds", 1, "--seed", 5, *options) == 0
    out = capsys.readouterr().out
    assert out.startswith("swan-0.mp4 to swan-2.mp4, swan.png: 3 videos of 8 frames in ")
    assert "difference 0." in out and "(mean pixel distance, of 1)" in out
    assert all(frames_in(f"swan-{number}.mp4") == 8 for number in range(3))
    with Image.open("swan.png") as sheet:
        assert sheet.width > 6 * 48
    assert run("generate", SWAN, "-o", "one.mp4", "--seconds", 1, "--seed", 6, *options) == 0
    near = np.abs(pixels_of("one.mp4").astype(int) - pixels_of("swan-1.mp4").astype(int))
    assert near.mean() < 1


@pytest.mark.parametrize("options", [(), ("--policy", "recompute")])
def test_variations_show_how_far_they_are_after_every_chunk(
    inputs: Path, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...]
) -> None:
    told: dict[str, list[tuple[int, int]]] = {}

    @contextmanager
    def stages() -> Iterator[Callable[[str], Callable[[int, int], None]]]:
        yield lambda name: lambda done, count: told.setdefault(name, []).append((done, count))

    monkeypatch.setattr(generate, "stages", stages)
    assert run("generate", SWAN, "-o", "a.mp4", "--variations", 2, "--seconds", 2.5, *options) == 0
    names = ["frames of seed 0", "frames of seed 1"] if options else ["frames of 2 videos"]
    assert told == {name: [(1, 20), (13, 20), (20, 20)] for name in names}


def test_the_teacher_makes_a_clip(inputs: Path) -> None:
    assert run("generate", SWAN, "-o", "a.mp4", "--teacher", "--seconds", 1) == 0
    assert frames_in("a.mp4") == 8


def test_unknown_words_of_all_shots_are_named_once(inputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shots = 'shots = [{at = 0, prompt = "a green swan"}, {at = 0.5, prompt = "a green tiger"}]'
    Path("film.toml").write_text(f"seconds = 1\n{shots}\n")
    assert run("play", "film.toml", "-o", "a.gif") == 0
    assert "does not know 'green', 'tiger';" in capsys.readouterr().err


TIMELINES = {
    "late.toml": 'seconds = 3\nshots = [{at = 0, prompt = "x"}, {at = 9, prompt = "y"}]',
    "empty.toml": 'seconds = 3\nshots = [{at = 0, prompt = "x"}, {at = 1, prompt = ""}]',
    "cut.toml": 'seconds = 2\nshots = [{at = 0, prompt = "x"}, {at = 1, prompt = "y", image = "it.png"}]',
    "bad.json": "{",
    "weak.toml": 'seconds = 1\nlora_strength = 0.5\nshots = [{at = 0, prompt = "x"}]',
    "text.safetensors": "nothing",
}


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ("generate x -o a.mp4 --image absent.png", "absent.png does not exist"),
        ("generate x -o a.mp4 --image in.mp4", "in.mp4 is not an image"),
        ("generate x -o a.mp4 --seconds -1", "seconds=-1.0: Input should be greater than 0"),
        ("generate x -o a.mp4 --seconds 1e9", "seconds=1e+09 is not above 0 and at most 60"),
        ("generate x -o a.mp4 --seconds nan", "seconds=nan: Input should be a finite number"),
        ("generate x -o a.mp4 --seed -1", "seed=-1: Input"),
        ("generate x -o a.mp4 --policy forget", "--policy"),
        ("generate x -o a.mp4 --save-timeline a.yaml", "has suffix '.yaml', expected .toml or .json"),
        ("generate x -o a.mp4 --latents a.pt", "latents=a.pt has suffix '.pt', expected .safetensors"),
        ("generate x -o a.mp4 --latents far/a.safetensors", "the folder of the output does not exist: far"),
        ("generate x -o a.mp4 --teacher --image it.png", "image cannot be used with --teacher"),
        ("generate x -o a.mp4 --teacher --latents a.safetensors", "cannot be used with --teacher"),
        ("generate x -o a.mp4 --variations 0", "--variations"),
        ("generate x -o a.png --variations 2", "variations are files such as .mp4"),
        ("generate x -o a.mp4 --variations 2 --latents a.safetensors", "are kept of one video"),
        ("extend absent.mp4 x -o a.mp4", "absent.mp4 does not exist"),
        ("extend it.png x -o a.mp4 --seconds 0", "seconds=0.0: Input"),
        ("extend webcam x -o a.mp4", "is a camera, which has no end"),
        ("extend text.safetensors x -o a.mp4", "text.safetensors holds no latents of a run"),
        ("extend in.mp4  -o a.mp4", "prompt"),
        ("translate absent.mp4 x -o a.mp4", "absent.mp4 does not exist"),
        ("translate bad.json x -o a.mp4", "bad.json is damaged or not a video"),
        ("translate webcam:99 x -o a.mp4", "no camera can be opened at /dev/video99"),
        ("translate in.mp4 x -o a.mp4 --strength 0", "strength=0.0: Input"),
        ("translate in.mp4 x -o a.mp4 --strength 2", "strength=2.0: Input"),
        ("play absent.toml -o a.mp4", "absent.toml does not exist"),
        ("play in.mp4 -o a.mp4", "has suffix '.mp4', expected .toml or .json"),
        ("play bad.json -o a.mp4", "bad.json is not JSON"),
        ("play late.toml -o a.mp4", "shots.1.at=9 is past the end, seconds=3"),
        ("play weak.toml -o a.mp4", "weak.toml: lora_strength=0.5 needs a LoRA: give lora"),
        ("play empty.toml -o a.mp4", "shots.1: prompt='' is empty"),
        ("play cut.toml -o a.mp4 --latents a.safetensors", "starts over with an image"),
        ("decode absent.safetensors -o a.mp4", "absent.safetensors is missing"),
        ("decode text.safetensors -o a.mp4", "text.safetensors holds no latents of a run"),
        ("decode text.safetensors -o a.avi", "unknown suffix '.avi'"),
    ],
)
def test_a_mistake_gets_one_line_and_no_file(
    inputs: Path, capsys: pytest.CaptureFixture[str], arguments: str, line: str
) -> None:
    for name, text in TIMELINES.items():
        Path(name).write_text(text)
    before = sorted(inputs.iterdir())
    assert run(*arguments.split()) == 2
    out, err = capsys.readouterr()
    errors = [part for part in err.splitlines() if not part.startswith("note: ")]
    assert len(errors) == 1 and errors[0].startswith("error: ") and line in errors[0]
    assert not out and sorted(inputs.iterdir()) == before


def test_latents_of_another_model_are_refused(inputs: Path, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_latents(Path("wan.safetensors"), torch.zeros(1, 3, 16, 4, 6), fps=16)
    assert run("decode", "wan.safetensors", "-o", "a.mp4", "--model", model) == 2
    assert run("extend", "wan.safetensors", SWAN, "-o", "a.mp4") == 2
    lines = capsys.readouterr().err.splitlines()
    assert "shape=(1, 3, 16, 4, 6)" in lines[0] and "latents are [1, 3, 16, 4, 6], expected [1, F, 4, 4, 6]" in lines[1]
    assert not Path("a.mp4").exists()


def _student_and_lora(small: Pipeline, folder: Path) -> tuple[Path, Path]:
    """Write another transformer as a file of training code, and a LoRA for it."""
    folder.mkdir()
    transformer = deepcopy(small.bundle.transformer)
    with torch.no_grad():
        transformer.head.weight.mul_(-1)
    weights = to_foreign(transformer.state_dict(), transformer.config, "wan")
    torch.save({"generator": {f"model.{name}": tensor for name, tensor in weights.items()}}, folder / "student.pt")
    (folder / "config.json").write_text(json.dumps(to_wan_config(transformer.config)))
    name, generator = "diffusion_model.blocks.0.self_attn.q", torch.Generator().manual_seed(0)
    matrices = {f"{name}.lora_A.weight": (2, 24), f"{name}.lora_B.weight": (24, 2)}
    lora = {name: torch.randn(shape, generator=generator) for name, shape in matrices.items()}
    save_file(lora, folder / "lora.safetensors")
    return folder / "student.pt", folder / "lora.safetensors"


def test_a_script_alone_makes_a_run_with_other_parts_again_bit_for_bit(
    small: Pipeline,
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    student, lora = _student_and_lora(small, Path("causvid"))
    Path("preset.toml").write_text(PRESET)
    given = ("--student", student, "--lora", lora, "--lora-strength", 0.5, "--preset", "preset.toml", "--dtype", "fp32")
    kept = ("--seconds", 2, "--save-timeline", "a.toml", "--latents", "a.safetensors")
    assert run("generate", SWAN, "-o", "a.mp4", "--model", model, *given, "--device", "cpu", *kept) == 0
    written = tomllib.loads(Path("a.toml").read_text())
    assert {name: written[name] for name in ModelSpec.model_fields if name in written} == {
        "model": str(model),
        "student": "causvid/student.pt",
        "lora": ["causvid/lora.safetensors"],
        "lora_strength": 0.5,
        "preset": "preset.toml",
        "dtype": "fp32",
    }
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")

    def again(name: str, *options: object) -> torch.Tensor:
        assert (
            run("play", "../a.toml", "-o", "a.mp4", "--device", "cpu", "--latents", f"{name}.safetensors", *options)
            == 0
        )
        return load_latents(Path(f"{name}.safetensors"))[0]

    first = load_latents(tmp_path / "a.safetensors")[0]
    assert torch.equal(again("same"), first)
    assert Path("a.mp4").read_bytes() == (tmp_path / "a.mp4").read_bytes()
    assert not torch.equal(again("weaker", "--lora-strength", 0.1), first), "an option wins over the script"
    assert not torch.equal(again("other", "--student", model / "transformer"), first)
    (tmp_path / "causvid" / "student.pt").unlink()
    capsys.readouterr()
    assert run("play", "../a.toml", "-o", "none.mp4", "--device", "cpu") == 2
    assert "error: student=causvid/student.pt was not found" in capsys.readouterr().err
    assert not Path("none.mp4").exists()


def test_a_script_says_which_preset_the_name_of_a_student_told(
    small: Pipeline, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fitting = GenerationConfig.model_validate({**small.generation.model_dump(), "window": 3})
    monkeypatch.setattr(layout, "load_preset", lambda name: SimpleNamespace(generation=fitting))
    student, _ = _student_and_lora(small, tmp_path / "causvid")
    plain, told = tmp_path / "plain.toml", tmp_path / "told.toml"
    common = ("-o", tmp_path / "a.gif", "--model", model, "--device", "cpu", "--seconds", 0.1)
    assert run("generate", SWAN, *common, "--save-timeline", plain) == 0
    assert run("generate", SWAN, *common, "--student", student, "--save-timeline", told) == 0
    assert Timeline.load(plain).preset is None and Timeline.load(told).preset == "causvid"


def test_a_command_loads_its_model_from_the_disk(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("generate", SWAN, "-o", tmp_path / "a.gif", "--model", model, "--device", "cpu", "--seconds", 1) == 0
    assert "a.gif: 8 frames, 1.0 s at 8 fps" in capsys.readouterr().out
