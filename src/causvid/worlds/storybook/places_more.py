"""Draw the other places: view -> image [n, t, 3, H, W]."""

import torch
from torch import Tensor

from .landscape import (
    Pixel,
    View,
    block,
    coverage,
    disc,
    flat,
    hills,
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


def beach(view: View) -> Tensor:
    """Draw the sea with small sails, sand and palms."""
    image = sky(view, (0.86, 0.97, 0.96), (0.26, 0.72, 0.90))
    image = disc(image, view, 0.46, 0.32, 0.085, (1.0, 0.98, 0.70))
    image = ridge(image, view, 0.08, row(flat(0.24), 0.95, puff(0.08, 0.30)), *_CLOUD, floor=0.235)
    image = ridge(image, view, 0.2, flat(-0.03), (0.26, 0.78, 0.80), (0.04, 0.48, 0.70), span=(-0.30, -0.03))
    image = ridge(image, view, 0.25, row(flat(-0.05), 0.7, pine(0.10, 0.045), 0.4), *_SAIL, floor=-0.045)
    foam = hills(-0.215, 0.012, 0.5)
    image = ridge(image, view, 0.7, foam, (0.96, 1.0, 1.0), (0.96, 1.0, 1.0))
    image = ridge(
        image, view, 0.7, hills(-0.235, 0.012, 0.5), (0.96, 0.84, 0.62), (1.0, 0.93, 0.74), span=(-0.5, -0.24)
    )
    image = ridge(image, view, 1.0, row(flat(-0.36), 0.88, block(0.34, 0.045, 0.0), 0.2), *_TRUNK, floor=-0.37)
    return ridge(image, view, 1.0, row(flat(-0.04), 0.88, puff(0.10, 0.19), 0.2), *_PALM, floor=-0.055)


def forest(view: View) -> Tensor:
    """Draw tall trunks under a dark canopy, ferns and moss."""
    image = sky(view, (0.86, 0.93, 0.70), (0.50, 0.72, 0.52))
    image = ridge(
        image, view, 0.12, row(flat(-0.3), 0.17, block(1.0, 0.045, 0.1)), (0.56, 0.70, 0.50), (0.50, 0.66, 0.46)
    )
    image = ridge(image, view, 0.12, hills(-0.10, 0.03, 0.8), (0.50, 0.66, 0.38), (0.62, 0.76, 0.48))
    image = ridge(
        image, view, 0.35, row(flat(-0.4), 0.38, block(1.2, 0.075, 0.1), 0.3), (0.36, 0.28, 0.20), (0.42, 0.38, 0.28)
    )
    canopy = 1 - ridge_mask(view, 0.35, row(hills(0.42, 0.02, 0.7), 0.19, _gap))
    image = torch.lerp(image, rgb((0.13, 0.34, 0.20), image), canopy.unsqueeze(2))
    image = ridge(
        image, view, 0.35, hills(-0.20, 0.025, 0.7, 1.0), (0.30, 0.48, 0.24), (0.40, 0.58, 0.30), span=(-0.5, -0.15)
    )
    front = hills(-0.33, 0.03, 1.0, 0.4)
    image = ridge(image, view, 1.0, row(front, 0.46, reeds(0.17, 0.32), 0.2), (0.12, 0.32, 0.18), (0.24, 0.50, 0.24))
    return ridge(image, view, 1.0, front, (0.13, 0.30, 0.16), (0.26, 0.46, 0.20), span=(-0.5, -0.3))


def mountains(view: View) -> Tensor:
    """Draw snow-capped peaks over alpine pasture."""
    image = sky(view, (0.98, 0.88, 0.86), (0.52, 0.62, 0.86))
    image = ridge(
        image, view, 0.06, peaks(-0.05, 0.40, 0.50, 0.3), (0.74, 0.74, 0.86), (0.80, 0.80, 0.90), span=(-0.1, 0.3)
    )
    rock = peaks(-0.16, 0.52, 0.86)
    image = ridge(image, view, 0.20, rock, (0.34, 0.36, 0.48), (0.52, 0.52, 0.62), span=(-0.2, 0.2))
    caps = torch.minimum(ridge_mask(view, 0.20, rock), coverage(_ragged(view) - view.y, view.pixel))
    image = torch.lerp(image, rgb((0.98, 0.98, 1.0), image), caps.unsqueeze(2))
    land = hills(-0.17, 0.03, 1.2)
    image = ridge(image, view, 0.5, row(land, 0.16, pine(0.12, 0.05)), (0.14, 0.32, 0.28), (0.22, 0.42, 0.34))
    image = ridge(image, view, 0.5, land, (0.36, 0.52, 0.30), (0.48, 0.62, 0.36), span=(-0.5, -0.1))
    front = hills(-0.33, 0.035, 1.0, 0.9)
    image = ridge(
        image, view, 1.0, row(front, 0.70, round_tree(0.07, 0.11), 0.3), (0.38, 0.38, 0.44), (0.58, 0.58, 0.64)
    )
    return ridge(image, view, 1.0, front, (0.26, 0.42, 0.24), (0.42, 0.58, 0.30), span=(-0.5, -0.3))


def moon(view: View) -> Tensor:
    """Draw grey craters under stars and a blue planet."""
    image = sky(view, (0.07, 0.07, 0.12), (0.01, 0.01, 0.05))
    for spacing, size, strength in (((0.17, 0.11), 0.009, 0.9), ((0.27, 0.19), 0.014, 0.8)):
        stars = strength * speckle(view, 0.0, spacing, size, 0.6)
        image = torch.lerp(image, rgb((1.0, 1.0, 0.95), image), stars.unsqueeze(2))
    image = disc(image, view, 0.44, 0.28, 0.12, (0.28, 0.56, 0.92), 0.25)
    land = ((view.x - 0.47).square() + ((view.y - 0.30) * 1.5).square()).sqrt() - 0.055
    image = torch.lerp(image, rgb((0.36, 0.72, 0.42), image), coverage(land, view.pixel).unsqueeze(2))
    image = ridge(image, view, 0.2, hills(-0.06, 0.05, 0.6), (0.34, 0.34, 0.40), (0.44, 0.44, 0.50))
    image = ridge(
        image, view, 0.5, hills(-0.17, 0.04, 0.9, 1.2), (0.46, 0.46, 0.52), (0.58, 0.58, 0.64), span=(-0.4, -0.1)
    )
    front = hills(-0.28, 0.03, 1.3)
    image = ridge(image, view, 1.0, front, (0.58, 0.58, 0.63), (0.76, 0.76, 0.80), span=(-0.5, -0.25))
    ground = ridge_mask(view, 1.0, hills(-0.32, 0.03, 1.3))
    craters = speckle(view, 1.0, (0.42, 0.12), 0.075, 0.6, flatten=0.38) * ground
    return torch.lerp(image, rgb((0.46, 0.46, 0.52), image), craters.unsqueeze(2))


def seabed(view: View) -> Tensor:
    """Draw deep water with shafts of light, weed, corals and bubbles."""
    image = sky(view, (0.05, 0.30, 0.52), (0.30, 0.76, 0.86), horizon=-0.3)
    shafts = (view.along(0.1) * 9 + view.y * 5).sin() * (view.along(0.1) * 4.1 + view.y * 3).sin()
    shafts = (shafts - 0.2).clamp_min(0) * (view.y + 0.35).clamp(0, 1) * 0.45
    image = torch.lerp(image, rgb((0.90, 1.0, 0.96), image), shafts.unsqueeze(2))
    image = ridge(image, view, 0.25, row(hills(-0.14, 0.05, 0.9), 0.5, round_tree(0.16, 0.13)), *_REEF)
    image = ridge(image, view, 0.55, row(hills(-0.24, 0.03, 0.8), 0.44, reeds(0.38, 0.24), 0.1), *_WEED)
    bubbles = 0.7 * speckle(view, 0.55, (0.29, 0.17), 0.018, 0.35)
    image = torch.lerp(image, rgb((0.80, 0.96, 1.0), image), bubbles.unsqueeze(2))
    front = hills(-0.33, 0.03, 1.1)
    image = ridge(
        image, view, 1.0, row(front, 0.72, round_tree(0.13, 0.12), 0.4), (0.80, 0.34, 0.42), (0.98, 0.56, 0.52)
    )
    return ridge(image, view, 1.0, front, (0.66, 0.60, 0.46), (0.88, 0.82, 0.62), span=(-0.5, -0.3))


_CLOUD = ((0.94, 0.98, 1.0), (1.0, 1.0, 1.0))
_SAIL = ((0.98, 0.98, 0.96), (1.0, 1.0, 1.0))
_TRUNK = ((0.46, 0.32, 0.20), (0.58, 0.42, 0.26))
_PALM = ((0.16, 0.50, 0.26), (0.26, 0.64, 0.32))
_REEF = ((0.06, 0.26, 0.46), (0.10, 0.36, 0.54))
_WEED = ((0.08, 0.34, 0.30), (0.18, 0.54, 0.38))


def _gap(offset: Tensor, chance: Tensor, pixel: Pixel) -> Tensor:
    """Return the lower edge of foliage, which hangs in lobes."""
    return -0.5 * (0.0095 - offset.square()).clamp_min(0).sqrt() * (1.5 + 0.5 * chance)


def _ragged(view: View) -> Tensor:
    """Return the height of the snow line."""
    u = view.along(0.20) / 0.13
    return 0.15 + 0.06 * (u - u.floor() - 0.5).abs()
