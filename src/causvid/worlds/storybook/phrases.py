"""List the words for every attribute value, the plainest first. What a model was trained on must not change."""

COLOUR_WORDS: dict[str, tuple[str, ...]] = {
    "red": ("red", "scarlet"),
    "yellow": ("yellow", "golden"),
    "green": ("green", "emerald"),
    "blue": ("blue", "azure"),
    "purple": ("purple", "violet"),
    "white": ("white",),
    "orange": ("orange",),
    "pink": ("pink", "rosy"),
    "black": ("black",),
    "brown": ("brown", "chestnut"),
}

SUBJECT_WORDS: dict[str, tuple[str, ...]] = {
    "swan": ("swan",),
    "paper airplane": ("paper airplane", "paper plane"),
    "woolly mammoth": ("woolly mammoth", "mammoth"),
    "fish": ("fish",),
    "rocket": ("rocket", "spaceship"),
    "cat": ("cat", "kitten"),
    "mushroom": ("mushroom", "toadstool"),
    "star": ("star",),
    "hot air balloon": ("hot air balloon", "balloon"),
    "whale": ("whale",),
    "tree": ("tree",),
    "house": ("house", "cottage"),
    "boat": ("boat", "sailing boat"),
    "butterfly": ("butterfly",),
    "owl": ("owl",),
    "snail": ("snail",),
    "car": ("car", "little car"),
    "cactus": ("cactus",),
    "snowman": ("snowman",),
    "umbrella": ("umbrella",),
    "robot": ("robot",),
    "turtle": ("turtle", "tortoise"),
    "teapot": ("teapot",),
    "ghost": ("ghost",),
    "crown": ("crown",),
    "fox": ("fox",),
    "jellyfish": ("jellyfish",),
    "penguin": ("penguin",),
}

PLACE_PHRASES: dict[str, tuple[str, ...]] = {
    "snowy tundra": ("over a snowy tundra", "across the snowy tundra", "in the snow"),
    "lake": ("over a lake", "above a calm lake", "on the lake"),
    "meadow": ("over a meadow", "across a grassy meadow", "in the meadow"),
    "desert": ("over a desert", "across a sandy desert", "in the desert"),
    "night city": ("over a night city", "above a city at night", "in the night city"),
    "beach": ("over a beach", "on the beach", "along a sunny beach"),
    "forest": ("in a forest", "through the forest", "in the deep forest"),
    "mountains": ("over the mountains", "in the mountains", "above high mountains"),
    "moon": ("on the moon", "over the moon", "above the cratered moon"),
    "seabed": ("under the sea", "on the seabed", "over the seabed"),
}

TRAVEL_VERBS: dict[str, str] = {
    "swan": "flying",
    "paper airplane": "flying",
    "woolly mammoth": "walking",
    "fish": "swimming",
    "rocket": "flying",
    "cat": "walking",
    "mushroom": "gliding",
    "star": "flying",
    "hot air balloon": "flying",
    "whale": "swimming",
    "tree": "gliding",
    "house": "gliding",
    "boat": "sailing",
    "butterfly": "flying",
    "owl": "flying",
    "snail": "crawling",
    "car": "driving",
    "cactus": "gliding",
    "snowman": "gliding",
    "umbrella": "flying",
    "robot": "walking",
    "turtle": "walking",
    "teapot": "gliding",
    "ghost": "flying",
    "crown": "gliding",
    "fox": "walking",
    "jellyfish": "swimming",
    "penguin": "walking",
}

# What is usual goes without saying.
WEATHER_PHRASES: dict[str, tuple[str, ...]] = {
    "rain": ("in the rain", "in rain"),
    "snow": ("in falling snow", "while it snows"),
    "fog": ("in the fog", "in fog"),
    "leaves": ("among falling leaves", "in autumn leaves"),
}

TIME_PHRASES: dict[str, tuple[str, ...]] = {
    "sunset": ("at sunset", "in the evening"),
    "night": ("at night", "by night"),
    "dawn": ("at dawn", "at sunrise"),
}

CAMERA_PHRASES: dict[str, tuple[str, ...]] = {
    "zooming": ("camera zooming", "slow zoom"),
    "panning": ("camera panning", "slow pan"),
    "tilting": ("camera tilting", "slow tilt"),
    "shaking": ("camera shaking", "shaky camera"),
}

MOTION_PHRASES: dict[str, tuple[str, ...]] = {
    "moving left": ("moving to the left", "moving left", "travelling to the left"),
    "moving right": ("moving to the right", "moving right", "travelling to the right"),
    "hopping": ("hopping up and down", "hopping", "bouncing"),
    "spinning": ("spinning around", "spinning", "rotating"),
    "pulsing": ("growing and shrinking", "pulsing"),
    "swaying": ("swaying from side to side", "swaying", "rocking"),
    "circling": ("moving in circles", "circling", "looping around"),
    "floating": ("floating gently", "floating", "hovering"),
    "shivering": ("shivering", "trembling"),
    "flipping": ("twirling", "flipping", "flipping around"),
    "zigzagging": ("zigzagging", "zigzagging along"),
    "standing still": ("standing still", "resting"),
}


def motion_phrases(subject: str, motion: str) -> tuple[str, ...]:
    """Return the ways to say what a subject does; one that travels may also fly, walk or swim as is its habit."""
    phrases = MOTION_PHRASES[motion]
    if motion in ("moving left", "moving right"):
        side = motion.removeprefix("moving ")
        phrases = (*phrases, f"{TRAVEL_VERBS[subject]} to the {side}", f"{TRAVEL_VERBS[subject]} {side}")
    return phrases
