"""Fix the attribute vocabularies of Storybook; a label is an index into one of them, so their order never changes."""

SUBJECTS = (
    "swan",
    "paper airplane",
    "woolly mammoth",
    "fish",
    "rocket",
    "cat",
    "mushroom",
    "star",
    "hot air balloon",
    "whale",
    "tree",
    "house",
    "boat",
    "butterfly",
    "owl",
    "snail",
    "car",
    "cactus",
    "snowman",
    "umbrella",
    "robot",
    "turtle",
    "teapot",
    "ghost",
    "crown",
    "fox",
    "jellyfish",
    "penguin",
)

COLOURS: dict[str, tuple[float, float, float]] = {
    "red": (0.88, 0.15, 0.14),
    "yellow": (0.99, 0.82, 0.10),
    "green": (0.17, 0.66, 0.22),
    "blue": (0.13, 0.36, 0.90),
    "purple": (0.57, 0.20, 0.74),
    "white": (0.97, 0.97, 0.98),
    "orange": (0.98, 0.50, 0.08),
    "pink": (0.99, 0.56, 0.74),
    "black": (0.13, 0.13, 0.16),
    "brown": (0.50, 0.30, 0.17),
}

PLACES = (
    "snowy tundra",
    "lake",
    "meadow",
    "desert",
    "night city",
    "beach",
    "forest",
    "mountains",
    "moon",
    "seabed",
)

MOTIONS = (
    "moving left",
    "moving right",
    "hopping",
    "spinning",
    "pulsing",
    "swaying",
    "circling",
    "floating",
    "shivering",
    "flipping",
    "zigzagging",
    "standing still",
)

WEATHERS = ("clear", "rain", "snow", "fog", "leaves")
TIMES = ("day", "sunset", "night", "dawn")
CAMERAS = ("static", "zooming", "panning", "tilting", "shaking")

ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "subject": SUBJECTS,
    "colour": tuple(COLOURS),
    "place": PLACES,
    "motion": MOTIONS,
    "weather": WEATHERS,
    "time": TIMES,
    "camera": CAMERAS,
}
