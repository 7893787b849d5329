"""Measure what an autoencoder keeps of clips, and whether the grid of its patches shows.

Legend: B clips, T pixel frames, H, W pixels.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from causvid.models.tiny_autoencoder import TinyAutoencoder


@dataclass(frozen=True)
class RoundTrip:
    """What is left of clips that were encoded and decoded.

    psnr: dB, of the mean squared error of all clips. grid: their grid ratio over that of the clips themselves.
    moved: mean change of a pixel from one frame to the next, of 255, by place in a latent frame's four; the first is
    the step into a latent. moves: the same of the clips.
    """

    psnr: float
    grid: float
    moved: tuple[float, ...]
    moves: tuple[float, ...]


def grid_ratio(pixels: Tensor, edge: int) -> float:
    """Return the mean gradient across the borders of patches of `edge` pixels over that within them; 1 is no grid.

    `pixels` is `[B, T, 3, H, W]`. The mean of the ratios along height and along width.
    """
    ratios = []
    for dim in (3, 4):
        steps = pixels.diff(dim=dim).abs().mean(dim=[other for other in range(5) if other != dim])
        border = torch.arange(1, len(steps) + 1, device=pixels.device) % edge == 0
        ratios.append(float(steps[border].mean() / steps[~border].mean()))
    return sum(ratios) / 2


@torch.inference_mode()
def measure_round_trip(autoencoder: TinyAutoencoder, clips: Tensor, *, batch: int = 8) -> RoundTrip:
    """Encode and decode clips `[B, 1 + 4k, 3, H, W]` in [0, 1], k at least 1, and compare."""
    again = torch.cat([autoencoder.decode(autoencoder.encode(part)) for part in clips.split(batch)])
    error = (again - clips).square().mean()
    edge = autoencoder.spatial_factor
    return RoundTrip(
        psnr=float(-10 * torch.log10(error.clamp_min(1e-10))),
        grid=grid_ratio(again, edge) / grid_ratio(clips, edge),
        moved=_steps(again),
        moves=_steps(clips),
    )


def _steps(pixels: Tensor) -> tuple[float, ...]:
    steps = pixels.diff(dim=1).abs().mean(dim=(0, 2, 3, 4)) * 255
    return tuple(round(float(value), 2) for value in steps.unflatten(0, (-1, 4)).mean(dim=0))
