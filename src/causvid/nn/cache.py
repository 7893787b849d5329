"""The history of streams as self-attention sees it: keys and values of the latent frames the next chunk attends to.

Letters: D depth (blocks), B batch (one row a stream), S slots = sink + window frames, L tokens, N heads, K head dim.

A row fills its S slots in order; then each new frame replaces the oldest of the window, a ring. Behind the filled slots
lies the tail, where a pass writes the keys of the chunk being generated, so no pass copies the history. Denoising
leaves the history alone; one commit a chunk moves the tail into slots. The order of slots does not matter to
attention, and keys are stored rotated at their absolute frame, which keeps serving while the window slides since rotary
attention depends on distance alone. Only the sink, whose distance would grow without bound, is re-rotated, once a
commit, from a copy that is never rotated twice.

What the tensors' shapes depend on (how many slots are filled) is known to the host and stops changing once the window
is full: one compiled graph then serves every chunk. Positions reach the device as tensors.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from causvid.nn.rope import Rotation, frame_shift, precise, rotate, rotation


@dataclass
class Row:
    """Where one stream stands: the position of its next frame, and the absolute frame in each of its filled slots."""

    next: int = 0
    slots: list[int] = field(default_factory=list)


class Room(NamedTuple):
    """What one pass attends to: filled slots, then the tail for its own keys.

    keys, values: `[D, B, L, N, K]`. mask: bool `[B, 1, 1, L]`, None where all rows have as many slots filled.
    """

    keys: Tensor
    values: Tensor
    mask: Tensor | None


@dataclass(frozen=True)
class CacheState:
    """A cache at one moment, as a value: filled slots `[D, B, L, N, K]`, the unrotated sink, and each row's place."""

    keys: Tensor
    values: Tensor
    sink: Tensor
    rows: tuple[tuple[int, tuple[int, ...]], ...]


class KVCache:
    """Sink and window of B streams.

    window: how many of the latest latent frames are kept; sink: how many of the first.
    """

    def __init__(self, keys: Tensor, values: Tensor, sink_keys: Tensor, *, tokens: int, window: int, sink: int) -> None:
        """Wrap buffers `[D, B, L, N, K]`; use `allocate` to make them. tokens: of a latent frame."""
        self.keys, self.values, self.sink_keys = keys, values, sink_keys
        self.tokens_per_frame, self.window, self.sink = tokens, window, sink
        self.rows = [Row() for _ in range(keys.shape[1])]
        self._joined: KVCache | None = None
        self._rotation: tuple[tuple[int, ...], Rotation] | None = None

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
        chunk: int = 0,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> "KVCache":
        """Make an empty cache of `sink + window` frames, with a tail for chunks of `chunk`; a larger one grows it."""
        if window < 0 or sink < 0 or window + sink < 1:
            raise ValueError(f"window={window} and sink={sink} must not be negative and must keep at least one frame")

        def buffer(frames: int) -> Tensor:
            return torch.zeros((depth, batch, frames * tokens_per_frame, heads, head_dim), device=device, dtype=dtype)

        size = sink + window + chunk
        return cls(buffer(size), buffer(size), buffer(sink), tokens=tokens_per_frame, window=window, sink=sink)

    @property
    def batch(self) -> int:
        """Return B."""
        return len(self.rows)

    @property
    def frames(self) -> int:
        """Return the position of the next frame of a cache whose rows are in step."""
        assert len({row.next for row in self.rows}) == 1, "rows are not in step"
        return self.rows[0].next

    @property
    def filled(self) -> int:
        """Return how many frames the fullest row holds, which is where the tail begins."""
        return max(len(row.slots) for row in self.rows)

    @property
    def is_full(self) -> bool:
        """Tell whether sink and window are filled in every row, so that shapes stay as they are."""
        return all(len(row.slots) == self.sink + self.window for row in self.rows)

    def rotation(self, frames: int, height: int, width: int) -> Rotation:
        """Return the rotation of the next frames of `height` x `width` tokens; all passes of a chunk share it."""
        key = (*(row.next for row in self.rows), frames, height, width)
        if self._rotation is None or self._rotation[0] != key:
            places, device = [[row.next + i for i in range(frames)] for row in self.rows], self.keys.device
            with torch.inference_mode(False), torch.no_grad():  # a later pass may need it for a gradient
                positions = torch.tensor(places, dtype=precise(device)).to(device, non_blocking=True)
                self._rotation = key, rotation(positions, height, width, self.keys.shape[-1])
        return self._rotation[1]

    def room(self, frames: int) -> Room:
        """Return what a pass over the next `frames` frames attends to."""
        tokens, filled = self.tokens_per_frame, self.filled
        self._grow((self.sink + self.window + frames) * tokens)
        stop = slice(0, (filled + frames) * tokens)
        mask = None
        if any(len(row.slots) != filled for row in self.rows):
            counts = torch.tensor([len(row.slots) for row in self.rows]).to(self.keys.device, non_blocking=True)
            places = torch.arange(filled + frames, device=self.keys.device)
            seen = (places < counts[:, None]) | (places >= filled)
            mask = seen.repeat_interleave(tokens, dim=1)[:, None, None]
        return Room(self.keys[:, :, stop], self.values[:, :, stop], mask)

    def commit(self, frames: int) -> None:
        """Move the tail, written by the latest pass over `frames` frames, into slots; the window evicts its oldest."""
        tail = self.filled
        for number, row in enumerate(self.rows):
            for slot, source in self._assign(row, frames).items():
                if slot != tail + source:
                    self._copy(number, tail + source, slot)
                if slot < self.sink:
                    self.sink_keys[:, number, self._span(slot)] = self.keys[:, number, self._span(slot)]
        self._place_sink()

    def preserve(self, frames: int) -> None:
        """Leave what passes have seen so far as it is, if committing `frames` more would overwrite some of it.

        For a pass whose gradient is computed later, from what it has seen.
        """
        if any(len(row.slots) + frames > self.sink + self.window for row in self.rows):
            self.keys, self.values, self._joined = self.keys.clone(), self.values.clone(), None

    def clear(self) -> None:
        """Evict everything: the next frame is the first."""
        for row in self.rows:
            row.next, row.slots[:] = 0, []

    def evict(self, recent: int) -> None:
        """Evict all of the window but its latest `recent` frames; sink and position stay."""
        for number, row in enumerate(self.rows):
            kept = sorted(row.slots[self.sink :])
            if len(kept) <= recent:
                continue
            kept = kept[len(kept) - recent :]
            sources = torch.cat([torch.arange(s.start, s.stop) for s in (self._span(row.slots.index(f)) for f in kept)])
            target = slice(self.sink * self.tokens_per_frame, (self.sink + recent) * self.tokens_per_frame)
            for buffer in (self.keys, self.values):
                buffer[:, number, target] = buffer[:, number, sources.to(buffer.device)]
            row.slots[self.sink :] = kept
        self._place_sink()

    def jump(self, position: int) -> None:
        """Let the next frame stand at `position`, as if the frames up to it had been committed and evicted.

        For a cache that is rebuilt: the sink is committed, then frames of the window, which are not its neighbours.
        """
        for row in self.rows:
            if len(row.slots) != self.sink or position < row.next:
                raise ValueError(
                    f"position={position} with {len(row.slots)} frames cached: only a bare sink of {self.sink} jumps"
                )
            row.next = position
        self._place_sink()

    def state(self) -> CacheState:
        """Return a copy of all that later chunks depend on."""
        stop = self.filled * self.tokens_per_frame
        rows = tuple((row.next, tuple(row.slots)) for row in self.rows)
        return CacheState(
            self.keys[:, :, :stop].clone(), self.values[:, :, :stop].clone(), self.sink_keys.clone(), rows
        )

    def restore(self, state: CacheState) -> None:
        """Return to a state of this cache or of one of the same sizes; its buffers keep their address."""
        like = self.keys[:, :, : state.keys.shape[2]]
        largest = (self.sink + self.window) * self.tokens_per_frame
        if like.shape != state.keys.shape or state.sink.shape != self.sink_keys.shape or like.shape[2] > largest:
            raise ValueError(
                f"a cache of {tuple(state.keys.shape)} with a sink of {state.sink.shape[2]} tokens does not fit one of "
                f"{tuple(self.keys.shape)} with a sink of {self.sink_keys.shape[2]}"
            )
        like.copy_(state.keys)
        self.values[:, :, : state.keys.shape[2]].copy_(state.values)
        self.sink_keys.copy_(state.sink)
        for row, (position, slots) in zip(self.rows, state.rows, strict=True):
            row.next, row.slots[:] = position, slots

    def like(self) -> "KVCache":
        """Return an empty cache of the same sizes."""
        buffers = (torch.zeros_like(buffer) for buffer in (self.keys, self.values, self.sink_keys))
        return KVCache(*buffers, tokens=self.tokens_per_frame, window=self.window, sink=self.sink)

    @classmethod
    def join(cls, caches: "Sequence[KVCache]") -> "KVCache":
        """Return one cache of all rows; `split` gives them back as views of it.

        The same rows in the same order are joined without a copy the next time.
        """
        if len(caches) == 1:
            return caches[0]
        rows = [row for cache in caches for row in cache.rows]
        known = caches[0]._joined
        if known is not None and [id(row) for row in known.rows] == [id(row) for row in rows]:
            return known
        size = max(cache.keys.shape[2] for cache in caches)
        for cache in caches:
            cache._grow(size)
        keys, values, sink = (
            torch.cat([getattr(cache, name) for cache in caches], dim=1) for name in ("keys", "values", "sink_keys")
        )
        one = caches[0]
        joined = cls(keys, values, sink, tokens=one.tokens_per_frame, window=one.window, sink=one.sink)
        joined.rows = rows
        return joined

    def split(self) -> "list[KVCache]":
        """Return the rows as caches of their own, which share this one's memory."""
        parts = []
        for number, row in enumerate(self.rows):
            here = slice(number, number + 1)
            buffers = (buffer[:, here] for buffer in (self.keys, self.values, self.sink_keys))
            part = KVCache(*buffers, tokens=self.tokens_per_frame, window=self.window, sink=self.sink)
            part.rows, part._joined = [row], self
            parts.append(part)
        return parts

    def _assign(self, row: Row, frames: int) -> dict[int, int]:
        """Advance a row by so many frames; return which of them each slot takes."""
        taken = {}
        for source in range(frames):
            if len(row.slots) < self.sink + self.window:
                slot = len(row.slots)
                row.slots.append(row.next)
            elif self.window:
                slot = row.slots.index(min(row.slots[self.sink :]), self.sink)
                row.slots[slot] = row.next
            else:
                slot = -1
            if slot >= 0:
                taken[slot] = source
            row.next += 1
        return taken

    def _span(self, slot: int) -> slice:
        """Return the tokens of a slot."""
        return slice(slot * self.tokens_per_frame, (slot + 1) * self.tokens_per_frame)

    def _copy(self, row: int, source: int, target: int) -> None:
        for buffer in (self.keys, self.values):
            buffer[:, row, self._span(target)] = buffer[:, row, self._span(source)]

    def _place_sink(self) -> None:
        """Rotate each row's sink to just before its window."""
        stop = self.sink * self.tokens_per_frame
        gaps = [row.next - len(row.slots) if len(row.slots) >= self.sink else 0 for row in self.rows]
        if not stop or not any(gaps):
            return
        device = self.keys.device
        shift = torch.tensor(gaps, dtype=precise(device)).to(device, non_blocking=True)
        self.keys[:, :, :stop] = rotate(self.sink_keys, frame_shift(shift, self.keys.shape[-1]))

    def _grow(self, tokens: int) -> None:
        """Make the buffers at least so many tokens long."""
        more = tokens - self.keys.shape[2]
        if more > 0:
            pad = (0, 0, 0, 0, 0, more)
            self.keys, self.values = (torch.nn.functional.pad(buffer, pad) for buffer in (self.keys, self.values))
            self._joined = None
