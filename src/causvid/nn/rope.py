"""Rotary position embedding in three dimensions, computed from positions: no table, so no length limit.

Letters: B batch, L tokens, N heads, K head dim, F latent frames, H W token rows and columns of a frame.
The head's K/2 complex pairs are shared out among time, rows and columns as in Wan 2.1: rows and columns get K // 6
pairs each, time gets the rest. Angles are computed in float64 (fp32 on Apple's GPUs, which have none) and applied in
fp32.

Source: Su et al., RoFormer (2104.09864); Wan (2503.20314).
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

THETA = 10_000.0


class Rotation(NamedTuple):
    """The angles of some tokens as fp32 `cos` and `sin`, each `[B or 1, L or 1, K/2]`."""

    cos: Tensor
    sin: Tensor


def precise(device: torch.device) -> torch.dtype:
    """Return the type in which angles are computed on a device: float64 wherever there is one."""
    return torch.float32 if device.type == "mps" else torch.float64


def rotation(frames: Tensor, height: int, width: int, head_dim: int) -> Rotation:
    """Return the rotation of all tokens of the latent frames at positions `[B, F]`, frame by frame, row by row.

    Positions are absolute, may start anywhere and repeat, and may differ by row of the batch; `height` and `width`
    count tokens.
    """
    time, space = _split(head_dim)
    batch, count = frames.shape
    if not count:
        raise ValueError("frames is empty: a rotation needs at least one frame")
    grid = (batch, count, height, width, -1)
    f = _angles(frames, time)[:, :, None, None]
    r = _angles(torch.arange(height, device=frames.device), space)[None, None, :, None]
    c = _angles(torch.arange(width, device=frames.device), space)[None, None, None]

    def spread(of: Callable[[Tensor], Tensor]) -> Tensor:
        return torch.cat([of(axis).float().expand(grid) for axis in (f, r, c)], dim=-1).flatten(1, 3)

    return Rotation(spread(torch.cos), spread(torch.sin))


def frame_shift(delta: Tensor, head_dim: int) -> Rotation:
    """Return the rotation, one for all tokens of a row, that moves already rotated keys by `delta` `[B]` frames."""
    time, space = _split(head_dim)
    angles = torch.nn.functional.pad(_angles(delta, time), (0, 2 * space))[:, None]
    return Rotation(angles.cos().float(), angles.sin().float())


def rotate(x: Tensor, by: Rotation) -> Tensor:
    """Rotate queries or keys `[..., B, L, N, K]` in fp32; neighbouring channels form a complex pair."""
    pairs = x.float().unflatten(-1, (-1, 2))
    if x.device.type != "mps" and not is_captured():  # neither knows complex numbers
        # One product of complex numbers, the same but for rounding: 8 times as fast as the seven steps below.
        turned = torch.view_as_real(torch.view_as_complex(pairs) * torch.complex(by.cos, by.sin)[..., None, :])
    else:
        a, b = pairs.unbind(-1)
        cos, sin = by.cos[..., None, :], by.sin[..., None, :]
        turned = torch.stack((a * cos - b * sin, a * sin + b * cos), dim=-1)
    return turned.flatten(-2).to(x.dtype)


def is_captured() -> bool:
    """Tell whether operations are written down, as a graph for a compiler, instead of done."""
    return torch.compiler.is_compiling() or bool(torch.jit.is_tracing())  # type: ignore[attr-defined, no-untyped-call]


def _split(head_dim: int) -> tuple[int, int]:
    """Return how many complex pairs time and each spatial axis get."""
    if head_dim % 2:
        raise ValueError(f"head_dim={head_dim} must be even")
    space = head_dim // 6
    return head_dim // 2 - 2 * space, space


def _angles(positions: Tensor, pairs: int) -> Tensor:
    """Return `[..., pairs]` angles of positions `[...]`, frequencies falling from 1 to 1 / THETA."""
    dtype = precise(positions.device)
    rates = THETA ** (-torch.arange(pairs, dtype=dtype, device=positions.device) / max(pairs, 1))
    return positions.to(dtype)[..., None] * rates
