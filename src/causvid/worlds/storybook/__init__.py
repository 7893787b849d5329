"""Storybook: a picture-book world drawn on the spot, with captions and labels for every clip."""

from .captions import caption, words
from .render import render
from .scene import FULL, NANO, STORYBOOK, Scene, Split, World, is_held_out, sample_scene
from .vocabulary import ATTRIBUTES

__all__ = [
    "ATTRIBUTES",
    "FULL",
    "NANO",
    "STORYBOOK",
    "Scene",
    "Split",
    "World",
    "caption",
    "is_held_out",
    "render",
    "sample_scene",
    "words",
]
