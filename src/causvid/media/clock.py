"""Repair timestamps, and resample frames to a constant rate. Times are exact, in seconds."""

from collections.abc import Iterable, Iterator
from fractions import Fraction
from itertools import chain, pairwise
from math import ceil, floor
from typing import TypeVar

LONGEST_FRAME = Fraction(600)
"""A longer gap between two timestamps is a broken clock."""

T = TypeVar("T")


class BrokenClock(ValueError):
    """Timestamps are missing, repeat, go back or leap, so that they do not say where in a video a frame is."""


def repair_times(
    frames: Iterable[tuple[Fraction | None, Fraction | None, T]],
    *,
    default: Fraction,
    origin: Fraction | None = None,
    strict: bool = False,
) -> Iterator[tuple[Fraction, Fraction, T]]:
    """Turn (timestamp, duration, frame), where either time may be None, into (start, duration, frame).

    A frame whose timestamp is missing, repeats, goes back or leaps starts where the one before ends.

    default: duration of a frame that states none. origin: timestamp of second 0, by default that of the first frame.
    strict: raise `BrokenClock` instead of repairing.
    """
    start: Fraction | None = None
    before, duration = None, default
    for timestamp, stated, frame in frames:
        if start is None:
            sound = timestamp is not None and (origin is None or timestamp >= origin)
            start = Fraction(0) if timestamp is None or origin is None else max(Fraction(0), timestamp - origin)
        else:
            gap = None if timestamp is None or before is None else timestamp - before
            sound = gap is not None and 0 < gap <= LONGEST_FRAME
            start += gap if gap is not None and sound else duration
        if strict and not sound:
            raise BrokenClock(f"the timestamp after {float(start):g} seconds is missing or does not follow")
        before, duration = timestamp, stated if stated and 0 < stated <= LONGEST_FRAME else default
        yield start, duration, frame


def resample(
    frames: Iterable[tuple[Fraction, Fraction, T]], rate: Fraction, *, first: int = 0
) -> Iterator[tuple[T, int]]:
    """Yield each frame with the number of times it is shown, 0 or more, at a constant rate.

    Output frame k is the input that starts nearest to k / `rate`, the earlier of two equally near. The output ends with
    the last input, to the nearest whole frame; an input shorter than that is still shown if it is the nearest.

    first: number of the first output frame; those before are not shown.
    """
    number: int | None = None
    for current, following in pairwise(chain(frames, (None,))):
        assert current is not None, "None marks the end only"
        start, duration, frame = current
        if number is None:
            number = max(first, ceil(start * rate))
        until = start + duration - min(duration, 1 / rate) / 2 if following is None else (start + following[0]) / 2
        times = max(0, floor(until * rate) + 1 - number)
        number += times
        yield frame, times
