"""Draw the five places every world has: view -> image [n, t, 3, H, W]."""

import torch
from torch import Tensor

from .landscape import (
    View,
    block,
    cactus_row,
    coverage,
    disc,
    flat,
    hills,
    mesa,
    peaks,
    pine,
    puff,
    reeds,
    rgb,
    ridge,
    ridge_mask,
    round_tree,
    row,
    sky,
    speckle,
)


def snowy_tundra(view: View) -> Tensor:
    """Draw ice mountains, firs and snow."""
    image = sky(view, (0.90, 0.94, 0.97), (0.55, 0.72, 0.88))
    image = disc(image, view, 0.45, 0.33, 0.07, (1.0, 0.99, 0.92))
    image = ridge(image, view, 0.12, peaks(-0.10, 0.34, 0.72), (0.84, 0.90, 0.96), (0.62, 0.74, 0.86))
    land = hills(-0.15, 0.03, 1.3, 0.6)
    image = ridge(image, view, 0.40, row(land, 0.23, pine(0.19, 0.085)), (0.34, 0.50, 0.55), (0.48, 0.63, 0.68))
    image = ridge(image, view, 0.40, land, (0.82, 0.88, 0.95), (0.90, 0.94, 0.98), span=(-0.5, -0.1))
    front = hills(-0.31, 0.035, 0.9)
    image = ridge(image, view, 1.0, row(front, 0.95, pine(0.30, 0.14), 0.3), (0.22, 0.40, 0.44), (0.36, 0.54, 0.58))
    return ridge(image, view, 1.0, front, (0.80, 0.87, 0.96), (1.0, 1.0, 1.0), span=(-0.5, -0.27))


def lake(view: View) -> Tensor:
    """Draw water with glints, a far shore, and reeds in front."""
    image = sky(view, (1.0, 0.90, 0.78), (0.66, 0.80, 0.90))
    image = disc(image, view, -0.42, 0.30, 0.075, (1.0, 0.97, 0.80))
    image = ridge(image, view, 0.10, hills(0.02, 0.06, 0.8), (0.62, 0.72, 0.74), (0.70, 0.78, 0.82))
    image = ridge(image, view, 0.22, row(hills(-0.05, 0.02, 0.7, 1.0), 0.16, round_tree(0.07, 0.07)), *_SHORE)
    water = flat(-0.11)
    image = ridge(image, view, 0.5, water, (0.08, 0.40, 0.52), (0.46, 0.72, 0.78), span=(-0.5, -0.11))
    image = torch.lerp(image, rgb((0.86, 0.96, 0.97), image), _glints(view).unsqueeze(2))
    clumps = row(hills(-0.47, 0.015, 0.9), 0.58, reeds(0.26, 0.30), 0.2)
    return ridge(image, view, 1.0, clumps, (0.14, 0.34, 0.20), (0.34, 0.56, 0.26), span=(-0.5, -0.25))


def meadow(view: View) -> Tensor:
    """Draw green hills with round trees, clouds and flowers."""
    image = sky(view, (0.84, 0.95, 1.0), (0.40, 0.70, 0.98))
    image = ridge(image, view, 0.08, row(flat(0.28), 0.85, puff(0.10, 0.34)), *_CLOUD, floor=0.27)
    far = hills(-0.03, 0.06, 1.1)
    image = ridge(image, view, 0.18, far, (0.56, 0.78, 0.52), (0.70, 0.86, 0.62))
    land = hills(-0.16, 0.03, 1.0, 1.7)
    image = ridge(image, view, 0.45, row(land, 0.42, round_tree(0.17, 0.10)), (0.20, 0.46, 0.24), (0.34, 0.60, 0.30))
    image = ridge(image, view, 0.45, land, (0.46, 0.72, 0.36), (0.58, 0.80, 0.40), span=(-0.5, -0.1))
    front = hills(-0.29, 0.03, 1.2, 0.4)
    image = ridge(image, view, 1.0, front, (0.26, 0.58, 0.22), (0.44, 0.74, 0.30), span=(-0.5, -0.25))
    grass = ridge_mask(view, 1.0, hills(-0.33, 0.03, 1.2, 0.4))
    daisies = speckle(view, 1.0, (0.17, 0.085), 0.020, 0.5) * grass
    image = torch.lerp(image, rgb((1.0, 0.96, 0.70), image), daisies.unsqueeze(2))
    poppies = speckle(view, 1.0, (0.23, 0.11), 0.022, 0.4) * grass
    return torch.lerp(image, rgb((0.98, 0.50, 0.56), image), poppies.unsqueeze(2))


def desert(view: View) -> Tensor:
    """Draw table mountains, dunes and cacti under a big sun."""
    image = sky(view, (1.0, 0.88, 0.66), (0.50, 0.78, 0.84))
    image = disc(image, view, 0.40, 0.30, 0.10, (1.0, 0.96, 0.72))
    image = ridge(image, view, 0.12, row(flat(-0.10), 0.80, mesa(0.24, 0.56)), (0.86, 0.56, 0.40), (0.80, 0.46, 0.34))
    image = ridge(
        image, view, 0.35, hills(-0.13, 0.05, 0.9), (0.94, 0.70, 0.42), (0.98, 0.80, 0.54), span=(-0.4, -0.08)
    )
    front = hills(-0.30, 0.045, 1.3, 0.8)
    image = ridge(image, view, 1.0, row(front, 0.62, cactus_row(0.25), 0.1), (0.18, 0.40, 0.28), (0.32, 0.56, 0.34))
    return ridge(image, view, 1.0, front, (0.84, 0.54, 0.28), (0.98, 0.76, 0.46), span=(-0.5, -0.26))


def night_city(view: View) -> Tensor:
    """Draw houses with lit windows, a moon, stars and a street."""
    image = sky(view, (0.30, 0.22, 0.42), (0.06, 0.07, 0.20), horizon=-0.15)
    stars = 0.8 * speckle(view, 0.0, (0.21, 0.13), 0.009, 0.6)
    image = torch.lerp(image, rgb((1.0, 1.0, 0.92), image), stars.unsqueeze(2))
    image = disc(image, view, -0.45, 0.32, 0.085, (0.98, 0.96, 0.82), 0.25)
    image = ridge(image, view, 0.18, row(flat(-0.2), 0.19, block(0.30, 0.19)), (0.24, 0.22, 0.44), (0.16, 0.16, 0.34))
    houses = row(flat(-0.32), 0.36, block(0.34, 0.30, 0.35), 0.4)
    image = ridge(image, view, 0.55, houses, (0.14, 0.13, 0.28), (0.09, 0.09, 0.21))
    lit = _windows(view, 0.55) * ridge_mask(view, 0.55, row(flat(-0.37), 0.36, block(0.34, 0.26, 0.35), 0.4))
    image = torch.lerp(image, rgb((1.0, 0.84, 0.42), image), lit.unsqueeze(2))
    image = ridge(image, view, 1.0, flat(-0.32), (0.13, 0.13, 0.19), (0.23, 0.22, 0.31), span=(-0.5, -0.32))
    dashes = view.along(1.0) / 0.32
    dashes = coverage(((dashes - dashes.floor() - 0.5).abs() - 0.25) * 0.32, view.pixel)
    dashes = dashes * coverage((view.y + 0.425).abs() - 0.016, view.pixel)
    return torch.lerp(image, rgb((0.90, 0.84, 0.56), image), dashes.unsqueeze(2))


_SHORE = ((0.26, 0.48, 0.40), (0.42, 0.62, 0.48))
_CLOUD = ((0.94, 0.97, 1.0), (1.0, 1.0, 1.0))


def _glints(view: View) -> Tensor:
    """Return streaks of light on water, longer and nearer to each other further down."""
    depth = (-0.13 - view.y).clamp_min(0)
    line = (view.y / 0.072).floor()
    u = view.along(1.0) * 0.5 + 0.29 * line
    cell = u / 0.31 + 0.41 * line
    offset = (cell - cell.floor() - 0.5).abs() * 0.31
    v = (view.y / 0.072 - line - 0.5).abs() * 0.072
    streak = coverage(offset - 0.07 - 0.03 * (cell.floor() * 2.4 + line).sin(), 2 * view.pixel)
    return streak * coverage(v - 0.009, view.pixel) * (depth * 16).clamp(0, 0.75)


def _windows(view: View, parallax: float) -> Tensor:
    """Return lit windows on a grid, about half of them."""
    u, v = view.along(parallax) / 0.072, view.y / 0.085
    column, line = u.floor(), v.floor()
    lit = (column * 2.7 + line * 4.3).sin() > -0.1
    dx, dy = (u - column - 0.5).abs() * 0.072, (v - line - 0.5).abs() * 0.085
    return coverage(dx - 0.019, view.pixel) * coverage(dy - 0.024, view.pixel) * lit
