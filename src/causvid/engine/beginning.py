"""What a stream begins with: nothing, an image, the end of a video or of a run, or a video to be made anew.

Letters: F latent frames, C channels, H W pixels, h w a latent frame.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from causvid.config import GenerationConfig
from causvid.engine.latents import SUFFIX, load_latents
from causvid.engine.source import (
    Image,
    SourceChunk,
    Video,
    encode_chunks,
    encode_end,
    load_image,
    load_video,
    to_pixels,
)
from causvid.stream import Stream, first_chunk
from causvid.media import Fit
from causvid.models.autoencoder import Autoencoder, pixel_frames


@dataclass(frozen=True)
class Beginning:
    """How a stream begins.

    first: latent frames of its first chunk. image: the clean latents that are this chunk, `[1, 1, C, h, w]`; past:
    those it goes on from, `[1, F, C, h, w]`, and last: the frame they end with, where it is known, `[1, 1, 3, H, W]` in
    [0, 1]. source: those it makes anew, chunk by chunk.
    """

    first: int
    image: Tensor | None = None
    past: Tensor | None = None
    last: Tensor | None = None
    source: Iterator[SourceChunk] | None = None

    def lay(self, stream: Stream) -> None:
        """Give a new stream its image or its past."""
        if self.image is not None:
            stream.give(self.image)
        if self.past is not None:
            stream.take_up(self.past, self.last)


@torch.inference_mode()
def begin(
    own: GenerationConfig,
    autoencoder: Autoencoder,
    *,
    shape: tuple[int, int, int],
    device: torch.device,
    image: Image | None = None,
    after: Video | Tensor | None = None,
    source: Video | None = None,
    fit: Fit = "cover",
) -> Beginning:
    """Encode what a stream of frames `shape`, (C, h, w), begins with; options are those of `Pipeline.stream`.

    Raises:
        ValueError, OSError: at once, if more than one is given, or it is none that can be read.
    """
    if sum(value is not None for value in (image, after, source)) > 1:
        raise ValueError("give one of image, after and source: a stream begins in one way")
    size = [side * autoencoder.spatial_factor for side in shape[1:]]
    if image is not None:
        latents = autoencoder.encode(to_pixels([load_image(image, *size, fit=fit)], device))
        return Beginning(first_chunk(1, own.first, own.chunk), image=latents)
    if source is not None:
        frames = load_video(source, *size, fps=own.fps, fit=fit)
        chunks = encode_chunks(autoencoder, frames, first=own.first, chunk=own.chunk, device=device)
        return Beginning(own.first, source=chunks)
    if after is None:
        return Beginning(own.first)
    if isinstance(after, str | Path) and Path(after).suffix == SUFFIX:
        after, _ = load_latents(Path(after))
    last = None
    if isinstance(after, Tensor):
        past = _check(after, shape)
    else:
        clip = pixel_frames(own.clip_frames) / own.fps
        frames = load_video(after, *size, fps=own.fps, fit=fit, last=clip)
        most = own.clip_frames
        past, last = encode_end(autoencoder, frames, first=own.first, chunk=own.chunk, most=most, device=device)
    return Beginning(first_chunk(past.shape[1], own.first, own.chunk), past=past, last=last)


def _check(latents: Tensor, shape: tuple[int, int, int]) -> Tensor:
    if latents.ndim != 5 or latents.shape[0] != 1 or tuple(latents.shape[2:]) != shape or not latents.shape[1]:
        expected = ", ".join(map(str, shape))
        raise ValueError(f"after: latents are {list(latents.shape)}, expected [1, F, {expected}]")
    return latents
