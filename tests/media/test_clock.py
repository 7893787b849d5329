"""Frames keep their time at any rate of input and output."""

from fractions import Fraction

import pytest

from causvid.media.clock import LONGEST_FRAME, repair_times, resample


def shown(lengths: list[Fraction], rate: Fraction) -> list[int]:
    """Numbers of the frames shown at `rate`, of frames that last `lengths`."""
    stamps = [sum(lengths[:i], Fraction(0)) for i in range(len(lengths))]
    frames = repair_times(zip(stamps, lengths, range(len(lengths)), strict=True), default=Fraction(1, 25))
    return [number for number, times in resample(frames, rate) for _ in range(times)]


def even(count: int, fps: int) -> list[Fraction]:
    return [Fraction(1, fps)] * count


@pytest.mark.parametrize("fps", [Fraction(12), Fraction(16), Fraction(24000, 1001)])
def test_an_equal_rate_changes_nothing(fps: Fraction) -> None:
    assert shown([1 / fps] * 13, fps) == list(range(13))


@pytest.mark.parametrize("count", [1, 2, 13, 24, 25])
def test_half_and_double_rates_keep_every_second_and_show_every_one_twice(count: int) -> None:
    assert shown(even(count, 24), Fraction(12)) == list(range(0, count, 2))
    assert shown(even(count, 12), Fraction(24)) == [number // 2 for number in range(2 * count)]


@pytest.mark.parametrize("rate", [5, 8, 16, 30])
@pytest.mark.parametrize("fps", [7, 12, 25, 60])
def test_each_output_frame_is_the_nearest_in_time(fps: int, rate: int) -> None:
    pictures = shown(even(31, fps), Fraction(rate))
    assert abs(len(pictures) - 31 * rate / fps) < 1
    for number, frame in enumerate(pictures):
        off = abs(Fraction(number, rate) - Fraction(frame, fps))
        assert off <= Fraction(1, 2 * fps) or frame == 30


def test_a_variable_rate_holds_frames_as_long_as_they_last() -> None:
    lengths = [Fraction(1), Fraction(1, 10), Fraction(1, 10), Fraction(2)]
    pictures = shown(lengths, Fraction(10))
    assert len(pictures) == 32
    assert pictures[-20:] == [3] * 20
    assert set(pictures) == {0, 1, 2, 3}


@pytest.mark.parametrize(
    ("stamps", "expected"),
    [
        ([0, 1, 2, 3], [0, 1, 2, 3]),
        ([-5, -4, -3, -2], [0, 1, 2, 3]),
        ([None, None, None, None], [0, 1, 2, 3]),
        ([None, 7, 8, None], [0, 1, 2, 3]),
        ([0, 3, None, 4], [0, 3, 4, 5]),
        ([8, 8, 8, 8], [0, 1, 2, 3]),
        ([100, 101, 0, 2], [0, 1, 2, 4]),
        ([0, 1, 10**9, 10**9 + 2], [0, 1, 2, 4]),
    ],
)
def test_timestamps_that_are_missing_or_broken_are_repaired(stamps: list[int | None], expected: list[int]) -> None:
    frames = ((None if stamp is None else Fraction(stamp), Fraction(1), None) for stamp in stamps)
    assert [begin for begin, _, _ in repair_times(frames, default=Fraction(1))] == expected


@pytest.mark.parametrize("length", [None, Fraction(0), Fraction(-1), LONGEST_FRAME + 1])
def test_a_frame_without_a_duration_gets_the_default(length: Fraction | None) -> None:
    frames = repair_times(((None, length, None) for _ in range(3)), default=Fraction(1, 8))
    assert [(begin * 8, length * 8) for begin, length, _ in frames] == [(0, 1), (1, 1), (2, 1)]


def test_starting_midway_keeps_the_output_of_the_whole() -> None:
    stamps = [Fraction(number, 12) for number in range(24)]
    frames = [(stamp, Fraction(1, 12), number) for number, stamp in enumerate(stamps)]
    rate, usual = Fraction(7), Fraction(1, 12)

    def pictures(first: int) -> list[int]:
        counted = resample(repair_times(iter(frames[first:]), default=usual, origin=Fraction(0)), rate)
        return [number for number, times in counted for _ in range(times)]

    assert pictures(9) == pictures(0)[-len(pictures(9)) :]
    assert len(pictures(9)) == 14 - 6
