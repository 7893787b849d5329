"""Move subjects and cameras through time: every motion is periodic or endless, so no moment of it is special.

Positions are in frame heights, x right and y up from the frame's centre; angles in radians, anticlockwise.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy
from numpy.typing import NDArray

from .scene import TRAVELS, Scene

Array = NDArray[numpy.float64]

_SPEED = 0.42  # landscape speed beside a traveller, frame heights a second
_SIZE = 0.28  # frame heights a unit of the subject's own coordinates, which reach from -1 to 1

_SCROLLING = (*TRAVELS, "zigzagging")
_PAIR_SIZE = 0.74
_MORPH_BEGINS, _MORPH_LASTS = 0.6, 0.8  # seconds


@dataclass
class Pose:
    """Hold where a subject is at each of T times, and where the camera is: arrays [T].

    x, y, wide, high are seen through the camera; ground is the height of the shadow, lift how far the subject is above
    its place, pan, tilt and zoom the camera's own.
    """

    x: Array
    y: Array
    angle: Array
    wide: Array
    high: Array
    beat: Array
    morph: Array
    scroll: Array
    ground: Array
    lift: Array
    pan: Array
    tilt: Array
    zoom: Array
    facing: float
    origin: float


def pose(scene: Scene, times: Array, *, second: bool = False) -> Pose:
    """Place the scene's subject, or its second one, at each of the times, in seconds."""
    # New numbers are only ever drawn after these, so that a scene never changes its look.
    draws = numpy.random.default_rng([scene.seed, 3]).random(16)
    still = numpy.zeros_like(times)
    rate = 0.92 + 0.16 * draws[0]
    shift = draws[1] + (0.25 + 0.5 * draws[6] if second else 0.0)

    def cycle(period: float) -> Array:
        angle: Array = 2 * numpy.pi * (times * rate / period + shift)
        return angle

    size = _SIZE * (0.94 + 0.12 * draws[2])
    result = Pose(
        x=still + 0.30 * (draws[3] - 0.5),
        y=still + 0.10 * (draws[4] - 0.5),
        angle=still.copy(),
        wide=still + size,
        high=still + size,
        beat=still.copy(),
        morph=still.copy(),
        scroll=still.copy(),
        ground=still - 0.385,
        lift=still,
        pan=still.copy(),
        tilt=still.copy(),
        zoom=still + 1.0,
        facing=-1.0 if scene.motion == "moving left" else 1.0,
        origin=40.0 * draws[5] if scene.wanders or scene.motion in _SCROLLING else 0.0,
    )
    if scene.second is not None:
        side = (1.0 if draws[7] < 0.5 else -1.0) * (-1.0 if second else 1.0)
        result.x = 0.30 * result.x + 0.31 * side
        result.y = result.y - 0.03
        result.wide, result.high = result.wide * _PAIR_SIZE, result.high * _PAIR_SIZE
    _move(result, scene.motion, rate * times, cycle)
    if scene.morph is not None:
        # Once, from its caption's first subject to the second, whatever the phase of its motion.
        gone = numpy.clip((times * rate - _MORPH_BEGINS) / _MORPH_LASTS, 0, 1)
        result.morph = gone * gone * (3 - 2 * gone)
    result.lift = result.y
    if scene.camera != "static":
        _film(result, scene.camera, times / (0.92 + 0.16 * draws[8]), 2 * numpy.pi * draws[9])
    return result


def _move(result: Pose, motion: str, times: Array, cycle: Callable[[float], Array]) -> None:
    if motion in TRAVELS:
        result.scroll = result.facing * _SPEED * times
        result.beat = numpy.sin(cycle(1.25))
        result.y = result.y + 0.02 * numpy.sin(cycle(2.5))
        result.angle = 0.05 * numpy.sin(cycle(2.5) + 1.0)
    elif motion == "hopping":
        height = numpy.abs(numpy.sin(cycle(2.4)))
        stretch = 0.16 * (height - 0.45)
        result.y = result.y - 0.11 + 0.25 * height
        result.wide, result.high = result.wide * (1 - stretch), result.high * (1 + stretch)
    elif motion == "spinning":
        result.angle = -cycle(2.5)
    elif motion == "pulsing":
        factor = 0.90 + 0.26 * numpy.sin(cycle(1.8))
        result.wide, result.high = result.wide * factor, result.high * factor
    elif motion == "swaying":
        result.angle = 0.42 * numpy.sin(cycle(1.7))
        result.x = result.x - 0.04 * numpy.sin(cycle(1.7))
    elif motion == "circling":
        result.x = result.x + 0.15 * numpy.cos(cycle(2.2))
        result.y = result.y + 0.14 * numpy.sin(cycle(2.2))
        result.beat = 0.5 * numpy.sin(cycle(1.1))
    elif motion == "floating":
        result.y = result.y + 0.13 * numpy.sin(cycle(3.6))
        result.angle = 0.06 * numpy.sin(cycle(3.6) + 1.0)
        result.beat = 0.4 * numpy.sin(cycle(1.8))
    elif motion == "shivering":
        result.x = result.x + 0.03 * numpy.sin(cycle(0.41))
        result.angle = 0.07 * numpy.sin(cycle(0.47))
    elif motion == "flipping":
        turn = numpy.cos(cycle(2.1))
        result.wide = result.wide * numpy.copysign(numpy.maximum(numpy.abs(turn), 0.10), turn)
    elif motion == "zigzagging":
        result.scroll = _SPEED * times
        phase = cycle(1.9) / (2 * numpy.pi)
        phase = phase - numpy.floor(phase) - 0.5
        ramp = 4 * numpy.abs(phase) - 1
        result.y = result.y + 0.15 * ramp
        result.angle = 0.30 * numpy.tanh(4 * numpy.sqrt(1 - ramp**2)) * numpy.sign(phase)
    else:
        assert motion == "standing still"


def _film(result: Pose, camera: str, times: Array, phase: float) -> None:
    if camera == "zooming":
        result.zoom = 1.0 + 0.20 * numpy.sin(2 * numpy.pi * times / 4.5 + phase)
    elif camera == "panning":
        result.pan = 0.22 * numpy.sin(2 * numpy.pi * times / 4.5 + phase)
    elif camera == "tilting":
        result.tilt = 0.10 * numpy.sin(2 * numpy.pi * times / 4.0 + phase)
    else:
        assert camera == "shaking"
        result.pan = 0.016 * (numpy.sin(8.3 * times + phase) + numpy.sin(13.1 * times))
        result.tilt = 0.016 * (numpy.sin(9.7 * times) + numpy.sin(11.9 * times + phase))
    result.x, result.y = (result.x - result.pan) * result.zoom, (result.y - result.tilt) * result.zoom
    result.ground = (result.ground - result.tilt) * result.zoom
    result.wide, result.high = result.wide * result.zoom, result.high * result.zoom
