import pytest
import torch
import torch.nn.functional as F

from causvid.models.enlarge import Enlarge


def noise(*shape):
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("magnify", [2, 3])
def test_untrained_it_is_bicubic_interpolation(magnify):
    frames = noise(2, 3, 16, 24)
    plain = F.interpolate(frames, scale_factor=magnify, mode="bicubic", align_corners=False)
    torch.testing.assert_close(Enlarge(magnify, 4, edge=8)(frames), plain)


def test_a_square_of_patches_is_that_part_of_the_whole():
    layer, frames = Enlarge(2, 4, edge=8), noise(1, 3, 40, 48)
    torch.nn.init.normal_(layer.last.weight, std=0.1)
    torch.nn.init.normal_(layer.place, std=0.5)
    with torch.no_grad():
        whole, part = layer(frames), layer(frames[..., 8:32, 16:40])
    torch.testing.assert_close(part[..., 10:-10, 10:-10], whole[..., 26:54, 42:70])
