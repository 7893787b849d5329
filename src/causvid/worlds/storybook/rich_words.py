"""List the words of the rich language for every attribute value, the plainest first.

Before a verb stands `*`: `rich.py` puts it into the form that a sentence needs. Several subjects of a kind are plural.
"""

from .phrases import COLOUR_WORDS, SUBJECT_WORDS, TIME_PHRASES, WEATHER_PHRASES
from .vocabulary import SUBJECTS

COLOURS: dict[str, tuple[str, ...]] = {
    **COLOUR_WORDS,
    "red": ("red", "scarlet", "crimson", "bright red", "ruby"),
    "yellow": ("yellow", "golden", "bright yellow", "gold"),
    "green": ("green", "emerald", "leaf green"),
    "blue": ("blue", "azure", "bright blue", "cobalt", "sapphire"),
    "purple": ("purple", "violet", "plum", "lilac"),
    "white": ("white", "snow white", "ivory"),
    "orange": ("orange", "bright orange", "amber"),
    "pink": ("pink", "rosy", "rose", "hot pink"),
    "black": ("black", "jet black", "pitch black"),
    "brown": ("brown", "chestnut", "chocolate brown", "tan"),
}

NOUNS: dict[str, tuple[str, ...]] = {
    **SUBJECT_WORDS,
    "paper airplane": ("paper airplane", "paper plane", "paper aeroplane", "paper jet"),
    "woolly mammoth": ("woolly mammoth", "mammoth", "hairy mammoth"),
    "rocket": ("rocket", "spaceship", "rocket ship", "spacecraft", "space rocket"),
    "cat": ("cat", "kitten", "kitty"),
    "mushroom": ("mushroom", "toadstool", "fungus"),
    "hot air balloon": ("hot air balloon", "balloon", "air balloon"),
    "whale": ("whale", "humpback whale"),
    "house": ("house", "cottage", "cabin", "home", "hut"),
    "boat": ("boat", "sailing boat", "sailboat", "ship", "yacht"),
    "car": ("car", "little car", "automobile", "vehicle"),
    "snowman": ("snowman", "man of snow"),
    "umbrella": ("umbrella", "parasol", "brolly"),
    "robot": ("robot", "android", "droid"),
    "turtle": ("turtle", "tortoise"),
    "teapot": ("teapot", "tea pot", "kettle"),
    "ghost": ("ghost", "phantom", "spook", "spirit"),
    "crown": ("crown", "royal crown", "tiara"),
    "jellyfish": ("jellyfish", "jelly fish", "medusa"),
}

PLURALS = {
    "snowman": "snowmen",
    "man of snow": "men of snow",
    "cactus": "cacti",
    "fungus": "fungi",
    "spacecraft": "spacecraft",
    "fish": "fish",
    "jellyfish": "jellyfish",
    "jelly fish": "jelly fish",
}
GROUPS: dict[str, str] = {
    "swan": "flock",
    "owl": "flock",
    "penguin": "colony",
    "fish": "school",
    "jellyfish": "swarm",
    "butterfly": "swarm",
    "whale": "pod",
    "woolly mammoth": "herd",
    "fox": "pack",
    "boat": "fleet",
    "rocket": "fleet",
    "car": "line",
    "star": "cluster",
    "tree": "grove",
    "house": "row",
}

_WALKERS = ("woolly mammoth", "cat", "robot", "fox", "turtle", "penguin")
_FLYERS = ("swan", "paper airplane", "rocket", "star", "hot air balloon", "butterfly", "owl", "umbrella", "ghost")
_SWIMMERS = ("fish", "whale", "jellyfish")
_GAITS: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...] = (
    (_WALKERS, ("walk", "wander", "stroll", "march", "plod", "venture", "roam", "trot", "trudge", "run", "stride")),
    (_FLYERS, ("fly", "soar", "glide", "sail", "drift", "sweep")),
    (_SWIMMERS, ("swim", "cruise", "paddle", "glide", "drift")),
    (("boat",), ("sail", "cruise", "drift", "float along")),
    (("car",), ("drive", "roll", "race", "cruise", "speed")),
    (("snail",), ("crawl", "creep", "inch along", "slither")),
)
_THINGS = ("glide", "slide", "drift", "slip", "float along")
_ANYTHING = ("move", "travel", "head", "go", "journey")
TRAVEL: dict[str, tuple[str, ...]] = {
    subject: (*next((verbs for kinds, verbs in _GAITS if subject in kinds), _THINGS), *_ANYTHING)
    for subject in SUBJECTS
}
"""Verbs without their star: how every subject gets about."""

SIDES = ("to the {}", "{}", "{}wards", "{}ward", "towards the {}", "off to the {}", "from the {other}")

MOTIONS: dict[str, tuple[str, ...]] = {
    "hopping": ("*hop", "*hop up and down", "*bounce", "*bounce up and down", "*jump", "*jump up and down", "*leap"),
    "spinning": ("*spin", "*spin around", "*rotate", "*turn round and round", "*whirl around", "*revolve"),
    "pulsing": (
        "*pulse",
        "*grow and *shrink",
        "*swell and *shrink",
        "*throb",
        "*get bigger and smaller",
        "*expand and *contract",
    ),
    "swaying": ("*sway", "*sway from side to side", "*rock", "*rock to and fro", "*swing", "*wobble from side to side"),
    "circling": ("*circle", "*move in circles", "*loop around", "*go round in a circle", "*circle around"),
    "floating": ("*float", "*float gently", "*hover", "*bob gently", "*hang in the air", "*float in place"),
    "shivering": ("*shiver", "*tremble", "*shake", "*quiver", "*shudder"),
    "flipping": ("*flip", "*flip over", "*twirl", "*flip around", "*somersault", "*tumble", "*turn upside down"),
    "zigzagging": ("*zigzag", "*zigzag along", "*weave left and right", "*move in zigzags", "*swerve left and right"),
    "standing still": ("*stand still", "*rest", "*stay still", "*wait", "*stay in place", "*stand without moving"),
}

DOUBLED = frozenset(
    (
        "hop",
        "spin",
        "flip",
        "bob",
        "throb",
        "trot",
        "zigzag",
        "swim",
        "run",
        "get",
        "slip",
        "travel",
        "plod",
        "sit",
        "skip",
    )
)
"""Verbs that double their last letter before -ing."""

PLACES: dict[str, tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]] = {
    "snowy tundra": (
        ("over", "across", "in", "through"),
        ("a snowy tundra", "the snowy tundra", "the snow", "an icy plain", "a snowfield", "a frozen tundra"),
        ("in the far north", "on the ice", "in a snowy landscape"),
    ),
    "lake": (
        ("over", "above", "on"),
        ("a lake", "the lake", "a calm lake", "a pond", "the still water"),
        ("by the lake", "out on the water"),
    ),
    "meadow": (
        ("over", "across", "in", "through"),
        ("a meadow", "the meadow", "a grassy meadow", "a field", "the grass", "a grassland"),
        ("out in the fields", "on the grass"),
    ),
    "desert": (
        ("over", "across", "in", "through"),
        ("a desert", "the desert", "a sandy desert", "the dunes", "desert sand"),
        ("among the dunes",),
    ),
    "night city": (
        ("over", "above", "in", "through"),
        ("a night city", "a city at night", "the night city", "a town at night", "the city by night"),
        ("downtown at night", "among the lights of the city", "in front of skyscrapers at night"),
    ),
    "beach": (
        ("over", "on", "along", "across"),
        ("a beach", "the beach", "a sunny beach", "the seashore", "the shore", "a sandy beach"),
        ("by the sea", "at the seaside"),
    ),
    "forest": (
        ("in", "through"),
        ("a forest", "the forest", "the deep forest", "the woods", "a woodland"),
        ("among the trees", "between the trees"),
    ),
    "mountains": (
        ("over", "in", "above"),
        ("the mountains", "high mountains", "the mountain peaks", "a mountain range", "the hills"),
        ("up in the mountains", "before the peaks"),
    ),
    "moon": (
        ("on", "over", "above"),
        ("the moon", "the cratered moon", "the surface of the moon", "a lunar landscape", "the craters of the moon"),
        ("up on the moon", "on a lunar plain"),
    ),
    "seabed": (
        ("on", "over", "above"),
        ("the seabed", "the sea floor", "the ocean floor", "the bottom of the sea"),
        ("under the sea", "underwater", "deep in the ocean", "below the waves", "in the deep sea", "under water"),
    ),
}
"""Prepositions, the nouns they go with, and phrases that are whole."""

WEATHERS: dict[str, tuple[str, ...]] = {
    "rain": (*WEATHER_PHRASES["rain"], "while it rains", "as rain falls", "on a rainy day", "on a wet day"),
    "snow": (*WEATHER_PHRASES["snow"], "as snow falls", "in a snowfall", "with snowflakes coming down"),
    "fog": (*WEATHER_PHRASES["fog"], "in the mist", "on a foggy day", "on a misty day"),
    "leaves": (*WEATHER_PHRASES["leaves"], "as leaves fall", "while leaves blow past", "on a windy autumn day"),
}
TIMES: dict[str, tuple[str, ...]] = {
    "sunset": (*TIME_PHRASES["sunset"], "at dusk", "as the sun sets", "under a sunset sky"),
    "night": (*TIME_PHRASES["night"], "in the dark", "under the stars", "after dark"),
    "dawn": (*TIME_PHRASES["dawn"], "early in the morning", "as the sun rises"),
}
CAMERAS: dict[str, tuple[str, ...]] = {
    "zooming": ("camera zooming", "slow zoom", "the camera zooms", "zoom shot"),
    "panning": ("camera panning", "slow pan", "the camera pans", "pan shot"),
    "tilting": ("camera tilting", "slow tilt", "the camera tilts", "tilt shot"),
    "shaking": ("camera shaking", "shaky camera", "the camera shakes", "handheld camera"),
}

MORPHING = ("*morph into", "*turn into", "*change into", "*transform into", "*become", "slowly *turn into")
BESIDE = ("beside", "next to", "and", "with", "near", "alongside")
OPENINGS = ("a video of", "a clip of", "a picture of", "an animation of", "a scene with", "we see", "look at")
FILLERS = ("little", "cute", "lovely", "big", "small", "friendly", "beautiful", "cartoon", "funny", "lone")
