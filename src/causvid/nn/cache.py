"""The past of a stream as a value: self-attention keys and values of the latent frames the next chunk sees.

Letters: D depth (blocks), B batch, S slots = (sink + window) tokens, N heads, K head dim.

Denoising only reads; one commit a chunk writes. The cache belongs to a stream, never to a module, so streams share
weights and a stream can be snapshotted and restored. Buffers never change place or size. Keys are stored rotated at
their absolute frame, which keeps serving while the window slides, since rotary attention depends on distance alone;
only the sink, whose distance would grow without bound, is re-rotated when it is read.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from causvid.nn.rope import Rotation, frame_shift, rotate


@dataclass(frozen=True)
class CacheSnapshot:
    """The whole state of a cache at one moment, detached from it: keys and values `[D, B, S, N, K]`."""

    keys: Tensor
    values: Tensor
    frames: int
    sink: int


class KVCache:
    """Sink and window of one stream.

    frames: latent frames committed so far, which is also the position of the next frame.
    window: how many of the latest frames are kept; sink: how many of the first.
    """

    def __init__(self, keys: Tensor, values: Tensor, *, tokens_per_frame: int, window: int, sink: int) -> None:
        """Take the buffers `[D, B, S, N, K]`; use `allocate` to make them."""
        self.keys, self.values = keys, values
        self.tokens_per_frame, self.window, self.sink = tokens_per_frame, window, sink
        self.frames = 0
        self._sink_shift: Rotation | None = None

    @classmethod
    def allocate(
        cls,
        *,
        depth: int,
        batch: int,
        tokens_per_frame: int,
        heads: int,
        head_dim: int,
        window: int,
        sink: int = 0,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> "KVCache":
        """Make an empty cache that holds `sink + window` frames."""
        if window < 0 or sink < 0 or window + sink < 1:
            raise ValueError(f"window={window} and sink={sink} must not be negative and must keep at least one frame")
        shape = (depth, batch, (sink + window) * tokens_per_frame, heads, head_dim)
        keys = torch.zeros(shape, device=device, dtype=dtype)
        return cls(keys, torch.zeros_like(keys), tokens_per_frame=tokens_per_frame, window=window, sink=sink)

    @property
    def held(self) -> int:
        """Frames that a reader sees now."""
        return min(self.frames, self.sink + self.window)

    def read(self, block: int) -> tuple[Tensor, Tensor]:
        """Return the past keys and values of one block, `[B, held tokens, N, K]` each."""
        stop = self.held * self.tokens_per_frame
        keys, values = self.keys[block, :, :stop], self.values[block, :, :stop]
        if self._sink_shift is not None:
            split = self.sink * self.tokens_per_frame
            keys = torch.cat((rotate(keys[:, :split], self._sink_shift), keys[:, split:]), dim=1)
        return keys, values

    def write(self, block: int, keys: Tensor, values: Tensor) -> None:
        """Store one block's keys and values `[B, new tokens, N, K]` of a chunk; `advance` completes the commit."""
        for buffer, new in ((self.keys[block], keys.detach()), (self.values[block], values.detach())):
            self._place(buffer, new)

    def advance(self, frames: int) -> None:
        """Complete a commit of `frames` latent frames, after every block has written."""
        self._move_to(self.frames + frames)

    def _move_to(self, frames: int) -> None:
        """Set the position, and the rotation that takes the sink to just before the window."""
        self.frames = frames
        gap = frames - self.held
        moved = gap > 0 and self.sink > 0
        self._sink_shift = frame_shift(gap, self.keys.shape[-1], self.keys.device) if moved else None

    def _place(self, buffer: Tensor, new: Tensor) -> None:
        """Append `new` behind what `buffer` `[B, S, N, K]` holds, dropping the oldest window frames if it is full."""
        tokens, capacity = self.tokens_per_frame, buffer.shape[1]
        held = self.held * tokens
        excess = held + new.shape[1] - capacity
        if excess <= 0:
            buffer[:, held : held + new.shape[1]] = new
            return
        fixed = self.sink * tokens
        if held < fixed:  # the sink is still filling: its share of the chunk goes in first
            room = fixed - held
            buffer[:, held:fixed] = new[:, :room]
            new, held = new[:, room:], fixed
        window = capacity - fixed
        kept = max(0, min(held - fixed, window - new.shape[1]))
        if kept:
            buffer[:, fixed : fixed + kept] = buffer[:, held - kept : held].clone()
        if window:
            last = new[:, -min(new.shape[1], window) :]
            buffer[:, fixed + kept : fixed + kept + last.shape[1]] = last

    def snapshot(self) -> CacheSnapshot:
        """Return a copy of the whole state."""
        return CacheSnapshot(self.keys.clone(), self.values.clone(), self.frames, self.sink)

    def restore(self, snapshot: CacheSnapshot) -> None:
        """Go back to a snapshot of this cache or of one of the same sizes."""
        if snapshot.keys.shape != self.keys.shape or snapshot.sink != self.sink:
            raise ValueError(
                f"snapshot of shape {tuple(snapshot.keys.shape)} and sink={snapshot.sink} does not fit a cache of "
                f"{tuple(self.keys.shape)} and sink={self.sink}"
            )
        self.keys.copy_(snapshot.keys)
        self.values.copy_(snapshot.values)
        self._move_to(snapshot.frames)
