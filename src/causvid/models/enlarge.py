"""The last layer of an autoencoder that magnifies: a picture drawn larger than it was encoded.

Legend: N frames, H W pixels, m the magnification, e the edge of a patch.

Source: the sub-pixel convolution of ESPCN (arXiv 1609.05158), here as a correction of bicubic interpolation.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from causvid.models.overlap import bend, leaky_conv


class Enlarge(nn.Module):
    """Enlarge frames by `magnify`; untrained, it is bicubic interpolation.

    edge: pixels of a patch. Where in its patch a pixel lies is seen too, so that the grid of patches can be smoothed.
    """

    def __init__(self, magnify: int, width: int, *, edge: int) -> None:
        super().__init__()
        self.magnify = magnify
        self.place = nn.Parameter(torch.zeros(width, edge, edge))
        self.seen = nn.ModuleList(leaky_conv(inputs, width) for inputs in (3, width, width))
        self.last = leaky_conv(width, 3 * magnify**2)
        nn.init.zeros_(self.last.weight)

    def forward(self, frames: Tensor) -> Tensor:
        """Map frames `[N, 3, H, W]` to `[N, 3, H m, W m]`."""
        first, *others = self.seen
        rows, columns = (side // edge for side, edge in zip(frames.shape[2:], self.place.shape[1:], strict=True))
        x = bend(first(4 * (frames - 0.5)) + self.place.repeat(1, rows, columns))
        for layer in others:
            x = bend(layer(x))
        plain = F.interpolate(frames.contiguous(), scale_factor=self.magnify, mode="bicubic", align_corners=False)
        return plain + F.pixel_shuffle(self.last(x), self.magnify)
