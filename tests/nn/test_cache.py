"""The cache against a plain list of everything ever committed."""

from itertools import pairwise

import pytest
import torch

from causvid.nn.cache import KVCache
from causvid.nn.rope import rotate, rotation

DEPTH, BATCH, ROWS, COLUMNS, HEADS, HEAD_DIM = 2, 2, 1, 3, 2, 8
TOKENS = ROWS * COLUMNS
LAYOUTS = [(1, 3, 3, 3, 3), (2, 2, 2, 2, 2, 2), (5, 1, 4, 6), (1,) * 9]
SIZES = [(3, 0), (4, 2), (2, 3), (0, 2), (5, 1), (20, 0), (1, 1)]


def new_cache(window: int, sink: int) -> KVCache:
    return KVCache.allocate(
        depth=DEPTH,
        batch=BATCH,
        tokens_per_frame=TOKENS,
        heads=HEADS,
        head_dim=HEAD_DIM,
        window=window,
        sink=sink,
    )


def history(frames: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Unrotated keys and values `[D, B, F T, N, K]`."""
    shape = (2, DEPTH, BATCH, frames * TOKENS, HEADS, HEAD_DIM)
    keys, values = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return keys, values


def turn(keys: torch.Tensor, frames: list[int]) -> torch.Tensor:
    return rotate(keys, rotation(frames, ROWS, COLUMNS, HEAD_DIM, torch.device("cpu")))


def commit(cache: KVCache, keys: torch.Tensor, values: torch.Tensor, start: int, stop: int) -> None:
    part = slice(start * TOKENS, stop * TOKENS)
    for block in range(DEPTH):
        cache.write(block, turn(keys[block, :, part], list(range(start, stop))), values[block, :, part])
    cache.advance(stop - start)


def expected(data: torch.Tensor, frames: list[int]) -> torch.Tensor:
    """The tokens of some frames out of `[D, B, F T, N, K]`."""
    return data.unflatten(2, (-1, TOKENS))[:, :, frames].flatten(2, 3)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("window", "sink"), SIZES)
def test_a_reader_sees_the_sink_just_before_the_latest_frames(layout, window, sink):
    keys, values = history(sum(layout))
    cache = new_cache(window, sink)
    done = 0
    for size in layout:
        commit(cache, keys, values, done, done + size)
        done += size
        if done <= window + sink:
            frames = places = list(range(done))
        else:
            frames = [*range(sink), *range(done - window, done)]
            places = list(range(done - window - sink, done))
        assert cache.frames == done and cache.held == len(frames)
        for block in range(DEPTH):
            k, v = cache.read(block)
            assert torch.equal(v, expected(values, frames)[block])
            torch.testing.assert_close(k, turn(expected(keys, frames)[block], places), rtol=0, atol=1e-5)


def test_reading_does_not_write():
    keys, values = history(9)
    cache = new_cache(window=2, sink=2)
    for start, stop in ((0, 1), (1, 4), (4, 7)):
        commit(cache, keys, values, start, stop)
    before = cache.snapshot()
    for block in (0, 1, 0):
        k, v = cache.read(block)
        (k * 2 + v).sum()
    assert torch.equal(before.keys, cache.keys) and torch.equal(before.values, cache.values)
    assert cache.frames == before.frames == 7


def test_buffers_keep_their_address_and_their_size():
    keys, values = history(40)
    cache = new_cache(window=3, sink=1)
    before = [(t.data_ptr(), t.shape) for t in (cache.keys, cache.values)]
    saved = cache.snapshot()
    for start in range(0, 40, 2):
        commit(cache, keys, values, start, start + 2)
    cache.restore(saved)
    assert [(t.data_ptr(), t.shape) for t in (cache.keys, cache.values)] == before


def test_the_sink_is_never_dropped():
    keys, values = history(120)
    cache = new_cache(window=2, sink=3)
    for start in range(0, 120, 4):
        commit(cache, keys, values, start, start + 4)
        assert torch.equal(cache.read(1)[1][:, : 3 * TOKENS], values[1, :, : 3 * TOKENS])


@pytest.mark.parametrize("at", [1, 4, 10])
def test_a_restored_cache_goes_on_as_the_first_time(at):
    keys, values = history(16)
    other_keys, other_values = history(16, seed=1)
    cuts = [0, 1, 4, 7, 10, 13, 16]
    cache = new_cache(window=4, sink=1)
    reads, saved = [], None
    for start, stop in pairwise(cuts):
        commit(cache, keys, values, start, stop)
        if stop == at:
            saved = cache.snapshot()
        elif stop > at:
            reads.append([t.clone() for t in cache.read(0)])
    for target in (cache, new_cache(window=4, sink=1)):  # the same stream, and a fork of it
        target.restore(saved)
        commit(target, other_keys, other_values, at, at + 3)  # a branch that must leave no trace
        target.restore(saved)
        again = []
        for start, stop in pairwise(cuts[cuts.index(at) :]):
            commit(target, keys, values, start, stop)
            again.append([t.clone() for t in target.read(0)])
        assert all(torch.equal(a, b) for x, y in zip(reads, again, strict=True) for a, b in zip(x, y, strict=True))


def test_a_snapshot_does_not_follow_its_cache():
    keys, values = history(8)
    cache = new_cache(window=4, sink=0)
    commit(cache, keys, values, 0, 3)
    saved = cache.snapshot()
    before = saved.values.clone()
    commit(cache, keys, values, 3, 6)
    assert torch.equal(saved.values, before) and saved.frames == 3


def test_no_gradient_enters_the_cache():
    keys, values = (t.requires_grad_() for t in history(3))
    cache = new_cache(window=3, sink=0)
    commit(cache, keys, values, 0, 3)
    assert not any(t.requires_grad for t in (cache.keys, cache.values, *cache.read(0)))


@pytest.mark.parametrize(("window", "sink"), [(0, 0), (-1, 2), (2, -1)])
def test_a_cache_that_can_keep_nothing_is_refused(window, sink):
    with pytest.raises(ValueError, match=f"window={window} and sink={sink}"):
        new_cache(window, sink)


@pytest.mark.parametrize(("window", "sink"), [(5, 0), (3, 1)], ids=["another size", "another share of sink"])
def test_a_snapshot_of_another_kind_of_cache_is_refused(window, sink):
    with pytest.raises(ValueError, match="does not fit"):
        new_cache(window, sink).restore(new_cache(window=4, sink=0).snapshot())


def both(cache) -> tuple[int, int]:
    return cache.keys.data_ptr(), cache.values.data_ptr()


@pytest.mark.parametrize("first_to_go_on", ["parent", "fork"])
def test_a_fork_shares_memory_until_one_of_them_is_written_to(first_to_go_on):
    keys, values = history(13)
    parent = new_cache(window=4, sink=1)
    commit(parent, keys, values, 0, 4)
    fork, own = parent.fork(), both(parent)
    assert both(fork) == own and (fork.frames, fork.held) == (parent.frames, parent.held)
    order = (parent, fork) if first_to_go_on == "parent" else (fork, parent)
    for cache, start in zip(order, (4, 7), strict=True):
        before = [t.clone() for t in order[1].read(0)] if cache is order[0] else None
        commit(cache, keys, values, start, start + 3)
        if before:
            assert all(torch.equal(a, b) for a, b in zip(before, order[1].read(0), strict=True))
    assert both(parent) == own != both(fork)


def test_what_lags_behind_shares_one_copy_and_the_last_of_it_is_written_in_place():
    keys, values = history(13)
    parent = new_cache(window=4, sink=1)
    commit(parent, keys, values, 0, 4)
    forks, saved = [parent.fork(), parent.fork().fork()], parent.snapshot()
    commit(parent, keys, values, 4, 7)
    assert both(forks[0]) == both(forks[1]) == both(saved) != both(parent)
    lent = both(saved)
    commit(forks[0], keys, values, 4, 7)
    assert both(forks[0]) != lent == both(forks[1])
    del saved
    commit(forks[1], keys, values, 4, 7)
    assert both(forks[1]) == lent, "nobody else looks at it any more"
    reads = [cache.read(1) for cache in (parent, *forks)]
    assert all(torch.equal(a, b) for read in reads for a, b in zip(read, reads[0], strict=True))


def test_a_snapshot_costs_nothing_until_its_cache_is_written_to():
    keys, values = history(7)
    cache = new_cache(window=4, sink=0)
    commit(cache, keys, values, 0, 3)
    saved = [cache.snapshot() for _ in range(3)]
    assert {both(one) for one in saved} == {both(cache)}
    cache.restore(saved[1])
    cache.clear()
    assert {both(one) for one in saved} == {both(cache)} and saved[0].frames == 3
    commit(cache, keys, values, 0, 1)
    assert len({both(one) for one in saved}) == 1 and both(saved[0]) != both(cache)
    assert torch.equal(saved[2].values[:, :, : 3 * TOKENS], values[:, :, : 3 * TOKENS])


def test_a_bare_sink_jumps_to_where_its_window_stands():
    keys, values = history(13)
    committed, rebuilt = new_cache(window=3, sink=2), new_cache(window=3, sink=2)
    for start in range(0, 12, 2):
        commit(committed, keys, values, start, start + 2)
    commit(rebuilt, keys, values, 0, 2)
    rebuilt.jump(9)
    commit(rebuilt, keys, values, 9, 12)
    assert (rebuilt.frames, rebuilt.held) == (committed.frames, committed.held)
    for block in range(DEPTH):
        for a, b in zip(rebuilt.read(block), committed.read(block), strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("window", "sink"), [(5, 2), (6, 0), (20, 1)])
@pytest.mark.parametrize("recent", [1, 3])
def test_a_narrowed_cache_is_one_that_saw_its_sink_and_its_latest_frames(window, sink, recent):
    keys, values = history(13)
    cache = new_cache(window, sink)
    commit(cache, keys, values, 0, 9)
    saved = cache.snapshot()
    cache.narrow(recent)
    frames = [*range(sink), *range(9 - recent, 9)]
    places = list(range(9 - recent - sink, 9))
    assert (cache.frames, cache.held) == (9, len(frames))
    for block in range(DEPTH):
        k, v = cache.read(block)
        assert torch.equal(v, expected(values, frames)[block])
        torch.testing.assert_close(k, turn(expected(keys, frames)[block], places), rtol=0, atol=1e-5)
    cache.narrow(recent + 1)
    assert cache.held == len(frames), "what is out of sight does not come back"
    cache.restore(saved)
    fresh = new_cache(window, sink)
    commit(fresh, keys, values, 0, 9)
    assert torch.equal(cache.keys, fresh.keys) and torch.equal(cache.values, fresh.values), "a snapshot keeps it all"


@pytest.mark.parametrize(("committed", "position"), [(1, 5), (3, 5), (2, 1)])
def test_only_a_bare_sink_jumps_and_only_ahead(committed, position):
    keys, values = history(5)
    cache = new_cache(window=3, sink=2)
    commit(cache, keys, values, 0, committed)
    with pytest.raises(ValueError, match=f"position={position} with {committed} frames held"):
        cache.jump(position)
