"""What a stream is at one moment: its settings, its prompts, and the state that its next chunk depends on.

Letters: F latent frames, C H W a latent frame, M text tokens, D their width.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from causvid.engine.history import History
from causvid.models.autoencoder import AutoencoderState
from causvid.models.transformer import TextKeys
from causvid.nn.cache import CacheSnapshot

PromptMode = Literal["cut", "recache", "blend"]
Policy = Literal["window", "recompute"]
BLEND = 3
"""Chunks over which a prompt is blended into the next, unless said otherwise."""


@dataclass(frozen=True)
class StreamSettings:
    """What stays as it is while a stream lives.

    first, chunk: the layout in latent frames. shape: (C, H, W) of a latent frame. sigmas: the few noise levels.
    window, sink: past latent frames that are seen. policy: "window" keeps the keys of the past as they were made,
    "recompute" makes them anew before every chunk from the clean latents that are still seen.
    length: pixel frames to make, None for no end. keep: how many pixel frames back a stream can be rewound.
    carry: how many of the window's latent frames a changed prompt still sees, None for all.
    strength: of video-to-video, the noise level in (0, 1] at which a chunk starts from its source: 1 keeps nothing of
    it. adapt: lower the strength as the source moves more.
    """

    first: int
    chunk: int
    shape: tuple[int, int, int]
    sigmas: tuple[float, ...]
    window: int
    sink: int
    policy: Policy = "window"
    length: int | None = None
    keep: int = 0
    carry: int | None = None
    strength: float = 1.0
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
class Change:
    """A prompt that was set after so many pixel frames, and how; the first is the one the stream began with."""

    frames: int
    prompt: str
    mode: PromptMode = "recache"
    chunks: int = BLEND
    keep_sink: bool | None = None
    carry: int | None = None
    dissolve: bool = True

    @property
    def steps(self) -> int:
        """Return in how many chunks the text gets there."""
        return self.chunks if self.mode == "blend" else 1


@dataclass(frozen=True)
class Point:
    """Where a stream stands, apart from its cache and its noise.

    embedding: of the text that holds now, `[1, M, D]`; text: what the blocks see of it. history: all clean latents that
    are seen, the newest chunk included; pending: that chunk, while its keys are not in the cache.
    given: latents that stand in for the next chunk. former: what the next chunk would be had the prompt not changed,
    which it dissolves from. lost: what encoding lost of the frame before, `[1, 1, 3, H, W]`, which fades out over it.
    latest: the newest chunk. frames: pixel frames given out.
    """

    changes: tuple[Change, ...]
    embedding: Tensor
    text: TextKeys
    history: History
    pending: Tensor | None = None
    given: Tensor | None = None
    former: Tensor | None = None
    lost: Tensor | None = None
    latest: Tensor | None = None
    blend: Blend | None = None
    decoder: AutoencoderState | None = None
    frames: int = 0


@dataclass(frozen=True)
class StreamState:
    """All that the next chunk of a stream depends on, besides the weights. A value: nothing that follows changes it."""

    point: Point
    cache: CacheSnapshot
    random: Tensor
    seed: int

    @property
    def frames(self) -> int:
        """Return how many pixel frames were given out."""
        return self.point.frames
