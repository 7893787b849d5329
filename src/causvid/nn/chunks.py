"""The one chunk layout: how latent frames are grouped into chunks [first, chunk, chunk, ...].

`first=1, chunk=3` is [1, 3, 3, ...], in which the first pixel frame is a chunk of its own; `first=3, chunk=3` is the
uniform layout of published checkpoints.
"""

import itertools
from collections.abc import Iterator


def chunks(first: int, chunk: int) -> Iterator[int]:
    """Yield chunk sizes without end: `first`, then `chunk` for ever."""
    yield first
    while True:
        yield chunk


def chunk_layout(frames: int, first: int, chunk: int) -> tuple[int, ...]:
    """Return the chunk sizes that make up exactly `frames` frames, or raise `ValueError`."""
    if frames < first or (frames - first) % chunk:
        raise ValueError(f"frames={frames} is not first={first} plus a multiple of chunk={chunk}")
    return (first,) + (chunk,) * ((frames - first) // chunk)


def chunk_sizes(frames: int, first: int, chunk: int) -> list[int]:
    """Cut `frames` latent frames into chunks [first, chunk, chunk, ...]; the last may be shorter."""
    bounds = [0, *range(min(first, frames), frames, chunk), frames]
    return [b - a for a, b in itertools.pairwise(bounds) if b > a]


def first_chunk(frames: int, first: int, chunk: int) -> int:
    """Return the size of the first chunk of `frames` latent frames whose other chunks are all whole.

    That is `first`, unless the video started in another way, as with an image.
    """
    return first if frames >= first and (frames - first) % chunk == 0 else (frames - 1) % chunk + 1
