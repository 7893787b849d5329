"""Rotary position embedding in three dimensions, computed from positions: no table, so no length limit.

Letters: B batch, L tokens, N heads, K head dim, F latent frames, H W token rows and columns of a frame.
The head's K/2 complex pairs are shared out among time, rows and columns as in Wan 2.1: rows and columns get K // 6
pairs each, time gets the rest. Angles are computed in float64 (fp32 on Apple's GPUs, which have none) and applied in
fp32.

Source: Su et al., RoFormer (2104.09864); Wan (2503.20314).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

THETA = 10_000.0


@dataclass(frozen=True)
class Rotation:
    """The angles of some tokens as fp32 `cos` and `sin`, each `[L, K/2]`."""

    cos: Tensor
    sin: Tensor


def _split(head_dim: int) -> tuple[int, int]:
    """Return how many complex pairs time and each spatial axis get."""
    if head_dim % 2:
        raise ValueError(f"head_dim={head_dim} must be even")
    space = head_dim // 6
    return head_dim // 2 - 2 * space, space


def _precise(device: torch.device) -> torch.dtype:
    return torch.float32 if device.type == "mps" else torch.float64


def _angles(positions: Tensor, pairs: int) -> Tensor:
    """Return `[len(positions), pairs]` angles, frequencies falling from 1 to 1 / THETA."""
    rates = THETA ** (-torch.arange(pairs, dtype=positions.dtype, device=positions.device) / max(pairs, 1))
    return positions[:, None] * rates


def _positions(frames: Sequence[int], device: torch.device) -> Tensor:
    """Write positions on the device run by run, since a copy from the host would wait for all work before it."""
    starts = [i for i in range(len(frames)) if i == 0 or frames[i] != frames[i - 1] + 1]
    stops = [*starts[1:], len(frames)]
    runs = [(frames[a], frames[a] + b - a) for a, b in zip(starts, stops, strict=True)]
    return torch.cat([torch.arange(a, b, dtype=_precise(device), device=device) for a, b in runs])


def rotation(frames: Sequence[int], height: int, width: int, head_dim: int, device: torch.device) -> Rotation:
    """Return the rotation of all tokens of the given latent frames, frame by frame, row by row.

    `frames` holds absolute frame positions, which may start anywhere and repeat; `height` and `width` count tokens.
    """
    time, space = _split(head_dim)
    if not frames:
        raise ValueError("frames is empty: a rotation needs at least one frame")
    f = _angles(_positions(frames, device), time)
    r = _angles(_positions(range(height), device), space)
    c = _angles(_positions(range(width), device), space)
    n = len(frames)
    angles = torch.cat(
        [
            f[:, None, None].expand(n, height, width, time),
            r[None, :, None].expand(n, height, width, space),
            c[None, None, :].expand(n, height, width, space),
        ],
        dim=-1,
    ).flatten(0, 2)
    return Rotation(angles.cos().float(), angles.sin().float())


def frame_shift(delta: int, head_dim: int, device: torch.device) -> Rotation:
    """Return the rotation, one row for all tokens, that moves already rotated keys by `delta` frames."""
    time, space = _split(head_dim)
    angles = _angles(torch.full((1,), delta, dtype=_precise(device), device=device), time)
    angles = torch.nn.functional.pad(angles, (0, 2 * space))
    return Rotation(angles.cos().float(), angles.sin().float())


def rotate(x: Tensor, by: Rotation) -> Tensor:
    """Rotate queries or keys `[B, L, N, K]` in fp32; neighbouring channels form a complex pair."""
    pairs = x.float().unflatten(-1, (-1, 2))
    a, b = pairs.unbind(-1)
    cos, sin = by.cos[:, None], by.sin[:, None]
    return torch.stack((a * cos - b * sin, a * sin + b * cos), dim=-1).flatten(-2).to(x.dtype)
