"""Put words that a model does not know into ones that it does, where that is safe, and say which."""

import re
from collections.abc import Callable, Collection, Iterator

from .rich import inflect, plural
from .rich_words import COLOURS, NOUNS, TRAVEL

_SHORTEST = 6
"""Letters of a word that may be taken for a misspelt one: many short words are a letter apart. One less for a letter
doubled or two swapped, which make no other word."""

# One meaning a row, the plainest word first. A row holds what looks alike in this world, so that a replacement shows
# what was asked for: no trout is a whale.
_THINGS: tuple[tuple[str, ...], ...] = (
    ("mammoth", "elephant", "mastodon"),
    ("swan", "goose", "duck", "cygnet"),
    ("cat", "kitten", "kitty", "feline", "pussycat", "tomcat", "tabby"),
    ("fox", "vixen"),
    ("fish", "trout", "goldfish", "salmon", "carp", "minnow"),
    ("whale", "orca", "cetacean"),
    ("owl", "owlet"),
    ("butterfly", "moth"),
    ("turtle", "tortoise", "terrapin"),
    ("snail", "slug"),
    ("jellyfish", "medusa"),
    ("rocket", "spaceship", "spacecraft", "rocketship", "starship", "shuttle"),
    ("airplane", "plane", "aeroplane", "aircraft", "jet"),
    ("balloon", "blimp"),
    ("boat", "ship", "sailboat", "yacht", "vessel", "sailing boat", "dinghy"),
    ("car", "automobile", "vehicle", "taxi", "cab", "van"),
    ("house", "cottage", "cabin", "home", "hut", "building", "villa"),
    ("tree", "oak", "elm", "sapling"),
    ("mushroom", "toadstool", "fungus"),
    ("umbrella", "parasol", "brolly"),
    ("robot", "android", "droid", "automaton", "cyborg"),
    ("teapot", "kettle"),
    ("ghost", "phantom", "spirit", "spectre", "spook", "wraith"),
    ("crown", "tiara", "diadem", "coronet"),
)
_PLACES: tuple[tuple[str, ...], ...] = (
    ("tundra", "snow", "snowfield", "ice", "arctic", "antarctica", "glacier", "steppe"),
    ("lake", "pond", "loch", "lagoon"),
    ("meadow", "field", "grassland", "pasture", "prairie", "grass", "lawn"),
    ("desert", "dunes", "sahara"),
    ("city", "town", "downtown", "metropolis"),
    ("beach", "shore", "seashore", "coast", "seaside"),
    ("forest", "woods", "woodland", "wood", "jungle"),
    ("mountains", "hills", "alps", "peaks", "himalayas", "mountain"),
    ("seabed", "seafloor"),
)
_SHADES: tuple[tuple[str, ...], ...] = (
    ("red", "scarlet", "crimson", "ruby", "vermilion"),
    ("yellow", "golden", "gold", "lemon"),
    ("green", "emerald", "olive", "lime"),
    ("blue", "azure", "cobalt", "sapphire", "navy", "indigo", "turquoise"),
    ("purple", "violet", "lilac", "plum", "lavender", "mauve"),
    ("white", "ivory", "pale", "snowy"),
    ("orange", "amber", "tangerine"),
    ("pink", "rosy", "rose", "magenta"),
    ("black", "ebony", "jet"),
    ("brown", "chestnut", "tan", "beige", "bronze"),
)
# Verbs as they are in "to walk".
_WALKING = (
    "walk venture wander stroll march plod roam trot trudge stride hike lumber tramp waddle amble saunter pace "
    "run jog dash sprint gallop"
)
_VERBS: tuple[tuple[str, ...], ...] = (
    tuple(_WALKING.split()),
    ("fly", "soar", "sail", "flutter"),
    ("swim", "paddle", "dive"),
    ("crawl", "creep", "slither", "inch"),
    ("drive", "roll", "race", "speed", "cruise"),
    ("glide", "slide", "slip", "drift"),
    ("move", "travel", "head", "go", "journey"),
    ("hop", "bounce", "jump", "leap", "bound", "skip"),
    ("spin", "rotate", "whirl", "revolve", "pirouette", "swivel"),
    ("pulse", "throb", "pulsate", "swell"),
    ("sway", "rock", "swing", "wobble"),
    ("circle", "loop", "orbit"),
    ("float", "hover", "bob", "levitate"),
    ("shiver", "tremble", "shake", "quiver", "shudder", "quake"),
    ("flip", "twirl", "somersault", "tumble"),
    ("zigzag", "weave", "swerve"),
    ("rest", "wait", "sit", "sleep", "doze"),
    ("turn", "morph", "change", "transform"),
)
_ENDINGS = ("ing", "s", "")


def nearest_words(prompt: str, known: Collection[str]) -> tuple[str, list[tuple[str, str]]]:
    """Replace every word of a prompt that is not known by a known one of its kind, if there is one.

    Of its kind is a synonym, another form of the same word, or how it is spelt. All else stays as it is: a guess that
    may be wrong is worse than a word left out.

    Args:
        known: the lowercase words that a model was trained on.

    Returns:
        The prompt, and the words that were replaced with what stands in their place, in order and once each:
        `("venturing", "walking")`.
    """
    words = set(known)
    changes: dict[str, str] = {}

    def replace(match: re.Match[str]) -> str:
        word = match[0].lower()
        if word in words:
            return match[0]
        found = next((other for other in (*_relatives(word, words), *_spelt(word, words)) if other in words), None)
        if found is None:
            return match[0]
        changes[word] = found
        return found

    return re.sub(r"[^\W\d_]+", replace, prompt), list(changes.items())


def _relatives(word: str, known: set[str]) -> Iterator[str]:
    """Yield words that mean the same, the nearest first: other forms, synonyms in the same form, then in others."""
    for row in (*_THINGS, *_PLACES):
        single = next((noun for noun in row if word in (noun, plural(noun))), None)
        if single is not None:
            forms: tuple[Callable[[str], str], ...] = (str, plural) if word == single else (plural, str)
            yield from (form(single) for form in forms)
            yield from (form(noun) for form in forms for noun in row)
    for shades in _SHADES:
        if word in shades:
            yield from shades
    for verbs in _VERBS:
        base, ending = next(((v, e) for v in verbs for e in _ENDINGS if word in (inflect(v, e), _past(v))), ("", ""))
        if base:
            endings = dict.fromkeys((ending, *_ENDINGS))
            yield from (inflect(base, one) for one in endings)
            yield from (inflect(verb, one) for one in endings for verb in verbs)
    # A plural or a form of a word that is known, though no row has it.
    for other in sorted(known) if len(word) > 3 else ():
        if word in (plural(other), inflect(other, "ing"), inflect(other, "s")) or other in (
            plural(word),
            inflect(word, "ing"),
            inflect(word, "s"),
        ):
            yield other


def _past(verb: str) -> str:
    doubled = inflect(verb, "ing").removesuffix("ing")
    return f"{doubled[:-1]}ied" if doubled.endswith("y") and doubled[-2] not in "aeiou" else f"{doubled}ed"


def _spelt(word: str, known: set[str]) -> Iterator[str]:
    """Yield the one word that this may be, misspelt, in the words that are known or in those of the tables."""
    table = {part for row in (*_THINGS, *_PLACES, *_SHADES) for noun in row for part in noun.split()}
    table |= {part for words in (*NOUNS.values(), *COLOURS.values()) for noun in words for part in noun.split()}
    verbs = {verb for row in _VERBS for verb in row} | {v for verbs in TRAVEL.values() for v in verbs if " " not in v}
    table |= {inflect(verb, ending) for verb in verbs for ending in _ENDINGS}
    meant = [other for other in known | table if len(word) >= _SHORTEST - _harmless(word, other) and _slip(word, other)]
    if len(meant) == 1:
        yield meant[0]
        yield from _relatives(meant[0], known)


def _harmless(word: str, meant: str) -> bool:
    """Tell whether a word is another with a letter doubled or two neighbours swapped."""
    doubled = any(meant[: i + 1] + meant[i:] == word for i in range(len(meant)))
    return doubled or (len(word) == len(meant) and sorted(word) == sorted(meant))


def _slip(word: str, meant: str) -> bool:
    """Tell whether a word is another but for one letter after the first: left out, put in, mistaken, or swapped."""
    if word[:1] != meant[:1] or abs(len(word) - len(meant)) > 1 or word == meant:
        return False
    start = next((i for i, (a, b) in enumerate(zip(word, meant, strict=False)) if a != b), min(len(word), len(meant)))
    a, b = word[start:], meant[start:]
    return a[1:] == b[1:] or a[1:] == b or a == b[1:] or (a[:2] == b[1::-1] and a[2:] == b[2:])
