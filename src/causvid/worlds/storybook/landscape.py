"""Build landscapes from layers: a sky, discs in it, and ridges whose height is a function of where one stands.

Legend: n scenes, t frames (1 where nothing moves), H, W pixels. Coordinates are in frame heights, y up, (0, 0) the
frame's centre. A ridge's height needs no more than [n, t, 1, W] numbers, which is what makes a landscape cheap.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from .paint import RGB

Pixel = float | Tensor
Profile = Callable[[Tensor, Pixel], Tensor]
"""profile(u, pixel) -> height: u along the land [n, t, 1, W], pixel its pixels' width, a number or [n, t, 1, 1]."""


@dataclass
class View:
    """Hold the coordinates of every pixel: x [n, t, 1, W], y [n, t, H, 1], scroll and origin [n, t, 1, 1].

    pixel is the height of a pixel, a tensor [n, t, 1, 1] where the camera zooms; any n or t may be 1 and broadcast.
    """

    x: Tensor
    y: Tensor
    scroll: Tensor
    origin: Tensor
    pixel: Pixel

    def along(self, parallax: float) -> Tensor:
        """Return where each column stands on a layer that moves by parallax of the nearest one's way."""
        return self.x + (self.scroll + self.origin) * parallax


def rgb(colour: RGB, like: Tensor) -> Tensor:
    """Return a colour as [1, 1, 3, 1, 1] on the device and in the type of like."""
    return _rgb(colour, like.device, like.dtype)


@lru_cache(maxsize=1024)
def _rgb(colour: RGB, device: torch.device, dtype: torch.dtype) -> Tensor:
    # Kept, since each copy to a GPU waits for all that it still has to draw.
    return torch.tensor(colour, device=device, dtype=dtype).view(1, 1, 3, 1, 1)


def coverage(distance: Tensor, pixel: Pixel) -> Tensor:
    """Return how much of a pixel lies inside a distance field, in [0, 1]."""
    return (0.5 - distance / pixel).clamp(0, 1)


def gradient(view: View, low: RGB, high: RGB, bottom: float, top: float) -> Tensor:
    """Return colours [n, t, 3, H, 1] that go from low at height bottom to high at height top."""
    share = ((view.y - bottom) / (top - bottom)).clamp(0, 1).unsqueeze(2)
    return torch.lerp(rgb(low, share), rgb(high, share), share)


def sky(view: View, low: RGB, high: RGB, horizon: float = -0.1) -> Tensor:
    """Return an image [n, t, 3, H, W] of nothing but sky."""
    return gradient(view, low, high, horizon, 0.5).expand(-1, -1, -1, -1, view.x.shape[-1])


def disc(image: Tensor, view: View, x: float, y: float, radius: float, colour: RGB, glow: float = 0.35) -> Tensor:
    """Return the image with a sun or a moon that never comes nearer, and its glow."""
    distance = ((view.x - x).square() + (view.y - y).square()).sqrt() - radius
    halo = (1 - distance / (2.5 * radius)).clamp(0, 1).square() * glow
    alpha = torch.maximum(coverage(distance, view.pixel), halo)
    return torch.lerp(image, rgb(colour, image), alpha.unsqueeze(2))


def ridge(
    image: Tensor,
    view: View,
    parallax: float,
    profile: Profile,
    low: RGB,
    high: RGB,
    *,
    span: tuple[float, float] = (-0.5, 0.2),
    floor: float | None = None,
    strength: float = 1.0,
) -> Tensor:
    """Return the image with everything under a profile painted, from low to high over span.

    floor: where given, only what is above it, as for clouds. strength: opacity in [0, 1].
    """
    alpha = ridge_mask(view, parallax, profile)
    if floor is not None:
        alpha = torch.minimum(alpha, coverage(floor - view.y, view.pixel))
    if strength != 1:
        alpha = alpha * strength
    return torch.lerp(image, gradient(view, low, high, *span), alpha.unsqueeze(2))


def ridge_mask(view: View, parallax: float, profile: Profile) -> Tensor:
    """Return the coverage [n, t, H, W] of what is under a profile."""
    u, pixel = view.along(parallax), view.pixel
    height = profile(u, pixel)
    slope = (profile(u + 0.5 * pixel, pixel) - profile(u - 0.5 * pixel, pixel)) / pixel
    steep = (pixel * (1 + slope.square()).sqrt()).reciprocal()
    return torch.addcmul(0.5 + height * steep, view.y, steep, value=-1).clamp_(0, 1)


def speckle(
    view: View, parallax: float, spacing: tuple[float, float], size: float, density: float, *, flatten: float = 1.0
) -> Tensor:
    """Return the coverage [n, t, H, W] of dots strewn over cells of the given spacing, a share density of them.

    flatten: height over width of a dot.
    """
    u, v = view.along(parallax) / spacing[0], view.y / spacing[1]
    row = v.floor()
    u = u + 0.37 * row
    column = u.floor()
    chance = (column * 2.399 + row * 5.131).sin()
    dx = (u - column - 0.5 + 0.22 * (column * 4.1 + row * 1.3).sin()) * spacing[0]
    dy = (v - row - 0.5) * spacing[1]
    if flatten != 1:
        dy = dy / flatten
    dots = coverage((dx.square() + dy.square()).sqrt() - size, view.pixel)
    return dots * (chance > 1 - 2 * density)


def flat(height: float) -> Profile:
    """Return level land."""
    return lambda u, pixel: torch.full_like(u, height)


def hills(base: float, height: float, wavelength: float, phase: float = 0.0) -> Profile:
    """Return rolling hills."""

    def profile(u: Tensor, pixel: Pixel) -> Tensor:
        k = 6.2832 / wavelength
        return base + height * (0.6 * (k * u + phase).sin() + 0.4 * (0.618 * k * u + 2 * phase).sin())

    return profile


def peaks(base: float, height: float, spacing: float, phase: float = 0.0) -> Profile:
    """Return sharp mountains of uneven height."""

    def profile(u: Tensor, pixel: Pixel) -> Tensor:
        def wave(c: Tensor) -> Tensor:
            return 1 - 2 * (c - c.floor() - 0.5).abs()

        return base + height * torch.maximum(wave(u / spacing + phase), 0.75 * wave(u / (1.37 * spacing) + 2.1 * phase))

    return profile


def row(base: Profile, spacing: float, shape: Callable[[Tensor, Tensor, Pixel], Tensor], phase: float = 0.0) -> Profile:
    """Return things standing on a base profile, one a cell.

    shape(offset, chance, pixel) -> height: offset is from the cell's middle; chance in [-1, 1] varies from cell to
    cell; the height must be 0 at the cell's edges.
    """

    def profile(u: Tensor, pixel: Pixel) -> Tensor:
        cell = (u / spacing + phase).floor()
        offset = u - (cell + 0.5 - phase) * spacing
        # A little below the land's edge, or its colour would show along it.
        return base(u, pixel) - 0.02 + shape(offset, (cell * 2.399 + 7 * phase).sin(), pixel)

    return profile


def pine(height: float, width: float) -> Callable[[Tensor, Tensor, Pixel], Tensor]:
    """Return a fir tree with three tiers."""

    def shape(offset: Tensor, chance: Tensor, pixel: Pixel) -> Tensor:
        tall = height * (0.8 + 0.25 * chance)
        a = (offset.abs() / width).clamp_max(1)
        tiers = 3 * a
        return tall * ((1 - a) + 0.16 * (tiers - tiers.floor() - a)).clamp_min(0)

    return shape


def round_tree(height: float, radius: float) -> Callable[[Tensor, Tensor, Pixel], Tensor]:
    """Return a bush or a leafy tree as a dome."""

    def shape(offset: Tensor, chance: Tensor, pixel: Pixel) -> Tensor:
        r = radius * (0.85 + 0.2 * chance)
        return height / radius * (r * r - offset.square()).clamp_min(0).sqrt()

    return shape


def block(height: float, width: float, spread: float = 0.45) -> Callable[[Tensor, Tensor, Pixel], Tensor]:
    """Return a house front: a box of uneven height."""

    def shape(offset: Tensor, chance: Tensor, pixel: Pixel) -> Tensor:
        sides = ((0.5 * width * (0.9 + 0.1 * chance) - offset.abs()) / (1.5 * pixel) + 0.5).clamp(0, 1)
        return height * (1 + spread * chance) * sides

    return shape


def mesa(height: float, width: float) -> Callable[[Tensor, Tensor, Pixel], Tensor]:
    """Return a table mountain."""

    def shape(offset: Tensor, chance: Tensor, pixel: Pixel) -> Tensor:
        return height * (0.8 + 0.25 * chance) * ((0.5 * width - offset.abs()) / (0.22 * width)).clamp(0, 1)

    return shape


def puff(height: float, width: float) -> Callable[[Tensor, Tensor, Pixel], Tensor]:
    """Return the top of a cloud: three bumps."""

    def shape(offset: Tensor, chance: Tensor, pixel: Pixel) -> Tensor:
        def bump(centre: float, radius: float) -> Tensor:
            return (radius * radius - (offset / width - centre).square()).clamp_min(0).sqrt()

        tops = torch.maximum(bump(-0.25, 0.25), torch.maximum(bump(0.05, 0.32), bump(0.32, 0.18)))
        return height * (2.6 + 0.5 * chance) * tops

    return shape


def cactus_row(height: float) -> Callable[[Tensor, Tensor, Pixel], Tensor]:
    """Return a cactus with two short arms, as the outline of its top."""

    def shape(offset: Tensor, chance: Tensor, pixel: Pixel) -> Tensor:
        tall = height * (0.85 + 0.25 * chance)

        def stem(centre: float, radius: float, share: float) -> Tensor:
            edge = (radius - (offset - centre).abs()) / (1.5 * pixel) + 0.5
            return tall * share * edge.clamp(0, 1)

        return torch.maximum(stem(0.0, 0.028, 1.0), torch.maximum(stem(-0.075, 0.020, 0.62), stem(0.075, 0.020, 0.78)))

    return shape


def reeds(height: float, width: float) -> Callable[[Tensor, Tensor, Pixel], Tensor]:
    """Return a clump of five pointed blades."""

    def shape(offset: Tensor, chance: Tensor, pixel: Pixel) -> Tensor:
        top = torch.zeros_like(offset)
        for centre, share in ((-0.40, 0.50), (-0.20, 0.85), (0.0, 1.0), (0.22, 0.70), (0.42, 0.45)):
            blade = 1 - (offset / width - centre).abs() * 9
            top = torch.maximum(top, share * blade.clamp(0, 0.5) * 2)
        return height * (0.9 + 0.2 * chance) * top

    return shape
