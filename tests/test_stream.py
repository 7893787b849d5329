"""A stream is a value: it can be copied, kept, gone back to and played again, bit for bit."""

import gc
from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from causvid.engine.source import levels_below
from causvid.pipeline import Pipeline, Stream
from causvid.timeline import Timeline

Make = Callable[..., Pipeline]
SWAN, MAMMOTH, SNOW = "a red swan over the snow", "a blue mammoth", "red snow"
IMAGE = np.random.default_rng(0).integers(0, 256, (32, 48, 3), np.uint8)
CLIP = list(np.random.default_rng(1).integers(0, 256, (14, 32, 48, 3), np.uint8))
STARTS: dict[str, dict[str, Any]] = {
    "text": {},
    "recompute": {"policy": "recompute"},
    "image": {"image": IMAGE},
    "extension": {"after": CLIP},
}
starts = pytest.mark.parametrize("start", STARTS)


def begin(pipeline: Pipeline, start: str = "text", **options: Any) -> Stream:
    stream = pipeline.stream(SWAN, **STARTS[start], **{"seconds": 7, "seed": 3, **options})
    assert isinstance(stream, Stream)
    return stream


def take(stream: Stream, chunks: int) -> torch.Tensor:
    return torch.cat(list(islice(stream, chunks)))


def rest(stream: Stream) -> torch.Tensor:
    return torch.cat(list(stream))


def direct(stream: Stream) -> torch.Tensor:
    """Play a stream to its end, changing its prompt in every way underway."""
    frames = [take(stream, 1)]
    stream.set_prompt(MAMMOTH, "blend", chunks=3)
    frames.append(take(stream, 2))
    stream.set_prompt(SNOW, "cut", carry=2)
    frames.append(take(stream, 1))
    stream.set_prompt(MAMMOTH, dissolve=False)
    frames.append(take(stream, 1))
    stream.set_prompt(SWAN, "recache", keep_sink=False)
    return torch.cat([*frames, rest(stream)])


@starts
@pytest.mark.parametrize("at", [0, 3])
def test_a_restored_stream_goes_on_as_the_unbroken_one(small: Pipeline, start: str, at: int) -> None:
    whole = rest(begin(small, start))
    stream = begin(small, start)
    done = sum(len(frames) for frames in islice(stream, at))
    state = stream.snapshot()
    assert torch.equal(rest(stream), whole[done:])
    for other in (stream, begin(small, start), begin(small, start, seed=8)):
        other.restore(state)
        other.restore(state)
        assert torch.equal(rest(other), whole[done:])


def test_a_state_amid_a_blend_is_restored(small: Pipeline) -> None:
    stream = begin(small)
    take(stream, 1)
    stream.set_prompt(MAMMOTH, "blend", chunks=4)
    take(stream, 2)
    state = stream.snapshot()
    first = rest(stream)
    stream.restore(state)
    stream.set_prompt(SNOW)
    take(stream, 1)
    stream.restore(state)
    assert stream.prompt == MAMMOTH
    assert torch.equal(rest(stream), first)


@starts
def test_forks_of_forks_go_on_as_the_unbroken_one_whatever_becomes_of_the_others(small: Pipeline, start: str) -> None:
    whole = rest(begin(small, start))
    parent = begin(small, start)
    done = len(take(parent, 2))
    early = parent.fork()
    late = parent.fork()
    middle = len(take(parent, 1))
    grandchild = early.fork()
    changed = early.fork()
    changed.set_prompt(MAMMOTH)
    assert not torch.equal(rest(changed), whole[done:])
    assert torch.equal(rest(parent), whole[done + middle :])
    del parent, changed
    gc.collect()
    assert torch.equal(rest(grandchild), whole[done:])
    late.restore(early.snapshot())
    assert torch.equal(rest(early), whole[done:])
    assert torch.equal(rest(late), whole[done:])


def test_a_fork_told_otherwise_is_a_stream_that_was_told_so(small: Pipeline) -> None:
    told = begin(small)
    take(told, 3)
    fork = told.fork()
    for stream in (told, fork):
        stream.set_prompt(MAMMOTH, "blend", chunks=2)
    assert torch.equal(rest(fork), rest(told))


def addresses(stream: Stream) -> tuple[int, int]:
    return stream.session.cache.keys.data_ptr(), stream.session.cache.values.data_ptr()


def test_buffers_of_a_stream_keep_their_address_whatever_it_does(small: Pipeline) -> None:
    stream = begin(small, rewind_seconds=8.0)
    own = addresses(stream)
    take(stream, 2)
    fork, state = stream.fork(), stream.snapshot()
    take(fork, 2)
    take(stream, 1)
    stream.set_prompt(MAMMOTH, "recache", keep_sink=False)
    take(stream, 1)
    stream.rewind(12)
    take(stream, 1)
    stream.restore(state)
    take(stream, 2)
    assert addresses(stream) == own


@pytest.mark.parametrize("policy", ["window", "recompute"])
def test_nothing_changes_a_state_that_is_held(small: Pipeline, policy: str) -> None:
    stream = begin(small, policy=policy, rewind_seconds=8.0)
    take(stream, 3)
    state = stream.snapshot()

    def values() -> list[torch.Tensor]:
        point = state.point
        assert point.decoder is not None and point.pending is not None
        held = [state.cache.keys, state.cache.values, state.random, point.history.latents, point.pending]
        return [*held, point.embedding, *point.text.keys, *point.decoder.memories]

    before = [tensor.clone() for tensor in values()]
    fork = stream.fork()
    take(stream, 2)
    stream.rewind(1)
    stream.set_prompt(MAMMOTH)
    rest(stream)
    fork.set_prompt(SNOW, "cut", keep_sink=False)
    rest(fork)
    stream.restore(state)
    take(stream, 1)
    assert all(torch.equal(a, b) for a, b in zip(before, values(), strict=True))
    assert state.frames == state.point.frames == 25


@starts
@pytest.mark.parametrize("frames", [1, 36])
def test_a_rewound_stream_goes_on_as_the_unbroken_one(small: Pipeline, start: str, frames: int) -> None:
    whole = rest(begin(small, start))
    stream = begin(small, start, rewind_seconds=6.0)
    take(stream, 5)
    before = stream.frames
    back = stream.rewind(frames)
    assert frames <= back < frames + 12 and stream.frames == before - back
    assert torch.equal(take(stream, 1), whole[before - back :][:12])
    stream.rewind(1)
    assert stream.frames == before - back
    assert torch.equal(rest(stream), whole[before - back :])


def test_a_rewound_stream_has_the_prompt_it_had(small: Pipeline) -> None:
    stream = begin(small, rewind_seconds=6.0)
    take(stream, 2)
    stream.prompt = MAMMOTH
    take(stream, 2)
    stream.rewind(30)
    assert stream.prompt == SWAN and len(stream.changes) == 1


def test_a_stream_remembers_as_far_back_as_it_was_told_to_and_no_further(small: Pipeline) -> None:
    stream = begin(small, rewind_seconds=2.0, seconds=10)
    take(stream, 6)
    assert len(stream._states) == 3
    with pytest.raises(ValueError, match="frames=37: this stream can go back 36 frames"):
        stream.rewind(37)
    assert stream.rewind(16) == 24
    assert stream.rewind(1) == 12
    with pytest.raises(ValueError, match="can go back 0 frames"):
        stream.rewind(1)
    with pytest.raises(ValueError, match="can go back 0 frames"):
        begin(small).rewind(1)
    for frames in (0, -3):
        with pytest.raises(ValueError, match=f"frames={frames} is not at least 1"):
            stream.rewind(frames)


@pytest.mark.parametrize("start", ["text", "recompute"])
@pytest.mark.parametrize("suffix", ["toml", "json"])
def test_a_script_plays_a_directed_stream_again(small: Pipeline, tmp_path: Path, start: str, suffix: str) -> None:
    stream = begin(small, start, window=4, sink=2, steps=2, height=48)
    made = direct(stream)
    file = tmp_path / f"it.{suffix}"
    small.record(stream).save(file)
    film = small.play(Timeline.load(file))
    assert torch.equal(torch.cat(list(film)), made)


def test_a_script_of_a_rewound_forked_or_restored_stream_is_that_of_what_it_shows(small: Pipeline) -> None:
    stream = begin(small, rewind_seconds=8.0)
    shown = [take(stream, 2)]
    stream.set_prompt(MAMMOTH)
    take(stream, 2)
    stream.rewind(24)
    other = begin(small, seed=9)
    for one in (stream, stream.fork()):
        one.set_prompt(SNOW, "cut")
        played = torch.cat([*shown, take(one, 2)])
        assert torch.equal(torch.cat(list(small.play(small.record(one)))), played)
        other.restore(one.snapshot())
        assert torch.equal(torch.cat(list(small.play(small.record(other)))), played)


def test_prompts_set_at_one_moment_are_all_in_the_script(small: Pipeline) -> None:
    stream = begin(small, seconds=6)
    stream.set_prompt(MAMMOTH, "blend", chunks=2)
    frames = [take(stream, 3)]
    stream.set_prompt(MAMMOTH, "recache")
    stream.set_prompt(SNOW, "cut", keep_sink=False)
    stream.set_prompt(SWAN, "blend")
    frames.append(rest(stream))
    assert torch.equal(torch.cat(list(small.play(small.record(stream)))), torch.cat(frames))


def test_recompute_is_a_rebuild_before_every_chunk(small: Pipeline) -> None:
    recomputed, stream = begin(small, policy="recompute"), begin(small)
    for frames in recomputed:
        stream.set_prompt(SWAN, "recache", dissolve=False)
        assert torch.equal(frames, next(stream))


def test_recompute_changes_nothing_before_a_frame_has_left_the_window(small: Pipeline) -> None:
    recomputed, stream = begin(small, policy="recompute", seconds=6), begin(small, seconds=6)
    for number, _ in enumerate(zip(recomputed, stream, strict=True)):
        assert recomputed.latent is not None and stream.latent is not None
        same = torch.allclose(recomputed.latent, stream.latent, rtol=1e-5, atol=1e-5)
        assert same == (number < 4), number


@pytest.mark.parametrize(("policy", "chunks"), [("window", 250), ("recompute", 20)])
def test_hundreds_of_chunks_take_no_more_memory_than_a_few(make: Make, policy: str, chunks: int) -> None:
    pipeline = make(window=3, timesteps=(1000,), height=16, width=16)
    stream = begin(pipeline, seconds=None, policy=policy, rewind_seconds=3.0)

    def size() -> tuple[int, ...]:
        point = stream.snapshot().point
        assert point.decoder is not None
        held = [stream.session.cache.keys, stream.session.cache.values, point.history.latents, *point.decoder.memories]
        return (len(stream._states), *(tensor.untyped_storage().nbytes() for tensor in held))

    take(stream, 8)
    early = size()
    frames = take(stream, chunks)
    assert size() == early and stream.frames == 85 + 12 * chunks
    assert frames[-12:].float().std() > 1


class TestWan:
    """Wan's own autoencoder, and chunks [3, 3, ...]."""

    @starts
    def test_it_streams_forks_and_changes_prompts(self, small_wan: Pipeline, start: str) -> None:
        stream = begin(small_wan, start, seconds=5)
        take(stream, 1)
        fork = stream.fork()
        for one in (stream, fork):
            one.set_prompt(MAMMOTH, "blend", chunks=2)
        frames = rest(stream)
        assert torch.equal(rest(fork), frames) and frames.float().std() > 1
        assert stream.frames == 40

    def test_an_image_is_the_first_frame_and_whole_chunks_follow(self, small_wan: Pipeline) -> None:
        assert [len(frames) for frames in begin(small_wan, "image", seconds=4)] == [1, 12, 12, 7]

    def test_an_extension_yields_new_frames_alone(self, small_wan: Pipeline) -> None:
        assert [len(frames) for frames in begin(small_wan, "extension", seconds=2)] == [12, 4]

    def test_a_script_plays_it_again(self, small_wan: Pipeline) -> None:
        stream = begin(small_wan, seconds=9)
        made = direct(stream)
        assert torch.equal(torch.cat(list(small_wan.play(small_wan.record(stream)))), made)


def test_a_source_is_joined_at_its_strength_and_taken_through_the_levels_below() -> None:
    assert levels_below(0.7, (1.0, 0.9, 0.6, 0.3)) == (0.7, 0.6, 0.3)
    assert levels_below(1.0, (1.0, 0.9)) == (1.0, 0.9)
    assert levels_below(0.9, (1.0, 0.9)) == (0.9,)


def test_states_differ_by_value_not_by_use(small: Pipeline) -> None:
    """A state with another's noise goes on with that noise: noise is a part of it like any other."""
    a, b = begin(small), begin(small, seed=4)
    take(a, 2), take(b, 2)
    mixed = replace(a.snapshot(), random=b.snapshot().random)
    expected = rest(b)
    b.restore(mixed)
    assert not torch.equal(rest(b), expected)


def test_a_state_of_other_sizes_or_another_video_is_refused(small: Pipeline) -> None:
    stream = begin(small, window=3)
    take(stream, 2)
    with pytest.raises(ValueError, match="window=3 does not fit a session with window=6"):
        begin(small, window=6).restore(stream.snapshot())
    one, other = (begin(small, seconds=None, source=[frame + n for frame in CLIP]) for n in (0, 1))
    with pytest.raises(ValueError, match="follows another video"):
        one.restore(other.snapshot())


def test_what_a_timeline_cannot_say_is_not_recorded(small: Pipeline) -> None:
    with pytest.raises(ValueError, match="after was handed over in memory"):
        small.record(begin(small, after=CLIP))
    stream = begin(small)
    take(stream, 1)
    stream.adjust(seed=7)
    take(stream, 1)
    with pytest.raises(ValueError, match="the seed or the strength changed"):
        small.record(stream)


def test_restoring_forgets_what_could_be_rewound_to(small: Pipeline) -> None:
    stream = begin(small, rewind_seconds=6.0)
    take(stream, 2)
    state = stream.snapshot()
    for _ in range(5):
        take(stream, 1)
        stream.restore(state)
    take(stream, 1)
    assert len(stream._states) == 1 and stream.rewind(1) == 12


def test_wrong_types_of_changes_are_refused_by_name(small: Pipeline) -> None:
    stream = small.stream("a red swan", rewind_seconds=3)
    next(stream)
    for call, name in (
        (lambda: stream.set_prompt(3), "prompt=3"),
        (lambda: stream.set_prompt("a swan", mode=True), "mode=True"),
        (lambda: stream.set_prompt("a swan", mode="blend", chunks="3"), "chunks='3'"),
        (lambda: stream.set_prompt("a swan", carry=True), "carry=True"),
        (lambda: stream.rewind(True), "frames=True"),
        (lambda: stream.rewind("1"), "frames='1'"),
        (lambda: stream.rewind(1.5), "frames=1.5"),
        (lambda: stream.adjust(strength="x"), "strength='x'"),
        (lambda: stream.adjust(strength="0.5"), "strength='0.5'"),
        (lambda: stream.adjust(seed=True), "seed=True"),
        (lambda: stream.restore(3), "state is of type int"),
    ):
        with pytest.raises((ValueError, TypeError), match=name):
            call()
    assert stream.prompt == "a red swan" and len(stream.changes) == 1


def test_the_new_prompt_is_shown_once_while_it_is_applied(small: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = small.stream("a red swan")
    next(stream)
    stream.set_prompt("a blue mammoth")
    seen: list[list[str]] = []

    def spy(name: str) -> None:
        method = getattr(stream.engine, name)

        def look(*arguments: Any, **options: Any) -> Any:
            seen.append([change.prompt for _, change in stream.changes])
            result = method(*arguments, **options)
            seen.append([change.prompt for _, change in stream.changes])
            return result

        monkeypatch.setattr(stream.engine, name, look)

    for name in ("embed", "_settle", "_evict", "_apply", "apply", "_denoise"):
        spy(name)
    next(stream)
    assert len(seen) >= 12 and all(prompts == ["a red swan", "a blue mammoth"] for prompts in seen)
