"""Give 2-D signed distance functions: negative inside, positive outside, in the units of the coordinates.

x, y are tensors of one shape, y up; other numbers are floats or tensors that broadcast against them.
The formulas follow Inigo Quilez, "2D distance functions"; tapered limbs and ellipses are close approximations.
"""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor


def circle(x: Tensor, y: Tensor, cx: float | Tensor, cy: float | Tensor, radius: float) -> Tensor:
    """Return the distance to a disc."""
    return ((x - cx).square() + (y - cy).square()).sqrt() - radius


def ellipse(x: Tensor, y: Tensor, cx: float, cy: float, rx: float | Tensor, ry: float) -> Tensor:
    """Return the distance to an axis-aligned ellipse, to first order near its edge."""
    px, py = (x - cx) / rx, (y - cy) / ry
    level = (px.square() + py.square()).sqrt()
    gradient = ((px / rx).square() + (py / ry).square()).sqrt()
    return level * (level - 1) / gradient.clamp_min(1e-4)


def box(x: Tensor, y: Tensor, cx: float, cy: float, hx: float, hy: float, radius: float = 0.0) -> Tensor:
    """Return the distance to a box of half sizes hx, hy whose corners are rounded by radius."""
    qx, qy = (x - cx).abs() - (hx - radius), (y - cy).abs() - (hy - radius)
    outside = (qx.clamp_min(0).square() + qy.clamp_min(0).square()).sqrt()
    return outside + torch.maximum(qx, qy).clamp_max(0) - radius


def limb(
    x: Tensor,
    y: Tensor,
    ax: float | Tensor,
    ay: float | Tensor,
    bx: float | Tensor,
    by: float | Tensor,
    ra: float,
    rb: float,
) -> Tensor:
    """Return the distance to a segment from a to b whose radius goes from ra to rb."""
    px, py, dx, dy = x - ax, y - ay, bx - ax, by - ay
    along = ((px * dx + py * dy) / (dx * dx + dy * dy)).clamp(0, 1)
    return ((px - dx * along).square() + (py - dy * along).square()).sqrt() - (ra + (rb - ra) * along)


def chain(x: Tensor, y: Tensor, points: Sequence[tuple[float | Tensor, float | Tensor, float]]) -> Tensor:
    """Return the distance to limbs joined through points (x, y, radius)."""
    result: Tensor | None = None
    for (ax, ay, ra), (bx, by, rb) in pairwise(points):
        piece = limb(x, y, ax, ay, bx, by, ra, rb)
        result = piece if result is None else torch.minimum(result, piece)
    assert result is not None
    return result


def polygon(x: Tensor, y: Tensor, points: Sequence[tuple[float, float]], radius: float = 0.0) -> Tensor:
    """Return the exact distance to a polygon, grown by radius."""
    best: Tensor | None = None
    sign = torch.ones_like(x)
    for (ax, ay), (bx, by) in zip(points, [points[-1], *points[:-1]], strict=True):
        ex, ey = bx - ax, by - ay
        px, py = x - ax, y - ay
        along = ((px * ex + py * ey) / (ex * ex + ey * ey)).clamp(0, 1)
        squared = (px - ex * along).square() + (py - ey * along).square()
        best = squared if best is None else torch.minimum(best, squared)
        crosses = ((y >= ay) != (y >= by)) & (((ex * py - ey * px) > 0) == (ey > 0))
        sign = torch.where(crosses, -sign, sign)
    assert best is not None
    return best.sqrt() * sign - radius


def star(x: Tensor, y: Tensor, radius: float, inner: float, points: int = 5) -> Tensor:
    """Return the distance to a star with one point up; inner is its inner radius over its outer one."""
    sector = math.pi / points
    angle = torch.atan2(x, y)
    angle = (torch.remainder(angle + sector, 2 * sector) - sector).abs()
    length = (x.square() + y.square()).sqrt()
    px, py = length * angle.sin(), length * angle.cos()
    bx, by = radius * inner * math.sin(sector), radius * inner * math.cos(sector)
    ex, ey = bx, by - radius
    along = ((px * ex + (py - radius) * ey) / (ex * ex + ey * ey)).clamp(0, 1)
    distance = ((px - ex * along).square() + (py - radius - ey * along).square()).sqrt()
    return torch.where(px * ey - (py - radius) * ex > 0, -distance, distance)


def union(*distances: Tensor) -> Tensor:
    """Return the distance to everything inside any of the shapes."""
    result = distances[0]
    for other in distances[1:]:
        result = torch.minimum(result, other)
    return result


def blend(a: Tensor, b: Tensor, width: float) -> Tensor:
    """Return the union with its crease filled over width."""
    share = (0.5 + (b - a) * (0.5 / width)).clamp(0, 1)
    return torch.lerp(b, a, share) - width * share * (1 - share)


def cut(a: Tensor, b: Tensor) -> Tensor:
    """Return what lies inside a and inside b."""
    return torch.maximum(a, b)


def turn(x: Tensor, y: Tensor, degrees: float) -> tuple[Tensor, Tensor]:
    """Return the coordinates in which a shape stands turned anticlockwise by degrees."""
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return c * x + s * y, c * y - s * x
