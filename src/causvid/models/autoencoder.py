"""What every video autoencoder of this package offers, and the arithmetic of its frames.

Legend: B batch, T pixel frames, F latent frames, C latent channels, H W pixels, h w latent positions.

An autoencoder is causal and four times shorter in time: latent frame 0 stands for pixel frame 0 alone and latent frame
i > 0 for pixel frames 4i-3 … 4i, so T = 1 + 4 (F - 1). A clip may therefore be encoded or decoded in pieces: the first
piece of pixels has 1 + 4k frames and each later one 4k, and the pieces joined together equal the whole clip.
"""

from dataclasses import dataclass
from typing import Protocol

import torch

TIME_FACTOR = 4


def pixel_frames(latent_frames: int) -> int:
    """Return how many pixel frames a clip of `latent_frames` latent frames decodes to.

    Raises:
        ValueError: if `latent_frames` is less than 1.
    """
    if latent_frames < 1:
        raise ValueError(f"latent_frames={latent_frames} is not at least 1")
    return 1 + TIME_FACTOR * (latent_frames - 1)


def check_pixels(pixels: torch.Tensor, spatial_factor: int, *, start: bool) -> None:
    """Raise a `ValueError` unless `pixels` can be encoded: `[B, 1 + 4k, 3, H, W]` at the start of a stream, else 4k."""
    check_shape(pixels, 3)
    frames, _, height, width = pixels.shape[1:]
    extra = 1 if start else 0
    if frames % TIME_FACTOR != extra:
        raise ValueError(f"frames={frames} is not {'1 plus ' * extra}a multiple of {TIME_FACTOR}")
    for name, size in (("height", height), ("width", width)):
        if size % spatial_factor:
            raise ValueError(f"{name}={size} is not a multiple of {spatial_factor}")


def check_shape(x: torch.Tensor, channels: int) -> None:
    """Raise a `ValueError` unless `x` is `[B, frames, channels, height, width]` and not empty."""
    if x.ndim != 5 or x.shape[2] != channels or 0 in x.shape:
        raise ValueError(f"shape={tuple(x.shape)} is not [batch, frames, {channels}, height, width]")


@dataclass(frozen=True)
class AutoencoderState:
    """The state of a stream of pixels or latents: what the next piece depends on of all earlier ones.

    A value: reading it changes nothing, so a stream can be continued twice from the same state. `None` in its place
    starts a stream. An empty tensor stands for a layer that the stream has reached but that keeps nothing yet.
    """

    memories: tuple[torch.Tensor, ...]


class Autoencoder(Protocol):
    """A causal video autoencoder of pixels `[B, T, 3, H, W]` in [0, 1] and latents `[B, F, C, h, w]`.

    latent_channels: C. spatial_factor: how many pixels a latent position is high and wide.

    Every method raises a `ValueError` where a size does not fit.
    """

    latent_channels: int
    spatial_factor: int

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        """Turn a whole clip `[B, 1 + 4k, 3, H, W]` into its latent `[B, 1 + k, C, h, w]`."""

    def decode(self, latent: torch.Tensor) -> torch.Tensor:
        """Turn a whole latent `[B, F, C, h, w]` into pixels `[B, 1 + 4 (F - 1), 3, H, W]` in [0, 1]."""

    def encode_chunk(
        self, pixels: torch.Tensor, state: AutoencoderState | None
    ) -> tuple[torch.Tensor, AutoencoderState]:
        """Encode the next frames of a stream, and return the state for the next call.

        `pixels` is `[B, 1 + 4k, 3, H, W]` if `state` is None, which starts a stream, else `[B, 4k, 3, H, W]`.
        """

    def decode_chunk(
        self, latent: torch.Tensor, state: AutoencoderState | None
    ) -> tuple[torch.Tensor, AutoencoderState]:
        """Decode the next latent frames of a stream, and return the state for the next call.

        F latent frames become 4F pixel frames, 3 fewer if `state` is None, which starts a stream.
        """
