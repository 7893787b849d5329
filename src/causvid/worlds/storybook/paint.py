"""Describe how a subject is painted: parts, back to front, each a distance field with a colour."""

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

RGB = tuple[float, float, float]


class Paint(NamedTuple):
    """Mix the subject's own colour with rgb; mix=0 is the subject's colour, mix=1 is rgb alone."""

    rgb: RGB
    mix: float


class Part(NamedTuple):
    """Paint the inside of a distance field; only solid parts belong to the silhouette, the rest lies on it."""

    distance: Tensor
    paint: Paint
    solid: bool = True


Draw = Callable[[Tensor, Tensor, Tensor], list[Part]]
"""draw(x, y, beat) -> parts: coordinates in about [-1, 1], y up, facing right; beat in [-1, 1] swings what swings."""

BODY = Paint((0.0, 0.0, 0.0), 0.0)
SHADE = Paint((0.10, 0.06, 0.22), 0.26)
DEEP = Paint((0.08, 0.05, 0.18), 0.45)
LIGHT = Paint((1.0, 1.0, 1.0), 0.45)
SPOT = Paint((1.0, 0.98, 0.92), 0.85)
INK = Paint((0.09, 0.08, 0.12), 1.0)
CHALK = Paint((1.0, 1.0, 1.0), 1.0)
CREAM = Paint((0.97, 0.91, 0.79), 1.0)
IVORY = Paint((1.0, 0.96, 0.82), 1.0)
AMBER = Paint((0.98, 0.58, 0.12), 1.0)
FLAME = Paint((1.0, 0.86, 0.30), 1.0)
ROSE = Paint((0.96, 0.52, 0.56), 1.0)
GLASS = Paint((0.72, 0.90, 0.98), 1.0)
STEEL = Paint((0.45, 0.48, 0.55), 1.0)
WOOD = Paint((0.55, 0.36, 0.20), 1.0)
