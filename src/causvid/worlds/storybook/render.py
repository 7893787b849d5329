"""Turn scenes into video: landscape, shadows, subjects, weather.

Legend: B scenes, T frames, H, W pixels. Coordinates are in frame heights, y up, (0, 0) the frame's centre.
"""

from collections.abc import Sequence

import numpy
import torch
from numpy.typing import NDArray
from torch import Tensor

from .atmosphere import dye, tints, weather_before, weather_behind
from .landscape import View
from .motion import Pose, pose
from .places import LANDSCAPES
from .scene import Scene
from .sprite import paint_shadows, paint_subjects, stack


@torch.no_grad()
def render(
    scenes: Sequence[Scene],
    *,
    frames: int,
    height: int,
    width: int,
    fps: float,
    start: int = 0,
    device: str | torch.device = "cpu",
) -> Tensor:
    """Return video [B, T, 3, H, W] float32 in [0, 1] of the scenes, from frame start on.

    A frame depends on its scene and its number alone, so any part of a clip, however long, can be drawn by itself.
    Raise ValueError for sizes or rates that are not positive, or no scenes.
    """
    if not scenes:
        raise ValueError("scenes is empty, expected at least one")
    for name, value in (("frames", frames), ("height", height), ("width", width), ("fps", fps)):
        if value <= 0:
            raise ValueError(f"{name}={value} is not positive")
    device = torch.device(device)
    times = (start + numpy.arange(frames, dtype=numpy.float64)) / fps
    poses = [pose(scene, times) for scene in scenes]
    video = torch.empty(len(scenes), frames, 3, height, width, device=device)
    _paint_landscapes(video, scenes, poses)
    seconds = [i for i, scene in enumerate(scenes) if scene.second is not None]
    others = {i: pose(scenes[i], times, second=True) for i in seconds}
    paint_shadows(video, torch.arange(len(scenes), device=device), poses)
    if seconds:
        paint_shadows(video, torch.tensor(seconds, device=device), list(others.values()))
    casts: dict[tuple[str, str | None], list[tuple[int, Pose, str]]] = {}
    for index, scene in enumerate(scenes):
        casts.setdefault((scene.subject, scene.morph), []).append((index, poses[index], scene.colour))
    _paint_cast(video, scenes, casts)
    casts = {}
    for index in seconds:
        kind, colour = scenes[index].second or ("", "")
        casts.setdefault((kind, None), []).append((index, others[index], colour))
    _paint_cast(video, scenes, casts)
    _paint_weather(video, scenes, poses, times)
    return video.clamp_(0, 1)


def _paint_cast(
    video: Tensor, scenes: Sequence[Scene], casts: dict[tuple[str, str | None], list[tuple[int, Pose, str]]]
) -> None:
    for (kind, target), cast in casts.items():
        rows = [index for index, _, _ in cast]
        paint_subjects(
            video,
            torch.tensor(rows, device=video.device),
            [pose for _, pose, _ in cast],
            kind,
            target,
            [colour for _, _, colour in cast],
            tints([scenes[i].time for i in rows], video.device),
        )


def _view(video: Tensor, poses: list[Pose], *, moves: bool, films: bool) -> View:
    """Return the coordinates of every pixel; frames that are all alike are one."""
    height, width, device = video.shape[3], video.shape[4], video.device
    columns = (torch.arange(width, device=device) + 0.5 - 0.5 * width) / height
    lines = 0.5 - (torch.arange(height, device=device) + 0.5) / height
    scroll = stack(poses, "scroll", device)
    origin = torch.tensor([p.origin for p in poses], dtype=torch.float32, device=device).view(-1, 1, 1, 1)
    view = View(
        x=columns.view(1, 1, 1, -1),
        y=lines.view(1, 1, -1, 1),
        scroll=scroll if moves else scroll[:, :1],
        origin=origin,
        pixel=1 / height,
    )
    if films:
        zoom, pan, tilt = (stack(poses, name, device) for name in ("zoom", "pan", "tilt"))
        view = View(
            x=view.x / zoom, y=view.y / zoom + tilt, scroll=view.scroll + pan, origin=origin, pixel=view.pixel / zoom
        )
    return view


def _paint_landscapes(video: Tensor, scenes: Sequence[Scene], poses: list[Pose]) -> None:
    """Fill the video with its places, drawing those that stand still once."""
    groups: dict[tuple[str, str, str, bool, bool], list[int]] = {}
    for index, scene in enumerate(scenes):
        moves, films = bool(numpy.ptp(poses[index].scroll) > 0), scene.camera != "static"
        groups.setdefault((scene.place, scene.time, scene.weather, moves, films), []).append(index)
    for (place, time, weather, moves, films), members in groups.items():
        view = _view(video, [poses[i] for i in members], moves=moves, films=films)
        image = weather_behind(LANDSCAPES[place](view), weather)
        if time != "day":
            image = dye(image, view, time)
        video[torch.tensor(members, device=video.device)] = image.expand(-1, video.shape[1], -1, -1, -1)


def _paint_weather(video: Tensor, scenes: Sequence[Scene], poses: list[Pose], times: NDArray[numpy.float64]) -> None:
    groups: dict[str, list[int]] = {}
    for index, scene in enumerate(scenes):
        if scene.weather != "clear":
            groups.setdefault(scene.weather, []).append(index)
    for weather, members in groups.items():
        view = _view(video, [poses[i] for i in members], moves=True, films=False)
        rows = torch.tensor(members, device=video.device)
        video[rows] = weather_before(video[rows], view, weather, times)
