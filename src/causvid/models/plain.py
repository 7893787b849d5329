"""The layers and the two stacks of TAEHV's design: per-frame convolutions, and blocks that remember one frame.

Legend: B batch, T frames, C channels, H W positions. Time and batch are one axis, time outermost.

Source: https://github.com/madebyollin/taehv. With the default configuration, names and shapes are `taew2_1`'s.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from causvid.config import AutoencoderConfig


class MemoryBlock(nn.Module):
    """Three convolutions over a frame and the one before it, added to the frame."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            _conv(2 * width, width),
            nn.ReLU(inplace=True),
            _conv(width, width),
            nn.ReLU(inplace=True),
            _conv(width, width),
        )

    def forward(self, x: Tensor, memory: Tensor) -> Tensor:
        """Map `[T*B, C, H, W]` to the same shape. `memory` `[B, C, H, W]` is the frame before the first."""
        previous = torch.cat([memory, x[: -memory.shape[0]]])
        return F.relu(self.conv(torch.cat([x, previous], dim=1)) + x)


class TemporalPool(nn.Module):
    """Merge every `stride` consecutive frames into one by a learned projection."""

    def __init__(self, width: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.conv = nn.Conv2d(width * stride, width, 1, bias=False)

    def forward(self, x: Tensor, batch: int) -> Tensor:
        """Map `[T*B, C, H, W]` to `[T/stride*B, C, H, W]`."""
        frames = x.unflatten(0, (-1, self.stride, batch)).transpose(1, 2)
        pooled: Tensor = self.conv(frames.flatten(0, 1).flatten(1, 2))
        return pooled


class TemporalGrow(nn.Module):
    """Split every frame into `stride` consecutive ones by a learned projection."""

    def __init__(self, width: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.conv = nn.Conv2d(width, width * stride, 1, bias=False)

    def forward(self, x: Tensor, batch: int) -> Tensor:
        """Map `[T*B, C, H, W]` to `[T*stride*B, C, H, W]`."""
        frames: Tensor = self.conv(x).unflatten(1, (self.stride, -1)).unflatten(0, (-1, batch))
        return frames.transpose(1, 2).flatten(0, 2)


class SoftClamp(nn.Module):
    """Bend values smoothly into (-3, 3), so that a stray latent cannot saturate the decoder."""

    def forward(self, x: Tensor) -> Tensor:
        """Map any shape to the same shape."""
        return torch.tanh(x / 3) * 3


def plain_encoder(config: AutoencoderConfig, image_channels: int) -> nn.Sequential:
    widths = config.encoder_widths
    layers: list[nn.Module] = [_conv(image_channels, widths[0]), nn.ReLU(inplace=True)]
    for i in range(3):
        layers.append(TemporalPool(widths[i], 2 if config.encoder_time[i] else 1))
        layers.append(_conv(widths[i], widths[i + 1], stride=2 if config.encoder_space[i] else 1, bias=False))
        layers.extend(MemoryBlock(widths[i + 1]) for _ in range(config.blocks))
    layers.append(_conv(widths[3], config.latent_channels))
    return nn.Sequential(*layers)


def plain_decoder(config: AutoencoderConfig, image_channels: int) -> nn.Sequential:
    widths, blocks = config.decoder_widths, config.decoder_blocks or (config.blocks,) * 3
    layers: list[nn.Module] = [SoftClamp(), _conv(config.latent_channels, widths[0]), nn.ReLU(inplace=True)]
    for i in range(3):
        layers.extend(MemoryBlock(widths[i]) for _ in range(blocks[i]))
        layers.append(nn.Upsample(scale_factor=2) if config.decoder_space[i] else nn.Identity())
        layers.append(TemporalGrow(widths[i], 2 if config.decoder_time[i] else 1))
        layers.append(_conv(widths[i], widths[i + 1], bias=False))
    layers.extend([nn.ReLU(inplace=True), _conv(widths[3], image_channels)])
    return nn.Sequential(*layers)


@torch.no_grad()
def initialise_plain(module: nn.Module) -> None:
    """Start close to a plain pyramid: memory blocks and temporal layers pass frames on, the other layers keep variance.

    With torch's default each convolution after a ReLU shrinks its signal, and the decoder ignores its latent for
    hundreds of steps.
    """
    if any(weight.is_meta for weight in module.parameters()):
        return  # nothing to start from; and such sums import torch's compiler, a second or more
    if isinstance(module, nn.Conv2d):
        if module.kernel_size == (3, 3):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, MemoryBlock):
        last = module.conv[-1]
        assert isinstance(last, nn.Conv2d)
        last.weight.mul_(0.1)
    elif isinstance(module, (TemporalPool, TemporalGrow)):
        weight = module.conv.weight
        width = min(weight.shape[:2])
        rows, columns = weight.shape[0] // width, weight.shape[1] // width
        weight.copy_(torch.eye(width).repeat(rows, columns)[..., None, None] / columns)


def _conv(inputs: int, outputs: int, *, stride: int = 1, bias: bool = True) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=bias)
