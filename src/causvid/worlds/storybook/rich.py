"""Describe scenes as people might: plurals, synonyms, clauses, other word orders, things left unsaid, slips of the pen.

All lowercase. Two of a kind are said as several; only they are.
"""

import re
import string
from collections.abc import Sequence

import numpy

from . import rich_words as say
from .scene import TRAVELS, Scene, World

_MOST_WORDS = 36
_TRIES = 1000
_OPTIONAL = ("colour", "motion", "place", "asides")
_SLIPPED = 0.08
_LONG_ENOUGH = 5
_SMALL = ("a an the one two some several is are there that which of pair group few coloured",)
_TEMPLATES = (
    "{thing} {doing} {place}",
    "{thing} {doing} {place}",
    "{thing} {is} {doing} {place}",
    "{thing} {does} {place}",
    "{place}, {thing} {doing}",
    "{place}, {thing} {does}",
    "{place} {thing} {is} {doing}",
    "{thing} that {is} {doing} {place}",
    "{thing} which {does} {place}",
    "{thing} {place}, {doing}",
    "{thing}, {doing} {place}",
    "there {is} {thing} {place}, {doing}",
    "there {is} {thing} {doing} {place}",
    "{place} there {is} {thing} that {does}",
    "{doing} {place}, {thing}",
)
_SPEECHLESS = ("{thing} {place}", "{thing} {place}", "{place}, {thing}", "there {is} {thing} {place}")


class _Pen:
    """Draws the choices of one caption."""

    def __init__(self, seed: int) -> None:
        self.rng = numpy.random.default_rng([seed, 3])

    def happens(self, share: float) -> bool:
        return bool(self.rng.random() < share)

    def any(self, values: Sequence[str]) -> str:
        return values[int(self.rng.random() * len(values))]

    def usual(self, values: Sequence[str]) -> str:
        """Choose the plain word, which is the first, in three cases of ten and as one of all in the others."""
        return values[0] if self.happens(0.3) else self.any(values)


def rich_caption(scene: Scene, seed: int, *, terse: bool = False, slips: bool = False) -> str:
    """Return one of the ways to describe the scene, chosen by the seed, the same on every platform.

    At most 36 lowercase words, with commas. Colour, subject, motion, place are named, and weather, time of day, camera
    where they are not clear, day and static; only which way something travels may go unsaid. If `terse`, all but the
    subject may be. If `slips`, a word in about one caption of twelve is misspelt.
    """
    pen = _Pen(seed)
    unsaid = [name for name in _OPTIONAL if terse and pen.happens(0.5)]
    for _ in range(_TRIES):
        text = _sentence(scene, pen, unsaid)
        if len(text.split()) <= _MOST_WORDS:
            return _misspell(text, pen) if slips and pen.happens(_SLIPPED) else text
    raise AssertionError(f"no caption of at most {_MOST_WORDS} words in {_TRIES} tries for {scene}")


def rich_words(world: World) -> list[str]:
    """Return, sorted, every word that the world's captions can use in the rich language, but for slips."""
    nouns = [n for s in {*world.subjects, *(s for pair in world.morphs for s in pair)} for n in say.NOUNS[s]]
    phrases = [*nouns, *map(plural, nouns), *say.FILLERS, *say.OPENINGS, *say.BESIDE, *say.GROUPS.values()]
    phrases += [*_SMALL, "left", "right"]
    phrases += [p.format(side, other=side) for side in ("left", "right") for p in say.SIDES]
    verbs = [*say.MORPHING, *(v for m in world.motions for v in say.MOTIONS.get(m, ()))]
    verbs += [f"*{verb}" for s in world.subjects for verb in say.TRAVEL[s]]
    phrases += [_conjugate(verb, form) for verb in verbs for form in ("ing", "s", "")]
    phrases += [word for c in world.colours for word in say.COLOURS[c]]
    phrases += [text for place in world.places for group in say.PLACES[place] for text in group]
    for table, values in ((say.WEATHERS, world.weathers), (say.TIMES, world.times), (say.CAMERAS, world.cameras)):
        phrases += [text for value in values for text in table.get(value, ())]
    return sorted({word for phrase in phrases for word in phrase.split()})


def _sentence(scene: Scene, pen: _Pen, unsaid: Sequence[str]) -> str:
    several = scene.several
    thing = _thing(pen, scene.subject, "" if "colour" in unsaid else scene.colour, several=several)
    many = several
    if scene.morph is not None:
        into = _thing(pen, scene.morph, "", several=False, article="a")
        thing = f"{thing} {_conjugate(pen.any(say.MORPHING), 'ing')} {into}"
    elif scene.second is not None and not several:
        joint = pen.any(say.BESIDE)
        many = joint == "and"
        colour = "" if "colour" in unsaid else scene.second[1]
        thing = f"{thing} {joint} {_thing(pen, scene.second[0], colour, several=False)}"
    verb = _motion(pen, scene.subject, scene.motion)
    template = pen.any(_SPEECHLESS if "motion" in unsaid else _TEMPLATES)
    if scene.morph is not None and "motion" not in unsaid:
        template = pen.any(("{thing} while {doing} {place}", "{place}, {thing} while {doing}", "{thing} {place}"))
    place = "" if "place" in unsaid else _place(pen, scene.place)
    text = template.format(
        thing=thing,
        doing=_conjugate(verb, "ing"),
        does=_conjugate(verb, "" if many else "s"),
        place=place,
        **{"is": "are" if many else "is"},
    )
    if template.startswith("{thing}") and "{is}" not in template and "{does}" not in template and pen.happens(0.12):
        text = f"{pen.any(say.OPENINGS)} {text}"
    if "asides" not in unsaid:
        for table, value in ((say.WEATHERS, scene.weather), (say.TIMES, scene.time), (say.CAMERAS, scene.camera)):
            if value in table:
                aside = pen.usual(table[value])
                text = f"{aside}, {text}" if table is not say.CAMERAS and pen.happens(0.3) else f"{text}, {aside}"
    text = re.sub(r"\s*,[\s,]*", ", ", " ".join(text.split())).strip(", ")
    return text.replace(",", "") if pen.happens(0.1) else text


def _thing(pen: _Pen, subject: str, colour: str, *, several: bool, article: str | None = None) -> str:
    noun = pen.usual(say.NOUNS[subject])
    noun = plural(noun) if several else noun
    filler = pen.any(say.FILLERS) if pen.happens(0.1) else ""
    shade = pen.usual(say.COLOURS[colour]) if colour else ""
    how = pen.rng.random()
    after = ""
    if shade and how < 0.07:
        after, shade = f" that {'are' if several else 'is'} {shade}", ""
    elif shade and how < 0.12:
        shade = f"{shade} coloured"
    words = " ".join(f"{filler} {shade} {noun}".split()) + after
    if several:
        group = say.GROUPS.get(subject, "group")
        herd = f"a {group} of"
        counts = ("", "", "two", "two", "some", "several", "a few", "the", "a pair of", herd, herd)
        return f"{pen.any(counts)} {words}".strip()
    start = article or pen.any(("a",) * 8 + ("the", "the", "one", ""))
    return f"{start} {words}".strip() if start != "a" else f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def _motion(pen: _Pen, subject: str, motion: str) -> str:
    """Return how a subject moves, a star before the verb."""
    if motion not in TRAVELS:
        return pen.usual(say.MOTIONS[motion])
    verb = f"*{pen.usual(say.TRAVEL[subject])}"
    if pen.happens(0.12):
        return verb
    side = motion.removeprefix("moving ")
    return f"{verb} {pen.usual(say.SIDES).format(side, other='right' if side == 'left' else 'left')}"


def _place(pen: _Pen, place: str) -> str:
    prepositions, nouns, whole = say.PLACES[place]
    return pen.any(whole) if pen.happens(0.2) else f"{pen.any(prepositions)} {pen.usual(nouns)}"


def plural(noun: str) -> str:
    """Return the plural of a noun of one word or more."""
    if noun in say.PLURALS:
        return say.PLURALS[noun]
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return f"{noun[:-1]}ies"
    return f"{noun}es" if noun.endswith(("s", "x", "sh", "ch")) else f"{noun}s"


def _conjugate(phrase: str, form: str) -> str:
    """Put the starred verbs of a phrase into a form: 'ing', 's' or '' for the plural."""
    return re.sub(r"\*(\w+)", lambda match: inflect(match[1], form), phrase)


def inflect(verb: str, form: str) -> str:
    """Return a verb with -ing, with the -s of the third person, or, for '', as it is."""
    if form == "ing":
        if verb in say.DOUBLED:
            return f"{verb}{verb[-1]}ing"
        return f"{verb.removesuffix('e')}ing" if not verb.endswith("ee") else f"{verb}ing"
    if form == "s":
        if verb.endswith("y") and verb[-2] not in "aeiou":
            return f"{verb[:-1]}ies"
        return f"{verb}es" if verb.endswith(("s", "x", "sh", "ch", "o")) else f"{verb}s"
    return verb


def _misspell(text: str, pen: _Pen) -> str:
    """Swap, drop, double or mistake one letter of one long word."""
    words = text.split()
    long = [i for i, word in enumerate(words) if len(word) >= _LONG_ENOUGH and word.isalpha()]
    if not long:
        return text
    index = long[int(pen.rng.random() * len(long))]
    word = words[index]
    at = 1 + int(pen.rng.random() * (len(word) - 2))
    wrong = pen.any(
        (
            word[:at] + word[at + 1] + word[at] + word[at + 2 :],
            word[:at] + word[at + 1 :],
            word[:at] + word[at] + word[at:],
            word[:at] + pen.any(string.ascii_lowercase) + word[at + 1 :],
        )
    )
    words[index] = wrong
    return " ".join(words)
