"""Gather the drawings of all subjects by name."""

from . import subjects_creatures as creatures
from . import subjects_first as first
from . import subjects_things as things
from .paint import Draw

DRAWINGS: dict[str, Draw] = {
    "swan": first.swan,
    "paper airplane": first.paper_airplane,
    "woolly mammoth": first.woolly_mammoth,
    "fish": first.fish,
    "rocket": first.rocket,
    "cat": first.cat,
    "mushroom": first.mushroom,
    "star": first.five_pointed_star,
    "hot air balloon": things.hot_air_balloon,
    "whale": creatures.whale,
    "tree": things.tree,
    "house": things.house,
    "boat": things.boat,
    "butterfly": creatures.butterfly,
    "owl": creatures.owl,
    "snail": creatures.snail,
    "car": things.car,
    "cactus": things.cactus,
    "snowman": creatures.snowman,
    "umbrella": things.umbrella,
    "robot": things.robot,
    "turtle": creatures.turtle,
    "teapot": things.teapot,
    "ghost": creatures.ghost,
    "crown": things.crown,
    "fox": creatures.fox,
    "jellyfish": creatures.jellyfish,
    "penguin": creatures.penguin,
}
