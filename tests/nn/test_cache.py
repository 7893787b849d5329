"""The cache against a plain list of everything ever committed."""

from collections.abc import Sequence
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from causvid.nn.cache import KVCache
from causvid.nn.rope import rotate, rotation

DEPTH, BATCH, ROWS, COLUMNS, HEADS, HEAD_DIM = 2, 2, 1, 3, 2, 8
TOKENS = ROWS * COLUMNS
LAYOUTS = [(1, 3, 3, 3, 3), (2, 2, 2, 2, 2, 2), (5, 1, 4, 6), (1,) * 9]
SIZES = [(3, 0), (4, 2), (2, 3), (0, 2), (5, 1), (20, 0), (1, 1)]


def new_cache(window: int, sink: int, *, batch: int = BATCH, chunk: int = 0) -> KVCache:
    return KVCache.allocate(
        depth=DEPTH,
        batch=batch,
        tokens_per_frame=TOKENS,
        heads=HEADS,
        head_dim=HEAD_DIM,
        window=window,
        sink=sink,
        chunk=chunk,
    )


def history(frames: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Unrotated keys and values `[D, B, F T, N, K]`."""
    shape = (2, DEPTH, BATCH, frames * TOKENS, HEADS, HEAD_DIM)
    keys, values = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return keys, values


def turn(keys: Tensor, frames: Sequence[int]) -> Tensor:
    return rotate(keys, rotation(torch.tensor([list(frames)]), ROWS, COLUMNS, HEAD_DIM))


def write(cache: KVCache, keys: Tensor, values: Tensor, start: int, stop: int) -> None:
    """Write frames into the tail, rotated at each row's own positions, as a pass of the model does."""
    room = cache.room(stop - start)
    new, part = (stop - start) * TOKENS, slice(start * TOKENS, stop * TOKENS)
    at = cache.rotation(stop - start, ROWS, COLUMNS)
    room.keys[:, :, -new:] = rotate(keys[:, : cache.batch, part], at)
    room.values[:, :, -new:] = values[:, : cache.batch, part]


def commit(cache: KVCache, keys: Tensor, values: Tensor, start: int, stop: int) -> None:
    write(cache, keys, values, start, stop)
    cache.commit(stop - start)


def expected(data: Tensor, frames: Sequence[int]) -> Tensor:
    """The tokens of some frames out of `[D, B, F T, N, K]`."""
    return data.unflatten(2, (-1, TOKENS))[:, :, list(frames)].flatten(2, 3)


def read(cache: KVCache, row: int = 0) -> tuple[Tensor, Tensor]:
    """Return keys and values `[D, L, N, K]` of a row: the sink, then the window in order of frames."""
    slots = cache.rows[row].slots
    order = sorted(range(len(slots)), key=lambda slot: (slot >= cache.sink, slots[slot]))
    places = [token for slot in order for token in range(slot * TOKENS, (slot + 1) * TOKENS)]
    return cache.keys[:, row, places], cache.values[:, row, places]


def equal(a: tuple[Tensor, Tensor], b: tuple[Tensor, Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def visible(done: int, window: int, sink: int) -> tuple[list[int], list[int]]:
    """Return which of `done` frames are cached, and the positions they are seen at."""
    if done <= window + sink:
        return list(range(done)), list(range(done))
    return [*range(sink), *range(done - window, done)], list(range(done - window - sink, done))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("window", "sink"), SIZES)
def test_the_sink_stands_just_before_the_latest_frames(layout: tuple[int, ...], window: int, sink: int) -> None:
    keys, values = history(sum(layout))
    cache = new_cache(window, sink)
    done = 0
    for size in layout:
        commit(cache, keys, values, done, done + size)
        done += size
        frames, places = visible(done, window, sink)
        assert cache.frames == done and cache.filled == len(frames)
        for row in range(BATCH):
            k, v = read(cache, row)
            assert torch.equal(v, expected(values, frames)[:, row])
            torch.testing.assert_close(k, turn(expected(keys, frames), places)[:, row], rtol=0, atol=1e-5)


def test_the_sink_is_not_worn_by_thousands_of_commits() -> None:
    keys, values = history(40)
    cache = new_cache(window=2, sink=2)
    commit(cache, keys, values, 0, 2)
    for _ in range(1500):
        commit(cache, keys, values, 3, 5)
    torch.testing.assert_close(
        read(cache)[0][:, : 2 * TOKENS], turn(expected(keys, [0, 1]), [2998, 2999])[:, 0], rtol=0, atol=1e-5
    )


def test_denoising_writes_the_tail_alone() -> None:
    keys, values = history(13)
    cache = new_cache(window=2, sink=2)
    for start, stop in ((0, 1), (1, 4), (4, 7)):
        commit(cache, keys, values, start, stop)
    before = read(cache)
    for _ in range(3):
        write(cache, keys, values, 9, 12)
    assert equal(read(cache), before) and (cache.frames, cache.filled) == (7, 4)


def test_a_room_ends_with_the_tail_behind_the_filled_slots() -> None:
    keys, values = history(7)
    cache = new_cache(window=4, sink=1, chunk=3)
    for filled, (start, stop) in ((0, (0, 1)), (1, (1, 4)), (4, (4, 7))):
        room = cache.room(stop - start)
        assert room.keys.shape == room.values.shape
        assert room.keys.shape[2] == (filled + stop - start) * TOKENS and room.mask is None
        assert room.keys.data_ptr() == cache.keys.data_ptr(), "nothing is copied"
        commit(cache, keys, values, start, stop)


def test_positions_count_on_from_the_committed_frames() -> None:
    keys, values = history(4)
    cache = new_cache(window=3, sink=1)
    for start, count in ((0, 2), (4, 3)):
        at = cache.rotation(count, ROWS, COLUMNS)
        places = torch.arange(start, start + count)[None].expand(BATCH, -1)
        assert torch.equal(at.cos, rotation(places, ROWS, COLUMNS, HEAD_DIM).cos)
        assert cache.rotation(count, ROWS, COLUMNS) is at, "all passes of a chunk share it"
        commit(cache, keys, values, 0, 4)


def test_buffers_keep_their_address_and_their_size() -> None:
    keys, values = history(40)
    cache = new_cache(window=3, sink=1, chunk=2)
    before = [(t.data_ptr(), t.shape) for t in (cache.keys, cache.values, cache.sink_keys)]
    saved = cache.state()
    for start in range(0, 40, 2):
        commit(cache, keys, values, start, start + 2)
    cache.evict(1)
    cache.restore(saved)
    assert [(t.data_ptr(), t.shape) for t in (cache.keys, cache.values, cache.sink_keys)] == before


def test_a_chunk_larger_than_the_tail_grows_it_and_keeps_the_rest() -> None:
    keys, values = history(12)
    cache, roomy = new_cache(window=4, sink=1, chunk=1), new_cache(window=4, sink=1, chunk=5)
    for start, stop in ((0, 1), (1, 4), (4, 9), (9, 12)):
        commit(cache, keys, values, start, stop)
        commit(roomy, keys, values, start, stop)
        assert equal(read(cache), read(roomy))
    assert cache.keys.shape == roomy.keys.shape


def test_the_sink_is_never_evicted() -> None:
    keys, values = history(120)
    cache = new_cache(window=2, sink=3)
    for start in range(0, 120, 4):
        commit(cache, keys, values, start, start + 4)
        assert torch.equal(read(cache)[1][:, : 3 * TOKENS], values[:, 0, : 3 * TOKENS])


@pytest.mark.parametrize("at", [1, 4, 10])
def test_a_restored_cache_continues_as_the_first_time(at: int) -> None:
    keys, values = history(16)
    other_keys, other_values = history(16, seed=1)
    cuts = [0, 1, 4, 7, 10, 13, 16]
    cache = new_cache(window=4, sink=1)
    reads = []
    for start, stop in pairwise(cuts):
        commit(cache, keys, values, start, stop)
        if stop == at:
            saved = cache.state()
        elif stop > at:
            reads.append(read(cache))
    for target in (cache, cache.like(), new_cache(window=4, sink=1, chunk=3)):
        target.restore(saved)
        commit(target, other_keys, other_values, at, at + 3)  # a branch that must leave no trace
        target.restore(saved)
        for (start, stop), then in zip(pairwise(cuts[cuts.index(at) :]), reads, strict=True):
            commit(target, keys, values, start, stop)
            assert equal(read(target), then)


def test_a_state_does_not_follow_its_cache() -> None:
    keys, values = history(8)
    cache = new_cache(window=4, sink=1)
    commit(cache, keys, values, 0, 3)
    saved = cache.state()
    before = [saved.keys.clone(), saved.values.clone(), saved.sink.clone()]
    commit(cache, keys, values, 3, 6)
    cache.evict(1)
    cache.clear()
    assert all(torch.equal(a, b) for a, b in zip(before, (saved.keys, saved.values, saved.sink), strict=True))
    assert saved.rows == ((3, (0, 1, 2)),) * BATCH


def test_a_cache_alike_is_empty_and_shares_nothing() -> None:
    keys, values = history(8)
    cache = new_cache(window=4, sink=1)
    commit(cache, keys, values, 0, 5)
    before, other = read(cache), cache.like()
    assert (other.frames, other.filled) == (0, 0) and other.keys.shape == cache.keys.shape
    commit(other, values, keys, 0, 5)
    assert equal(read(cache), before)


def test_a_cleared_cache_is_a_new_one() -> None:
    keys, values = history(9)
    cache, fresh = (new_cache(window=3, sink=2) for _ in range(2))
    commit(cache, values, keys, 0, 9)
    cache.clear()
    for start, stop in ((0, 1), (1, 5), (5, 9)):
        commit(cache, keys, values, start, stop)
        commit(fresh, keys, values, start, stop)
    assert equal(read(cache), read(fresh)) and cache.frames == fresh.frames == 9


@pytest.mark.parametrize(("window", "sink"), [(0, 0), (-1, 2), (2, -1)])
def test_a_cache_that_can_keep_nothing_is_refused(window: int, sink: int) -> None:
    with pytest.raises(ValueError, match=f"window={window} and sink={sink}"):
        new_cache(window, sink)


@pytest.mark.parametrize(("window", "sink"), [(2, 0), (3, 1)], ids=["smaller", "another share of sink"])
def test_a_state_of_another_kind_of_cache_is_refused(window: int, sink: int) -> None:
    keys, values = history(4)
    cache = new_cache(window=4, sink=0)
    commit(cache, keys, values, 0, 4)
    with pytest.raises(ValueError, match="does not fit"):
        new_cache(window, sink).restore(cache.state())


def test_a_bare_sink_jumps_to_where_its_window_stands() -> None:
    keys, values = history(13)
    committed, rebuilt = new_cache(window=3, sink=2), new_cache(window=3, sink=2)
    for start in range(0, 12, 2):
        commit(committed, keys, values, start, start + 2)
    commit(rebuilt, keys, values, 0, 2)
    rebuilt.jump(9)
    commit(rebuilt, keys, values, 9, 12)
    assert (rebuilt.frames, rebuilt.filled) == (committed.frames, committed.filled)
    for a, b in zip(read(rebuilt), read(committed), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("committed", "position"), [(1, 5), (3, 5), (2, 1)])
def test_only_a_bare_sink_jumps_and_only_ahead(committed: int, position: int) -> None:
    keys, values = history(5)
    cache = new_cache(window=3, sink=2)
    commit(cache, keys, values, 0, committed)
    with pytest.raises(ValueError, match=f"position={position} with {committed} frames cached"):
        cache.jump(position)


@pytest.mark.parametrize(("window", "sink"), [(5, 2), (6, 0), (20, 1)])
@pytest.mark.parametrize("recent", [1, 3])
def test_eviction_leaves_the_sink_and_the_latest_frames(window: int, sink: int, recent: int) -> None:
    keys, values = history(13)
    cache = new_cache(window, sink)
    commit(cache, keys, values, 0, 9)
    saved, before = cache.state(), read(cache)
    cache.evict(recent)
    frames, places = [*range(sink), *range(9 - recent, 9)], range(9 - recent - sink, 9)
    assert (cache.frames, cache.filled) == (9, len(frames))
    k, v = read(cache)
    assert torch.equal(v, expected(values, frames)[:, 0])
    torch.testing.assert_close(k, turn(expected(keys, frames), places)[:, 0], rtol=0, atol=1e-5)
    cache.evict(recent + 1)
    assert cache.filled == len(frames), "what is evicted does not come back"
    commit(cache, keys, values, 9, 10)
    assert torch.equal(read(cache)[1], expected(values, [*frames, 9])[:, 0])
    cache.restore(saved)
    assert equal(read(cache), before), "a state keeps it all"


class TestRows:
    """Streams that stand at different frames share one cache."""

    CUTS = ((0, 1, 4, 7, 10), (0, 1), (0, 1, 4))

    def parts(self, window: int, sink: int) -> list[KVCache]:
        parts = []
        for seed, cuts in enumerate(self.CUTS):
            part = new_cache(window, sink, batch=1)
            for start, stop in pairwise(cuts):
                commit(part, *history(20, seed), start, stop)
            parts.append(part)
        return parts

    @pytest.mark.parametrize(("window", "sink"), [(3, 0), (3, 2), (0, 2), (20, 1)])
    def test_each_row_of_a_joined_cache_is_as_alone(self, window: int, sink: int) -> None:
        joined, alone = KVCache.join(self.parts(window, sink)), self.parts(window, sink)
        for _ in range(4):
            room = joined.room(3)
            at = joined.rotation(3, ROWS, COLUMNS)
            new = slice(-3 * TOKENS, None)
            for row, one in enumerate(alone):
                stood = one.frames
                keys, values = (data[:, 0, : 3 * TOKENS] for data in history(3, seed=stood))
                room.keys[:, row, new], room.values[:, row, new] = keys, values
            room.keys[:, :, new] = rotate(room.keys[:, :, new], at)
            joined.commit(3)
            for row, one in enumerate(alone):
                commit(one, *history(3, seed=one.frames), 0, 3)
                assert joined.rows[row] == one.rows[0]
                assert torch.equal(read(joined, row)[1], read(one)[1])
                torch.testing.assert_close(read(joined, row)[0], read(one)[0], rtol=0, atol=1e-6)

    def test_rows_less_filled_than_others_are_masked(self) -> None:
        joined = KVCache.join(self.parts(5, 1))
        mask = joined.room(3).mask
        assert mask is not None and mask.shape == (3, 1, 1, (6 + 3) * TOKENS)
        frames = mask[:, 0, 0].unflatten(1, (-1, TOKENS))
        assert torch.equal(frames.all(2), frames.any(2))
        assert [row.int().tolist() for row in frames.all(2)] == [
            [1, 1, 1, 1, 1, 1, 1, 1, 1],
            [1, 0, 0, 0, 0, 0, 1, 1, 1],
            [1, 1, 1, 1, 0, 0, 1, 1, 1],
        ]

    def test_rows_of_equal_fill_need_no_mask(self) -> None:
        joined = KVCache.join(self.parts(1, 0))
        assert joined.room(3).mask is None
        assert [row.next for row in joined.rows] == [10, 1, 4]

    def test_parts_are_views_which_join_again_without_a_copy(self) -> None:
        joined = KVCache.join(self.parts(5, 1))
        joined.room(3)
        parts = joined.split()
        assert [part.rows[0].next for part in parts] == [10, 1, 4]
        assert all(part.keys.untyped_storage().data_ptr() == joined.keys.data_ptr() for part in parts)
        assert KVCache.join(parts) is joined
        again = KVCache.join(parts[::-1])
        assert again is not joined and [row.next for row in again.rows] == [4, 1, 10]
        assert KVCache.join(parts[:1]) is parts[0]

    def test_a_part_used_alone_leaves_the_others(self) -> None:
        joined = KVCache.join(self.parts(5, 1))
        joined.room(3)
        first, second, third = joined.split()
        before = [read(first), read(third)]
        commit(second, *history(20, 7), 1, 4)
        second.evict(1)
        assert equal(read(first), before[0]) and equal(read(third), before[1])
        assert joined.rows[1].next == 4
