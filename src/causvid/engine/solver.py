"""Many steps: the teacher's Euler solver of the probability-flow ODE, with classifier-free guidance.

Letters: B batch, F latent frames, C H W a latent frame, S kept states.
"""

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

from causvid.flow import Velocity
from causvid.models.transformer import TextKeys, Transformer
from causvid.nn.visibility import FULL, Visibility


def guided_velocity(
    model: Transformer,
    text: TextKeys,
    null_text: TextKeys,
    *,
    guidance: float,
    visibility: Visibility = FULL,
) -> Velocity:
    """Return v(x, sigma) = uncond + guidance (cond - uncond); guidance 1 is conditional only and costs one pass.

    Source: Ho & Salimans, Classifier-free diffusion guidance (2207.12598), in the field's convention.
    """

    def velocity(x: Tensor, sigma: Tensor) -> Tensor:
        cond: Tensor = model(x, sigma, text, visibility=visibility)
        if guidance == 1:
            return cond
        return torch.lerp(model(x, sigma, null_text, visibility=visibility), cond, guidance)

    return velocity


def held(velocity: Velocity, frames: Tensor) -> Velocity:
    """Return the velocity that keeps some frames, bool `[B, F]`, as they are: given clean, at level 0."""

    def still(x: Tensor, sigma: Tensor) -> Tensor:
        v = velocity(x, sigma.masked_fill(frames, 0.0))
        return v.masked_fill(frames[..., None, None, None], 0.0)

    return still


@torch.no_grad()
def solve(
    velocity: Velocity, noise: Tensor, *, sigmas: Sequence[float], keep: Sequence[float] = ()
) -> tuple[Tensor, Tensor]:
    """Follow dx / dsigma = v(x, sigma) from `noise` `[B, F, C, H, W]` down `sigmas` by Euler steps.

    `sigmas` falls to its last entry, normally exactly 0. Returns the end `[B, F, C, H, W]` and the trajectory
    `[B, S, F, C, H, W]`: the states at the levels named in `keep`. A level between two of `sigmas` is reached by a
    shorter Euler step from the one before, so the grid need not contain it.
    """
    if len(sigmas) < 2 or any(b >= a for a, b in itertools.pairwise(sigmas)):
        raise ValueError(f"sigmas={tuple(sigmas)} must be at least two falling levels")
    for level in keep:
        if not sigmas[-1] <= level <= sigmas[0]:
            raise ValueError(f"keep={level} is outside the schedule, {sigmas[0]} to {sigmas[-1]}")
    x = noise
    kept: dict[float, Tensor] = {}
    for now, after in itertools.pairwise(sigmas):
        sigma = torch.full(x.shape[:2], now, device=x.device, dtype=torch.float32)
        v = velocity(x, sigma)
        for level in keep:
            if after < level <= now:
                kept[level] = x + (level - now) * v
        x = x + (after - now) * v
    for level in keep:
        kept.setdefault(level, x)
    states = torch.stack([kept[level] for level in keep], dim=1) if keep else x.new_empty((len(x), 0, *x.shape[1:]))
    return x, states
