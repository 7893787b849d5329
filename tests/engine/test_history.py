"""A cache made anew from clean latents is the one that was committed, where nothing has left the window."""

from dataclasses import replace

import pytest
import torch

from causvid.config import TransformerConfig
from causvid.engine.history import History, rebuild
from causvid.engine.rollout import commit_chunk, predict_x0
from causvid.models.transformer import Transformer
from causvid.nn.chunks import chunk_sizes

CONFIG = TransformerConfig(dim=16, heads=2, layers=2, ffn_dim=24, text_dim=6, in_channels=4, out_channels=4)
LAYOUTS = [(1, 3), (2, 2), (3, 3)]
SIZES = [(4, 0), (3, 1), (2, 2), (5, 4), (4, 5), (0, 2)]


def noise(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def model() -> Transformer:
    model = Transformer(CONFIG).requires_grad_(False)
    for number, p in enumerate(model.parameters()):
        p.copy_(noise(*p.shape, seed=number) * 0.2)
    return model


@pytest.fixture(scope="module")
def text(model):
    return model.encode_text(noise(1, 3, 6, seed=1))


def run(model, text, *, frames: int, window: int, sink: int, first: int, chunk: int):
    """Commit a past of `frames` latent frames as a stream does; return its latents, history and cache."""
    latents = noise(1, frames, 4, 4, 2, seed=2)
    cache = model.new_cache(batch=1, height=4, width=2, window=window, sink=sink)
    history = History(latents[:, :0], 0, window, sink, first, chunk)
    for part in latents.split(chunk_sizes(frames, first, chunk), dim=1):
        history = history.append(part)
        commit_chunk(model, part, text, cache)
    return latents, history, cache


def held(cache, block: int) -> tuple[torch.Tensor, torch.Tensor]:
    stop = cache.held * cache.tokens_per_frame
    return cache.keys[block, :, :stop], cache.values[block, :, :stop]


@pytest.mark.parametrize(("first", "chunk"), LAYOUTS)
@pytest.mark.parametrize(("window", "sink"), [(20, 0), (13, 3)])
def test_a_rebuilt_cache_is_the_committed_one_bit_for_bit(model, text, first, chunk, window, sink):
    frames = first + 3 * chunk
    _, history, cache = run(model, text, frames=frames, window=window, sink=sink, first=first, chunk=chunk)
    committed = cache.snapshot()
    rebuild(model, text, cache, history)
    assert cache.frames == committed.frames and cache.held == committed.held == frames
    assert torch.equal(cache.keys, committed.keys) and torch.equal(cache.values, committed.values)


@pytest.mark.parametrize(("first", "chunk"), LAYOUTS)
@pytest.mark.parametrize(("window", "sink"), SIZES)
def test_what_is_held_are_the_first_frames_and_the_last_at_their_own_places(model, text, first, chunk, window, sink):
    """The first block's keys depend on a frame and its place alone, so there the two agree whatever was dropped."""
    frames = first + 4 * chunk
    latents, history, cache = run(model, text, frames=frames, window=window, sink=sink, first=first, chunk=chunk)
    places = list(range(frames))
    if frames > window + sink:
        places = places[:sink] + places[frames - window :]
    assert torch.equal(history.latents, latents[:, places])
    parts = list(history.parts())
    assert [p + i for p, part in parts for i in range(part.shape[1])] == places
    bounds = {0, *range(first, frames, chunk)}
    assert not any(bounds & set(range(p + 1, p + part.shape[1])) for p, part in parts), "chunks are not run together"
    committed = cache.snapshot()
    rebuild(model, text, cache, history)
    assert (cache.frames, cache.held) == (committed.frames, committed.held) == (frames, len(places))
    for mine, theirs in zip(held(cache, 0), (committed.keys[0], committed.values[0]), strict=True):
        torch.testing.assert_close(mine, theirs[:, : mine.shape[1]], rtol=0, atol=1e-6)


@pytest.mark.parametrize(("window", "sink"), [(4, 0), (3, 1), (5, 4), (0, 2)])
def test_a_reader_of_a_windowed_cache_sees_held_frames_as_neighbours(model, text, window, sink):
    """Rotary attention knows distances alone: a plain cache of the held frames, side by side, predicts the same."""
    _, history, cache = run(model, text, frames=13, window=window, sink=sink, first=1, chunk=3)
    rebuild(model, text, cache, history)
    plain = model.new_cache(batch=1, height=4, width=2, window=20, sink=0)
    for _, part in history.parts():
        commit_chunk(model, part, text, plain)
    x = noise(1, 3, 4, 4, 2, seed=5)
    seen, expected = (predict_x0(model, x, 0.8, text, one) for one in (cache, plain))
    torch.testing.assert_close(seen, expected, rtol=1e-4, atol=1e-5)


def test_another_prompt_changes_all_but_the_first_blocks_keys(model, text):
    _, history, cache = run(model, text, frames=7, window=9, sink=0, first=1, chunk=3)
    committed = cache.snapshot()
    rebuild(model, model.encode_text(noise(1, 3, 6, seed=9)), cache, history)
    assert torch.equal(cache.keys[0], committed.keys[0])
    changed = (held(cache, 1)[0] - committed.keys[1][:, : 7 * 2]).abs().amax((0, 2, 3))
    assert changed.min() > 1e-4


def test_nothing_is_rebuilt_of_a_past_that_is_empty(model, text):
    cache = model.new_cache(batch=1, height=4, width=2, window=3, sink=1)
    rebuild(model, text, cache, History(noise(1, 0, 4, 4, 2, seed=0), 0, 3, 1, 1, 3))
    assert cache.frames == cache.held == 0


@pytest.mark.parametrize(("first", "chunk"), LAYOUTS)
@pytest.mark.parametrize(("window", "sink"), [(6, 1), (5, 2), (4, 0), (30, 2), (2, 1)])
@pytest.mark.parametrize("recent", [1, 30])
def test_without_its_sink_a_history_still_knows_its_chunks(model, text, first, chunk, window, sink, recent):
    frames = first + 4 * chunk
    latents, history, _ = run(model, text, frames=frames, window=window, sink=sink, first=first, chunk=chunk)
    bare = history.without_sink(recent)
    start = max(0, frames - min(window, recent))
    assert torch.equal(bare.latents, latents[:, start:]) and bare.frames == frames - start
    bounds = [bound - start for bound in range(first, frames, chunk) if bound > start]
    assert [position for position, _ in bare.parts()] == [0, *bounds]
    later = replace(bare, window=30).append(noise(1, chunk, 4, 4, 2, seed=3))
    assert bare.frames in [position for position, _ in later.parts()], "the next chunk is one of its own"


@pytest.mark.parametrize(("window", "sink"), [(6, 1), (5, 2), (4, 0), (30, 2)])
def test_a_narrowed_history_is_rebuilt_at_the_places_it_had(model, text, window, sink):
    latents, history, cache = run(model, text, frames=10, window=window, sink=sink, first=1, chunk=3)
    narrow = history.narrowed(2)
    assert torch.equal(narrow.latents, torch.cat((latents[:, :sink], latents[:, 8:]), dim=1)) and narrow.frames == 10
    rebuild(model, text, cache, narrow)
    assert (cache.frames, cache.held) == (10, sink + 2)
    assert [place for place, _ in narrow.parts()] == [*([0] if sink == 1 else [0, 1] if sink else []), 8]
    assert torch.equal(history.narrowed(30).latents, history.latents)
