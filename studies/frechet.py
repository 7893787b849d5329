"""The Fréchet distance of two sets of clips, in the features of the attribute classifier.

Letters: N, M clips, D features.
"""

import torch
from torch import Tensor


def frechet_distance(features: Tensor, reference: Tensor) -> float:
    """Return the squared Wasserstein-2 distance of the Gaussians with the moments of two sets, [N, D] and [M, D].

    |m - m'|² + tr(C + C' - 2 (C C')^½), in float64. With centred features X and X', scaled so that C = XᵀX, the trace
    of that root is the sum of the singular values of X X'ᵀ: no matrix root is taken, so covariances of fewer clips than
    features are as good as any.

    Source: Dowson and Landau (1982); in the field's use, Heusel et al. (1706.08500), with Inception's features.

    Raises:
        ValueError: fewer than two clips in a set, or features of another size.
    """
    if features.ndim != 2 or features.shape[1:] != reference.shape[1:] or min(len(features), len(reference)) < 2:
        shapes = f"features={tuple(features.shape)}, reference={tuple(reference.shape)}"
        raise ValueError(f"{shapes}: expected [N, D] and [M, D], two clips or more each")
    (mean, x), (other_mean, y) = _moments(features), _moments(reference)
    shared = torch.linalg.svdvals(x @ y.T).sum()
    distance = (mean - other_mean).square().sum() + x.square().sum() + y.square().sum() - 2 * shared
    return max(0.0, float(distance))


def _moments(features: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean [D], and [N, D] whose product with itself is the covariance."""
    features = features.double()
    mean = features.mean(0)
    return mean, (features - mean) / (len(features) - 1) ** 0.5
