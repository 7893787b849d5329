"""A session: everything that the next chunk of one stream depends on, besides the weights.

Letters: F latent frames, C H W a latent frame, M text tokens, D their width.

A `Session` is what the engine advances: it owns a row of cache and a generator. `SessionState` is the same at one
moment as a value, which later chunks do not change; it goes to disk and back (`engine.storage`).
"""

from collections import deque
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from causvid.engine.history import History
from causvid.engine.request import Change, GenerationRequest, Policy, PromptChange
from causvid.engine.source import Source, SourcePosition
from causvid.models.autoencoder import AutoencoderState
from causvid.models.transformer import TextKeys
from causvid.nn.cache import CacheState, KVCache


@dataclass(frozen=True)
class Geometry:
    """What stays the same while a session lives.

    first, chunk: the layout in latent frames. shape: (C, H, W) of a latent frame. sigmas: the few noise levels.
    window, sink: latent frames of history that are seen. policy: "window" keeps their keys as they were computed,
    "recompute" recomputes them before every chunk from the clean latents that are still seen.
    length: pixel frames to generate, None for no end. carry: how many of the window's latent frames a changed prompt
    still sees, None for all. adapt: lower the strength of video-to-video as the source moves more.
    """

    first: int
    chunk: int
    shape: tuple[int, int, int]
    sigmas: tuple[float, ...]
    window: int
    sink: int
    policy: Policy = "window"
    length: int | None = None
    carry: int | None = None
    adapt: bool = False


@dataclass(frozen=True)
class Blend:
    """A prompt on its way: embeddings `[1, M, D]` at both ends, and how many of the chunks are done."""

    start: Tensor
    end: Tensor
    chunks: int
    done: int = 0

    @property
    def embedding(self) -> Tensor:
        """Return what the text is after so many chunks, `[1, M, D]`."""
        return torch.lerp(self.start, self.end, self.done / self.chunks)


@dataclass(frozen=True)
class Applied:
    """A prompt that took effect after so many pixel frames; the first is the one the session started with."""

    frames: int
    change: PromptChange


@dataclass(frozen=True)
class Point:
    """Where a session stands, apart from its cache and its noise.

    embedding: of the present text, `[1, M, D]`; text: what the blocks see of it. history: the clean latents that are
    seen, the newest chunk included; pending: that chunk, while its keys are not committed.
    given: clean latents that replace the next chunk. former: what the next chunk would be had the prompt not changed,
    which it dissolves from. residual: what encoding lost of the frame before, `[1, 1, 3, H, W]`, which fades out over
    the next chunk. latest: the newest chunk. frames: pixel frames returned. seed, strength: as last set.
    """

    applied: tuple[Applied, ...]
    embedding: Tensor
    text: TextKeys | None
    history: History
    seed: int
    strength: float
    pending: Tensor | None = None
    given: Tensor | None = None
    former: Tensor | None = None
    residual: Tensor | None = None
    latest: Tensor | None = None
    blend: Blend | None = None
    decoder: AutoencoderState | None = None
    frames: int = 0


@dataclass(frozen=True)
class SessionState:
    """A session at one moment. random: the generator's state. queue: changes that wait for the next chunk."""

    request: GenerationRequest
    geometry: Geometry
    point: Point
    cache: CacheState
    random: Tensor
    queue: tuple[Change, ...] = ()
    source: SourcePosition | None = None

    @property
    def frames(self) -> int:
        """Return how many pixel frames were returned."""
        return self.point.frames


@dataclass
class Session:
    """A live session; one thread at a time may advance it, any thread may append to `queue`.

    continued: the clean latents it continues, `[1, F, C, H, W]`, where it started from a video or latents.
    """

    request: GenerationRequest
    geometry: Geometry
    point: Point
    cache: KVCache
    generator: torch.Generator
    source: Source | None = None
    queue: deque[Change] = field(default_factory=deque)
    continued: Tensor | None = None

    @torch.inference_mode()
    def state(self) -> SessionState:
        """Return the session as a value.

        Raises:
            ValueError: if it follows a live video, which cannot be read twice.
        """
        position = None if self.source is None else self.source.saved()
        return SessionState(
            self.request,
            self.geometry,
            self.point,
            self.cache.state(),
            self.generator.get_state(),
            tuple(self.queue),
            position,
        )

    @torch.inference_mode()
    def restore(self, state: SessionState) -> None:
        """Return to a state of this session, or of one of the same model and sizes.

        Raises:
            ValueError: if the state is of other sizes, or the session follows a live video.
        """
        if self.source is not None:
            self.source.saved()
        for name in ("window", "sink", "shape"):
            ours, theirs = getattr(self.geometry, name), getattr(state.geometry, name)
            if ours != theirs:
                raise ValueError(f"a state with {name}={theirs} does not fit a session with {name}={ours}")
        if (self.source is None) != (state.source is None):
            raise ValueError("a session that follows a video and one that does not cannot take each other's state")
        if self.source is not None and not _follows_same(self.request, state.request):
            raise ValueError("the state follows another video than the session")
        source = None if self.source is None or state.source is None else self.source.at(state.source)
        self.cache.restore(state.cache)
        self.generator.set_state(state.random)
        self.request, self.geometry, self.point, self.source = state.request, state.geometry, state.point, source
        self.queue = deque(state.queue)

    def fork(self) -> "Session":
        """Return a second session with the same history and the same future, until one of them is changed."""
        fork = replace(self, cache=self.cache.like(), generator=torch.Generator(), queue=deque())
        fork.restore(self.state())
        return fork


def _follows_same(one: GenerationRequest, other: GenerationRequest) -> bool:
    """Tell whether two requests start their chunks from the same video; frames in memory are the same if one object."""
    a, b = one.source, other.source
    named = isinstance(a, str | Path) and isinstance(b, str | Path) and str(a) == str(b)
    return one.fit == other.fit and (a is b or named)
