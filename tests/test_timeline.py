"""A film as a script: what is written is what is read, and what is wrong in it is named."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from causvid.timeline import Timeline

FILM: dict[str, Any] = {
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
    timeline = Timeline.make(**FILM)
    timeline.save(tmp_path / f"film.{suffix}")
    assert Timeline.load(tmp_path / f"film.{suffix}") == timeline
    assert [file.name for file in tmp_path.iterdir()] == [f"film.{suffix}"]


def test_what_is_as_by_default_is_left_out(tmp_path: Path) -> None:
    Timeline.make(seconds=3, shots=[{"at": 0, "prompt": "a swan"}]).save(tmp_path / "a.json")
    assert json.loads((tmp_path / "a.json").read_text()) == {"seconds": 3.0, "shots": [{"at": 0.0, "prompt": "a swan"}]}


def test_files_are_found_from_the_folder_of_the_script_wherever_one_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "film").mkdir()
    for name in ("film/a.png", "film/b.mp4", "far.png"):
        (tmp_path / name).touch()
    (tmp_path / "film/it.toml").write_text(
        'seconds = 3\nafter = "b.mp4"\nshots = [{at = 0, prompt = "x"}, {at = 1, prompt = "y", image = "a.png"}]'
    )
    loaded = Timeline.load(tmp_path / "film/it.toml")
    assert loaded.after == str(tmp_path / "film/b.mp4") and loaded.shots[1].image == str(tmp_path / "film/a.png")
    monkeypatch.chdir(tmp_path)
    made = Timeline.make(seconds=3, shots=[{"at": 0, "prompt": "x", "image": "far.png"}])
    made.save("film/other.json")
    assert json.loads(Path("film/other.json").read_text())["shots"][0]["image"] == "../far.png"
    image = Timeline.load("film/other.json").shots[0].image
    assert image is not None and os.path.samefile(image, "far.png")
    absolute = loaded.model_copy(update={"after": "absent.mp4"})
    absolute.save("film/third.toml")
    assert Timeline.load("film/third.toml") == absolute


def test_parts_are_found_as_files_and_a_preset_stays_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = {"model": "model", "student": "s.pt", "tiny_autoencoder": "t.pth", "lora": "l.pt", "preset": "p.toml"}
    for name in (*names.values(), "nano"):
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "deep").mkdir()
    for preset, said in (("p.toml", "../p.toml"), ("nano", "nano")):
        made = Timeline.make(seconds=3, shots=[SHOT], **{**names, "preset": preset})
        made.save("deep/it.json")
        written = json.loads(Path("deep/it.json").read_text())
        assert [written[name] for name in names] == ["../model", "../s.pt", "../t.pth", "../l.pt", said]
        loaded = Timeline.load("deep/it.json").parts
        assert all(os.path.samefile(loaded[name], names[name]) for name in names if name != "preset")
        assert loaded["preset"] == os.path.join("deep", said) if preset == "p.toml" else "nano"


def test_a_film_is_cut_with_its_shots() -> None:
    cut = Timeline.make(**FILM).up_to(2.25)
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
    file = tmp_path / "film.json"
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
        ("a.toml", b"\xff\xfe", "is not TOML"),
        ("a.json", b"", "is not JSON"),
        ("a.json", b" " * 2**21, "is of more than"),
        ("a.yaml", b"seconds: 3", "has suffix '.yaml', expected .toml or .json"),
        ("a", b"", "has suffix ''"),
        ("a.toml", None, "cannot be read: No such file"),
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
    with pytest.raises(ValueError, match="cannot be read: Is a directory"):
        Timeline.load(tmp_path / "a.toml")
    with pytest.raises(ValueError, match="suffix"):
        Timeline.make(seconds=1, shots=[SHOT]).save(tmp_path / "a.txt")
