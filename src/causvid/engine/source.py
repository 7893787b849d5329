"""Frames from outside as latents: an image, the end of a video, a video chunk by chunk.

Letters: T pixel frames, F latent frames, C channels, H W pixels, h w a latent frame.
"""

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from causvid.media import Fit, fit_frame, read_image, read_video
from causvid.models.autoencoder import TIME_FACTOR, Autoencoder, AutoencoderState, pixel_frames

Frame = NDArray[np.uint8]
"""A frame of uint8 `[H, W, 3]`."""
Image = str | Path | Frame
Video = str | Path | Iterable[Frame]
"""A file (or `webcam`), or frames at the rate of the model."""
LIVELY = 0.06
"""Mean change of a pixel from frame to frame, of 1, at which motion counts as strong."""


@dataclass(frozen=True)
class SourceChunk:
    """A piece of a video: clean latents `[1, F, C, h, w]`, how many of its frames are real, and how much they move.

    motion: mean absolute change of a pixel value from a frame to the next, in [0, 1].
    """

    latents: Tensor
    frames: int
    motion: float


@dataclass(frozen=True)
class SourcePosition:
    """How far a video was read: its frames, the state of the encoder, and the last frame read, uint8 `[H, W, 3]`."""

    frames: int = 0
    encoder: AutoencoderState | None = None
    latest: Tensor | None = None


class Source:
    """A video that chunks start from (video-to-video), encoded as it is read; where it can be reopened, from anywhere.

    chunk: latent frames of each chunk, `first` of the first.
    """

    def __init__(
        self,
        open_at: Callable[[int], Iterator[Frame]],
        autoencoder: Autoencoder,
        *,
        first: int,
        chunk: int,
        device: torch.device,
        replayable: bool,
        position: SourcePosition | None = None,
    ) -> None:
        """Read from what `open_at` returns for a number of frames to pass over."""
        self.position = position or SourcePosition()
        self.replayable = replayable
        self._open_at, self._autoencoder, self._device = open_at, autoencoder, device
        self._first, self._chunk = first, chunk
        self._frames = open_at(self.position.frames)
        self._ready: tuple[SourceChunk, SourcePosition] | None = None

    @property
    def wanted(self) -> int:
        """Return how many frames the next chunk is made of."""
        return pixel_frames(self._first) if self.position.encoder is None else TIME_FACTOR * self._chunk

    def saved(self) -> SourcePosition:
        """Return how far the video was read, for one that can be read again.

        Raises:
            ValueError: if it comes from a camera or a one-time iterable.
        """
        if not self.replayable:
            raise ValueError(
                "a stream that follows a live video cannot be rewound, forked or saved, since it plays once"
            )
        return self.position

    def at(self, position: SourcePosition) -> "Source":
        """Return the same video from another position.

        Raises:
            ValueError: if it comes from a camera or a one-time iterable, which cannot be read twice.
        """
        self.saved()
        return Source(
            self._open_at,
            self._autoencoder,
            first=self._first,
            chunk=self._chunk,
            device=self._device,
            replayable=True,
            position=position,
        )

    def next(self) -> SourceChunk | None:
        """Return the next chunk, its end filled with the last frame, and move on; None at the end of the video."""
        chunk = self.peek()
        if self._ready is not None:
            self.position, self._ready = self._ready[1], None
        return chunk

    def peek(self) -> SourceChunk | None:
        """Encode the next chunk, and keep it until `next` returns it.

        Raises:
            ValueError: if there are no frames at all, or one cannot be used.
        """
        if self._ready is not None:
            return self._ready[0]
        now, wanted = self.position, self.wanted
        frames = list(itertools.islice(self._frames, wanted))
        if not frames:
            if not now.frames:
                raise ValueError("source is empty: expected a video, a file or frames")
            return None
        padded = [*frames, *[frames[-1]] * (wanted - len(frames))]
        latents, encoder = self._autoencoder.encode_chunk(to_pixels(padded, self._device), now.encoder)
        before = [] if now.latest is None else [now.latest.numpy()]
        position = replace(
            now,
            frames=now.frames + len(frames),
            encoder=encoder,
            latest=torch.from_numpy(np.array(padded[-1])),
        )
        self._ready = SourceChunk(latents, len(frames), motion([*before, *padded])), position
        return self._ready[0]


def open_source(
    video: Video,
    autoencoder: Autoencoder,
    *,
    height: int,
    width: int,
    fps: float,
    fit: Fit,
    first: int,
    chunk: int,
    device: torch.device,
    live: bool,
) -> Source:
    """Open a video to start chunks from. live: it is a camera, which cannot be read twice.

    Raises:
        ValueError, OSError: at once, if a file cannot be read.
    """
    if isinstance(video, np.ndarray | Tensor | Sequence) and not isinstance(video, str) and not len(video):
        raise ValueError("the source has no frames: expected at least one")
    # What can be read again is, from any frame on; all else plays once.
    handed = None if isinstance(video, str | Path | Sequence | np.ndarray | Tensor) else iter(video)

    def open_at(skip: int) -> Iterator[Frame]:
        frames = load_video(video if handed is None else handed, height, width, fps=fps, fit=fit)
        for number in range(skip):
            if next(frames, None) is None:
                raise ValueError(f"the source has {number} frames now, but {skip} of it were read: it has changed")
        return frames

    replayable = handed is None and not live
    return Source(open_at, autoencoder, first=first, chunk=chunk, device=device, replayable=replayable)


def encode_end(
    autoencoder: Autoencoder, frames: Iterable[Frame], *, first: int, chunk: int, most: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Encode the end of a video, as many whole chunks of it as fit into `most` latent frames.

    A video too short for the first chunk gives its last frame alone.

    Returns:
        The latents `[1, F, C, h, w]`, and the last frame as it is, `[1, 1, 3, H, W]` in [0, 1].

    Raises:
        ValueError: if there are no frames.
    """
    last = deque(frames, maxlen=pixel_frames(most))
    if not last:
        raise ValueError("the video has no frames: nothing to continue")
    whole = [size for size in (1, *range(first, most + 1, chunk)) if pixel_frames(size) <= len(last)]
    kept = list(last)[-pixel_frames(max(whole)) :]
    pixels = to_pixels(kept, device)
    return autoencoder.encode(pixels), pixels[:, -1:]


def to_pixels(frames: Iterable[Frame], device: torch.device) -> Tensor:
    """Turn frames of uint8 `[H, W, 3]` into pixels `[1, T, 3, H, W]` in [0, 1]."""
    stacked = torch.from_numpy(np.stack([np.asarray(frame) for frame in frames]))
    # The layout of memory decides the last bits of a convolution, and what is read back from disk is contiguous.
    return stacked.to(device).movedim(-1, 1)[None].contiguous().float() / 255


def load_image(image: Image, height: int, width: int, *, fit: Fit) -> Frame:
    """Return an image at a size, uint8 `[H, W, 3]`."""
    if isinstance(image, str | Path):
        return read_image(image, height=height, width=width, fit=fit)
    return fit_frame(image, height, width, fit=fit)


def load_video(
    video: Video, height: int, width: int, *, fps: float, fit: Fit, last: float | None = None
) -> Iterator[Frame]:
    """Return the frames of a video at a size and rate, uint8 `[H, W, 3]`; only the `last` seconds if given.

    Frames that are handed over are taken to have the rate.

    Raises:
        ValueError, OSError: at once, if a file cannot be read.
    """
    if isinstance(video, str | Path):
        frames = read_video(video, height=height, width=width, fps=fps, fit=fit, last=last)
        return itertools.chain(list(itertools.islice(frames, 1)), frames)
    return (fit_frame(np.asarray(frame), height, width, fit=fit) for frame in video)


def motion(frames: Sequence[Frame]) -> float:
    """Return the mean absolute change of a pixel value from one frame to the next, in [0, 1]."""
    if len(frames) < 2:
        return 0.0
    video = np.stack(frames).astype(np.int16)
    return float(np.abs(np.diff(video, axis=0)).mean() / 255)


def adapted(strength: float, motion: float) -> float:
    """Lower a video-to-video strength, to half at most, as the source moves more.

    Much noise makes a moving thing jump from chunk to chunk, little noise keeps a still one from changing: the idea is
    StreamDiffusionV2's, the formula our own.
    """
    return strength * (1 - 0.5 * min(1.0, motion / LIVELY))


def levels_below(strength: float, sigmas: Sequence[float]) -> tuple[float, ...]:
    """Return the noise levels of a chunk that starts at `strength` in (0, 1]: it, then those of `sigmas` below it.

    Raises:
        ValueError: if `strength` is out of range.
    """
    if not 0 < strength <= 1:
        raise ValueError(f"strength={strength:g} is not above 0 and at most 1")
    return (strength, *(sigma for sigma in sigmas if sigma < strength))
