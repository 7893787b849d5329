"""Describe scenes in words: a small grammar of phrasings and synonyms, all lowercase."""

import re
from collections.abc import Sequence

import numpy

from .phrases import (
    CAMERA_PHRASES,
    COLOUR_WORDS,
    PLACE_PHRASES,
    SUBJECT_WORDS,
    TIME_PHRASES,
    WEATHER_PHRASES,
    motion_phrases,
)
from .rich import rich_caption, rich_words
from .scene import Language, Scene, World

_TEMPLATES = (
    "{thing} {motion} {place}",
    "{thing} {motion} {place}",
    "{thing} is {motion} {place}",
    "{place}, {thing} {motion}",
)
_MORPHING = ("morphing into", "turning into")
_BESIDE = ("beside", "next to")
_ASIDES = (WEATHER_PHRASES, TIME_PHRASES, CAMERA_PHRASES)
_OPTIONAL = ("colour", "motion", "place", "asides")
_MOST_WORDS = 24
_TRIES = 1000


def caption(scene: Scene, seed: int, *, terse: bool = False, language: Language = "plain", slips: bool = False) -> str:
    """Return one of the ways to describe the scene, chosen by the seed, the same on every platform.

    At most 24 lowercase words with no punctuation but commas; colour, subject, motion and place are always named,
    weather, time of day and camera where they are not clear, day and static. If `terse`, only the subject is sure to be
    named: anything else may be left out, as in what people type.

    The plain language knows one word or two for everything; for the rich one and `slips` see `rich_caption`.

    Raises:
        ValueError: if the plain language shall have slips or say several of a kind, for which it has no words.
    """
    if language == "rich":
        return rich_caption(scene, seed, terse=terse, slips=slips)
    if slips or scene.several:
        raise ValueError(f"language={language!r} has no slips and no plurals: use 'rich'")
    rng = numpy.random.default_rng([seed, 2])
    left_out = [name for name in _OPTIONAL if terse and rng.random() < 0.5]
    for _ in range(_TRIES):
        text = _phrase(scene, rng, left_out)
        if len(text.split()) <= _MOST_WORDS:
            return text
    raise AssertionError(f"no caption of at most {_MOST_WORDS} words in {_TRIES} tries for {scene}")


def _phrase(scene: Scene, rng: numpy.random.Generator, left_out: Sequence[str]) -> str:
    # The first value of a tuple is the plain one, and is said more often than all the others together.
    def choose(values: tuple[str, ...]) -> str:
        return values[0] if rng.random() < 0.5 else values[int(rng.random() * len(values))]

    def coloured(colour: str, subject: str) -> str:
        words = choose(COLOUR_WORDS[colour]), choose(SUBJECT_WORDS[subject])
        return _article(words[1] if "colour" in left_out else " ".join(words))

    # New choices come after the old ones, so that what a model was trained on stays as it was.
    thing = coloured(scene.colour, scene.subject)
    motion = choose(motion_phrases(scene.subject, scene.motion))
    place = choose(PLACE_PHRASES[scene.place])
    template = _TEMPLATES[int(rng.random() * len(_TEMPLATES))]
    if scene.morph is not None:
        joint = _MORPHING[int(rng.random() * len(_MORPHING))]
        thing = f"{thing} {joint} {_article(choose(SUBJECT_WORDS[scene.morph]))}"
        template = template.replace(" is ", " ").replace("{motion}", "while {motion}")
    if scene.second is not None:
        subject, colour = scene.second
        other = coloured(colour, subject)
        thing = f"{thing} {_BESIDE[int(rng.random() * len(_BESIDE))]} {other}"
    if "motion" in left_out:
        template = re.sub("(is |while |){motion}", "", template)
    if "place" in left_out:
        template = template.replace("{place}", "")
    text = " ".join(template.format(thing=thing, motion=motion, place=place).split()).strip(", ")
    if "asides" in left_out:
        return text
    for table, value in zip(_ASIDES, (scene.weather, scene.time, scene.camera), strict=True):
        if value in table:
            text = f"{text}, {choose(table[value])}"
    return text


def _article(words: str) -> str:
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def words(world: World) -> list[str]:
    """Return, sorted, every word the world's captions can use."""
    if world.language == "rich":
        return rich_words(world)
    phrases = ["a an is"]
    for colour in world.colours:
        phrases += COLOUR_WORDS[colour]
    for subject in {*world.subjects, *(s for pair in world.morphs for s in pair)}:
        phrases += SUBJECT_WORDS[subject]
        for motion in world.motions:
            phrases += motion_phrases(subject, motion)
    for place in world.places:
        phrases += PLACE_PHRASES[place]
    for table, values in zip(_ASIDES, (world.weathers, world.times, world.cameras), strict=True):
        for value in values:
            phrases += table.get(value, ())
    if world.morph_probability > 0:
        phrases += [*_MORPHING, "while"]
    if world.pair_probability > 0:
        phrases += _BESIDE
    return sorted({word for phrase in phrases for word in phrase.split()})
