"""The grid ratio sees patches that do not fit together, and the error is that of the clips."""

import pytest
import torch

from causvid.config import AutoencoderConfig
from causvid.evaluate.roundtrip import grid_ratio, measure_round_trip
from causvid.models.tiny_autoencoder import TinyAutoencoder


def noise(*shape):
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


def test_noise_has_no_grid_and_flat_patches_have_nothing_else():
    assert grid_ratio(noise(2, 3, 3, 64, 96), 8) == pytest.approx(1, abs=0.03)
    flat = noise(2, 3, 3, 8, 12).repeat_interleave(8, 3).repeat_interleave(8, 4)
    assert grid_ratio(flat + 1e-4 * noise(2, 3, 3, 64, 96), 8) > 100


def test_a_brighter_patch_shows():
    clip = 0.1 * noise(1, 2, 3, 32, 32)
    clip[..., 8:16, 8:16] += 0.5
    assert grid_ratio(clip, 8) > 1.5
    assert grid_ratio(clip.roll((3, 3), (3, 4)), 8) < 1.1


def test_the_round_trip_of_grey_is_known():
    autoencoder = TinyAutoencoder(
        AutoencoderConfig(encoder_widths=(8,) * 4, decoder_widths=(8,) * 4, blocks=1, padding="first")
    ).eval()
    torch.nn.init.zeros_(autoencoder.decoder[-1].weight)
    torch.nn.init.constant_(autoencoder.decoder[-1].bias, 0.5)
    clips = 0.6 + 0.001 * noise(2, 5, 3, 16, 16)
    found = measure_round_trip(autoencoder, clips)
    assert found.psnr == pytest.approx(20, abs=0.1)
    assert found.moved == (0.0,) * 4
    assert all(0 < moves < 0.2 for moves in found.moves)
