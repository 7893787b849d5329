"""A cache prefilled from clean latents is the one that was committed, where nothing has left the window."""

from dataclasses import replace

import pytest
import torch

from causvid.config import TransformerConfig
from causvid.engine.history import History, prefill
from causvid.engine.rollout import commit_chunk, predict_x0
from causvid.models.transformer import TextKeys, Transformer
from causvid.nn.cache import KVCache
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
def text(model: Transformer) -> TextKeys:
    return model.encode_text(noise(1, 3, 6, seed=1))


def run(
    model: Transformer, text: TextKeys, *, frames: int, window: int, sink: int, first: int, chunk: int
) -> tuple[torch.Tensor, History, KVCache]:
    """Commit a history of `frames` latent frames as a stream does; return latents, history and cache."""
    latents = noise(1, frames, 4, 4, 2, seed=2)
    cache = model.new_cache(batch=1, height=4, width=2, window=window, sink=sink)
    history = History(latents[:, :0], 0, window, sink, first, chunk)
    for part in latents.split(chunk_sizes(frames, first, chunk), dim=1):
        history = history.append(part)
        commit_chunk(model, part, text, cache)
    return latents, history, cache


def read(cache: KVCache) -> tuple[torch.Tensor, torch.Tensor]:
    """Return keys and values `[D, L, N, K]`: the sink, then the window in order of frames."""
    slots, tokens = cache.rows[0].slots, cache.tokens_per_frame
    order = sorted(range(len(slots)), key=lambda slot: (slot >= cache.sink, slots[slot]))
    places = [token for slot in order for token in range(slot * tokens, (slot + 1) * tokens)]
    return cache.keys[:, 0, places], cache.values[:, 0, places]


@pytest.mark.parametrize(("first", "chunk"), LAYOUTS)
@pytest.mark.parametrize(("window", "sink"), [(20, 0), (13, 3)])
def test_a_prefilled_cache_is_the_committed_one_bit_for_bit(
    model: Transformer, text: TextKeys, first: int, chunk: int, window: int, sink: int
) -> None:
    frames = first + 3 * chunk
    _, history, cache = run(model, text, frames=frames, window=window, sink=sink, first=first, chunk=chunk)
    committed, rows = read(cache), cache.state().rows
    prefill(model, text, cache, history)
    assert cache.state().rows == rows and cache.filled == frames
    assert all(torch.equal(a, b) for a, b in zip(read(cache), committed, strict=True))


@pytest.mark.parametrize(("first", "chunk"), LAYOUTS)
@pytest.mark.parametrize(("window", "sink"), SIZES)
def test_visible_are_the_first_frames_and_the_last_at_their_places(
    model: Transformer, text: TextKeys, first: int, chunk: int, window: int, sink: int
) -> None:
    """The first block's keys depend on a frame and its place alone, so there the two agree whatever was evicted."""
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
    committed = read(cache)
    prefill(model, text, cache, history)
    assert (cache.frames, cache.filled) == (frames, len(places))
    for mine, theirs in zip(read(cache), committed, strict=True):
        torch.testing.assert_close(mine[0], theirs[0], rtol=0, atol=1e-6)


@pytest.mark.parametrize(("window", "sink"), [(4, 0), (3, 1), (5, 4), (0, 2)])
def test_a_windowed_cache_shows_its_frames_as_neighbours(
    model: Transformer, text: TextKeys, window: int, sink: int
) -> None:
    """Rotary attention knows distances alone: a plain cache of the visible frames, side by side, predicts the same."""
    _, history, cache = run(model, text, frames=13, window=window, sink=sink, first=1, chunk=3)
    prefill(model, text, cache, history)
    plain = model.new_cache(batch=1, height=4, width=2, window=20, sink=0)
    for _, part in history.parts():
        commit_chunk(model, part, text, plain)
    x = noise(1, 3, 4, 4, 2, seed=5)
    seen, expected = (predict_x0(model, x, 0.8, text, one) for one in (cache, plain))
    torch.testing.assert_close(seen, expected, rtol=1e-4, atol=1e-5)


def test_another_prompt_changes_all_but_the_first_blocks_keys(model: Transformer, text: TextKeys) -> None:
    _, history, cache = run(model, text, frames=7, window=9, sink=0, first=1, chunk=3)
    committed, _ = read(cache)
    prefill(model, model.encode_text(noise(1, 3, 6, seed=9)), cache, history)
    keys, _ = read(cache)
    assert torch.equal(keys[0], committed[0])
    changed = (keys[1] - committed[1]).abs().amax((1, 2))
    assert changed.min() > 1e-4


def test_an_empty_history_leaves_an_empty_cache(model: Transformer, text: TextKeys) -> None:
    cache = model.new_cache(batch=1, height=4, width=2, window=3, sink=1)
    prefill(model, text, cache, History(noise(1, 0, 4, 4, 2, seed=0), 0, 3, 1, 1, 3))
    assert cache.frames == cache.filled == 0


@pytest.mark.parametrize(("first", "chunk"), LAYOUTS)
@pytest.mark.parametrize(("window", "sink"), [(6, 1), (5, 2), (4, 0), (30, 2), (2, 1)])
@pytest.mark.parametrize("recent", [1, 30])
def test_without_its_sink_a_history_still_knows_its_chunks(
    model: Transformer, text: TextKeys, first: int, chunk: int, window: int, sink: int, recent: int
) -> None:
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
def test_what_eviction_leaves_keeps_its_places(model: Transformer, text: TextKeys, window: int, sink: int) -> None:
    latents, history, cache = run(model, text, frames=10, window=window, sink=sink, first=1, chunk=3)
    kept = history.evicted(2)
    assert torch.equal(kept.latents, torch.cat((latents[:, :sink], latents[:, 8:]), dim=1)) and kept.frames == 10
    prefill(model, text, cache, kept)
    assert (cache.frames, cache.filled) == (10, sink + 2)
    assert [place for place, _ in kept.parts()] == [*([0] if sink == 1 else [0, 1] if sink else []), 8]
    assert torch.equal(history.evicted(30).latents, history.latents)
