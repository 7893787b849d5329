"""Gather the landscapes of all places by name."""

from collections.abc import Callable

from torch import Tensor

from .landscape import View
from .places_first import desert, lake, meadow, night_city, snowy_tundra
from .places_more import beach, forest, moon, mountains, seabed

LANDSCAPES: dict[str, Callable[[View], Tensor]] = {
    "snowy tundra": snowy_tundra,
    "lake": lake,
    "meadow": meadow,
    "desert": desert,
    "night city": night_city,
    "beach": beach,
    "forest": forest,
    "mountains": mountains,
    "moon": moon,
    "seabed": seabed,
}
