"""What a changed prompt sees of the past, what text it is made under, and how softly it comes."""

from collections.abc import Callable
from itertools import islice
from typing import Any

import numpy as np
import pytest
import torch

from causvid.engine.rollout import next_chunk
from causvid.engine.step import crossfade
from causvid.pipeline import Pipeline, Stream

Make = Callable[..., Pipeline]
SWAN, MAMMOTH, SNOW = "a red swan over the snow", "a blue mammoth", "red snow"
modes = pytest.mark.parametrize("mode", ["cut", "recache", "blend"])


@torch.inference_mode()
def embedded(pipeline: Pipeline, prompt: str) -> torch.Tensor:
    return pipeline._embed(prompt)


def begin(pipeline: Pipeline, **options: Any) -> Stream:
    stream = pipeline.stream(SWAN, **{"seconds": 7, "seed": 3, **options})
    assert isinstance(stream, Stream)
    return stream


def take(stream: Stream, chunks: int) -> torch.Tensor:
    return torch.cat(list(islice(stream, chunks)))


def applied(stream: Stream, prompt: str, *args: Any, **options: Any) -> Stream:
    """Let a change of prompt take effect now, and not only when the next chunk is made."""
    stream.set_prompt(prompt, *args, **options)
    stream.engine.apply(stream.session)
    return stream


def settled(stream: Stream) -> Stream:
    """Commit what is pending, by a change of prompt that is none."""
    return applied(stream, stream.prompt, "cut")


def test_a_cut_leaves_the_past_and_the_next_chunk_sees_the_new_text_alone(small: Pipeline) -> None:
    stream = begin(small)
    take(stream, 3)
    before = settled(stream.fork()).snapshot()
    after = applied(stream, MAMMOTH, "cut").snapshot()
    assert torch.equal(before.cache.keys, after.cache.keys) and torch.equal(before.cache.values, after.cache.values)
    model, settings = small.bundle.transformer, stream.session.geometry
    cache = model.new_cache(batch=1, height=4, width=6, window=settings.window, sink=settings.sink)
    with torch.inference_mode():
        cache.restore(after.cache)
        generator = torch.Generator()
        generator.set_state(after.random)
        expected = next_chunk(
            model,
            model.encode_text(embedded(small, MAMMOTH)),
            cache,
            size=3,
            shape=(1, *settings.shape),
            sigmas=settings.sigmas,
            generator=generator,
        )
    next(stream)
    assert stream.latent is not None and torch.equal(stream.latent, expected)


def test_a_recache_sees_the_whole_past_under_the_new_prompt(small: Pipeline) -> None:
    stream = begin(small, seconds=4, window=30)
    take(stream, 3)
    before = settled(stream.fork()).snapshot().cache
    state = applied(stream, MAMMOTH, "recache").snapshot()
    changed = (state.cache.values[:, 0] - before.values[:, 0]).abs().amax((2, 3))
    assert changed[1].min() > 0, "every token is seen anew"
    assert changed[0].max() == 0, "the first block has not met the text yet"
    told = small.stream(MAMMOTH, window=30, after=state.point.history.latents)
    assert torch.equal(told.snapshot().cache.keys, state.cache.keys)


def test_a_blend_goes_straight_to_the_new_prompt_and_ends_there(small: Pipeline) -> None:
    stream = begin(small, seconds=10)
    take(stream, 1)
    start, end = (embedded(small, prompt) for prompt in (SWAN, MAMMOTH))
    stream.set_prompt(MAMMOTH, "blend", chunks=4)
    assert torch.equal(stream.snapshot().point.embedding, start)
    for step in range(1, 7):
        next(stream)
        point = stream.snapshot().point
        assert torch.equal(point.embedding, torch.lerp(start, end, min(1, step / 4)))
        with torch.inference_mode():
            expected = small.bundle.transformer.encode_text(point.embedding)
        assert all(torch.equal(a, b) for a, b in zip(point.text.keys, expected.keys, strict=True))
    assert torch.equal(point.embedding, end)


def test_a_change_amid_a_blend_starts_from_where_it_is(small: Pipeline) -> None:
    stream = begin(small)
    stream.set_prompt(MAMMOTH, "blend", chunks=4)
    take(stream, 2)
    half = torch.lerp(embedded(small, SWAN), embedded(small, MAMMOTH), 0.5)
    stream.set_prompt(SNOW, "blend", chunks=2)
    next(stream)
    assert torch.equal(stream.snapshot().point.embedding, torch.lerp(half, embedded(small, SNOW), 0.5))
    stream.set_prompt(SWAN, "cut")
    take(stream, 3)
    assert torch.equal(stream.snapshot().point.embedding, embedded(small, SWAN)), "a cut ends a blend"


@modes
def test_a_dropped_sink_is_out_of_sight_and_the_oldest_of_the_window_takes_its_place(
    small: Pipeline, mode: Any
) -> None:
    stream = begin(small, window=5, sink=2)
    take(stream, 5)
    past = stream.snapshot().point.history
    assert past.frames == 13 and past.latents.shape[1] == 7
    applied(stream, MAMMOTH, mode, keep_sink=False, chunks=1)
    if mode != "blend":
        state = stream.snapshot()
        assert torch.equal(state.point.history.latents, past.latents[:, 2:])
        assert state.point.history.frames == 5 and state.cache.rows == ((5, (0, 1, 2, 3, 4)),)
    take(stream, 3)
    assert torch.equal(stream.snapshot().point.history.latents[:, :2], past.latents[:, 2:4])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "fade"}, "mode='fade': Input should be 'cut', 'recache' or 'blend'"),
        ({"mode": "blend", "chunks": 0}, "chunks=0: Input should be greater than or equal to 1"),
        ({"carry": 0}, "carry=0: Input should be greater than or equal to 1"),
        ({"prompt": " "}, "is empty"),
        ({"prompt": "red " * 9}, "has 10 tokens, at most 9"),
    ],
)
def test_a_change_that_cannot_be_made_changes_nothing(small: Pipeline, options: Any, message: str) -> None:
    stream, other = begin(small), begin(small)
    take(stream, 2), take(other, 2)
    with pytest.raises(ValueError, match=message):
        stream.set_prompt(**{"prompt": MAMMOTH, **options})
    assert stream.changes == other.changes
    assert torch.equal(take(stream, 2), take(other, 2))


def read(stream: Stream) -> list[torch.Tensor]:
    """Return all keys and values that the next chunk sees, the sink first, then the window in order of frames."""
    cache = stream.session.cache
    slots, tokens = cache.rows[0].slots, cache.tokens_per_frame
    order = sorted(range(len(slots)), key=lambda slot: (slot >= cache.sink, slots[slot]))
    places = torch.cat([torch.arange(slot * tokens, (slot + 1) * tokens) for slot in order])
    return [buffer[block, :, places] for block in range(2) for buffer in (cache.keys, cache.values)]


def test_of_the_past_a_change_carries_on_the_sink_and_the_latest_frames(small: Pipeline) -> None:
    stream = begin(small, window=5, sink=2)
    take(stream, 5)
    whole, latents = settled(stream.fork()), stream.snapshot().point.history.latents
    history = applied(stream, MAMMOTH, "cut", carry=2, keep_sink=True).snapshot().point.history
    assert torch.equal(history.latents, torch.cat((latents[:, :2], latents[:, -2:]), dim=1)) and history.frames == 13
    tokens = stream.session.cache.tokens_per_frame
    assert (stream.session.cache.frames, stream.session.cache.filled) == (13, 4)
    for narrow, wide in zip(read(stream), read(whole), strict=True):
        assert torch.equal(narrow[:, 2 * tokens :], wide[:, 5 * tokens :])
    for narrow, wide in zip(read(stream)[1::2], read(whole)[1::2], strict=True):
        assert torch.equal(narrow[:, : 2 * tokens], wide[:, : 2 * tokens]), "values of the sink stay, keys move along"
    take(stream, 1)
    assert stream.snapshot().point.history.latents.shape[1] == 7, "the window fills again"


@modes
def test_a_change_carries_on_what_the_model_does_unless_told_otherwise(make: Make, mode: Any) -> None:
    pipeline = make(window=5, sink=2, carry=1)
    held = []
    for options in ({}, {"keep_sink": True}, {"carry": 5, "keep_sink": True}):
        stream = begin(pipeline)
        take(stream, 4)
        applied(stream, MAMMOTH, mode, chunks=1, **options)
        if mode == "blend":
            with torch.inference_mode():
                stream.engine._step_blend(stream.session)
        held.append((stream.session.cache.filled, stream.snapshot().point.history.frames))
    assert held == [(1, 1), (3, 10), (7, 10)]


def test_without_a_sink_a_cut_makes_nothing_anew(small: Pipeline) -> None:
    stream = begin(small, window=5, sink=0)
    take(stream, 3)
    whole = settled(stream.fork())
    applied(stream, MAMMOTH, "cut", keep_sink=False)
    assert all(torch.equal(a, b) for a, b in zip(read(stream), read(whole), strict=True))


def frames_of(stream: Stream, prompt: str, **options: Any) -> torch.Tensor:
    """Return the next four chunks of what a stream becomes under a prompt."""
    fork = stream.fork()
    fork.set_prompt(prompt, **options)
    return take(fork, 4).float()


def test_a_recache_dissolves_over_one_chunk_into_what_it_would_be_without(small: Pipeline) -> None:
    stream = begin(small, seconds=9)
    take(stream, 2)
    hard, soft = frames_of(stream, MAMMOTH, dissolve=False), frames_of(stream, MAMMOTH)
    former = next(stream.fork()).float()
    weight = (torch.arange(1, 13) / 13)[:, None, None, None]
    assert (soft[:12] - torch.lerp(former, hard[:12], weight)).abs().max() <= 1.01, "but for rounding"
    assert torch.equal(soft[12:], hard[12:])
    assert (hard[:12] - former).abs().mean() > 1


def test_every_step_of_a_blend_dissolves_over_the_square_of_its_share_of_a_chunk(small: Pipeline) -> None:
    stream = begin(small, seconds=9)
    take(stream, 2)
    options: dict[str, Any] = {"mode": "blend", "chunks": 3}
    hard, soft = frames_of(stream, MAMMOTH, dissolve=False, **options), frames_of(stream, MAMMOTH, **options)
    differs = [bool((hard[i] - soft[i]).abs().max() > 0) for i in range(48)]
    assert differs == ([True] * 2 + [False] * 10) * 3 + [False] * 12


def test_a_recache_dissolves_over_the_share_of_a_chunk_that_it_is_given(small: Pipeline) -> None:
    stream = begin(small, seconds=9)
    take(stream, 2)
    hard, soft = frames_of(stream, MAMMOTH, dissolve=False), frames_of(stream, MAMMOTH, dissolve=0.5)
    former = next(stream.fork()).float()
    weight = (torch.arange(1, 7) / 7)[:, None, None, None]
    assert (soft[:6] - torch.lerp(former[:6], hard[:6], weight)).abs().max() <= 1.01, "but for rounding"
    assert torch.equal(soft[6:], hard[6:])
    for share in (0, 1.5, "half"):
        with pytest.raises(ValueError, match="dissolve"):
            stream.set_prompt(SWAN, dissolve=share)


def test_a_cut_a_first_frame_and_a_video_that_is_followed_dissolve_nothing(small: Pipeline) -> None:
    def former(stream: Stream, mode: Any) -> torch.Tensor | None:
        return applied(stream, MAMMOTH, mode).session.point.former

    begun = begin(small)
    take(begun, 1)
    source = np.random.default_rng(0).integers(0, 256, (30, 32, 48, 3), np.uint8)
    followed = begin(small, seconds=None, source=iter(source))
    take(followed, 1)
    assert former(begun.fork(), "recache") is not None
    assert former(begun, "cut") is None and former(begin(small), "recache") is None
    assert former(followed, "recache") is None


def test_changes_at_one_moment_dissolve_from_what_was_to_come_before_the_first(small: Pipeline) -> None:
    stream = begin(small)
    take(stream, 1)
    first = applied(stream, MAMMOTH).session.point.former
    assert first is not None and applied(stream, SNOW).session.point.former is first
    assert applied(stream, SWAN, "blend").session.point.former is first
    assert applied(stream, SNOW, "cut").session.point.former is None, "a cut cuts"


def test_a_state_amid_a_dissolve_is_restored(small: Pipeline) -> None:
    stream = begin(small)
    take(stream, 2)
    stream.set_prompt(MAMMOTH)
    state = stream.snapshot()
    first = take(stream, 3)
    stream.restore(state)
    assert torch.equal(take(stream, 3), first)


def test_clips_cross_in_equal_steps_and_then_stay() -> None:
    a, b = torch.zeros(1, 5, 3, 2, 2), torch.ones(1, 5, 3, 2, 2)
    assert crossfade(a, b, frames=3)[0, :, 0, 0, 0].tolist() == [0.25, 0.5, 0.75, 1, 1]
    assert crossfade(a, b, frames=5)[0, -1, 0, 0, 0] == pytest.approx(5 / 6)
