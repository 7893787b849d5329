"""What changes in a long video: what is read off its last seconds beside its first, and how its colours look.

Letters: T pixel frames, H W rows and columns.
"""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from causvid.config import Settings
from causvid.evaluate.adherence import Adherence, pooled, score
from causvid.evaluate.classifier import AttributeClassifier

EDGE_SECONDS = 5.0


class Drift(Settings):
    """Adherence at both ends of long videos."""

    videos: int
    video_seconds: float
    edge_seconds: float
    first: Adherence
    last: Adherence

    @property
    def points(self) -> float:
        """The last seconds' adherence less the first ones', all attributes together, in percentage points."""
        return pooled(self.first.attributes.values()).points_below(pooled(self.last.attributes.values()))


def measure_drift(
    classifier: AttributeClassifier,
    videos: Iterable[Tensor],
    labels: Mapping[str, Tensor],
    *,
    fps: float,
    edge_seconds: float = EDGE_SECONDS,
) -> Drift:
    """Score the first and last `edge_seconds` of long videos separately.

    Args:
        videos: batches, uint8 [B, T, H, W, 3]. labels: as in `score`.

    Raises:
        ValueError: a video is shorter than both ends.
    """
    edge, frames, count = round(edge_seconds * fps), 0, 0
    first: list[Tensor] = []
    last: list[Tensor] = []
    for clips in videos:
        frames, count = clips.shape[1], count + len(clips)
        if 2 * edge > frames:
            raise ValueError(f"edge_seconds={edge_seconds:g}: expected at most half of {frames / fps:g} seconds")
        first.append(clips[:, :edge].clone())  # copies, so that the whole videos can be freed
        last.append(clips[:, -edge:].clone())
    return Drift(
        videos=count,
        video_seconds=frames / fps,
        edge_seconds=edge_seconds,
        first=score(classifier, first, labels),
        last=score(classifier, last, labels),
    )


def colours(frames: Tensor) -> Tensor:
    """Return saturation, RMS contrast and mean luminance, each in [0, 1], of frames, uint8 [T, H, W, 3]: [T, 3]."""
    pixels = frames.float() / 255
    most, least = pixels.amax(-1), pixels.amin(-1)
    saturation = ((most - least) / most.clamp(min=1 / 255)).mean((1, 2))
    light = pixels @ pixels.new_tensor([0.2126, 0.7152, 0.0722])  # Rec. 709
    return torch.stack((saturation, light.std((1, 2), correction=0), light.mean((1, 2))), dim=-1)
