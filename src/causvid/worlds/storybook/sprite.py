"""Paint subjects into small patches and lay them over frames.

Legend: n subjects of one kind, T frames, S the patch's side in pixels.
"""

import math

import numpy
import torch
from torch import Tensor

from .landscape import coverage, rgb
from .motion import Pose
from .paint import Part
from .subjects import DRAWINGS
from .vocabulary import COLOURS

_REACH = 1.42  # a patch's half side in the subject's own unit: its body, outline and halo, however it is turned
_OUTLINE = 0.075
_HALO = 0.22


def stack(poses: list[Pose], field: str, device: torch.device) -> Tensor:
    """Return one field of the poses as [n, T, 1, 1] float32."""
    values = numpy.stack([getattr(p, field) for p in poses]).astype(numpy.float32)
    return torch.from_numpy(values).to(device)[..., None, None]


def paint_subjects(
    video: Tensor,
    rows: Tensor,
    poses: list[Pose],
    kind: str,
    target: str | None,
    colours: list[str],
    tints: Tensor | None,
) -> None:
    """Paint n subjects of one kind onto their rows of a video [B, T, 3, H, W], in place.

    rows: indices [n] into the batch. target: the kind they all morph into, or None.
    tints: light [n, 3] that falls on them, or None for white.
    """
    device, (frames, height, width) = video.device, (video.shape[1], video.shape[3], video.shape[4])
    pixel = 1 / height
    largest = max(max(abs(p.wide).max(), p.high.max()) for p in poses)
    side = 2 * math.ceil(_REACH * largest / pixel) + 1

    x, y, angle, wide, high, beat, morph = (
        stack(poses, name, device) for name in ("x", "y", "angle", "wide", "high", "beat", "morph")
    )
    facing = torch.tensor([p.facing for p in poses], dtype=torch.float32, device=device).view(-1, 1, 1, 1)
    # A pixel's centre is at ((column + 0.5) - width / 2) / height, and y points up.
    column = (x * height + 0.5 * width).floor()
    line = (0.5 * height - y * height).floor()
    step = torch.arange(side, device=device, dtype=torch.float32) - side // 2
    columns, lines = column + step.view(1, 1, 1, -1), line + step.view(1, 1, -1, 1)
    dx = (columns + 0.5 - 0.5 * width) * pixel - x
    dy = (0.5 * height - lines - 0.5) * pixel - y

    c, s = angle.cos(), angle.sin()
    local_x = (c * dx + s * dy) * (facing / wide)
    local_y = (c * dy - s * dx) / high
    local_pixel = 2 * pixel / (wide.abs() + high)

    parts = DRAWINGS[kind](local_x, local_y, beat)
    silhouette = _silhouette(parts)
    weight: Tensor | None = None
    other: list[Part] = []
    if target is not None:
        other = DRAWINGS[target](local_x, local_y, beat)
        # Half way between two fields thin limbs vanish; a little more flesh keeps the shape whole.
        flesh = 0.28 * morph * (1 - morph)
        silhouette = torch.lerp(silhouette, _silhouette(other), morph) - flesh
        weight = morph
    body = torch.tensor([COLOURS[name] for name in colours], device=device).view(-1, 1, 3, 1, 1)

    colour = body.expand(-1, frames, -1, side, side)
    for group, share in ((parts, None if weight is None else 1 - weight), (other, weight)):
        for part in group:
            mask = coverage(part.distance, local_pixel)
            if share is not None:
                mask = mask * share
            paint = torch.lerp(body, rgb(part.paint.rgb, body), part.paint.mix)
            colour = torch.lerp(colour, paint, mask.unsqueeze(2))

    edge = (1 + silhouette * (1 / 0.30)).clamp(0, 1).square()
    light = (dy / high * 0.16 - dx / wide * 0.08 + 1.0 - 0.20 * edge).unsqueeze(2)
    inside = coverage(silhouette, local_pixel).unsqueeze(2)
    ink = torch.lerp(body, rgb((0.07, 0.05, 0.12), body), 0.80)
    colour = torch.lerp(ink, colour * light, inside)
    outline = coverage(silhouette - _OUTLINE, local_pixel)
    halo = (1 - (silhouette - _OUTLINE) / _HALO).clamp(0, 1).square() * 0.30
    # The halo lies under the outline: white where only it shows.
    alpha = outline + halo * (1 - outline)
    share = (outline / alpha.clamp_min(1e-6)).unsqueeze(2)
    colour = torch.lerp(torch.ones_like(body), colour, share)
    if tints is not None:
        colour = colour * tints[:, None, :, None, None]

    visible = (columns >= 0) & (columns < width) & (lines >= 0) & (lines < height)
    alpha = (alpha * visible).unsqueeze(2)
    index = (lines.clamp(0, height - 1) * width + columns.clamp(0, width - 1)).long().flatten(2)
    index = index.unsqueeze(2).expand(-1, -1, 3, -1)
    canvas = video.flatten(3)[rows]
    under = canvas.gather(3, index).view_as(colour)
    # Clamped indices repeat, but what they add is zero.
    canvas.scatter_add_(3, index, ((colour - under) * alpha).flatten(3))
    video[rows] = canvas.view(len(poses), *video.shape[1:])


def paint_shadows(video: Tensor, rows: Tensor, poses: list[Pose]) -> None:
    """Darken the ground below n subjects on their rows of a video, in place; less so the higher they are."""
    height, width = video.shape[3], video.shape[4]
    first = int(0.55 * height)
    x, y, wide, ground = (stack(poses, name, video.device) for name in ("x", "lift", "wide", "ground"))
    columns = (torch.arange(width, device=video.device) + 0.5 - 0.5 * width) / height
    lines = 0.5 - (torch.arange(first, height, device=video.device) + 0.5) / height
    across = (columns - x) / (0.85 * wide)
    down = (lines.view(-1, 1) - ground) / (0.22 * wide)
    depth = (1 - across.square() - down.square()).clamp(0, 1).sqrt() * (0.34 - 0.8 * (y + 0.1).clamp(0, 0.25))
    video[rows, :, :, first:] *= 1 - depth.unsqueeze(2)


def _silhouette(parts: list[Part]) -> Tensor:
    solid = [part.distance for part in parts if part.solid]
    result = solid[0]
    for distance in solid[1:]:
        result = torch.minimum(result, distance)
    return result
