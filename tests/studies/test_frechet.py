"""The Fréchet distance agrees with what Gaussians of known moments give."""

import pytest
import torch
from frechet import frechet_distance
from torch import Tensor

from causvid.evaluate.classifier import AttributeClassifier
from causvid.evaluate.diversity import clip_features


def drawn(count: int, size: int, seed: int = 0) -> Tensor:
    return torch.randn(count, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def whitened(count: int, size: int, seed: int = 0) -> Tensor:
    """Return points whose mean is exactly 0 and whose covariance is exactly the identity."""
    x = drawn(count, size, seed)
    q: Tensor = torch.linalg.qr(x - x.mean(0))[0]
    return q * (count - 1) ** 0.5


def test_a_set_is_at_no_distance_from_itself_in_any_order() -> None:
    x = drawn(40, 7)
    assert frechet_distance(x, x) == pytest.approx(0, abs=1e-10)
    assert frechet_distance(x, x.flip(0)) == pytest.approx(0, abs=1e-10)


def test_a_shift_counts_its_square() -> None:
    x, d = drawn(40, 7), drawn(1, 7, seed=1)
    assert frechet_distance(x, x + d) == pytest.approx(float(d.square().sum()))
    assert frechet_distance(x.float() + 1e3, (x + d).float() + 1e3) == pytest.approx(float(d.square().sum()), rel=1e-3)


@pytest.mark.parametrize("counts", [(40, 40), (60, 25)])
def test_diagonal_covariances_count_the_squared_difference_of_their_deviations(counts: tuple[int, int]) -> None:
    a, b = drawn(1, 7, seed=2).abs(), drawn(1, 7, seed=3).abs()
    x, y = whitened(counts[0], 7) * a, whitened(counts[1], 7, seed=1) * b
    assert frechet_distance(x, y) == pytest.approx(float((a - b).square().sum()))
    assert frechet_distance(y, x) == pytest.approx(float((a - b).square().sum()))


def test_covariances_that_do_not_commute_agree_with_the_root_of_their_product() -> None:
    x, y = drawn(50, 6) @ drawn(6, 6, seed=1), drawn(50, 6, seed=2) @ drawn(6, 6, seed=3)
    c, d = torch.cov(x.T), torch.cov(y.T)
    root = torch.linalg.eigvals(c @ d).real.sqrt().sum()
    expected = (x.mean(0) - y.mean(0)).square().sum() + c.trace() + d.trace() - 2 * root
    assert frechet_distance(x, y) == pytest.approx(float(expected))


def test_fewer_clips_than_features_give_a_finite_distance() -> None:
    x, y = drawn(3, 50), drawn(5, 50, seed=1)
    assert 0 < frechet_distance(x, y) < float("inf")
    assert frechet_distance(x, x) == pytest.approx(0, abs=1e-9)
    still = torch.ones(4, 50)
    assert frechet_distance(still, still + 1) == pytest.approx(50)
    # In planes at right angles nothing is shared: the traces alone remain.
    flat, other = torch.zeros(9, 6).double(), torch.zeros(9, 6).double()
    flat[:, :2], other[:, 3:] = whitened(9, 2), whitened(9, 3)
    assert frechet_distance(flat, other) == pytest.approx(5)


@pytest.mark.parametrize("shapes", [((1, 4), (9, 4)), ((9, 4), (1, 4)), ((9, 4), (9, 5)), ((9,), (9,))])
def test_sets_that_have_no_moments_in_common_are_refused(shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    with pytest.raises(ValueError, match="expected"):
        frechet_distance(torch.zeros(shapes[0]), torch.zeros(shapes[1]))


def test_features_are_those_of_the_first_window_whatever_the_clips_are_stored_as() -> None:
    classifier = AttributeClassifier({"colour": ("red", "blue")}, width=4, rows=16, frames=9).eval()
    clips = torch.randint(256, (2, 14, 16, 24, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    features = clip_features(classifier.train(), clips)
    assert features.shape == (2, 14 * 4) and features.dtype == torch.float64 and classifier.training
    floats = clips.movedim(-1, 2) / 255.0
    assert torch.equal(features, clip_features(classifier, floats[:, :9]))
    with torch.no_grad():
        assert torch.equal(features.float(), classifier.eval().features(floats[:, :9]))
