"""Which frame is shown when: repaired timestamps, and frames at an even rate. Times are exact, in seconds."""

from collections.abc import Iterable, Iterator
from fractions import Fraction
from itertools import chain, pairwise
from math import ceil, floor
from typing import TypeVar

LONGEST = Fraction(600)
"""A frame may last so long: a longer gap between two timestamps is a broken clock."""

T = TypeVar("T")


def begins(
    frames: Iterable[tuple[Fraction | None, Fraction | None, T]], *, usual: Fraction, origin: Fraction | None = None
) -> Iterator[tuple[Fraction, Fraction, T]]:
    """Turn (timestamp, length, frame), each time perhaps unknown, into (begin, length, frame).

    A frame whose timestamp is missing, stands still, goes back or leaps begins where the one before ends.

    usual: length of a frame that has none. origin: timestamp that is second 0. None: that of the first frame.
    """
    begin: Fraction | None = None
    before, length = None, usual
    for stamp, declared, frame in frames:
        if begin is None:
            begin = max(Fraction(0), stamp - origin) if stamp is not None and origin is not None else Fraction(0)
        else:
            gap = length if stamp is None or before is None else stamp - before
            begin += gap if 0 < gap <= LONGEST else length
        before, length = stamp, declared if declared and 0 < declared <= LONGEST else usual
        yield begin, length, frame


def repeats(frames: Iterable[tuple[Fraction, Fraction, T]], rate: Fraction) -> Iterator[tuple[T, int]]:
    """Say of each frame how many times it is shown, 0 or more, at an even rate.

    Picture k is the frame that begins nearest to k / `rate`, the earlier of two as near. Pictures end with the last
    frame, to the nearest whole one; a frame shorter than a picture is still shown if one is nearest to its begin.
    """
    number: int | None = None
    for (begin, length, frame), following in pairwise(chain(frames, (None,))):  # type: ignore[misc]
        if number is None:
            number = ceil(begin * rate)
        until = begin + length - min(length, 1 / rate) / 2 if following is None else (begin + following[0]) / 2
        times = max(0, floor(until * rate) + 1 - number)
        number += times
        yield frame, times
