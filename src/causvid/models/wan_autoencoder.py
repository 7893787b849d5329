"""Wan 2.1's autoencoder: diffusers' `AutoencoderKLWan` with a stream's state as a value.

Legend: B batch, T pixel frames, F latent frames, C latent channels, H W pixels, h w latent positions.

diffusers convolves a clip latent frame by latent frame and carries a list of past activations from one to the next, on
the module and for whole clips only. Here the caller holds that list, so that a clip may come in pieces.
"""

from collections.abc import Callable, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from causvid.models.autoencoder import TIME_FACTOR, AutoencoderState, check_pixels, check_shape

FIRST_FRAME_ONLY = "Rep"
"""What diffusers leaves in its list where an upsampler has seen the first frame, which it does not convolve in time."""


class WanAutoencoder(nn.Module):
    """Autoencoder 4x in time and 8x in space; the `Autoencoder` interface of this package.

    Latents are the mean of the posterior, normalised by channel in fp32: what Wan's transformer is trained on. Layers
    compute in the type of their weights; what comes out has the type of what went in.

    Source: Wan (2503.20314), section 4.1.
    """

    def __init__(self, vae: nn.Module) -> None:
        """Wrap an `AutoencoderKLWan`.

        Raises:
            ValueError: if it is of another kind than Wan 2.1's.
        """
        super().__init__()
        settings: Any = vae.config
        if settings.is_residual or settings.patch_size is not None:
            raise ValueError("the autoencoder is Wan 2.2's (is_residual or patch_size), expected Wan 2.1's")
        if 2 ** sum(settings.temperal_downsample) != TIME_FACTOR:
            raise ValueError(f"temperal_downsample={settings.temperal_downsample} must name two stages")
        for name in ("latents_mean", "latents_std"):
            if len(getattr(settings, name)) != settings.z_dim:
                raise ValueError(f"{name} has {len(getattr(settings, name))} values, expected z_dim={settings.z_dim}")
        self.vae: Any = vae
        self.latent_channels = int(settings.z_dim)
        self.spatial_factor = 2 ** (len(settings.dim_mult) - 1)
        self._mean, self._std = (
            torch.tensor(values).view(-1, 1, 1) for values in (settings.latents_mean, settings.latents_std)
        )

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Let the moments follow the module to a device but, unlike a buffer, stay in fp32."""
        self._mean, self._std = (moment.to(fn(moment).device) for moment in (self._mean, self._std))
        nn.Module._apply(self, fn, recurse)
        return self

    def encode(self, pixels: Tensor) -> Tensor:
        """Turn a clip `[B, 1 + 4k, 3, H, W]` in [0, 1] into its latent `[B, 1 + k, C, h, w]`."""
        return self.encode_chunk(pixels, None)[0]

    def decode(self, latent: Tensor) -> Tensor:
        """Turn a latent `[B, F, C, h, w]` into pixels `[B, 1 + 4 (F - 1), 3, H, W]` in [0, 1]."""
        return self.decode_chunk(latent, None)[0]

    def encode_chunk(self, pixels: Tensor, state: AutoencoderState | None) -> tuple[Tensor, AutoencoderState]:
        """Encode the next frames of a stream, as `Autoencoder.encode_chunk` has it."""
        check_pixels(pixels, self.spatial_factor, start=state is None)
        x = (2 * pixels.float() - 1).to(self.vae.dtype)
        sizes = ([1] if state is None else []) + [TIME_FACTOR] * (x.shape[1] // TIME_FACTOR)
        latent, state = _run(self.vae.encoder, x.split(sizes, dim=1), state)
        mean = self.vae.quant_conv(latent.transpose(1, 2)).transpose(1, 2)[:, :, : self.latent_channels]
        return ((mean.float() - self._mean) / self._std).to(pixels.dtype), state

    def decode_chunk(self, latent: Tensor, state: AutoencoderState | None) -> tuple[Tensor, AutoencoderState]:
        """Decode the next latent frames of a stream, one at a time: memory does not grow with the chunk."""
        check_shape(latent, self.latent_channels)
        x = (latent.float() * self._std + self._mean).to(self.vae.dtype)
        x = self.vae.post_quant_conv(x.transpose(1, 2)).transpose(1, 2)
        pixels, state = _run(self.vae.decoder, x.split(1, dim=1), state)
        return (0.5 * pixels.float() + 0.5).clamp(0, 1).to(latent.dtype), state


def _run(network: Any, parts: Sequence[Tensor], state: AutoencoderState | None) -> tuple[Tensor, AutoencoderState]:
    """Apply an encoder or decoder of diffusers to the parts of a clip `[B, T, C, H, W]`, one after the other."""
    # The network puts new tensors into the list and never writes into one, so the state given stays as it is.
    past: list[Any] = [None] * sum(isinstance(module, nn.Conv3d) for module in network.modules())
    if state is not None:
        first, x = state.memories[0].shape, parts[0]
        if (first[0], first[1], *first[3:]) != (x.shape[0], *x.shape[2:]):
            raise ValueError(f"state of shape {tuple(first)} does not continue {tuple(x.transpose(1, 2).shape)}")
        past[: len(state.memories)] = [memory if memory.numel() else FIRST_FRAME_ONLY for memory in state.memories]
    done = [network(part.transpose(1, 2), feat_cache=past, feat_idx=[0]).transpose(1, 2) for part in parts]
    kept = (memory for memory in past if memory is not None)
    memories = tuple(memory if isinstance(memory, Tensor) else done[0].new_empty(0) for memory in kept)
    return torch.cat(done, dim=1), AutoencoderState(memories)
