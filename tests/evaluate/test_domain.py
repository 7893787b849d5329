"""The distance to a domain is that of Gaussians, 0 for a domain and itself, and grows with what differs."""

import torch

from causvid.evaluate.domain import features, frechet


def test_the_distance_is_that_of_two_gaussians() -> None:
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(20_000, 3, generator=generator)
    b = 2 * torch.randn(20_000, 3, generator=generator) + torch.tensor([1.0, 0.0, -2.0])
    assert frechet(a, a) == 0
    assert abs(frechet(a, b) - (1 + 4 + 3 * (2 - 1) ** 2) ** 0.5) < 0.05


def test_features_tell_level_spread_and_motion_of_each_channel() -> None:
    clips = torch.zeros(2, 5, 2, 3, 7)
    clips[0, :, 0] = 3.0
    clips[1, :, 1] = torch.arange(5.0)[:, None, None]
    found = features(clips)
    assert found.shape == (2, 6)
    torch.testing.assert_close(found[0], torch.tensor([3.0, 0, 0, 0, 0, 0]))
    torch.testing.assert_close(found[1, [1, 5]], torch.tensor([2.0, 1.0]))
    assert found[1, 3] > 1 and found[1, 2] == 0
