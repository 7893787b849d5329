"""The command line: what it writes, what it says, and how it ends."""

import inspect
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest
import torch

from causvid import cli
from causvid.cli import generate, output
from causvid.cli.options import find_device
from causvid.engine.latents import load_latents
from causvid.media import VideoWriter
from causvid.timeline import Timeline

CHUNKS = (1, 4, 4, 4)
COMMANDS = ("generate", "extend", "translate", "play", "decode", "plan", "train", "evaluate", "world")


class FakePlayback:
    """Grey chunks of 64 × 96 pixels, and latents that count them."""

    fps = 12
    stream = SimpleNamespace(session=SimpleNamespace(continued=None))

    def __init__(self, timeline: Timeline, chunks: Iterator[np.ndarray]) -> None:
        self.timeline, self.chunks, self.made = timeline, chunks, 0
        self.length = round(timeline.seconds * self.fps)

    def __iter__(self) -> Iterator[np.ndarray]:
        for frames in self.chunks:
            self.made += 1
            yield frames

    @property
    def latent(self) -> torch.Tensor:
        return torch.full((1, 1, 4, 2, 2), float(self.made))


class FakePipeline:
    """Plays every timeline the same."""

    fps = 12
    clip_seconds = 2.5
    bundle = SimpleNamespace(provenance={"world": "full"})

    def __init__(self) -> None:
        self.played: list[Timeline] = []

    def unknown_words(self, prompt: str) -> list[str]:
        return [word for word in prompt.split() if word == "zeppelin"]

    def understood(self, prompt: str) -> tuple[str, list[tuple[str, str]]]:
        return prompt, []

    def play(self, timeline: Timeline) -> FakePlayback:
        if not timeline.shots[0].prompt.strip():
            raise ValueError("prompt is empty")
        self.played.append(timeline)
        return FakePlayback(timeline, self.chunks())

    def chunks(self) -> Iterator[np.ndarray]:
        for number, frames in enumerate(CHUNKS):
            yield np.full((frames, 64, 96, 3), 40 * number, np.uint8)


@pytest.fixture
def pipeline(monkeypatch: pytest.MonkeyPatch) -> FakePipeline:
    fake = FakePipeline()
    monkeypatch.setattr(output, "load_pipeline", lambda spec, device: fake)
    return fake


def run(*arguments: str | Path) -> int:
    with pytest.raises(SystemExit) as caught:
        cli.main([str(argument) for argument in arguments])
    return int(caught.value.code or 0)


def frames_in(path: Path) -> int:
    with av.open(str(path)) as container:
        return sum(1 for _ in container.decode(video=0))


def test_a_sentence_becomes_a_file(pipeline: FakePipeline, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "swan.mp4"
    assert run("generate", "a swan", "-o", target, "--seconds", 1, "--seed", 7, "--window", 6, "--sink", 1) == 0
    (asked,) = pipeline.played
    given = {"seconds": 1.0, "shots": [{"at": 0.0, "prompt": "a swan"}], "seed": 7, "window": 6, "sink": 1}
    assert asked.model_dump(mode="json", exclude_defaults=True) == given
    assert frames_in(target) == sum(CHUNKS)
    with av.open(str(target)) as container:
        assert (container.streams.video[0].width, float(container.streams.video[0].average_rate)) == (384, 12)
        assert container.metadata["title"] == "a swan"
        assert json.loads(container.metadata["comment"]).items() >= given.items()
    out, err = capsys.readouterr()
    assert out.startswith(f"{target}: 13 frames, 1.1 s at 12 fps · first frame after ")
    assert out.count("\n") == 1
    assert "note:" not in err
    assert [path.name for path in tmp_path.iterdir()] == ["swan.mp4"]


def test_the_line_about_numbered_frames_names_one_that_is_there(
    pipeline: FakePipeline, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("generate", "a swan", "-o", tmp_path / "swan.png", "--seconds", 1) == 0
    assert Path(capsys.readouterr().out.split(": ")[0]).is_file()


def test_unknown_words_are_named_and_the_video_is_made(
    pipeline: FakePipeline, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("generate", "a zeppelin over a lake", "-o", tmp_path / "a.gif") == 0
    assert "does not know 'zeppelin'; `causvid world words --preset full`" in capsys.readouterr().err
    assert (tmp_path / "a.gif").exists()
    assert pipeline.played[0].seconds == pipeline.clip_seconds


def test_frames_are_written_while_later_chunks_are_made(
    pipeline: FakePipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = threading.Event()
    write = VideoWriter.write

    def write_and_tell(self: VideoWriter, frames: np.ndarray) -> None:
        write(self, frames)
        written.set()

    def wait_for_the_writer() -> Iterator[np.ndarray]:
        yield np.zeros((1, 64, 96, 3), np.uint8)
        assert written.wait(timeout=20), "the second chunk waits for the first to be written"
        yield np.zeros((4, 64, 96, 3), np.uint8)

    monkeypatch.setattr(VideoWriter, "write", write_and_tell)
    monkeypatch.setattr(pipeline, "chunks", wait_for_the_writer)
    assert run("generate", "a swan", "-o", tmp_path / "a.mp4") == 0
    assert frames_in(tmp_path / "a.mp4") == 5


def test_the_model_does_not_run_far_ahead_of_the_writer() -> None:
    made = []

    def chunks() -> Iterator[int]:
        for number in range(20):
            made.append(number)
            yield number

    ahead = output._ahead(chunks(), threading.Event())
    assert next(ahead) == 0
    time.sleep(0.3)
    assert len(made) <= 4
    ahead.close()
    assert len(made) < 20
    assert not any(thread.name == "chunks" and thread.is_alive() for thread in threading.enumerate())


def interrupt(number: signal.Signals) -> None:
    """Send a signal, and wait until the main thread has taken it: it then has put the earlier handlers back."""
    ours = signal.getsignal(number)
    signal.raise_signal(number)
    while signal.getsignal(number) is ours:
        time.sleep(0.01)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_and_sigterm_keep_what_was_finished(
    pipeline: FakePipeline,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    number: signal.Signals,
) -> None:
    def interrupted() -> Iterator[np.ndarray]:
        yield np.zeros((1, 64, 96, 3), np.uint8)
        yield np.zeros((4, 64, 96, 3), np.uint8)
        interrupt(number)
        yield np.zeros((4, 64, 96, 3), np.uint8)

    before = signal.getsignal(number)
    monkeypatch.setattr(pipeline, "chunks", interrupted)
    kept = ("--save-timeline", tmp_path / "a.toml", "--latents", tmp_path / "a.safetensors")
    assert run("generate", "a swan", "-o", tmp_path / "a.mp4", *kept) == 130
    assert frames_in(tmp_path / "a.mp4") == 5
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.mp4", "a.safetensors", "a.toml"]
    assert Timeline.load(tmp_path / "a.toml").seconds == 5 / 12
    assert load_latents(tmp_path / "a.safetensors")[0][0, :, 0, 0, 0].tolist() == [1, 2]
    assert "keeps the 5 frames" in capsys.readouterr().err
    assert signal.getsignal(number) is before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_before_the_first_chunk_leaves_nothing(
    pipeline: FakePipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    def interrupted() -> Iterator[np.ndarray]:
        interrupt(number)
        yield np.zeros((1, 64, 96, 3), np.uint8)

    monkeypatch.setattr(pipeline, "chunks", interrupted)
    assert run("generate", "a swan", "-o", tmp_path / "a.mp4") == 130
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["generate", " ", "-o", "a.mp4"], "prompt=' ' is empty"),
        (["generate", "a swan", "-o", "a.avi"], "unknown suffix '.avi'"),
        (["generate", "a swan", "-o", "missing/a.mp4"], "does not exist: missing"),
        (["generate", "a swan", "-o", "a.mp4", "--scale", "0"], "--scale"),
        (["generate", "a swan", "-o", "a.mp4", "--seconds", "long"], "--seconds"),
        (["generate", "a swan"], "--output"),
        (["generate"], "prompt"),
        (["train", "everything"], "'autoencoder'"),
        (["train", "teacher", "--preset", "absent"], "preset=absent"),
        (["dream"], "No such command 'dream'"),
    ],
)
def test_a_mistake_gets_one_line_and_no_file(
    pipeline: FakePipeline,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    line: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(*arguments) == 2
    out, err = capsys.readouterr()
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert line in err
    assert not out
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("device", ["banana", "cuda:99"])
def test_a_device_that_is_not_there_is_refused(device: str) -> None:
    with pytest.raises(ValueError, match=f"device={device} is not available"):
        find_device(device)


@pytest.mark.parametrize(("available", "device"), [(True, "cuda"), (False, "cpu")])
def test_the_default_device_is_one_that_is_there(monkeypatch: pytest.MonkeyPatch, available: bool, device: str) -> None:
    for built_for in ("cuda", "mps"):
        monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda *_, kind=built_for: torch.device(kind))
        monkeypatch.setattr(torch.cuda, "is_available", lambda: available)
        assert find_device(None) == torch.device(device)


def test_a_mistake_found_late_leaves_no_file(
    pipeline: FakePipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def late() -> Iterator[np.ndarray]:
        yield np.zeros((1, 64, 96, 3), np.uint8)
        raise ValueError("the weights hold no numbers")

    monkeypatch.setattr(pipeline, "chunks", late)
    assert run("generate", "a swan", "-o", tmp_path / "a.mp4") == 2
    assert capsys.readouterr().err.endswith("error: the weights hold no numbers\n")
    assert not list(tmp_path.iterdir())


def test_an_error_of_ours_is_not_hidden(
    pipeline: FakePipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> Iterator[np.ndarray]:
        yield np.zeros((1, 64, 96, 3), np.uint8)
        raise RuntimeError("a bug")

    monkeypatch.setattr(pipeline, "chunks", broken)
    with pytest.raises(RuntimeError, match="a bug"):
        cli.main(["generate", "a swan", "-o", str(tmp_path / "a.mp4")])
    assert not list(tmp_path.iterdir())


def test_debug_shows_where(
    pipeline: FakePipeline, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CAUSVID_DEBUG", "1")
    assert run("generate", "a swan", "-o", "a.avi") == 2
    assert "Traceback" in capsys.readouterr().err


def test_help_names_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--help") == 0
    out = capsys.readouterr().out
    for command in COMMANDS:
        assert command in out


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(capsys: pytest.CaptureFixture[str], command: str) -> None:
    assert run(command, "--help") == 0
    out, err = capsys.readouterr()
    assert f" {command} [OPTIONS] " in out and not err


def test_a_dataclass_of_options_is_options_of_the_command() -> None:
    parameters = inspect.signature(generate.generate).parameters
    assert {"prompt", "output", "seed", "latents", "lora", "device"} <= parameters.keys()
    assert not {"making", "keeping", "parts"} & parameters.keys()


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["-o", ""], "has no name of a file"),
        (["-o", "a" * 300 + ".mp4"], "expected at most 255"),
        (["-o", "pipe.mp4"], "is a pipe"),
        (["-o", "link.mp4"], "is a link to nothing"),
        (["-o", "folder.mp4"], "is a folder"),
        (["-o", "a.mp4", "--latents", "absent/a.safetensors"], "does not exist: absent"),
        (["-o", "a.mp4", "--latents", "folder.safetensors"], "is a folder"),
        (["-o", "a.mp4", "--save-timeline", "pipe.toml"], "is a pipe"),
        (["-o", "a.mp4", "--save-timeline", "absent/a.toml"], "does not exist: absent"),
        (["-o", "given.png", "--image", "given.png"], "is what it is made from"),
        (["-o", "same.mp4", "--image", "given.png"], "is what it is made from"),
    ],
)
def test_what_cannot_be_written_is_refused_before_loading(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    line: str,
) -> None:
    def load(*_: object) -> None:
        raise AssertionError("nothing is loaded before the outputs are checked")

    monkeypatch.setattr(output, "load_pipeline", load)
    monkeypatch.chdir(tmp_path)
    for name in ("folder.mp4", "folder.safetensors"):
        (tmp_path / name).mkdir()
    for name in ("pipe.mp4", "pipe.toml"):
        os.mkfifo(tmp_path / name)
    (tmp_path / "link.mp4").symlink_to("nothing")
    (tmp_path / "given.png").write_bytes(b"a picture")
    (tmp_path / "same.mp4").symlink_to("given.png")
    before = sorted(tmp_path.iterdir())
    assert run("generate", "a swan", *options) == 2
    err = capsys.readouterr().err
    assert line in err and err.count("\n") == 1
    assert sorted(tmp_path.iterdir()) == before


def test_an_ascii_terminal_gets_the_file_and_a_line(tmp_path: Path) -> None:
    name = os.fsdecode(b"\xff swan.mkv") if sys.platform == "linux" else "swan.mkv"
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "LANG": "C", "LC_ALL": "C"}
    command = [sys.executable, "-m", "causvid.cli", "generate", "a red swan", "--seconds", "0.1", "-o", name]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert os.listdir(tmp_path) == [name] and b"frames" in done.stdout
