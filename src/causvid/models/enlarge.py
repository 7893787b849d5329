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
        sizes = (3, width, width, width)
        self.seen = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1) for a, b in zip(sizes, sizes[1:], strict=False))
        self.last = nn.Conv2d(width, 3 * magnify**2, 3, padding=1)
        for layer in self.seen:
            nn.init.kaiming_normal_(layer.weight, a=0.1)
            nn.init.zeros_(layer.bias)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def forward(self, frames: Tensor) -> Tensor:
        """Map frames `[N, 3, H, W]` to `[N, 3, H m, W m]`."""
        x = 4 * (frames - 0.5)
        for layer in self.seen:
            x = F.leaky_relu(layer(x), 0.1)
        plain = F.interpolate(frames, scale_factor=self.magnify, mode="bicubic", align_corners=False)
        return plain + F.pixel_shuffle(self.last(x), self.magnify)
