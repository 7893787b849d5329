"""Noise levels in training: one draw a chunk, and which first chunks are clean.

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
    return draws.repeat_interleave(torch.tensor(layout, device=draws.device), dim=1, output_size=sum(layout))


def draw_clean_first(
    batch: int, frames: int, *, first: int, share: float, generator: torch.Generator, device: torch.device
) -> Tensor:
    """Draw which frames are clean, as an image to be continued is: the first chunk's, in a share of the clips.

    Returns bool `[B, F]`. Nothing is drawn for a share of 0, and clips no longer than the first chunk have none.
    """
    clean = torch.zeros(batch, frames, dtype=torch.bool, device=device)
    if share > 0 and frames > first:
        drawn = torch.rand((batch, 1), generator=generator, device=generator.device) < share
        clean[:, :first] = drawn.to(device)
    return clean


def gather_states(trajectory: Tensor, index: Tensor) -> Tensor:
    """Pick for every frame one state of `trajectory` `[B, S, F, C, H, W]` by `index` `[B, F]`: `[B, F, C, H, W]`."""
    rows = torch.arange(trajectory.shape[0], device=trajectory.device)[:, None]
    columns = torch.arange(trajectory.shape[2], device=trajectory.device)[None]
    return trajectory[rows, index, columns]
