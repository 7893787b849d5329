"""A tiny causal video autoencoder: TAEHV's, or one that draws across the borders of its patches.

Legend: B batch, T frames (pixel or latent), C channels, H W pixels, h w latent positions.

Time and batch are folded into one axis with *time outermost*, `[T*B, C, H, W]`: the previous frame of every frame is
then the same tensor shifted by B rows, so a whole clip needs no loop over frames and every convolution is
two-dimensional.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from causvid.config import AutoencoderConfig
from causvid.models.autoencoder import TIME_FACTOR, AutoencoderState, check_pixels, check_shape
from causvid.models.enlarge import Enlarge
from causvid.models.overlap import (
    Finish,
    OverlapMap,
    RecallBlock,
    ShuffleGrow,
    ShuffleShrink,
    overlapping_decoder,
    overlapping_encoder,
)
from causvid.models.plain import MemoryBlock, TemporalGrow, TemporalPool, initialise_plain, plain_decoder, plain_encoder


class PatchMap(nn.Module):
    """A linear map between the values of a 4-frame patch and the channels of a latent position."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Map `[B, F, inputs, h, w]` to `[B, F, outputs, h, w]`."""
        mapped: Tensor = self.linear(x.movedim(2, -1))
        return mapped.movedim(-1, 2)

    def set(self, weight: Tensor, bias: Tensor) -> None:
        """Take over weights `[outputs, inputs]` and biases `[outputs]`."""
        self.linear.weight.copy_(weight)
        self.linear.bias.copy_(bias)


class TinyAutoencoder(nn.Module):
    """Autoencoder 4x in time and `spatial_factor` in space; the `Autoencoder` interface of this package.

    With the default configuration its parameters have the names and shapes of `taew2_1`. Layers compute in the type of
    their weights; what comes out has the type of what went in.

    Source: TAEHV, https://github.com/madebyollin/taehv. Differences: `AutoencoderConfig.padding` says how clips are
    padded before encoding, and a stream's state is a value that the caller holds.
    """

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        self.config = config
        self._bf16 = False
        self.latent_channels, self.spatial_factor = config.latent_channels, config.spatial_factor
        image_channels = 3 * config.patch**2

        self.finish: Finish | None = None
        if config.overlap:
            self.encoder = overlapping_encoder(config, image_channels)
            self.decoder = overlapping_decoder(config)
            self.finish = Finish(config.decoder_widths[3], image_channels)
            last: nn.Module = self.finish.last
        else:
            self.encoder = plain_encoder(config, image_channels)
            self.decoder = plain_decoder(config, image_channels)
            last = self.decoder[-1]
            self.apply(initialise_plain)
        self.enlarge: Enlarge | None = None
        if config.magnify > 1:
            self.enlarge = Enlarge(config.magnify, config.enlarge_width, edge=config.coded_factor)
        _centre(self.encoder[0], last)

        self.encoder_shortcut: PatchMap | None = None
        self.decoder_shortcut: PatchMap | OverlapMap | None = None
        if config.shortcut:
            values = TIME_FACTOR * 3 * config.coded_factor**2
            self.encoder_shortcut = PatchMap(values, config.latent_channels)
            self.decoder_shortcut = (OverlapMap if config.overlap else PatchMap)(config.latent_channels, values)
            self.register_buffer("scale", torch.ones(config.latent_channels, 1, 1))
            self.encoder_shortcut.requires_grad_(False)
            self.decoder_shortcut.requires_grad_(False)
            for parameter in (*self.encoder[-1].parameters(), *last.parameters()):
                nn.init.zeros_(parameter)

    @property
    def latent_scale(self) -> Tensor | float:
        """Return what the stacks' 1 is in a latent, `[C, 1, 1]`; only an autoencoder with a shortcut scales."""
        return self.get_buffer("scale") if self.config.shortcut else 1.0

    @torch.no_grad()
    def initialise_shortcut(self, pixels: Tensor) -> None:
        """Set the linear maps, which training leaves alone, to principal components.

        A component's latent channel gets a deviation proportional to the square root of its deviation in pixels, and
        all channels together unit variance: components that make up most of the picture then stand out of the noise
        first, and weigh most in the loss of a transformer.

        Args:
            pixels: the clips whose components they are, `[B, 1 + 4k, 3, H, W]`.

        Raises:
            ValueError: if the configuration has no shortcut.
        """
        if self.encoder_shortcut is None or self.decoder_shortcut is None:
            raise ValueError("shortcut=False: the configuration has no linear maps to initialise")
        grid = self._patches(self._shrink(self._pad(pixels)))
        patches = grid.permute(0, 1, 3, 4, 2).flatten(0, 3).double()
        mean = patches.mean(dim=0)
        variance, directions = torch.linalg.eigh((patches - mean).T @ (patches - mean) / len(patches))
        kept = slice(-self.latent_channels, None)
        deviation, directions = variance[kept].sqrt(), directions[:, kept]
        self.encoder_shortcut.set(directions.T / deviation[:, None], -(mean @ directions) / deviation)
        if isinstance(self.decoder_shortcut, OverlapMap):
            self.decoder_shortcut.fit(self.encoder_shortcut(grid), grid)
        else:
            self.decoder_shortcut.set(directions * deviation, mean)
        scale = deviation.sqrt()
        self.get_buffer("scale").copy_((scale / scale.square().mean().sqrt())[:, None, None])

    @property
    def dtype(self) -> torch.dtype:
        """Return the type of the weights."""
        return next(self.parameters()).dtype

    def encode(self, pixels: Tensor) -> Tensor:
        """Turn a whole clip into its latent, as `Autoencoder.encode` has it."""
        return self._encode(pixels, None)[0]

    def encode_chunk(self, pixels: Tensor, state: AutoencoderState | None) -> tuple[Tensor, AutoencoderState]:
        """Encode the next frames of a stream, as `Autoencoder.encode_chunk` has it.

        Raises:
            ValueError: if a size does not fit, or the configuration's padding looks ahead.
        """
        if self.config.padding != "first":
            raise ValueError(
                f"padding={self.config.padding!r} cannot encode a stream: it looks ahead; expected 'first'"
            )
        return self._encode(pixels, state)

    def decode(self, latent: Tensor) -> Tensor:
        """Turn a whole latent into pixels, as `Autoencoder.decode` has it."""
        with self._multiplying(latent.device):
            return self.reconstruct(latent).clamp(0, 1)

    def reconstruct(self, latent: Tensor) -> Tensor:
        """Do what `decode` does but leave pixels beyond [0, 1] as they are, so that a loss has a gradient there."""
        return self.magnified(self.draw(latent))

    def draw(self, latent: Tensor) -> Tensor:
        """Turn a whole latent into pixels at the size that clips are encoded at, `[B, 1 + 4k, 3, H, W]`."""
        return self._decode(latent, None)[0]

    def magnified(self, pixels: Tensor) -> Tensor:
        """Enlarge what `draw` returned, or squares of whole patches of it, to the size of the video."""
        if self.enlarge is None:
            return pixels
        return _unfold(self.enlarge(_fold(pixels.to(self.dtype))), len(pixels)).to(pixels.dtype)

    def decode_chunk(self, latent: Tensor, state: AutoencoderState | None) -> tuple[Tensor, AutoencoderState]:
        """Decode the next latent frames of a stream, as `Autoencoder.decode_chunk` has it."""
        with self._multiplying(latent.device):
            pixels, state = self._decode(latent, state)
            return self.magnified(pixels).clamp(0, 1), state

    def decode_in_bf16(self) -> None:
        """Multiply in bf16 from now on when decoding; weights stay in fp32, what comes out has its type."""
        self._bf16 = True
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def _multiplying(self, device: torch.device) -> AbstractContextManager[object]:
        return torch.autocast(device.type, dtype=torch.bfloat16) if self._bf16 else nullcontext()

    def _encode(self, pixels: Tensor, state: AutoencoderState | None) -> tuple[Tensor, AutoencoderState]:
        check_pixels(pixels, self.spatial_factor, start=state is None)
        batch = len(pixels)
        if state is None:
            pixels = self._pad(pixels)
        clip = self._shrink(pixels.to(self.dtype))
        x = F.pixel_unshuffle(_fold(clip), self.config.patch)
        x, state = _run(self.encoder, x, batch, state)
        latent = _unfold(x, batch)
        if self.encoder_shortcut is not None:
            latent = latent + self.encoder_shortcut(self._patches(clip))
        return (latent * self.latent_scale).to(pixels.dtype), state

    def _decode(self, latent: Tensor, state: AutoencoderState | None) -> tuple[Tensor, AutoencoderState]:
        check_shape(latent, self.latent_channels)
        batch, start = latent.shape[0], state is None
        scaled = latent.to(self.dtype) / self.latent_scale
        x, state = _run(self.decoder, _fold(scaled), batch, state)
        picture: Tensor | None = None
        if self.decoder_shortcut is not None:
            patches = self.decoder_shortcut(scaled).unflatten(2, (TIME_FACTOR, -1)).flatten(1, 2)
            picture = F.pixel_shuffle(patches, self.config.coded_factor)
        if self.finish is not None:
            assert picture is not None
            x = self.finish(x, F.pixel_unshuffle(_fold(picture), self.config.patch))
        pixels = _unfold(F.pixel_shuffle(x, self.config.patch), batch)
        if picture is not None:
            pixels = pixels + picture
        return (pixels[:, TIME_FACTOR - 1 :] if start else pixels).to(latent.dtype), state

    def _pad(self, pixels: Tensor) -> Tensor:
        """Lengthen a clip of 1 + 4k frames to a multiple of four."""
        first = self.config.padding == "first"
        copies = (pixels[:, :1] if first else pixels[:, -1:]).expand(-1, TIME_FACTOR - 1, -1, -1, -1)
        return torch.cat([copies, pixels] if first else [pixels, copies], dim=1)

    def _shrink(self, pixels: Tensor) -> Tensor:
        """Average frames down to the size they are encoded at."""
        if self.config.magnify == 1:
            return pixels
        seen: Tensor = F.avg_pool2d(pixels.flatten(0, 1), self.config.magnify).unflatten(0, pixels.shape[:2])
        return seen

    def _patches(self, pixels: Tensor) -> Tensor:
        """Cut `[B, 4F, 3, H, W]` into 4-frame patches of `coded_factor` pixels square: `[B, F, values, h, w]`."""
        cells: Tensor = F.pixel_unshuffle(pixels, self.config.coded_factor).unflatten(1, (-1, TIME_FACTOR))
        return cells.flatten(2, 3)


@torch.no_grad()
def _centre(first: nn.Module, last: nn.Module) -> None:
    """Let pixels enter as if they had zero mean and unit variance, and leave as faint detail on grey.

    From strong noise instead, training silences the decoder's last ReLU and never recovers.
    """
    assert isinstance(first, nn.Conv2d) and isinstance(last, nn.Conv2d)
    assert first.bias is not None and last.bias is not None
    if first.weight.is_meta:
        return
    first.weight.mul_(4)
    first.bias.copy_(-0.5 * first.weight.sum(dim=(1, 2, 3)))
    last.weight.mul_(0.1)
    last.bias.fill_(0.5)


def _run(
    stack: nn.Sequential, x: Tensor, batch: int, state: AutoencoderState | None
) -> tuple[Tensor, AutoencoderState]:
    """Apply a stack to `[T*B, C, H, W]`, and carry the last frame that each memory block saw."""
    past: Iterator[Tensor] | None = None if state is None else iter(state.memories)
    memories: list[Tensor] = []
    for layer in stack:
        if isinstance(layer, (MemoryBlock, RecallBlock)):
            expected = (batch, *x.shape[1:])
            memory = x.new_zeros(expected) if past is None else next(past)
            if memory.shape != expected:
                raise ValueError(f"state of shape {tuple(memory.shape)} does not continue {expected}")
            # Cloned, because a slice would keep the whole chunk's activations alive.
            memories.append(x[-batch:].clone())
            x = layer(x, memory)
        elif isinstance(layer, (TemporalPool, TemporalGrow, ShuffleShrink, ShuffleGrow)):
            x = layer(x, batch)
        else:
            x = layer(x)
    return x, AutoencoderState(tuple(memories))


def _fold(x: Tensor) -> Tensor:
    """`[B, T, C, H, W]` to `[T*B, C, H, W]`."""
    return x.transpose(0, 1).flatten(0, 1)


def _unfold(x: Tensor, batch: int) -> Tensor:
    """`[T*B, C, H, W]` to `[B, T, C, H, W]`."""
    frames: Tensor = x.unflatten(0, (-1, batch))
    return frames.transpose(0, 1)
