"""The last layer of an autoencoder that magnifies: a picture drawn larger than it was encoded.

Legend: N frames, H W pixels, m the magnification.

Source: the sub-pixel convolution of ESPCN (arXiv 1609.05158), here as a correction of bicubic interpolation.
"""

import torch.nn.functional as F
from torch import Tensor, nn


class Enlarge(nn.Module):
    """Enlarge frames by `magnify`; untrained, it is bicubic interpolation."""

    def __init__(self, magnify: int, width: int) -> None:
        super().__init__()
        self.magnify = magnify
        self.seen = nn.ModuleList(_conv(inputs, width) for inputs in (3, width, width))
        self.last = _conv(width, 3 * magnify**2)
        nn.init.zeros_(self.last.weight)

    def forward(self, frames: Tensor) -> Tensor:
        """Map frames `[N, 3, H, W]` to `[N, 3, H m, W m]`."""
        x = 4 * (frames - 0.5)
        for layer in self.seen:
            x = F.leaky_relu(layer(x), 0.1)
        plain = F.interpolate(frames, scale_factor=self.magnify, mode="bicubic", align_corners=False)
        return plain + F.pixel_shuffle(self.last(x), self.magnify)


def _conv(inputs: int, outputs: int) -> nn.Conv2d:
    conv = nn.Conv2d(inputs, outputs, 3, padding=1)
    nn.init.kaiming_normal_(conv.weight, a=0.1)
    assert conv.bias is not None
    nn.init.zeros_(conv.bias)
    return conv
