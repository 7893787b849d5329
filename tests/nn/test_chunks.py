"""The one chunk layout, written out."""

from itertools import islice

import pytest

from causvid.nn.chunks import chunk_layout, chunk_sizes, chunks, first_chunk


def test_a_first_chunk_is_followed_by_equal_ones_for_ever() -> None:
    assert list(islice(chunks(1, 3), 4)) == [1, 3, 3, 3]
    assert list(islice(chunks(3, 3), 2)) == [3, 3]


def test_a_layout_adds_up_to_the_frames() -> None:
    assert chunk_layout(7, 1, 3) == (1, 3, 3) and chunk_layout(6, 3, 3) == (3, 3)


@pytest.mark.parametrize(("first", "chunk", "frames"), [(3, 3, 2), (1, 3, 20), (2, 4, 5)])
def test_frames_that_are_not_whole_chunks_are_refused(first: int, chunk: int, frames: int) -> None:
    with pytest.raises(ValueError, match=f"frames={frames} is not first={first}"):
        chunk_layout(frames, first, chunk)


@pytest.mark.parametrize(
    ("frames", "first", "chunk", "sizes"),
    [(7, 1, 3, [1, 3, 3]), (9, 3, 3, [3, 3, 3]), (6, 1, 3, [1, 3, 2]), (1, 3, 3, [1]), (2, 4, 1, [2]), (0, 1, 3, [])],
)
def test_frames_are_cut_into_chunks_the_last_of_which_may_be_shorter(
    frames: int, first: int, chunk: int, sizes: list[int]
) -> None:
    assert chunk_sizes(frames, first, chunk) == sizes


@pytest.mark.parametrize("first", [1, 2, 3, 4])
@pytest.mark.parametrize("chunk", [1, 2, 3])
def test_all_chunks_but_the_first_are_whole(first: int, chunk: int) -> None:
    for frames in range(1, 20):
        start = first_chunk(frames, first, chunk)
        sizes = chunk_sizes(frames, start, chunk)
        assert sizes[0] == start and set(sizes[1:]) <= {chunk}
        if frames in range(first, 20, chunk):
            assert start == first
