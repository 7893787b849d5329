"""Frames from outside as latents: an image, the end of a video, a video chunk by chunk.

Letters: T pixel frames, F latent frames, C channels, H W pixels, h w a latent frame.
"""

import itertools
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
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
STRENGTH = 0.9
"""How much of its source a video made anew changes, unless said otherwise: what `evaluate streams` found best."""
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
        raise ValueError("the video has no frames: nothing to go on from")
    whole = [size for size in (1, *range(first, most + 1, chunk)) if pixel_frames(size) <= len(last)]
    kept = list(last)[-pixel_frames(max(whole)) :]
    pixels = to_pixels(kept, device)
    return autoencoder.encode(pixels), pixels[:, -1:]


def to_pixels(frames: Iterable[Frame], device: torch.device) -> Tensor:
    """Turn frames of uint8 `[H, W, 3]` into pixels `[1, T, 3, H, W]` in [0, 1]."""
    stacked = torch.from_numpy(np.stack([np.asarray(frame) for frame in frames]))
    return stacked.to(device).movedim(-1, 1)[None].float() / 255


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
        ValueError, OSError: at once, if a file is none that can be read.
    """
    if isinstance(video, str | Path):
        frames = read_video(video, height=height, width=width, fps=fps, fit=fit, last=last)
        return itertools.chain(list(itertools.islice(frames, 1)), frames)
    return (fit_frame(np.asarray(frame), height, width, fit=fit) for frame in video)


def encode_chunks(
    autoencoder: Autoencoder, frames: Iterable[Frame], *, first: int, chunk: int, device: torch.device
) -> Iterator[SourceChunk]:
    """Encode a video as it comes, in chunks of `first` and then `chunk` latent frames; its last frame fills the end."""
    state: AutoencoderState | None = None
    waiting: list[Frame] = []
    before: Frame | None = None

    def encode(real: int) -> SourceChunk:
        nonlocal state, before
        latents, state = autoencoder.encode_chunk(to_pixels(waiting, device), state)
        seen = [before, *waiting] if before is not None else waiting
        before = waiting[-1]
        return SourceChunk(latents, real, motion(seen))

    for frame in frames:
        waiting.append(frame)
        wanted = pixel_frames(first) if state is None else TIME_FACTOR * chunk
        if len(waiting) == wanted:
            yield encode(wanted)
            waiting = []
    if waiting:
        real, wanted = len(waiting), pixel_frames(first) if state is None else TIME_FACTOR * chunk
        waiting += [waiting[-1]] * (wanted - real)
        yield encode(real)


def motion(frames: list[Frame]) -> float:
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
