"""A timeline: what is written is what is read, what is wrong is named, and playing it is steering a stream."""

import json
import os
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from causvid.pipeline import Pipeline
from causvid.stream import Stream
from causvid.timeline import Timeline

SWAN, MAMMOTH, SNOW = "a red swan over the snow", "a blue mammoth", "red snow"

VALUES: dict[str, Any] = {
    "seconds": 12.5,
    "shots": [
        {"at": 0, "prompt": 'a "red" swan\nover — the snow'},
        {"at": 2.25, "prompt": "a blue mammoth", "mode": "blend", "over": 1.5, "keep_sink": False},
        {"at": 2.25, "prompt": "snow", "mode": "cut"},
        {"at": 1 / 3 + 4, "prompt": "again"},
    ],
    "seed": 2**62,
    "model": "owner/name",
    "student": "owner/name/model.pt",
    "tiny_autoencoder": "taew2_1.pth",
    "lora": "owner/name/lora.safetensors",
    "lora_strength": 1 / 3,
    "preset": "longlive",
    "dtype": "bf16",
    "sigmas": [1.0, 0.9, 1 / 3],
    "window": 0,
    "sink": 3,
    "height": 64,
    "width": 96,
    "policy": "recompute",
    "fit": "contain",
    "versions": {"causvid": "0.1.0", "torch": "2.13"},
}


@pytest.mark.parametrize("suffix", ["toml", "json", "TOML"])
def test_a_timeline_comes_back_as_it_was(tmp_path: Path, suffix: str) -> None:
    timeline = Timeline.make(**VALUES)
    timeline.save(tmp_path / f"it.{suffix}")
    assert Timeline.load(tmp_path / f"it.{suffix}") == timeline
    assert [file.name for file in tmp_path.iterdir()] == [f"it.{suffix}"]


def test_what_is_as_by_default_is_left_out(tmp_path: Path) -> None:
    Timeline.make(seconds=3, shots=[{"at": 0, "prompt": "a swan"}]).save(tmp_path / "a.json")
    assert json.loads((tmp_path / "a.json").read_text()) == {"seconds": 3.0, "shots": [{"at": 0.0, "prompt": "a swan"}]}


def test_files_are_found_from_the_folder_of_the_timeline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "deep").mkdir()
    for name in ("deep/a.png", "deep/b.mp4", "far.png"):
        (tmp_path / name).touch()
    (tmp_path / "deep/it.toml").write_text(
        'seconds = 3\nafter = "b.mp4"\nshots = [{at = 0, prompt = "x"}, {at = 1, prompt = "y", image = "a.png"}]'
    )
    loaded = Timeline.load(tmp_path / "deep/it.toml")
    assert loaded.after == str(tmp_path / "deep/b.mp4") and loaded.shots[1].image == str(tmp_path / "deep/a.png")
    monkeypatch.chdir(tmp_path)
    made = Timeline.make(seconds=3, shots=[{"at": 0, "prompt": "x", "image": "far.png"}])
    made.save("deep/other.json")
    assert json.loads(Path("deep/other.json").read_text())["shots"][0]["image"] == "../far.png"
    image = Timeline.load("deep/other.json").shots[0].image
    assert image is not None and os.path.samefile(image, "far.png")
    absolute = loaded.model_copy(update={"after": "absent.mp4"})
    absolute.save("deep/third.toml")
    assert Timeline.load("deep/third.toml") == absolute


def test_parts_are_found_as_files_and_a_preset_stays_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = {"model": "model", "student": "s.pt", "tiny_autoencoder": "t.pth", "lora": "l.pt", "preset": "p.toml"}
    for name in (*names.values(), "nano"):
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "deep").mkdir()
    for preset, relative in (("p.toml", "../p.toml"), ("nano", "nano")):
        made = Timeline.make(seconds=3, shots=[SHOT], **{**names, "preset": preset})
        made.save("deep/it.json")
        written = json.loads(Path("deep/it.json").read_text())
        assert [written[name] for name in names] == ["../model", "../s.pt", "../t.pth", ["../l.pt"], relative]
        spec = Timeline.load("deep/it.json").spec
        assert all(
            os.path.samefile(part[0] if name == "lora" else part, names[name])
            for name in names
            if name != "preset" and (part := getattr(spec, name))
        )
        assert spec.preset == (os.path.join("deep", relative) if preset == "p.toml" else "nano")


def test_a_timeline_is_cut_with_its_shots() -> None:
    cut = Timeline.make(**VALUES).up_to(2.25)
    assert cut.seconds == 2.25 and len(cut.shots) == 1


SHOT = {"at": 0, "prompt": "a swan"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"second": 3}, "second: Extra inputs"),
        ({"shots": [{**SHOT, "promt": "x"}]}, "shots.0.promt: Extra inputs"),
        ({"shots": []}, "shots: "),
        ({"shots": "a swan"}, "shots: "),
        ({"shots": [{"at": 0}]}, "shots.0.prompt: Field required"),
        ({"shots": [{**SHOT, "at": 0.5}]}, "shots.0.at=0.5: the first shot starts at 0"),
        ({"shots": [{**SHOT, "at": -1}]}, "shots.0.at: "),
        ({"shots": [{**SHOT, "at": "soon"}]}, "shots.0.at: "),
        ({"shots": [SHOT, {**SHOT, "at": 2}, {**SHOT, "at": 1}]}, "shots.2.at=1 is before the shot before it, at 2"),
        ({"shots": [SHOT, {**SHOT, "at": 12.5}]}, "shots.1.at=12.5 is past the end, seconds=12.5"),
        ({"shots": [SHOT, {**SHOT, "at": 1e400}]}, "shots.1.at: "),
        ({"shots": [{**SHOT, "mode": "fade"}]}, "shots.0.mode: "),
        ({"shots": [{**SHOT, "over": 0}]}, "shots.0.over: "),
        ({"shots": [{**SHOT, "prompt": 7}]}, "shots.0.prompt: "),
        ({"seconds": 0}, "seconds: "),
        ({"seconds": -1}, "seconds: "),
        ({"seconds": 1e400}, "seconds: "),
        ({"seconds": None}, "seconds: "),
        ({"seed": -1}, "seed: "),
        ({"seed": 2**63}, "seed: "),
        ({"steps": 0}, "steps: "),
        ({"window": -1}, "window: "),
        ({"policy": "forget"}, "policy: "),
        ({"strength": 0}, "strength: "),
        ({"strength": 1.01}, "strength: "),
        ({"lora_strength": 0.5}, "lora_strength=0.5 needs a LoRA: give lora"),
        ({"lora": "a.pt", "lora_strength": 1e400}, "lora_strength: "),
        ({"lora": 3}, "lora: "),
        ({"dtype": "int8"}, "dtype: "),
        ({"fit": "squeeze"}, "fit: "),
        ({"after": "a.mp4", "source": "b.mp4"}, "after and source: give one"),
        ({"after": "a.mp4", "shots": [{**SHOT, "image": "a.png"}]}, "shots.0.image: "),
        ({"source": "a.mp4", "shots": [{**SHOT, "image": "a.png"}]}, "shots.0.image: "),
        ({"source": "a.mp4", "shots": [SHOT, {**SHOT, "at": 1, "image": "a.png"}]}, "image and source: "),
    ],
)
def test_what_is_wrong_is_named_in_one_line_with_its_place(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    file = tmp_path / "it.json"
    file.write_text(json.dumps({"seconds": 12.5, "shots": [SHOT], **changes}))
    with pytest.raises(ValueError) as caught:
        Timeline.load(file)
    assert str(caught.value).startswith(f"timeline {file}: {message}") and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.toml", b"seconds = ", "is not TOML"),
        ("a.json", b"{", "is not JSON"),
        ("a.json", b"[]", "valid dictionary"),
        ("a.json", b"[" * 100_000, "is not JSON"),
        ("a.toml", b"a = " + b"[" * 100_000, "is not TOML"),
        ("a.toml", b"\xff\xfe", "is not text in UTF-8"),
        ("a.json", b"", "is empty"),
        ("a.json", b" " * 2**21, "has 2097152 bytes, expected at most"),
        ("a.yaml", b"seconds: 3", "has suffix '.yaml', expected .toml or .json"),
        ("a", b"", "has suffix ''"),
        ("a.toml", None, "a.toml does not exist"),
    ],
)
def test_what_is_no_timeline_is_refused_in_one_line(
    tmp_path: Path, name: str, content: bytes | None, message: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        Timeline.load(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_a_folder_is_no_timeline_and_no_place_for_one(tmp_path: Path) -> None:
    (tmp_path / "a.toml").mkdir()
    with pytest.raises(ValueError, match="is a folder"):
        Timeline.load(tmp_path / "a.toml")
    with pytest.raises(ValueError, match="suffix"):
        Timeline.make(seconds=1, shots=[SHOT]).save(tmp_path / "a.txt")


def played(pipeline: Pipeline, *shots: dict[str, Any], **options: Any) -> torch.Tensor:
    values = {"seconds": 7, "shots": [{"at": 0, "prompt": SWAN}, *shots], **options}
    return torch.cat(list(pipeline.play(Timeline.make(**values))))


def stream(pipeline: Pipeline, **options: Any) -> Stream:
    return pipeline.stream(SWAN, **{"seconds": 7, **options})


class TestPlayback:
    """A timeline being played is the stream that is steered the same way."""

    @pytest.mark.parametrize(("at", "chunks"), [(0.125, 1), (1.6, 2), (1.625, 2), (1.7, 3), (3.2, 4)])
    def test_a_shot_starts_with_the_first_chunk_at_its_time(self, small: Pipeline, at: float, chunks: int) -> None:
        steered = stream(small)
        frames = list(islice(steered, chunks))
        steered.set_prompt(MAMMOTH)
        assert torch.equal(played(small, {"at": at, "prompt": MAMMOTH}), torch.cat([*frames, *steered]))

    @pytest.mark.parametrize(("over", "chunks"), [(0.1, 1), (1.5, 1), (3.0, 2), (4.4, 3)])
    def test_a_blend_lasts_as_many_whole_chunks_as_asked(self, small: Pipeline, over: float, chunks: int) -> None:
        steered = stream(small)
        frames = [next(steered)]
        steered.set_prompt(MAMMOTH, "blend", chunks=chunks, keep_sink=False)
        shot = {"at": 0.1, "prompt": MAMMOTH, "mode": "blend", "over": over, "keep_sink": False}
        assert torch.equal(played(small, shot), torch.cat([*frames, *steered]))

    def test_settings_of_a_timeline_are_those_of_its_stream(self, small: Pipeline) -> None:
        options: dict[str, Any] = {"seed": 5, "steps": 2, "window": 3, "sink": 2, "height": 48, "policy": "recompute"}
        assert torch.equal(played(small, **options), torch.cat(list(stream(small, **options))))

    def test_a_shot_with_an_image_begins_anew_within_the_played(self, small: Pipeline, tmp_path: Path) -> None:
        pixels = np.random.default_rng(0).integers(0, 256, (32, 48, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "it.png")
        frames = played(small, {"at": 2, "prompt": MAMMOTH, "image": str(tmp_path / "it.png")}, seed=3)
        new = stream(small, image=pixels, seed=4, seconds=31 / 8)
        new.prompt = MAMMOTH
        assert len(frames) == 56
        assert torch.equal(frames[25:], torch.cat(list(new)))

    def test_a_playback_ends_where_it_should_and_stays_ended(self, small: Pipeline) -> None:
        timeline = Timeline.make(seconds=1, shots=[{"at": 0, "prompt": SWAN}, {"at": 0.99, "prompt": MAMMOTH}])
        playback = small.play(timeline)
        assert sum(len(frames) for frames in playback) == playback.frames == playback.length == 8
        assert next(playback, None) is None
        assert playback.stream.prompt == SWAN

    def test_a_playback_that_follows_a_video_ends_with_it(self, small: Pipeline, tmp_path: Path) -> None:
        folder = tmp_path / "frames"
        folder.mkdir()
        for number in range(14):
            Image.new("RGB", (48, 32), (number * 9, 0, 0)).save(folder / f"{number}.png")
        assert len(played(small, source=str(folder), strength=0.5)) == 14

    @pytest.mark.parametrize(
        ("shots", "options", "message"),
        [
            ([{"at": 1, "prompt": " "}], {}, "shots.1: prompt=' ' is empty"),
            ([{"at": 1, "prompt": "red " * 9}], {}, "shots.1: prompt='red red .* has 10 tokens"),
            ([{"at": 1, "prompt": SNOW, "image": "absent.png"}], {}, "shots.1: absent.png does not exist"),
            ([], {"shots": [{"at": 0, "prompt": ""}]}, "^prompt='' is empty"),
            ([], {"seconds": 61}, "seconds=61 is not above 0 and at most 60"),
            ([], {"steps": 2, "sigmas": [1.0, 0.5]}, "steps or sigmas, not both"),
            ([], {"sigmas": [0.5]}, "must start at 1"),
            ([], {"height": 40}, "height=40"),
            ([], {"window": 0, "sink": 0}, "at least one frame"),
            ([], {"source": "absent.mp4"}, "absent.mp4 does not exist"),
            ([], {"after": "absent.mp4"}, "absent.mp4 does not exist"),
        ],
    )
    def test_what_cannot_be_played_is_refused_before_a_frame_is_made(
        self, small: Pipeline, shots: Any, options: Any, message: str
    ) -> None:
        values = {"seconds": 3, "shots": [{"at": 0, "prompt": SWAN}, *shots], **options}
        with pytest.raises((ValueError, OSError), match=message):
            small.play(Timeline.make(**values))
