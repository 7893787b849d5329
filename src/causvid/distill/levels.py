"""Noise levels of a causal student in training: one draw a chunk.

Letters: B batch, F latent frames, S levels, C H W a latent frame.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


def draw_chunk_levels(
    layout: Sequence[int], *, batch: int, levels: int, generator: torch.Generator, clean_past: float = 0.0
) -> Tensor:
    """Draw a level index for every chunk independently and repeat it over the chunk's frames: int64 `[B, F]`.

    In a share `clean_past` of the clips a chunk is drawn as well, and those before it get the last level, which must
    then be the clean one: what a chunk of a rollout sees, and independent draws seldom show.
    """
    draws = torch.randint(levels, (batch, len(layout)), generator=generator, device=generator.device)
    if clean_past > 0:
        chunk = torch.randint(len(layout), (batch, 1), generator=generator, device=draws.device)
        rolled = torch.rand((batch, 1), generator=generator, device=draws.device) < clean_past
        past = torch.arange(len(layout), device=draws.device) < chunk
        draws = draws.masked_fill(rolled & past, levels - 1)
    parts = zip(draws.split(1, dim=1), layout, strict=True)
    return torch.cat([drawn.expand(-1, size) for drawn, size in parts], dim=1)


def gather_states(trajectory: Tensor, index: Tensor) -> Tensor:
    """Pick for every frame one state of `trajectory` `[B, S, F, C, H, W]` by `index` `[B, F]`: `[B, F, C, H, W]`."""
    rows = torch.arange(trajectory.shape[0], device=trajectory.device)[:, None]
    columns = torch.arange(trajectory.shape[2], device=trajectory.device)[None]
    return trajectory[rows, index, columns]
