"""Change the light by the time of day and let weather pass.

Legend: n scenes, T frames, H, W pixels. Everything that falls or drifts repeats without end.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy
import torch
from numpy.typing import NDArray
from torch import Tensor

from .landscape import View, rgb, speckle

_TINTS = {"sunset": (1.0, 0.76, 0.60), "night": (0.36, 0.42, 0.68), "dawn": (1.0, 0.86, 0.92)}
_GLOWS = {"sunset": (1.0, 0.46, 0.18), "night": (0.10, 0.14, 0.36), "dawn": (1.0, 0.66, 0.74)}
_GLOW_STRENGTH = {"sunset": 0.50, "night": 0.35, "dawn": 0.48}
_SUBJECT_SHARE = 0.45


def tints(times: Sequence[str], device: torch.device) -> Tensor | None:
    """Return the light [n, 3] that falls on subjects at these times of day, or None where it is white for all."""
    if all(time == "day" for time in times):
        return None
    light = torch.tensor([_TINTS.get(time, (1.0, 1.0, 1.0)) for time in times], device=device)
    return 1 + _SUBJECT_SHARE * (light - 1)


def dye(image: Tensor, view: View, time: str) -> Tensor:
    """Return a landscape [n, t, 3, H, W] in the light of a time of day other than day."""
    image = image * rgb(_TINTS[time], image)
    # Light gathers at the horizon, and at night the sky above fills with stars.
    glow = (1 - ((view.y - 0.05) / 0.42).abs()).clamp(0, 1) * _GLOW_STRENGTH[time]
    image = torch.lerp(image, rgb(_GLOWS[time], image), glow.unsqueeze(2))
    if time == "night":
        stars = speckle(view, 0.0, (0.19, 0.12), 0.010, 0.55) * ((view.y - 0.16) * 12).clamp(0, 0.9)
        image = torch.lerp(image, rgb((1.0, 1.0, 0.9), image), stars.unsqueeze(2))
    return image


def weather_behind(image: Tensor, weather: str) -> Tensor:
    """Return a landscape greyed by rain or snow, or sunk in fog."""
    if weather in ("rain", "snow"):
        grey = image.mean(2, keepdim=True)
        image = torch.lerp(image, 0.85 * grey + 0.08, 0.45)
    elif weather == "fog":
        image = torch.lerp(image, rgb((0.86, 0.88, 0.90), image), 0.62)
    return image


def weather_before(video: Tensor, view: View, weather: str, times: NDArray[numpy.float64]) -> Tensor:
    """Return video [n, T, 3, H, W] with what falls or drifts before the camera at times [T], in seconds."""
    for layer in range(2):
        near = 1.0 + 0.6 * layer
        if weather == "rain":
            wet = _moved(view, times, fall=1.9 * near, drift=-0.35 * near, slant=0.18)
            drops = speckle(wet, 1.0, (0.11 * near, 0.26 * near), 0.008, 0.6, flatten=6.0)
            video = torch.lerp(video, rgb((0.84, 0.92, 1.0), video), (0.60 * drops).unsqueeze(2))
        elif weather == "snow":
            white = _moved(view, times, fall=0.26 * near, drift=0.10 * near, wave=0.06)
            flakes = speckle(white, 1.0, (0.15 * near, 0.13 * near), 0.013 * near, 0.6)
            video = torch.lerp(video, rgb((1.0, 1.0, 1.0), video), (0.92 * flakes).unsqueeze(2))
        elif weather == "leaves":
            blown = _moved(view, times, fall=0.20 * near, drift=0.45 * near, wave=0.07)
            leaves = speckle(blown, 1.0, (0.27 * near, 0.21 * near), 0.026 * near, 0.45, flatten=0.6)
            colour = ((0.93, 0.55, 0.12), (0.85, 0.30, 0.12))[layer]
            video = torch.lerp(video, rgb(colour, video), (0.95 * leaves).unsqueeze(2))
        elif weather == "fog":
            u = _moved(view, times, fall=0.0, drift=0.10 * near).along(1.0)
            bank = -0.24 + 0.22 * layer + 0.05 * (3.1 * u + layer).sin() + 0.04 * (7.3 * u).sin()
            mist = (1 - ((view.y - bank) / 0.16).abs()).clamp(0, 1) * 0.45
            video = torch.lerp(video, rgb((0.90, 0.92, 0.94), video), mist.unsqueeze(2))
    return video


def _moved(
    view: View, times: NDArray[numpy.float64], *, fall: float, drift: float, slant: float = 0.0, wave: float = 0.0
) -> View:
    """Return the view of a layer that falls and drifts at so many frame heights a second.

    slant: how far it leans; wave: how far its rows bend, so that they do not look like rows.
    """

    def column(values: NDArray[numpy.float64]) -> Tensor:
        return torch.from_numpy(values.astype(numpy.float32)).to(view.x.device).view(1, -1, 1, 1)

    y = view.y + column(fall * times)
    if wave > 0:
        y = y + wave * (5.3 * view.x).sin()
    return replace(view, x=view.x - column(drift * times) - slant * view.y, y=y)
