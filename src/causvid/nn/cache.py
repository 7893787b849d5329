"""The past of a stream as a value: self-attention keys and values of the latent frames the next chunk sees.

Letters: D depth (blocks), B batch, S slots = (sink + window) tokens, N heads, K head dim.

Denoising only reads; one commit a chunk writes. The cache belongs to a stream, never to a module, so streams share
weights and a stream can be snapshotted, restored and forked. Buffers never change place or size. Keys are stored
rotated at their absolute frame, which keeps serving while the window slides, since rotary attention depends on distance
alone; only the sink, whose distance would grow without bound, is re-rotated when it is read.

A snapshot costs nothing until its cache is written to: only then is the past copied, once for all snapshots of it.
"""

from collections.abc import Iterable
from weakref import WeakSet

import torch
from torch import Tensor

from causvid.nn.rope import Rotation, frame_shift, rotate


class _Buffers:
    """Keys and values `[D, B, S, N, K]`, and all that hold them: at most one cache that writes here, and borrowers."""

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        self.keys, self.values = keys, values
        self.holders: WeakSet[_Holder] = WeakSet()

    def lend_copy(self, borrowers: Iterable["_Holder"]) -> None:
        """Move borrowers on to one copy of what is here."""
        copy = _Buffers(self.keys.clone(), self.values.clone())
        for borrower in borrowers:
            borrower._hold(copy)


class _Holder:
    """Whatever has a past: a cache, or the snapshot of one."""

    _buffers: _Buffers

    def _hold(self, buffers: _Buffers) -> None:
        if hasattr(self, "_buffers"):
            self._buffers.holders.discard(self)
        self._buffers = buffers
        buffers.holders.add(self)

    @property
    def keys(self) -> Tensor:
        """Keys `[D, B, S, N, K]`."""
        return self._buffers.keys

    @property
    def values(self) -> Tensor:
        """Values `[D, B, S, N, K]`."""
        return self._buffers.values


class CacheSnapshot(_Holder):
    """The whole state of a cache at one moment. A value: no later write to the cache reaches it."""

    def __init__(self, cache: "KVCache") -> None:
        self._hold(cache._buffers)
        self.frames, self.held, self.sink = cache.frames, cache.held, cache.sink


class KVCache(_Holder):
    """Sink and window of one stream.

    frames: the position of the next frame. held: frames that a reader sees now.
    window: how many of the latest frames are kept; sink: how many of the first.
    """

    def __init__(self, keys: Tensor, values: Tensor, *, tokens_per_frame: int, window: int, sink: int) -> None:
        """Take the buffers `[D, B, S, N, K]`; use `allocate` to make them."""
        self._hold(_Buffers(keys, values))
        self._borrows = False
        self.tokens_per_frame, self.window, self.sink = tokens_per_frame, window, sink
        self.frames = self.held = 0
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
        self._part()
        for buffer, new in ((self.keys[block], keys.detach()), (self.values[block], values.detach())):
            self._place(buffer, new)

    def advance(self, frames: int) -> None:
        """Complete a commit of `frames` latent frames, after every block has written."""
        self._move_to(self.frames + frames, min(self.held + frames, self.sink + self.window))

    def clear(self) -> None:
        """Forget everything: the next frame is the first."""
        self._move_to(0, 0)

    def narrow(self, recent: int) -> None:
        """Drop all of the window but its latest `recent` frames; the sink stays, and so does the position."""
        if self.held - self.sink <= recent:
            return
        self._part()
        tokens = self.tokens_per_frame
        kept, stop = slice(self.sink * tokens, (self.sink + recent) * tokens), self.held * tokens
        for buffer in (self.keys, self.values):
            buffer[:, :, kept] = buffer[:, :, stop - recent * tokens : stop].clone()
        self._move_to(self.frames, self.sink + recent)

    def jump(self, position: int) -> None:
        """Let the next frame stand at `position`, as if what lies between had been seen and dropped.

        For a past that is rebuilt: the sink is committed, then the frames of the window, which are not its neighbours.
        """
        if self.held != self.sink or position < self.frames:
            raise ValueError(f"position={position} with {self.held} frames held: only a bare sink of {self.sink} jumps")
        self._move_to(position, self.held)

    def _move_to(self, frames: int, held: int) -> None:
        """Set the position, and the rotation that takes the sink to just before the window."""
        self.frames, self.held = frames, held
        gap = frames - held
        moved = gap > 0 and self.sink > 0
        self._sink_shift = frame_shift(gap, self.keys.shape[-1], self.keys.device) if moved else None

    def _part(self) -> None:
        """Stop sharing, before a write: whoever borrows moves to a copy, and an owner's buffers keep their address."""
        others = [holder for holder in self._buffers.holders if holder is not self]
        if others:
            self._buffers.lend_copy([self] if self._borrows else others)
        self._borrows = False

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
        """Return the whole state, which shares memory with this cache until the cache is written to."""
        return CacheSnapshot(self)

    def restore(self, snapshot: CacheSnapshot) -> None:
        """Go back to a snapshot of this cache or of one of the same sizes."""
        if snapshot.keys.shape != self.keys.shape or snapshot.sink != self.sink:
            raise ValueError(
                f"snapshot of shape {tuple(snapshot.keys.shape)} and sink={snapshot.sink} does not fit a cache of "
                f"{tuple(self.keys.shape)} and sink={self.sink}"
            )
        if snapshot._buffers is not self._buffers:
            self._part()
            self.keys.copy_(snapshot.keys)
            self.values.copy_(snapshot.values)
        self._move_to(snapshot.frames, snapshot.held)

    def fork(self) -> "KVCache":
        """Return a second cache with the same past; they share memory until one of them is written to."""
        fork = KVCache(
            self.keys, self.values, tokens_per_frame=self.tokens_per_frame, window=self.window, sink=self.sink
        )
        fork._hold(self._buffers)
        fork._borrows = True
        fork._move_to(self.frames, self.held)
        return fork
