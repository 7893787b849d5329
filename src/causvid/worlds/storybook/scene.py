"""Say what a clip shows: subsets of the world, scenes drawn from them, and which combinations are never trained on."""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy
from pydantic import BaseModel, ConfigDict, Field, model_validator

from .vocabulary import ATTRIBUTES, CAMERAS, COLOURS, MOTIONS, PLACES, SUBJECTS, TIMES, WEATHERS

Split = Literal["train", "held-out", "all"]
Language = Literal["plain", "rich"]
TRAVELS = ("moving left", "moving right")
_SUNLESS = ("night city", "moon", "seabed")
_AIRLESS = ("moon", "seabed")
_HELD_OUT_ONE_IN = 10
_TRIES = 10_000
_FIELDS = dict(
    subjects="subject",
    colours="colour",
    places="place",
    motions="motion",
    weathers="weather",
    times="time",
    cameras="camera",
)


class World(BaseModel):
    """Name the attribute values a set of clips draws from; every one must be in ATTRIBUTES.

    The first weather, time and camera are the usual ones, and more than half of the clips have them. pair_probability
    is that of two subjects, several_probability that of two alike. language is what captions are written in. wanders:
    whether a clip shows any part of its place, or always the same unless its subject travels.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    subjects: tuple[str, ...] = Field(default=SUBJECTS, min_length=1)
    colours: tuple[str, ...] = Field(default=tuple(COLOURS), min_length=1)
    places: tuple[str, ...] = Field(default=PLACES, min_length=1)
    motions: tuple[str, ...] = Field(default=MOTIONS, min_length=1)
    weathers: tuple[str, ...] = Field(default=WEATHERS, min_length=1)
    times: tuple[str, ...] = Field(default=TIMES, min_length=1)
    cameras: tuple[str, ...] = Field(default=CAMERAS, min_length=1)
    pair_probability: float = Field(default=0.0, ge=0, le=1)
    several_probability: float = Field(default=0.0, ge=0, le=1)
    morph_probability: float = Field(default=0.0, ge=0, le=1)
    morphs: tuple[tuple[str, str], ...] = Field(default=(), description="allowed morphs, from and to; empty allows any")
    language: Language = "plain"
    wanders: bool = True

    @model_validator(mode="after")
    def _known(self) -> "World":
        for attribute, values in self.attributes.items():
            for value in values:
                check_value(attribute, value)
        for pair in self.morphs:
            for value in pair:
                check_value("subject", value)
        return self

    @property
    def attributes(self) -> dict[str, tuple[str, ...]]:
        """Return the values of each attribute, as ATTRIBUTES names them."""
        return {attribute: getattr(self, field) for field, attribute in _FIELDS.items()}

    @classmethod
    def preset(cls, name: str) -> "World":
        """Return the world of that name: 'nano', 'full' or 'storybook'. Raise ValueError for another name."""
        presets = {"nano": NANO, "full": FULL, "storybook": STORYBOOK}
        if name not in presets:
            raise ValueError(f"world={name!r} is not one of {', '.join(presets)}")
        return presets[name]


def check_value(attribute: str, value: str) -> None:
    """Raise ValueError unless the value belongs to the attribute's vocabulary."""
    if value not in ATTRIBUTES[attribute]:
        raise ValueError(f"{attribute}={value!r} is not one of {', '.join(ATTRIBUTES[attribute])}")


NANO = World(
    subjects=SUBJECTS[:8],
    colours=("red", "yellow", "green", "blue", "purple", "white"),
    places=PLACES[:5],
    motions=MOTIONS[:5],
    weathers=("clear",),
    times=("day",),
    cameras=("static",),
    pair_probability=0.0,
    morph_probability=0.08,
    morphs=(("paper airplane", "swan"), ("fish", "rocket"), ("cat", "woolly mammoth"), ("mushroom", "star")),
)
FULL = World(pair_probability=0.12, morph_probability=0.1)
STORYBOOK = World(
    weathers=("clear", "rain", "snow", "fog"),
    cameras=("static",),
    pair_probability=0.12,
    several_probability=0.12,
    morph_probability=0.12,
    language="rich",
    wanders=False,
)
"""All that clips show, several of a kind too, in everyday words; but the camera stands still, and no leaves fall."""


@dataclass(frozen=True)
class Scene:
    """Hold what one clip shows; everything continuous about it follows from its seed.

    second is another subject and its colour, standing beside the first, or the same again; morph is a subject the first
    turns into. wanders: as in World, whether it may show any part of its place.
    """

    subject: str
    colour: str
    place: str
    motion: str
    weather: str = "clear"
    time: str = "day"
    camera: str = "static"
    second: tuple[str, str] | None = None
    morph: str | None = None
    seed: int = 0
    wanders: bool = True

    def __post_init__(self) -> None:
        for attribute in ATTRIBUTES:
            check_value(attribute, getattr(self, attribute))
        if self.second is not None:
            check_value("subject", self.second[0])
            check_value("colour", self.second[1])
        if self.morph is not None:
            check_value("subject", self.morph)

    @property
    def several(self) -> bool:
        """Tell whether it shows two of a kind and colour."""
        return self.second == (self.subject, self.colour)

    def readable(self) -> dict[str, str | None]:
        """Return what a viewer can name, attribute by attribute; None for what changes or is two.

        `pair` and `morph` name both subjects: "swan and cat", "swan into cat".
        """
        alike = self.second is None or self.several
        return {
            "subject": self.subject if alike and self.morph is None else None,
            "colour": self.colour if alike else None,
            "place": self.place,
            "motion": self.motion,
            "weather": self.weather,
            "time": self.time,
            "camera": self.camera,
            "pair": f"{self.subject} and {self.second[0]}" if self.second is not None and not self.several else None,
            "morph": None if self.morph is None else f"{self.subject} into {self.morph}",
        }


def is_held_out(subject: str, colour: str, place: str, motion: str) -> bool:
    """Tell whether the combination is kept from training: about one in ten, by a hash no platform changes."""
    return zlib.crc32("|".join((subject, colour, place, motion)).encode()) % _HELD_OUT_ONE_IN == 0


def sample_scene(world: World, seed: int, *, split: Split = "train") -> Scene:
    """Draw the scene of a seed, the same on every platform.

    split: 'train' and 'held-out' share no combination of subject, colour, place and motion; 'all' draws from both.
    Raise ValueError if the world has no combination in that split.
    """
    if split not in ("train", "held-out", "all"):
        raise ValueError(f"split={split!r} is not one of train, held-out, all")
    rng = numpy.random.default_rng([seed, 1])
    for _ in range(_TRIES):
        scene = _draw(world, rng, seed)
        held_out = is_held_out(scene.subject, scene.colour, scene.place, scene.motion)
        if split == "all" or held_out == (split == "held-out"):
            return scene
    raise ValueError(f"split={split!r} holds no combination of this world's subjects, colours, places and motions")


def _draw(world: World, rng: numpy.random.Generator, seed: int) -> Scene:
    def choose(values: Sequence[str]) -> str:
        return values[int(rng.random() * len(values))]

    def choose_usual(values: Sequence[str]) -> str:
        share = rng.random()
        return values[0] if share < 0.5 else values[int((2 * share - 1) * len(values))]

    subject, colour, place, motion = map(choose, (world.subjects, world.colours, world.places, world.motions))
    weather, time, camera = map(choose_usual, (world.weathers, world.times, world.cameras))
    # Where no sun shines, day and night look alike; where there is no air, nothing rains.
    if place in _SUNLESS and "day" in world.times:
        time = "day"
    if place in _AIRLESS and "clear" in world.weathers:
        weather = "clear"
    kind = rng.random()
    second, morph = None, None
    if kind < world.morph_probability and (world.morphs or len(world.subjects) > 1):
        if world.morphs:
            subject, morph = world.morphs[int(rng.random() * len(world.morphs))]
        else:
            morph = choose([s for s in world.subjects if s != subject])
        # A shape that changes is plain to see while it travels, and hard to tell from one that spins or pulses.
        motion = choose([m for m in world.motions if m in TRAVELS] or world.motions)
    elif kind > 1 - world.pair_probability and len(world.subjects) > 1 and len(world.colours) > 1:
        other = choose([s for s in world.subjects if s != subject])
        second = (other, choose([c for c in world.colours if c != colour]))
    elif kind > 1 - world.pair_probability - world.several_probability:
        second = (subject, colour)
    return Scene(subject, colour, place, motion, weather, time, camera, second, morph, seed, world.wanders)
