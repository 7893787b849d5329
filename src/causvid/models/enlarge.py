"""The last layer of an autoencoder that magnifies: a picture drawn larger than it was encoded.

Legend: N frames, H W pixels, m the magnification, e the edge of a patch.

Source: the sub-pixel convolution of ESPCN (arXiv 1609.05158), here as a correction of bicubic interpolation.
"""

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from causvid.models.overlap import bend, leaky_conv
from causvid.nn.autocast import without_autocast

REACH = 2
"""Pixels on either side that bicubic interpolation sees."""


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
        x = first(4 * (frames - 0.5))
        place = self.place.to(x.dtype).repeat(1, rows, columns)[None]
        if x.is_contiguous(memory_format=torch.channels_last):
            place = place.contiguous(memory_format=torch.channels_last)
        x = bend(x + place)
        for layer in others:
            x = bend(layer(x))
        with without_autocast(frames.device):
            plain = F.conv2d(F.pad(frames, (REACH,) * 4, mode="replicate"), bicubic(self.magnify).to(frames))
        return F.pixel_shuffle(plain + self.last(x), self.magnify)


@cache
def bicubic(magnify: int) -> Tensor:
    """Return bicubic interpolation as a sub-pixel convolution of RGB, `[3 m m, 3, 5, 5]`: three times as fast."""
    side = 4 * REACH + 1
    with torch.inference_mode(False):
        impulse = torch.zeros(1, 1, side, side)
        impulse[..., side // 2, side // 2] = 1
        answer = F.interpolate(impulse, scale_factor=magnify, mode="bicubic", align_corners=False)
        taps = F.pixel_unshuffle(answer, magnify)[0, :, REACH:-REACH, REACH:-REACH].flip(1, 2)
        return torch.einsum("cd,pyx->cpdyx", torch.eye(3), taps).flatten(0, 1)
