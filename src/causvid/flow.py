"""Flow matching: the straight path between data and noise, and the noise levels along it.

Letters: x0 clean latent, eps noise, sigma noise level in [0, 1], v velocity = eps - x0, x = (1 - sigma) x0 + sigma eps.
The network returns velocity; every conversion between x0, velocity and noise of the package is here.
Tensors are `[B, F, C, H, W]` with sigma `[B, F]`, or any shapes in which sigma's dimensions lead the tensor's.

Source: Lipman et al., Flow Matching (2210.02747); the shifted schedule is SD3's (2403.03206, section 5.3.2).
"""

import itertools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Velocity = Callable[[Tensor, Tensor], Tensor]
"""A velocity as a function of x `[B, F, C, H, W]` and sigma `[B, F]`."""
Noise = torch.Generator | Sequence[torch.Generator]
"""Where noise comes from: one generator for a whole batch, or one for each sample, which then depends on no other."""


def _expand(sigma: Tensor, like: Tensor) -> Tensor:
    """Append dimensions to `sigma` until it broadcasts over `like`."""
    return sigma.reshape(sigma.shape + (1,) * (like.ndim - sigma.ndim))


def add_noise(x0: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
    """Move `x0` to noise level `sigma`: x = (1 - sigma) x0 + sigma eps."""
    s = _expand(sigma, x0)
    return ((1 - s) * x0 + s * noise).to(x0.dtype)


def velocity_target(x0: Tensor, noise: Tensor) -> Tensor:
    """Return the velocity of the straight path, v = eps - x0."""
    return noise - x0


def x0_from_velocity(x: Tensor, velocity: Tensor, sigma: Tensor) -> Tensor:
    """Recover x0 = x - sigma v, computed in fp32."""
    return (x.float() - _expand(sigma, x).float() * velocity.float()).to(x.dtype)


def noise_from_velocity(x: Tensor, velocity: Tensor, sigma: Tensor) -> Tensor:
    """Recover eps = x + (1 - sigma) v, computed in fp32."""
    return (x.float() + (1 - _expand(sigma, x).float()) * velocity.float()).to(x.dtype)


def velocity_from_x0(x: Tensor, x0: Tensor, sigma: Tensor) -> Tensor:
    """Return v = (x - x0) / sigma, computed in fp32; sigma must be above zero."""
    return ((x.float() - x0.float()) / _expand(sigma, x).float()).to(x.dtype)


def flow_matching_loss(velocity: Tensor, x0: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
    """Return the mean squared error of a velocity `[B, F, C, H, W]` over the frames that are noisy; of none, zero.

    What noise a frame at `sigma` `[B, F]` 0 would have had, nobody can know: such frames were given, and are left out.
    """
    return noisy_mean((velocity.float() - velocity_target(x0, noise).float()).square(), sigma)


def noisy_mean(error: Tensor, sigma: Tensor) -> Tensor:
    """Return the mean of `error` `[B, F, ...]` over the frames whose `sigma` `[B, F]` is above zero; of none, zero."""
    noisy = (sigma > 0).to(error.dtype)
    return (error.flatten(2).mean(dim=2) * noisy).sum() / noisy.sum().clamp_min(1)


def shift_sigma(u: Tensor, shift: float) -> Tensor:
    """Warp nominal levels `u` in [0, 1] towards noise: sigma = s u / (1 + (s - 1) u)."""
    if shift <= 0:
        raise ValueError(f"shift={shift} must be above 0")
    return shift * u / (1 + (shift - 1) * u)


def schedule(steps: int, shift: float) -> Tensor:
    """Return the `[steps + 1]` fp32 noise levels of a many-step sampler, from 1 down to exactly 0."""
    if steps < 1:
        raise ValueError(f"steps={steps} must be at least 1")
    return shift_sigma(torch.linspace(1, 0, steps + 1, dtype=torch.float64), shift).float()


def warped_steps(timesteps: tuple[float, ...], shift: float) -> tuple[float, ...]:
    """Take nominal few-step timesteps (of 1000) through the shift, as published `warp` checkpoints do.

    `(1000, 750, 500, 250)` at shift 8 gives sigmas `(1, 0.96, 0.889, 0.727)`. Evaluates the formula, so it is free of
    the off-by-one of a table lookup.
    """
    return tuple(float(s) for s in shift_sigma(torch.tensor(timesteps, dtype=torch.float64) / 1000, shift))


def spread_steps(steps: int, shift: float) -> tuple[float, ...]:
    """Return `steps` few-step levels, equally spaced before the shift: 1, ..., without the trailing 0."""
    return tuple(float(s) for s in schedule(steps, shift)[:-1])


def check_few_steps(sigmas: tuple[float, ...]) -> None:
    """Raise `ValueError` unless `sigmas` starts at 1, falls strictly, and stays above 0."""
    falls = all(a > b for a, b in itertools.pairwise(sigmas))
    if not sigmas or sigmas[0] != 1.0 or sigmas[-1] <= 0 or not falls:
        raise ValueError(f"sigmas={sigmas} must start at 1, fall strictly and stay above 0 (no trailing 0)")


def sample_sigma(shape: tuple[int, ...], *, shift: float, generator: torch.Generator, device: torch.device) -> Tensor:
    """Draw fp32 training noise levels: uniform in u, then shifted.

    Draws on the generator's own device, so that a run on CPU and one on CUDA can see the same levels.
    """
    u = torch.rand(shape, generator=generator, device=generator.device)
    return shift_sigma(u, shift).to(device)


def sample_logit_normal(
    shape: tuple[int, ...], *, shift: float, generator: torch.Generator, device: torch.device
) -> Tensor:
    """Draw fp32 training noise levels: logit-normal in u (more mass in the middle, SD3 section 3.1), then shifted."""
    u = torch.randn(shape, generator=generator, device=generator.device).sigmoid()
    return shift_sigma(u, shift).to(device)


def sample_timestep_sigma(
    shape: tuple[int, ...],
    *,
    shift: float,
    low: int = 20,
    high: int = 980,
    generator: torch.Generator,
    device: torch.device,
) -> Tensor:
    """Draw the levels at which distribution matching compares scores.

    A uniform integer timestep in [0, 1000), shifted, then clamped to [low, high] (CausVid, section 4.2 and released
    settings), returned as fp32 sigma.
    """
    t = torch.randint(0, 1000, shape, generator=generator, device=generator.device)
    return shift_sigma(t / 1000, shift).clamp(low / 1000, high / 1000).to(device)


def randn(shape: tuple[int, ...], generator: Noise) -> Tensor:
    """Draw fp32 Gaussian noise on the generator's device; of several generators, each draws one sample of the batch."""
    if isinstance(generator, torch.Generator):
        return torch.randn(shape, generator=generator, device=generator.device)
    if len(generator) != shape[0]:
        raise ValueError(f"{len(generator)} generators for a batch of {shape[0]}")
    return torch.stack([randn(shape[1:], one) for one in generator])


def randn_like(x: Tensor, generator: Noise) -> Tensor:
    """Draw Gaussian noise of `x`'s shape, type and device from an explicit generator that may sit on another device."""
    return randn(tuple(x.shape), generator).to(x.device, x.dtype)
