"""A session that went to disk continues in another process as unbroken; nothing else is taken for one."""

import json
import pickle
import subprocess
import sys
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from causvid.engine.latents import save_latents
from causvid.media import VideoWriter
from causvid.pipeline import Pipeline
from causvid.stream import Stream

Make = Callable[..., Pipeline]
SWAN, MAMMOTH = "a red swan over the snow", "a blue mammoth"
RNG = np.random.default_rng(0)
IMAGE = RNG.integers(0, 256, (32, 48, 3), np.uint8)
CLIP = RNG.integers(0, 256, (60, 32, 48, 3), np.uint8)
RESUME = """
import pickle, sys, torch
from itertools import islice
from tests.conftest import small_pipeline

torch.set_num_threads(int(sys.argv[1]))
pipeline, frames = small_pipeline(), {}
for file in sys.argv[2:]:
    stream = pipeline.resume(file)
    made = torch.cat(list(islice(stream, 3)))
    back = stream.rewind(1) if stream.request.rewind_seconds else 0
    frames[file] = (made.numpy(), back)
sys.stdout.buffer.write(pickle.dumps(frames))
"""
CASES = ("text", "recompute", "image", "extension", "latents", "video", "blend", "dissolve", "rewind", "unstarted")


def take(stream: Stream, chunks: int) -> torch.Tensor:
    return torch.cat(list(islice(stream, chunks)))


def begin(pipeline: Pipeline, case: str, folder: Path) -> Stream:
    """Bring a stream to where it is saved."""
    options: dict[str, Any] = {}
    if case == "recompute":
        options = {"policy": "recompute"}
    elif case == "image":
        options = {"image": IMAGE}
    elif case == "extension":
        options = {"after": list(CLIP[:14])}
    elif case == "latents":
        save_latents(folder / "latents.safetensors", torch.randn(1, 4, 4, 4, 6), fps=8)
        options = {"after": folder / "latents.safetensors"}
    elif case == "video":
        with VideoWriter(folder / "clip.mp4", fps=8, height=32, width=48) as writer:
            writer.write(CLIP)
        options = {"source": folder / "clip.mp4", "strength": 0.8, "adapt": True}
    elif case == "rewind":
        options = {"rewind_seconds": 3.0}
    stream = pipeline.stream(SWAN, **{"seconds": 12, "seed": 3, **options})
    for _ in range(0 if case == "unstarted" else 2):
        next(stream)
    if case == "blend":
        stream.set_prompt(MAMMOTH, "blend", chunks=4)
        next(stream)
    elif case == "dissolve":
        stream.set_prompt(MAMMOTH)
        stream.adjust(seed=11)
    return stream


@pytest.fixture(scope="module")
def elsewhere(small: Pipeline, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Save a stream of every case, let another process resume all, and make the same chunks unbroken."""
    folder = tmp_path_factory.mktemp("sessions")
    expected, files = {}, {}
    for case in CASES:
        stream = begin(small, case, folder)
        files[case] = folder / f"{case}.session"
        stream.save(files[case])
        expected[case] = take(stream, 3)
    command = [sys.executable, "-c", RESUME, str(torch.get_num_threads()), *map(str, files.values())]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    frames = pickle.loads(done.stdout)
    return {case: (expected[case], *frames[str(files[case])]) for case in CASES}


@pytest.mark.parametrize("case", CASES)
def test_another_process_continues_bit_for_bit(elsewhere: dict[str, Any], case: str) -> None:
    unbroken, resumed, back = elsewhere[case]
    assert torch.equal(torch.from_numpy(resumed), unbroken)
    assert back == (12 if case == "rewind" else 0)


def test_a_resumed_stream_keeps_its_prompts_and_its_queue(small: Pipeline, tmp_path: Path) -> None:
    stream = begin(small, "dissolve", tmp_path)
    stream.save(tmp_path / "it")
    resumed = small.resume(tmp_path / "it")
    assert resumed.changes == stream.changes and resumed.session.queue == stream.session.queue
    assert resumed.request == stream.request and resumed.length == stream.length
    assert resumed.frames == stream.frames == 13
    resumed.save(tmp_path / "again")
    assert torch.equal(take(small.resume(tmp_path / "again"), 2), take(stream, 2))


def test_saving_changes_nothing_and_leaves_one_file(small: Pipeline, tmp_path: Path) -> None:
    stream, other = (begin(small, "text", tmp_path) for _ in range(2))
    for _ in range(2):
        stream.save(tmp_path / "it")
        assert torch.equal(take(stream, 1), take(other, 1))
    assert [file.name for file in tmp_path.iterdir()] == ["it"]


def test_frames_that_were_handed_over_cannot_be_saved(small: Pipeline, tmp_path: Path) -> None:
    for source, message in ((iter(CLIP), "live video"), (list(CLIP), "handed over in memory")):
        stream = small.stream(SWAN, source=source)
        next(stream)
        with pytest.raises(ValueError, match=message):
            stream.save(tmp_path / "it")
    assert not list(tmp_path.iterdir())


@pytest.fixture
def saved(small: Pipeline, tmp_path: Path) -> Path:
    stream = begin(small, "dissolve", tmp_path)
    stream.save(tmp_path / "it")
    return tmp_path / "it"


def parts(file: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    with safe_open(file, framework="pt") as opened:
        return {name: opened.get_tensor(name) for name in opened.keys()}, opened.metadata()  # noqa: SIM118


def refused(pipeline: Pipeline, file: Path, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        pipeline.resume(file)
    assert "\n" not in str(caught.value) and str(file) in str(caught.value)


def test_a_session_of_another_model_is_refused(make: Make, small: Pipeline, saved: Path) -> None:
    other = make(teacher=False)
    with torch.no_grad():
        other.bundle.transformer.head.bias.add_(1)
    refused(other, saved, "another model")
    assert small.resume(saved).frames == 13


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "missing"), (b"", "cannot be used"), (b"hello" * 9, "cannot be used"), (-1, "cannot"), (100, "cannot")],
)
def test_what_is_no_file_of_tensors_is_refused(small: Pipeline, saved: Path, content: Any, message: str) -> None:
    whole = saved.read_bytes()
    saved.unlink()
    if content is not None:
        saved.write_bytes(content if isinstance(content, bytes) else whole[:content])
    refused(small, saved, message)


def test_tensors_that_are_no_session_are_refused(small: Pipeline, saved: Path) -> None:
    tensors, header = parts(saved)
    for metadata, message in (
        (None, "its format is None"),
        ({**header, "format": "x"}, "its format is 'x'"),
        ({name: value for name, value in header.items() if name != "model"}, "another model"),
        ({name: value for name, value in header.items() if name != "state"}, "cannot be used"),
        ({**header, "state": "{"}, "cannot be used"),
        ({**header, "state": "[" * 100_000}, "cannot be used"),
        ({**header, "state": "[]"}, "cannot be used|damaged"),
        ({**header, "state": "null"}, "cannot be used|damaged"),
    ):
        save_file(tensors, saved, metadata=metadata)
        refused(small, saved, message)


def test_a_session_that_lacks_a_tensor_is_refused(small: Pipeline, saved: Path) -> None:
    tensors, header = parts(saved)
    for name in tensors:
        save_file({key: value for key, value in tensors.items() if key != name}, saved, metadata=header)
        refused(small, saved, "cannot be used|damaged")


def leaves(value: Any, place: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the places of all values within plain JSON."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place, *(found for key, part in inner for found in leaves(part, (*place, key)))]


def put(value: Any, place: tuple[Any, ...], new: Any) -> Any:
    if not place:
        return new
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[place[0]] = put(copy[place[0]], place[1:], new)
    return copy


def test_hostile_values_are_refused_or_harmless(small: Pipeline, saved: Path) -> None:
    """Every value of the header in turn becomes another: a `ValueError` of one line, or a stream that runs."""
    tensors, header = parts(saved)
    state = json.loads(header["state"])
    for place in leaves(state):
        for new in (None, -1, 10**12, "x", [], {}, 0.5):
            save_file(tensors, saved, metadata={**header, "state": json.dumps(put(state, place, new))})
            check(small, saved, f"{place} {new!r}")


@pytest.mark.parametrize("case", ["dissolve", "blend", "video", "image"])
def test_hostile_tensors_are_refused_or_harmless(small: Pipeline, tmp_path: Path, case: str) -> None:
    """Every tensor in turn becomes another: a `ValueError` of one line, or a stream that runs."""
    begin(small, case, tmp_path).save(tmp_path / "it")
    tensors, header = parts(tmp_path / "it")
    for name, tensor in tensors.items():
        others = {
            "empty": tensor.flatten()[:0],
            "flat": tensor.flatten(),
            "twice": torch.cat((tensor, tensor)),
            "longer": torch.cat((tensor, tensor), dim=-1),
            "scalar": tensor.flatten()[:1].reshape(()).clone(),
            "integers": tensor.to(torch.int64),
            "half": tensor.half(),
            "nan": torch.full_like(tensor, float("nan")) if tensor.is_floating_point() else tensor + 1,
        }
        for what, other in others.items():
            save_file({**tensors, name: other.contiguous()}, tmp_path / "it", metadata=header)
            check(small, tmp_path / "it", f"{name} {what}")


def test_flipped_bytes_are_refused_or_harmless(small: Pipeline, saved: Path) -> None:
    whole, rng = saved.read_bytes(), np.random.default_rng(0)
    header = int.from_bytes(whole[:8], "little") + 8
    for number in range(200):
        at = int(rng.integers(0, header if number % 4 else len(whole)))
        data = bytearray(whole)
        data[at] ^= int(rng.integers(1, 256))
        saved.write_bytes(data)
        check(small, saved, f"byte {at}")


def check(pipeline: Pipeline, file: Path, label: str) -> None:
    try:
        stream = pipeline.resume(file)
    except ValueError as error:
        assert "\n" not in str(error), label
        return
    except Exception as error:
        raise AssertionError(label) from error
    try:
        next(stream, None)
    except Exception as error:
        raise AssertionError(f"{label} was accepted") from error
