"""A shortcut that overlaps draws no grid, is the best of its kind, and passes on what its neighbours know."""

import pytest
import torch

from causvid.config import AutoencoderConfig
from causvid.evaluate.roundtrip import grid_ratio
from causvid.loading.autoencoders import read_tiny_autoencoder, write_autoencoder
from causvid.models.autoencoder_loss import border_error
from causvid.models.overlap import OverlapMap, RecallBlock, ShuffleGrow, ShuffleShrink
from causvid.models.tiny_autoencoder import TinyAutoencoder
from causvid.worlds.storybook import FULL, render, sample_scene

SETTINGS = dict(
    latent_channels=24,
    encoder_widths=(8, 8, 12, 16),
    decoder_widths=(16, 12, 8, 8),
    blocks=1,
    patch=2,
    encoder_space=(True, True, False),
    decoder_space=(False, True, True),
    padding="first",
    shortcut=True,
)


@pytest.fixture(scope="module")
def clips():
    return render([sample_scene(FULL, seed) for seed in range(24)], frames=5, height=64, width=96, fps=12)


def initialised(clips, **settings):
    torch.manual_seed(0)
    autoencoder = TinyAutoencoder(AutoencoderConfig(**SETTINGS, **settings)).eval()
    autoencoder.initialise_shortcut(clips)
    return autoencoder


@torch.no_grad()
def test_overlap_takes_away_error_and_most_of_the_grid(clips):
    whole, cut = (initialised(clips, overlap=overlap) for overlap in (True, False))
    drawn, tiled = (model.decode(model.encode(clips)) for model in (whole, cut))
    assert torch.equal(whole.encode(clips), cut.encode(clips)), "the latents are the same"
    assert (drawn - clips).square().mean() < (tiled - clips).square().mean()
    assert grid_ratio(drawn, 8) / grid_ratio(clips, 8) - 1 < 0.4 * (grid_ratio(tiled, 8) / grid_ratio(clips, 8) - 1)


@torch.no_grad()
def test_the_fitted_map_is_the_best_linear_one():
    generator = torch.Generator().manual_seed(1)
    latent = torch.randn(6, 2, 4, 5, 7, generator=generator)
    true, found = OverlapMap(4, 9), OverlapMap(4, 9)
    found.fit(latent, true(latent))
    # Short of the truth only by the noise that the fit expects.
    torch.testing.assert_close(found.conv.weight, true.conv.weight, atol=5e-3, rtol=0)
    torch.testing.assert_close(found.conv.bias, true.conv.bias, atol=5e-3, rtol=0)


@torch.no_grad()
def test_growing_and_shrinking_keep_clips_and_frames_apart():
    x = torch.randn(3 * 2, 6, 4, 5, generator=torch.Generator().manual_seed(1))
    grow, shrink = ShuffleGrow(6, 8, space=2, time=2), ShuffleShrink(8, 6, space=2, time=2)
    grown = grow(x, 2)
    assert grown.shape == (6 * 2, 8, 8, 10)
    frames = grown.unflatten(0, (6, 2))
    torch.testing.assert_close(grow(x.unflatten(0, (3, 2))[1, 1:], 1), frames[2:4, 1])
    assert shrink(grown, 2).shape == x.shape


def test_a_block_begins_as_almost_the_identity():
    x = torch.randn(4, 8, 6, 6, generator=torch.Generator().manual_seed(1))
    assert float((RecallBlock(8).requires_grad_(False)(x, x[:2]) - x).norm() / x.norm()) < 0.3


def test_the_bundle_folder_brings_it_back(clips, tmp_path):
    autoencoder = initialised(clips, overlap=True)
    write_autoencoder(tmp_path / "vae", autoencoder, dtype=torch.float32)
    again = read_tiny_autoencoder(tmp_path / "vae")
    assert torch.equal(again.encode(clips), autoencoder.encode(clips))


def test_overlap_without_a_shortcut_is_refused():
    with pytest.raises(ValueError, match="overlap=true needs shortcut=true"):
        AutoencoderConfig(overlap=True)


def test_the_border_error_sees_steps_across_borders_alone():
    error = torch.zeros(1, 2, 3, 24, 32)
    error[..., :, 8:16] = 1.0
    assert float(border_error(error, 8)) == pytest.approx(0.5 * 2 / 3)
    assert float(border_error(error.roll(1, -1), 8)) == 0
    assert float(border_error(error.transpose(3, 4), 8)) == pytest.approx(0.5 * 2 / 3)
