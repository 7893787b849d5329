"""One step advances any number of sessions; each is what it would be alone, whatever stands beside it."""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from causvid.engine.request import Adjustment, PromptChange
from causvid.pipeline import Pipeline
from causvid.stream import Stream

Make = Callable[..., Pipeline]
SWAN, MAMMOTH, SNOW = "a red swan over the snow", "a blue mammoth", "red snow"
IMAGE = np.random.default_rng(0).integers(0, 256, (32, 48, 3), np.uint8)
CLIP = list(np.random.default_rng(1).integers(0, 256, (14, 32, 48, 3), np.uint8))
LONG = list(np.random.default_rng(2).integers(0, 256, (90, 32, 48, 3), np.uint8))
STARTS: dict[str, dict[str, Any]] = {
    "text": {},
    "recompute": {"policy": "recompute"},
    "image": {"image": IMAGE},
    "extension": {"after": CLIP},
    "video": {"source": LONG, "strength": 0.8},
}


def begin(pipeline: Pipeline, prompt: str = SWAN, start: str = "text", **options: Any) -> Stream:
    return pipeline.stream(prompt, **{"seconds": 20, **STARTS[start], **options})


def latents(stream: Stream, chunks: int) -> list[Tensor]:
    """Make chunks by the stream alone; return each before decoding."""
    return [stream.session.point.latest for _ in islice(stream, chunks) if stream.session.point.latest is not None]


def advance(pipeline: Pipeline, streams: Sequence[Stream], chunks: int = 1) -> list[list[Tensor]]:
    """Make chunks of all streams together; return each stream's latents."""
    made: list[list[Tensor]] = [[] for _ in streams]
    for _ in range(chunks):
        pipeline._engine().advance([stream.session for stream in streams])
        for row, stream in zip(made, streams, strict=True):
            assert stream.latent is not None
            row.append(stream.latent)
    return made


def assert_same(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> None:
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


@contextmanager
def batches(pipeline: Pipeline) -> Iterator[list[int]]:
    """List the batch size of every pass."""
    sizes: list[int] = []
    hook = pipeline.bundle.transformer.register_forward_pre_hook(lambda _, args: sizes.append(len(args[0])))
    try:
        yield sizes
    finally:
        hook.remove()


class TestBatch:
    @pytest.mark.parametrize(("window", "sink"), [(6, 1), (5, 0), (0, 3), (30, 0)])
    def test_sessions_at_different_positions_are_each_as_alone(self, small: Pipeline, window: int, sink: int) -> None:
        def streams() -> list[Stream]:
            made = [begin(small, p, seed=s, window=window, sink=sink) for s, p in enumerate((SWAN, MAMMOTH, SNOW))]
            next(made[1])
            latents(made[2], 4)
            return made

        together = advance(small, streams(), 9)
        for ours, alone in zip(together, streams(), strict=True):
            assert_same(ours, latents(alone, 9))

    def test_ways_to_start_mix(self, small: Pipeline) -> None:
        starts = [*STARTS, "video", "image", "text"]
        together = advance(small, [begin(small, start=s, seed=n) for n, s in enumerate(starts)], 7)
        for number, start in enumerate(starts):
            assert_same(together[number], latents(begin(small, start=start, seed=number), 7))

    def test_sizes_mix(self, small: Pipeline) -> None:
        sizes: list[dict[str, Any]] = [{"height": 48}, {"window": 2}, {"steps": 1}, {}]
        together = advance(small, [begin(small, **options) for options in sizes], 4)
        for ours, options in zip(together, sizes, strict=True):
            assert_same(ours, latents(begin(small, **options), 4))

    def test_frames_are_those_of_each_alone(self, small: Pipeline) -> None:
        sessions = [begin(small, seed=seed).session for seed in range(2)]
        for chunks in zip(begin(small, seed=0), begin(small, seed=1), strict=True):
            for ours, alone in zip(small._engine().advance(sessions), chunks, strict=True):
                assert ours is not None and ours.shape == alone.shape
                assert (ours.int() - alone.int()).abs().max() <= 1
            if sessions[0].point.frames > 60:
                break

    def test_a_batch_costs_the_passes_of_one(self, small: Pipeline) -> None:
        streams = [begin(small, seed=seed) for seed in range(3)]
        latents(streams[0], 4), latents(streams[1], 2), latents(streams[2], 2)
        with batches(small) as sizes:
            advance(small, streams)
        assert sizes == [3] * 4, "one commits, three denoise"

    def test_sessions_that_stay_together_are_not_copied_again(self, small: Pipeline) -> None:
        streams = [begin(small, seed=seed) for seed in range(3)]
        advance(small, streams)
        advance(small, streams)
        before = [stream.session.cache.keys.data_ptr() for stream in streams]
        assert len({stream.session.cache.keys.untyped_storage().data_ptr() for stream in streams}) == 1
        for _ in range(4):
            advance(small, streams)
            assert [stream.session.cache.keys.data_ptr() for stream in streams] == before

    def test_one_that_ends_leaves_the_others(self, small: Pipeline) -> None:
        streams = [begin(small, seconds=2), begin(small, MAMMOTH, seed=1), begin(small, SNOW, seed=2)]
        alone = [latents(begin(small, MAMMOTH, seed=1), 6), latents(begin(small, SNOW, seed=2), 6)]
        ended, made = [], []
        for _ in range(6):
            frames = small._engine().advance([stream.session for stream in streams])
            ended.append(frames[0] is None)
            made.append([stream.latent for stream in streams[1:] if stream.latent is not None])
        assert ended == [False] * 3 + [True] * 3
        for number, expected in enumerate(alone):
            assert_same([row[number] for row in made], expected)

    @pytest.mark.parametrize("mode", ["cut", "recache", "blend"])
    def test_one_that_changes_its_prompt_leaves_the_others(self, small: Pipeline, mode: str) -> None:
        options = {"keep_sink": False} if mode == "recache" else {}
        streams = [begin(small, seed=seed) for seed in range(3)]
        unchanged = advance(small, [begin(small, seed=seed) for seed in range(3)], 7)
        made = advance(small, streams, 3)
        streams[1].set_prompt(MAMMOTH, mode, **options)
        for row, more in zip(made, advance(small, streams, 4), strict=True):
            row.extend(more)
        assert_same(made[0], unchanged[0])
        assert_same(made[2], unchanged[2])
        steered = begin(small, seed=1)
        expected = latents(steered, 3)
        steered.set_prompt(MAMMOTH, mode, **options)
        assert_same(made[1], [*expected, *latents(steered, 4)])
        assert not torch.allclose(made[1][3], unchanged[1][3], atol=1e-3)

    def test_one_that_leaves_and_returns_is_as_alone(self, small: Pipeline) -> None:
        streams = [begin(small, seed=seed) for seed in range(3)]
        made = advance(small, streams, 3)
        made[1] += latents(streams[1], 2)
        for index, row in zip((0, 2), advance(small, [streams[0], streams[2]], 2), strict=True):
            made[index] += row
        for row, more in zip(made, advance(small, streams, 2), strict=True):
            row += more
        for seed, row in enumerate(made):
            assert_same(row, latents(begin(small, seed=seed), 7))

    def test_one_of_a_batch_is_restored_alone(self, small: Pipeline) -> None:
        streams = [begin(small, seed=seed) for seed in range(2)]
        advance(small, streams, 2)
        state = streams[0].snapshot()
        made = advance(small, streams, 2)
        streams[0].restore(state)
        assert_same(latents(streams[0], 2), made[0])
        assert_same(latents(streams[1], 2), latents(begin(small, seed=1), 6)[4:])

    def test_a_session_named_twice_advances_once(self, small: Pipeline) -> None:
        stream = begin(small)
        one, two = small._engine().advance([stream.session, stream.session])
        assert one is not None and one is two and stream.frames == 1

    def test_no_sessions_make_nothing(self, small: Pipeline) -> None:
        assert small._engine().advance([]) == []


class TestQueue:
    def test_a_seed_counts_from_the_next_chunk_on(self, small: Pipeline) -> None:
        plain, changed = begin(small, seed=1), begin(small, seed=1)
        assert torch.equal(torch.cat(latents(plain, 3), 1), torch.cat(latents(changed, 3), 1))
        changed.adjust(seed=9)
        assert changed.session.point.seed == 1, "not before the next chunk"
        state = plain.snapshot()
        random = torch.Generator().manual_seed(9).get_state()
        plain.session.generator.set_state(random)
        assert torch.equal(latents(plain, 1)[0], latents(changed, 1)[0]) and changed.session.point.seed == 9
        plain.restore(state)
        assert not torch.equal(latents(plain, 1)[0], changed.latent)

    def test_a_strength_counts_from_the_next_chunk_on(self, small: Pipeline) -> None:
        weak, strong = begin(small, start="video", strength=0.1), begin(small, start="video", strength=0.9)
        with batches(small) as sizes:
            latents(weak, 1)
            few = len(sizes)
            weak.adjust(strength=0.9)
            latents(weak, 1)
            many = len(sizes) - few
        latents(strong, 2)
        assert (few, many) == (1, 3), "one level, then a commit and two levels"
        assert weak.session.point.strength == 0.9

    def test_changes_take_effect_in_order(self, small: Pipeline) -> None:
        stream, steered = begin(small), begin(small)
        next(stream), next(steered)
        stream.session.queue.extend(
            [
                PromptChange(prompt=MAMMOTH),
                Adjustment(seed=4),
                PromptChange(prompt=SNOW, mode="cut"),
                Adjustment(seed=5),
            ]
        )
        steered.set_prompt(MAMMOTH)
        steered.set_prompt(SNOW, "cut")
        steered.adjust(seed=5)
        assert torch.equal(next(stream), next(steered))
        assert [one.change.prompt for one in stream.session.point.applied] == [SWAN, MAMMOTH, SNOW]
        assert not stream.session.queue

    @pytest.mark.parametrize("values", [{"seed": -1}, {"strength": 0.0}, {"strength": 1.5}])
    def test_an_adjustment_out_of_range_changes_nothing(self, small: Pipeline, values: dict[str, Any]) -> None:
        stream = begin(small)
        with pytest.raises(ValueError, match=next(iter(values))):
            stream.adjust(**values)
        assert not stream.session.queue


class TestThreads:
    def test_a_prompt_set_during_a_chunk_takes_effect_at_the_next(self, make: Make) -> None:
        """A thousand times in a row: from another thread, in the first or the second pass of every chunk."""
        pipeline = make(teacher=False, timesteps=(1000,), height=16, width=16, chunk=1, clip_frames=2, window=1)
        model, prompts, modes = pipeline.bundle.transformer, (SWAN, MAMMOTH), (*["cut"] * 8, "recache")
        stream = pipeline.stream(SWAN)
        with torch.inference_mode():
            texts = [pipeline._encode(model, [prompt]).keys[0] for prompt in prompts]
        seen: list[Tensor] = []
        number = 0

        def steer(_: torch.nn.Module, args: tuple[Any, ...]) -> None:
            seen.append(args[2].keys[0])
            if len(seen) == (1 if number == 0 else 1 + number // 2 % 2):
                prompt, mode = prompts[(number + 1) % 2], modes[number % 9]
                executor.submit(stream.set_prompt, prompt, mode, dissolve=False).result(timeout=60)

        hook = model.register_forward_pre_hook(steer)
        try:
            with ThreadPoolExecutor(1) as executor:
                for number in range(1000):
                    seen.clear()
                    next(stream)
                    assert torch.equal(seen[-1], texts[number % 2]), f"chunk {number} shows another prompt"
                    assert number == 0 or torch.equal(seen[0], texts[(number - 1) % 2]), "a commit keeps its text"
                    assert stream.prompt == prompts[(number + 1) % 2]
        finally:
            hook.remove()

    def test_two_threads_share_out_the_frames_of_one(self, small: Pipeline) -> None:
        expected = list(begin(small, seconds=6))
        stream, barrier = begin(small, seconds=6), threading.Barrier(2)
        done: list[list[Tensor]] = [[], []]

        def play(number: int) -> None:
            barrier.wait()
            done[number].extend(stream)

        with ThreadPoolExecutor(2) as executor:
            list(executor.map(play, range(2)))
        assert len(done[0]) + len(done[1]) == len(expected)
        for chunk in expected:
            assert sum(any(torch.equal(chunk, other) for other in row) for row in done) >= 1
        for row in done:
            order = [next(i for i, chunk in enumerate(expected) if torch.equal(chunk, one)) for one in row]
            assert order == sorted(order)


@pytest.mark.parametrize("bad", [[], ["no frame"], [np.zeros((3, 4), np.uint8)]])
@pytest.mark.parametrize("first", [True, False])
def test_a_bad_source_costs_the_other_sessions_no_frames(small: Pipeline, bad: list[Any], first: bool) -> None:
    frames = [np.full((32, 48, 3), 20 * n, np.uint8) for n in range(13)]
    alone = list(small.stream("a red swan", source=iter(frames)))
    good = small.stream("a red swan", source=iter(frames))
    spoiled = small.stream("a red swan", source=iter(bad))
    sessions = [spoiled.session, good.session] if first else [good.session, spoiled.session]
    with pytest.raises((ValueError, TypeError)):
        good.engine.advance(sessions)
    assert good.frames == 0
    assert all(torch.equal(*pair) for pair in zip(alone, good, strict=True))
