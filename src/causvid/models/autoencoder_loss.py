"""The loss that trains a tiny autoencoder together with the latent space of the transformers above it."""

import torch
import torch.nn.functional as F
from torch import Tensor

from causvid.models.tiny_autoencoder import TinyAutoencoder

SQUARE_WEIGHT = 3.0
MOMENT_WEIGHT = 0.1
ENERGY_PATCH, ENERGY_STRIDE = 8, 4
"""Pixels: size of the squares over which the energy of motion is compared, and the stride between them."""


def autoencoder_loss(
    autoencoder: TinyAutoencoder,
    pixels: Tensor,
    *,
    noise: float,
    edges: float = 0.0,
    motion: float = 0.0,
    borders: float = 0.0,
    generator: torch.Generator,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Measure how well clips survive encoding and decoding, and how close their latent is to unit variance.

    The loss is L1 plus squared error on pixels, plus `edges` times the L1 error of their differences along height,
    width and time, plus `motion` times the squared error of their differences in time, plus the divergence of every
    latent channel's moments over the batch from a standard normal's. The latent is decoded after adding Gaussian noise
    whose deviation is drawn for each clip from [0, noise], so that small errors of a generated latent stay small in the
    video.

    `edges` keeps outlines crisp, but rewards flat grey as long as the picture is poor: raise its weight from 0 once
    colours and shapes are there. `motion`, being squared, prefers four small steps to three frames that stand still and
    a jump where the next latent starts. `borders` weighs the L1 error of differences across the borders of patches,
    which keeps their grid from showing.

    `pixels` are `[B, 1 + 4k, 3, H, W]` in [0, 1]; `noise` is in units of the latent's deviation, 0 for an evaluation.

    Returns the loss, and detached `moments`, `latent_std`, the metrics of `reconstruction_loss` and, if it has a
    weight, `borders`.

    Raises:
        ValueError: if `noise` or a weight is negative or a size does not fit the autoencoder.
    """
    for name, value in (("noise", noise), ("edges", edges), ("motion", motion), ("borders", borders)):
        if value < 0:
            raise ValueError(f"{name}={value} is not at least 0")
    latent = autoencoder.encode(pixels)
    spread = noise * torch.rand(latent.shape[0], 1, 1, 1, 1, generator=generator, device=generator.device)
    perturbation = spread * torch.randn(latent.shape, generator=generator, device=generator.device)
    reconstruction = autoencoder.reconstruct(latent + perturbation.to(latent) * autoencoder.latent_scale)

    loss, metrics = reconstruction_loss(reconstruction, pixels, edges=edges, motion=motion)
    if borders:
        across = border_error(reconstruction - pixels, autoencoder.spatial_factor)
        loss, metrics = loss + borders * across, {**metrics, "borders": across.detach()}
    variance, mean = torch.var_mean((latent / autoencoder.latent_scale).float(), dim=(0, 1, 3, 4))
    moments = moment_divergence(mean, variance)
    return loss + MOMENT_WEIGHT * moments, {
        **metrics,
        "moments": moments.detach(),
        "latent_std": variance.detach().mean().sqrt(),
    }


def reconstruction_loss(
    reconstruction: Tensor, pixels: Tensor, *, edges: float = 0.0, motion: float = 0.0, energy: float = 0.0
) -> tuple[Tensor, dict[str, Tensor]]:
    """Measure how far decoded clips are from the clips, `[B, T, 3, H, W]` both: the pixel terms of `autoencoder_loss`.

    And, times `energy`, the L1 error of the motion's energy (see `motion_energy`): under the other terms a decoder that
    is unsure where things move blurs them, and they hardly move; this one asks for as much motion as there is.

    Returns the scalar loss, and `l1`, `edges`, `motion`, `energy` and `psnr` detached.
    """
    error = reconstruction - pixels
    l1 = error.abs().mean()
    differences = torch.stack([error.diff(dim=dim).abs().mean() for dim in (1, 3, 4) if error.shape[dim] > 1]).mean()
    steps = moved = error.new_zeros(())
    if error.shape[1] > 1:
        steps = error.diff(dim=1).square().mean()
        moved = (motion_energy(reconstruction) - motion_energy(pixels)).abs().mean()
    loss = l1 + SQUARE_WEIGHT * error.square().mean() + edges * differences + motion * steps + energy * moved
    with torch.no_grad():
        square = (reconstruction.clamp(0, 1) - pixels).square().mean()
        psnr = -10 * torch.log10(square.clamp_min(1e-10))
    terms = {"l1": l1, "edges": differences, "motion": steps, "energy": moved, "psnr": psnr}
    return loss, {name: value.detach() for name, value in terms.items()}


def border_error(error: Tensor, edge: int) -> Tensor:
    """Return the mean absolute step of an error `[B, T, 3, H, W]` across the borders of patches of `edge` pixels."""
    height, width = error[..., edge - 1 :, :], error[..., edge - 1 :]
    return 0.5 * (
        (height[..., 1::edge, :] - height[..., :-1:edge, :]).abs().mean()
        + (width[..., 1::edge] - width[..., :-1:edge]).abs().mean()
    )


def motion_energy(pixels: Tensor) -> Tensor:
    """Return the mean absolute step from every frame to the next over squares of a clip: `[B, T - 1, h, w]`.

    `pixels` is `[B, T, 3, H, W]`, H and W at least `ENERGY_PATCH`.
    """
    return F.avg_pool2d(pixels.diff(dim=1).abs().mean(dim=2), ENERGY_PATCH, ENERGY_STRIDE)


def moment_divergence(mean: Tensor, variance: Tensor) -> Tensor:
    """Return the divergence KL(N(mean, variance) || N(0, 1)) in nats, averaged over channels `[C]`."""
    variance = variance.clamp_min(1e-6)
    return 0.5 * (mean.square() + variance - 1 - variance.log()).mean()
