"""Who sees whom, in latent frames, as pure data: no tensors, no masks.

A visibility turns a number of frames into spans: which query frames look at which key frames, and at which position
each key frame stands. Attention runs once a span over slices of the keys, which is exact, needs no mask, and costs
what ideal block sparsity would.
"""

from dataclasses import dataclass
from functools import lru_cache

from causvid.nn.chunks import chunks


@dataclass(frozen=True)
class KeySlice:
    """Key frames `start` to `stop` of the sequence; `shift` frames are added to their position (0: as they stand)."""

    start: int
    stop: int
    shift: int = 0


@dataclass(frozen=True)
class Span:
    """Query frames `start` to `stop` and all the keys they see."""

    start: int
    stop: int
    keys: tuple[KeySlice, ...]


@dataclass(frozen=True)
class Visibility:
    """An attention pattern over latent frames.

    first, chunk: sizes of the first and of every later chunk; `chunk=None` means that all frames see all frames.
        `first=1, chunk=3` is the layout [1, 3, 3, ...], `first=3, chunk=3` the uniform one.
    window: how many of the latest past frames a chunk sees, besides itself; None keeps all the past.
    sink: how many of the very first frames stay visible when the window has left them behind. They are moved to stand
        just before the window, so that no distance grows beyond `sink + window`.
    teacher_forcing: the sequence is [clean | noisy], twice F frames: a clean chunk sees the clean past and itself, a
        noisy chunk the clean chunks before it and itself.
    """

    first: int | None = None
    chunk: int | None = None
    window: int | None = None
    sink: int = 0
    teacher_forcing: bool = False

    def __post_init__(self) -> None:
        if self.chunk is None:
            if self.window is not None or self.sink or self.first is not None or self.teacher_forcing:
                raise ValueError(
                    "window, sink, first and teacher_forcing need a chunk size: full attention has no past"
                )
            return
        for name in ("first", "chunk"):
            value = getattr(self, name)
            if value is None or value < 1:
                raise ValueError(f"{name}={value} must be at least 1")
        if self.window is not None and self.window < 0:
            raise ValueError(f"window={self.window} must not be negative")
        if self.sink < 0 or (self.sink and self.window is None):
            raise ValueError(f"sink={self.sink} needs a window: without one all the past is kept")

    def positions(self, frames: int) -> tuple[int, ...]:
        """Return the temporal position of each of `frames` frames of the sequence."""
        if not self.teacher_forcing:
            return tuple(range(frames))
        if frames % 2:
            raise ValueError(f"frames={frames} must be even: teacher forcing takes [clean | noisy]")
        return tuple(range(frames // 2)) * 2

    def spans(self, frames: int) -> tuple[Span, ...]:
        """Return the spans of a sequence of `frames` frames; the last chunk may be cut short."""
        return _spans(self, frames)


FULL = Visibility()


@lru_cache(maxsize=256)
def _spans(v: Visibility, frames: int) -> tuple[Span, ...]:
    if v.chunk is None or v.first is None:
        return (Span(0, frames, (KeySlice(0, frames),)),)
    length = frames // 2 if v.teacher_forcing else frames
    spans: list[Span] = []
    noisy: list[Span] = []
    start = 0
    for size in chunks(v.first, v.chunk):
        stop = min(start + size, length)
        past = _past(start, v.window, v.sink)
        spans.append(Span(start, stop, (*past, KeySlice(start, stop))))
        noisy.append(Span(length + start, length + stop, (*past, KeySlice(length + start, length + stop))))
        start = stop
        if start >= length:
            break
    return (*spans, *noisy) if v.teacher_forcing else tuple(spans)


def _past(start: int, window: int | None, sink: int) -> tuple[KeySlice, ...]:
    """Return the past that a chunk beginning at frame `start` sees: sink (moved up to the window), then window."""
    if window is None or start <= window + sink:
        return (KeySlice(0, start),) if start else ()
    left = start - window
    kept = (KeySlice(0, sink, shift=left - sink),) if sink else ()
    return (*kept, KeySlice(left, start)) if window else kept
