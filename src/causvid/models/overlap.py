"""Layers with which a tiny autoencoder draws across the borders of its patches, so that no grid shows.

Legend: B batch, F latent frames, T frames, C channels, H W pixels over `patch`, h w latent positions.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from causvid.config import AutoencoderConfig

REACH = 3
"""Latent positions, along height and along width, that a patch is made from."""
RIDGE = 0.0008
"""How much noise, as variance, `OverlapMap.fit` expects in latents of unit variance."""


class OverlapMap(nn.Module):
    """A linear map from a latent position and its neighbours to the values of a 4-frame patch."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, REACH)

    def forward(self, x: Tensor) -> Tensor:
        """Map `[B, F, inputs, h, w]` to `[B, F, outputs, h, w]`; beyond the edge, the edge goes on."""
        patches: Tensor = self.conv(_bordered(x.flatten(0, 1))).unflatten(0, x.shape[:2])
        return patches

    @torch.no_grad()
    def fit(self, latent: Tensor, patches: Tensor) -> None:
        """Set the map to the one that brings patches back best, in squared error.

        Args:
            latent: `[B, F, inputs, h, w]`, of unit variance.
            patches: what they were encoded from, `[B, F, outputs, h, w]`.
        """
        inputs, count = latent.shape[2] * REACH**2, latent[:, :, 0].numel()
        square = latent.new_zeros(inputs + 1, inputs + 1, dtype=torch.float64)
        product = latent.new_zeros(inputs + 1, patches.shape[2], dtype=torch.float64)
        for part, target in zip(latent.flatten(0, 1).split(32), patches.flatten(0, 1).split(32), strict=True):
            seen = F.unfold(_bordered(part), REACH).transpose(1, 2).flatten(0, 1)
            seen = torch.cat([seen, seen.new_ones(len(seen), 1)], dim=1)
            square += (seen.T @ seen).double()
            product += (seen.T @ target.flatten(2).transpose(1, 2).flatten(0, 1)).double()
        square.diagonal()[:-1].add_(RIDGE * count)
        solution = torch.linalg.solve(square, product)
        self.conv.weight.copy_(solution[:-1].T.reshape(self.conv.weight.shape))
        assert self.conv.bias is not None
        self.conv.bias.copy_(solution[-1])


class RecallBlock(nn.Module):
    """Two convolutions over a frame and the one before it, added to the frame."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.look, self.add = leaky_conv(2 * width, width), leaky_conv(width, width)
        with torch.no_grad():
            self.add.weight.mul_(0.1)

    def forward(self, x: Tensor, memory: Tensor) -> Tensor:
        """Map `[T*B, C, H, W]` to the same shape. `memory` `[B, C, H, W]` is the frame before the first."""
        previous = torch.cat([memory, x[: -memory.shape[0]]])
        recalled: Tensor = x + self.add(bend(self.look(torch.cat([x, previous], dim=1))))
        return recalled


class ShuffleShrink(nn.Module):
    """Merge `time` consecutive frames and squares of `space` positions into one, by a learned projection."""

    def __init__(self, inputs: int, outputs: int, *, space: int, time: int) -> None:
        super().__init__()
        self.space, self.time = space, time
        self.conv = nn.Conv2d(inputs * space**2 * time, outputs, 1)

    def forward(self, x: Tensor, batch: int) -> Tensor:
        """Map `[T*B, inputs, H, W]` to `[T/time*B, outputs, H/space, W/space]`."""
        x = F.pixel_unshuffle(x, self.space)
        frames = x.unflatten(0, (-1, self.time, batch))
        merged: Tensor = self.conv(torch.cat([frames[:, i].flatten(0, 1) for i in range(self.time)], dim=1))
        return merged


class ShuffleGrow(nn.Module):
    """Split every frame into `time` consecutive ones, and positions into `space` squared, by a learned projection."""

    def __init__(self, inputs: int, outputs: int, *, space: int, time: int) -> None:
        super().__init__()
        self.space, self.time = space, time
        self.conv = nn.Conv2d(inputs, outputs * space**2 * time, 1)

    def forward(self, x: Tensor, batch: int) -> Tensor:
        """Map `[T*B, inputs, H, W]` to `[T*time*B, outputs, H*space, W*space]`."""
        frames = self.conv(x).unflatten(1, (self.time, -1)).unflatten(0, (-1, batch))
        return F.pixel_shuffle(frames.transpose(1, 2).flatten(0, 2), self.space)


class Squash(nn.Module):
    """Draw in the long tails of whitened components without losing what is far out: outlines are far out."""

    def forward(self, x: Tensor) -> Tensor:
        """Map any shape to the same shape."""
        return torch.asinh(x)


class Finish(nn.Module):
    """Correct the shortcut's picture by what the decoder's features say, across the borders of patches."""

    def __init__(self, width: int, image_channels: int) -> None:
        super().__init__()
        self.picture, self.middle = leaky_conv(image_channels, width), leaky_conv(width, width)
        self.last = leaky_conv(width, image_channels)

    def forward(self, features: Tensor, picture: Tensor) -> Tensor:
        """Map features `[T*B, width, H, W]` and a picture `[T*B, image_channels, H, W]` to the picture's correction."""
        x = bend(features + self.picture(picture - 0.5))
        correction: Tensor = self.last(bend(self.middle(x)))
        return correction


def overlapping_encoder(config: AutoencoderConfig, image_channels: int) -> nn.Sequential:
    """Make the stack that corrects the shortcut's latent."""
    widths = config.encoder_widths
    layers: list[nn.Module] = [leaky_conv(image_channels, widths[0]), _Bend()]
    for i in range(3):
        space, time = config.encoder_space[i] + 1, config.encoder_time[i] + 1
        layers.append(ShuffleShrink(widths[i], widths[i + 1], space=space, time=time))
        layers.extend(RecallBlock(widths[i + 1]) for _ in range(config.blocks))
    return nn.Sequential(*layers, _Bend(), leaky_conv(widths[3], config.latent_channels))


def overlapping_decoder(config: AutoencoderConfig) -> nn.Sequential:
    """Make the stack from latents to the features that `Finish` corrects the shortcut's picture by."""
    widths, blocks = config.decoder_widths, config.decoder_blocks or (config.blocks,) * 3
    layers: list[nn.Module] = [Squash(), leaky_conv(config.latent_channels, widths[0])]
    for i in range(3):
        layers.extend(RecallBlock(widths[i]) for _ in range(blocks[i]))
        space, time = config.decoder_space[i] + 1, config.decoder_time[i] + 1
        layers.append(ShuffleGrow(widths[i], widths[i + 1], space=space, time=time))
    return nn.Sequential(*layers)


class _Bend(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return bend(x)


def bend(x: Tensor) -> Tensor:
    """Leak where ReLU would die: these stacks begin with nothing to say, and a dead one never says it. In place."""
    return F.leaky_relu(x, 0.1, inplace=True)


def leaky_conv(inputs: int, outputs: int) -> nn.Conv2d:
    """Make a 3 x 3 convolution that keeps variance after `bend`."""
    conv = nn.Conv2d(inputs, outputs, 3, padding=1)
    nn.init.kaiming_normal_(conv.weight, a=0.1)
    assert conv.bias is not None
    nn.init.zeros_(conv.bias)
    return conv


def _bordered(x: Tensor) -> Tensor:
    """Go on with the edge of `[N, C, h, w]` as far as a map reaches."""
    return F.pad(x, (REACH // 2,) * 4, mode="replicate")
