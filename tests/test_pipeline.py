"""What a user holds: streams repeat, continue, stop where asked, and refuse what they cannot do."""

from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from causvid.media import to_bytes
from causvid.pipeline import Pipeline, Stream

Make = Callable[..., Pipeline]
PROMPT = "a red swan over the snow"


@pytest.fixture
def pipeline(small: Pipeline) -> Pipeline:
    return small


def video(frames: Iterator[torch.Tensor]) -> torch.Tensor:
    return torch.cat(list(frames))


def live(frames: Iterator[torch.Tensor]) -> Stream:
    assert isinstance(frames, Stream)
    return frames


@pytest.mark.parametrize("first", [1, 3])
@pytest.mark.parametrize("chunk", [2, 3])
def test_chunks_come_one_by_one_and_the_last_is_cut(make: Make, first: int, chunk: int) -> None:
    one = make(first=first, chunk=chunk, clip_frames=first + 2 * chunk)
    sizes = [len(frames) for frames in one.stream(PROMPT, seconds=4)]
    assert sizes[0] == 4 * first - 3
    assert set(sizes[1:-1]) == {4 * chunk}
    assert sum(sizes) == 32 and sizes[-1] <= 4 * chunk
    frames = next(one.stream(PROMPT))
    assert frames.dtype == torch.uint8 and frames.shape[1:] == (32, 48, 3)
    frames += 1


def test_the_same_seed_gives_the_same_video_and_another_another(pipeline: Pipeline) -> None:
    a = video(pipeline.stream(PROMPT, seconds=2, seed=3))
    assert torch.equal(a, video(pipeline.stream(PROMPT, seconds=2, seed=3)))
    assert not torch.equal(a, video(pipeline.stream(PROMPT, seconds=2, seed=4)))
    assert not torch.equal(a, video(pipeline.stream("a blue mammoth", seconds=2, seed=3)))
    assert a.float().std() > 1


def test_a_longer_video_begins_with_the_shorter(pipeline: Pipeline) -> None:
    short, long = (video(pipeline.stream(PROMPT, seconds=s)) for s in (1.5, 4))
    assert torch.equal(long[: len(short)], short)


def test_the_global_generator_is_neither_used_nor_changed(pipeline: Pipeline) -> None:
    torch.manual_seed(1)
    a = video(pipeline.stream(PROMPT, seconds=2))
    state = torch.get_rng_state()
    torch.manual_seed(2)
    assert torch.equal(a, video(pipeline.stream(PROMPT, seconds=2)))
    torch.manual_seed(1)
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("size", [(32, 48), (48, 32), (16, 80)])
def test_streamed_frames_are_those_of_all_latents_decoded_at_once(pipeline: Pipeline, size: tuple[int, int]) -> None:
    stream = live(pipeline.stream(PROMPT, height=size[0], width=size[1]))
    frames, latents = [], []
    for part in islice(stream, 4):
        frames.append(part)
        assert stream.latent is not None
        latents.append(stream.latent)
    with torch.no_grad():
        whole = to_bytes(pipeline.bundle.autoencoder.decode(torch.cat(latents, dim=1))[0])
    streamed = torch.cat(frames)
    assert streamed.shape == whole.shape == (37, *size, 3)
    assert (streamed.int() - whole.int()).abs().max() <= 1


def test_a_restored_stream_continues_bit_for_bit(pipeline: Pipeline) -> None:
    stream = live(pipeline.stream(PROMPT, seconds=9))
    list(islice(stream, 3))
    state = stream.snapshot()
    rest = video(stream)
    stream.restore(state)
    assert torch.equal(video(stream), rest)
    other = live(pipeline.stream("a blue mammoth", seconds=9, seed=8))
    list(islice(other, 1))
    other.restore(state)
    assert torch.equal(video(other), rest)


def test_a_snapshot_before_the_first_chunk_starts_over(pipeline: Pipeline) -> None:
    stream = live(pipeline.stream(PROMPT, seconds=2))
    state = stream.snapshot()
    whole = video(stream)
    stream.restore(state)
    assert torch.equal(video(stream), whole)


def test_a_state_of_another_size_is_refused(pipeline: Pipeline) -> None:
    a, b = live(pipeline.stream(PROMPT)), live(pipeline.stream(PROMPT, height=48))
    with pytest.raises(ValueError, match="does not fit"):
        a.restore(b.snapshot())


@pytest.mark.parametrize(("window", "sink"), [(3, 0), (4, 2), (0, 1)])
def test_a_stream_goes_on_beyond_the_trained_length_with_a_fixed_memory(
    pipeline: Pipeline, window: int, sink: int
) -> None:
    stream = live(pipeline.stream(PROMPT, window=window, sink=sink))
    size = stream.session.cache.keys.shape
    frames = torch.cat(list(islice(stream, 15)))
    assert len(frames) == 169 > 5 * pipeline.clip_seconds * pipeline.fps
    assert stream.session.cache.keys.shape == size
    assert frames[-12:].float().std() > 1


def test_a_window_changes_nothing_before_it_is_full(pipeline: Pipeline) -> None:
    a, b = (video(pipeline.stream(PROMPT, seconds=3, window=w, sink=0)) for w in (4, 30))
    assert torch.equal(a[:25], b[:25])
    a, b = (video(pipeline.stream(PROMPT, seconds=8, window=w, sink=0)) for w in (4, 30))
    assert not torch.equal(a, b)


def test_a_batch_holds_what_each_prompt_gives_alone(pipeline: Pipeline) -> None:
    prompts = [PROMPT, "a blue mammoth"]
    student = video(pipeline.stream(prompts[1], seed=6, seconds=2))
    teacher = pipeline.teach(prompts[1:], seeds=[6], seconds=2)[0]
    for make_all, alone in ((pipeline.generate_batch, student), (pipeline.teach, teacher)):
        both = make_all(prompts, seeds=[5, 6], seconds=2)
        assert both.shape == (2, 16, 32, 48, 3) and both.dtype == torch.uint8
        assert (both[1].int() - alone.int()).abs().max() <= 1
    assert pipeline.generate_batch(prompts, seeds=[5, 6]).shape[1] == 25


def test_a_batch_tells_after_every_chunk_how_far_it_is(pipeline: Pipeline) -> None:
    told: list[tuple[int, ...]] = []
    pipeline.generate_batch([PROMPT], seeds=[0], seconds=2.5, progress=lambda *of: told.append(of))
    assert told == [(1, 20), (13, 20), (20, 20)]


def test_the_teacher_makes_a_whole_clip_guided_by_the_prompt(make: Make, pipeline: Pipeline) -> None:
    (clip,) = pipeline.teach([PROMPT], seeds=[0])
    assert clip.shape == (25, 32, 48, 3)
    (more,) = pipeline.teach([PROMPT], seeds=[0], steps=5)
    assert not torch.equal(clip, more)
    (unguided,) = make(guidance=1.0).teach([PROMPT], seeds=[0])
    assert not torch.equal(clip, unguided)


def test_fewer_steps_are_taken_from_the_models_own_and_more_are_spread(pipeline: Pipeline) -> None:
    own = pipeline.sigmas
    assert own[0] == 1.0 and len(own) == 3
    for steps, sigmas in ((1, own[:1]), (2, own[:2]), (3, own)):
        a = next(pipeline.stream(PROMPT, steps=steps))
        assert torch.equal(a, next(pipeline.stream(PROMPT, sigmas=sigmas)))
    assert not torch.equal(a, next(pipeline.stream(PROMPT, steps=6)))


def test_a_saved_pipeline_makes_the_same_video(pipeline: Pipeline, tmp_path: Path) -> None:
    pipeline.save_pretrained(tmp_path / "it")
    again = Pipeline.from_pretrained(tmp_path / "it", accelerate="none")
    assert torch.equal(video(pipeline.stream(PROMPT, seconds=3)), video(again.stream(PROMPT, seconds=3)))
    assert again.generation == pipeline.generation


def test_a_saved_pipeline_keeps_its_card(pipeline: Pipeline, tmp_path: Path) -> None:
    files = ("README.md", "evaluation.json", "contact_sheet.png")
    pipeline.save_pretrained(tmp_path / "it")
    for name in files:
        (tmp_path / "it" / name).write_text(name)
    loaded = Pipeline.from_pretrained(tmp_path / "it")
    for folder in ("other", "it"):
        loaded.save_pretrained(tmp_path / folder)
        assert [(tmp_path / folder / name).read_text() for name in files] == list(files)


def test_unknown_words_are_named_and_still_make_a_video(pipeline: Pipeline) -> None:
    assert pipeline.unknown_words("a Purple swan") == ["Purple"]
    assert len(next(pipeline.stream("a Purple swan"))) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompt": ""}, "is empty"),
        ({"prompt": " \n. "}, "is empty"),
        ({"prompt": "red " * 9}, "has 10 tokens, at most 9"),
        ({"seconds": 0}, "seconds=0: Input should be greater than 0"),
        ({"seconds": "3"}, "seconds='3': Input should be a valid number"),
        ({"seed": True}, "seed=True: Input should be a valid integer"),
        ({"seconds": -1}, "seconds=-1"),
        ({"seconds": float("nan")}, "seconds=nan"),
        ({"seconds": float("inf")}, "seconds=inf"),
        ({"seconds": 1e9}, "at most 60"),
        ({"height": 40}, "height=40 is not a multiple of 16 from 16 to 64"),
        ({"width": 0}, "width=0"),
        ({"width": 112}, "from 32 to 96"),
        ({"steps": 0}, "steps=0"),
        ({"steps": 1000}, "steps=1000"),
        ({"steps": 2, "sigmas": (1.0,)}, "not both"),
        ({"sigmas": (0.5,)}, "must start at 1"),
        ({"window": -1}, "window=-1"),
        ({"window": 10**9}, "window=1000000000"),
        ({"window": 0, "sink": 0}, "at least one frame"),
        ({"seed": -1}, "seed=-1"),
        ({"mode": "critic"}, "mode='critic': Extra inputs are not permitted"),
        ({"policy": "forget"}, "policy='forget': Input should be 'window' or 'recompute'"),
        ({"rewind_seconds": -1}, "rewind_seconds=-1: Input should be greater than or equal to 0"),
        ({"rewind_seconds": float("inf")}, "rewind_seconds=inf"),
        ({"source": [], "strength": 0}, "strength=0: Input should be greater than 0"),
        ({"source": [], "strength": 1.5}, "strength=1.5"),
        ({"source": "absent.mp4"}, "absent.mp4 does not exist"),
        ({"after": "absent.mp4"}, "absent.mp4 does not exist"),
        ({"after": []}, "after is empty"),
        ({"after": "absent.safetensors"}, "absent.safetensors is missing"),
        ({"after": torch.zeros(1, 4, 4, 8, 8)}, r"latents are \[1, 4, 4, 8, 8\], expected \[1, F, 4, 4, 6\]"),
        ({"image": "absent.png"}, "absent.png does not exist"),
        ({"image": "absent.png", "after": "absent.mp4"}, "image, after and source: give one"),
    ],
)
def test_bad_input_is_refused_at_once_in_one_line(pipeline: Pipeline, options: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, OSError), match=message) as caught:
        pipeline.stream(**{"prompt": PROMPT, **options})
    assert "\n" not in str(caught.value)


def test_a_teacher_that_cannot_make_the_clip_says_so(make: Make, pipeline: Pipeline) -> None:
    with pytest.raises(ValueError, match="has no teacher"):
        make(teacher=False).teach([PROMPT], seeds=[0])
    with pytest.raises(ValueError, match=r"longer than the teacher's clip of 3\.125 seconds"):
        pipeline.teach([PROMPT], seeds=[0], seconds=30)
    with pytest.raises(ValueError, match="steps=0"):
        pipeline.teach([PROMPT], seeds=[0], steps=0)


def test_as_many_seeds_as_prompts_are_wanted(pipeline: Pipeline) -> None:
    with pytest.raises(ValueError, match="1 prompts and 2 seeds"):
        pipeline.generate_batch([PROMPT], seeds=[1, 2])
    with pytest.raises(ValueError, match="0 prompts"):
        pipeline.generate_batch([], seeds=[])


def test_unknown_words_become_known_ones_of_their_kind() -> None:
    pipeline = Pipeline.from_pretrained()
    prompt = "woolly mammoths venturing through a snowy tundra"
    assert pipeline.understood(prompt)[1] == [("mammoths", "mammoth"), ("venturing", "walking")]
    assert pipeline.unknown_words(prompt) == ["through"]
    plain = next(pipeline.stream("woolly mammoth walking through a snowy tundra", seed=1))
    assert torch.equal(next(pipeline.stream(prompt, seed=1)), plain)


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"seed": True}, "seed=True"),
        ({"seed": "3"}, "seed='3'"),
        ({"seconds": "3"}, "seconds='3'"),
        ({"seconds": True}, "seconds=True"),
        ({"steps": 2.0}, "steps=2.0"),
        ({"height": "32"}, "height='32'"),
        ({"adapt": "yes", "source": ["absent.mp4"]}, "adapt='yes'"),
        ({"strength": "0.5"}, "strength='0.5'"),
        ({"sigmas": ("1", 0.5)}, "sigmas.0='1'"),
        ({"image": 3}, "image is of type int"),
        ({"after": 3}, "after is of type int"),
        ({"source": 2.5}, "source is of type float"),
        ({"source": []}, "source is empty"),
        ({"source": ()}, "source is empty"),
        ({"prompt": 3}, "prompt=3"),
        ({"prompt": None}, "prompt"),
        ({"image": np.zeros((4, 4), np.uint8)}, r"uint8 \[4, 4\]"),
        ({"after": torch.zeros(4, 4)}, r"latents are \[4, 4\]"),
        ({"rewind_seconds": "1"}, "rewind_seconds='1'"),
    ],
)
def test_a_wrong_type_is_refused_by_name(pipeline: Pipeline, options: dict[str, Any], name: str) -> None:
    given = dict(options)
    with pytest.raises((ValueError, TypeError), match=name) as caught:
        pipeline.stream(given.pop("prompt", "a red swan"), **given)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("frames", [[np.zeros((4, 4), np.uint8)], [np.zeros((4, 4, 3))], ["a", "b"], []])
def test_frames_that_are_none_are_refused_at_the_first_chunk(pipeline: Pipeline, frames: list[Any]) -> None:
    with pytest.raises((ValueError, TypeError), match="expected"):
        next(pipeline.stream("a red swan", source=iter(frames)))


@pytest.mark.parametrize("device", ["banana", "cuda:99", "meta:x", 3.5])
def test_a_device_that_is_not_there_is_refused_by_name(device: Any) -> None:
    with pytest.raises(ValueError, match=f"device={device!r} is not available"):
        Pipeline.from_pretrained(device=device)


def test_wrong_types_of_a_batch_are_refused_by_name(pipeline: Pipeline) -> None:
    for arguments, name in (
        ({"prompts": "a swan", "seeds": [0] * 6}, "prompts='a swan'"),
        ({"prompts": ["a swan"], "seeds": 3}, "seeds=3"),
        ({"prompts": ["a swan"], "seeds": [True]}, "seed=True"),
        ({"prompts": [3], "seeds": [0]}, "prompt=3"),
        ({"prompts": ["a swan"], "seeds": [0], "seconds": "3"}, "seconds='3'"),
        ({"prompts": ["a swan"], "seeds": [0], "steps": "3"}, "steps='3'"),
    ):
        with pytest.raises((ValueError, TypeError), match=name):
            pipeline.generate_batch(**arguments)
    with pytest.raises(TypeError, match="timeline is of type str"):
        pipeline.play("film.toml")  # type: ignore[arg-type]
