"""Scenes of a video, and the pieces of them that become clips, from what its frames look like."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from causvid.data.scan import Look

CUT = 27.0
"""Change of hue, saturation and value at which a scene begins, the threshold of PySceneDetect's content detector."""
MARKS = 3
"""Frames of a clip whose hashes are compared: the first, the middle and the last."""


@dataclass(frozen=True)
class Piece:
    """A stretch of frames within one scene.

    start: its first frame, at the model's rate. light: mean of its brightest frame, of 1. motion: mean absolute change
    of a pixel from frame to frame, of 1. marks: perceptual hashes of `MARKS` frames along it.
    """

    start: int
    light: float
    motion: float
    marks: tuple[int, ...]


@dataclass(frozen=True)
class Scan:
    """What a video holds: its size, how many frames at the model's rate, its scenes and the pieces of them.

    steady: frames can be sought by their timestamps.
    """

    height: int
    width: int
    frames: int
    scenes: int
    steady: bool
    pieces: tuple[Piece, ...]


def cut_into_pieces(look: Look, *, fps: float, frames: int, cuts: bool) -> Scan:
    """Cut each scene of a video into pieces of `frames` frames.

    cuts: find scenes; else the whole video is one.
    """
    total = len(look.light)
    bounds = [0, *(find_cuts(look.change, fps) if cuts else ()), total]
    starts = [start for a, b in pairwise(bounds) for start in range(a, b - frames + 1, frames)]
    pieces = tuple(_describe(look, start, frames) for start in starts)
    return Scan(look.height, look.width, total, len(bounds) - 1, look.steady, pieces)


def find_cuts(change: Sequence[float], fps: float) -> list[int]:
    """Return the frames at which a new scene begins, half a second or more apart, from their `Look.change`."""
    cuts = [0]
    for number, value in enumerate(change):
        if value > CUT and number - cuts[-1] >= max(1, round(fps / 2)):
            cuts.append(number)
    return cuts[1:]


def _describe(look: Look, start: int, frames: int) -> Piece:
    light = max(look.light[start : start + frames])
    motion = sum(look.motion[start + 1 : start + frames]) / max(1, frames - 1)
    places = np.linspace(start, start + frames - 1, MARKS).round().astype(int)
    return Piece(start, round(light, 4), round(motion, 5), tuple(look.mark[n] for n in places))
