"""Noise levels of a causal student in training: one draw a chunk.

Letters: B batch, F latent frames, S levels, C H W a latent frame.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


def draw_chunk_levels(layout: Sequence[int], *, batch: int, levels: int, generator: torch.Generator) -> Tensor:
    """Draw a level index for every chunk independently and repeat it over the chunk's frames: int64 `[B, F]`."""
    draws = torch.randint(levels, (batch, len(layout)), generator=generator, device=generator.device)
    return draws.repeat_interleave(torch.tensor(layout, device=draws.device), dim=1)


def gather_states(trajectory: Tensor, index: Tensor) -> Tensor:
    """Pick for every frame one state of `trajectory` `[B, S, F, C, H, W]` by `index` `[B, F]`: `[B, F, C, H, W]`."""
    rows = torch.arange(trajectory.shape[0], device=trajectory.device)[:, None]
    columns = torch.arange(trajectory.shape[2], device=trajectory.device)[None]
    return trajectory[rows, index, columns]
