"""How different several videos are, such as those of one prompt with different seeds.

Letters: B videos, T pixel frames, H W rows and columns, D features.
"""

from pathlib import Path

import torch
from torch import Tensor

from causvid.evaluate.classifier import MIN_FRAMES, AttributeClassifier


def difference(videos: Tensor, classifier: Path | None) -> tuple[float, str]:
    """Return the mean distance of two of the videos, uint8 [B, T, H, W, 3], B at least 2, and what it is measured in.

    classifier: the folder of a model's attribute classifier, in whose features the distance is taken. Without one, or
    of clips too short for it, it is the mean absolute difference of pixels.
    """
    if classifier is None or videos.shape[1] < MIN_FRAMES:
        points = videos.flatten(1).float() / 255
        return float(torch.pdist(points, p=1).mean()) / points.shape[1], "mean pixel distance, of 1"
    model = AttributeClassifier.load(classifier)
    features = torch.cat([clip_features(model, video[None]) for video in videos])
    distances = torch.pdist(features) / features.shape[1] ** 0.5
    return float(distances.mean()), "in the features of the model's classifier"


@torch.no_grad()
def clip_features(classifier: AttributeClassifier, pixels: Tensor) -> Tensor:
    """Describe the first window of clips, uint8 [B, T, H, W, 3] or float [B, T, 3, H, W] in [0, 1]: float64 [B, D]."""
    pixels = pixels[:, : classifier.frames]
    if pixels.dtype == torch.uint8:
        pixels = pixels.movedim(-1, 2) / 255.0
    training = classifier.training
    features = classifier.eval().features(pixels).double()
    classifier.train(training)
    return features
