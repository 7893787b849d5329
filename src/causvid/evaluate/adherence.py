"""How well videos show what their prompts ask for, also at both ends: attributes that a classifier reads off them.

Letters: B batch, T pixel frames, H W rows and columns.
"""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from causvid.config import Settings
from causvid.evaluate.classifier import IGNORED, AttributeClassifier

EDGE_SECONDS = 5.0


class Tally(Settings):
    """How many of `count` clips were read as labelled."""

    correct: int
    count: int

    @property
    def accuracy(self) -> float:
        """The fraction in [0, 1]; 0 where nothing was counted."""
        return self.correct / self.count if self.count else 0.0

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval of the fraction."""
        if not self.count:
            return 0.0, 1.0
        n, p, z = self.count, self.accuracy, 1.959964
        middle = (p + z * z / (2 * n)) / (1 + z * z / n)
        reach = z / (1 + z * z / n) * (p * (1 - p) / n + z * z / (4 * n * n)) ** 0.5
        return max(middle - reach, 0.0), min(middle + reach, 1.0)

    def points_below(self, reference: "Tally") -> float:
        """By how many percentage points the fraction is below another (negative: above)."""
        # Rounded, so that a gap of exactly five points is not a hair more.
        return round(100.0 * (reference.accuracy - self.accuracy), 6)


def pooled(tallies: Iterable[Tally]) -> Tally:
    """Count several tallies together."""
    every = list(tallies)
    return Tally(correct=sum(t.correct for t in every), count=sum(t.count for t in every))


class Adherence(Settings):
    """What a classifier reads off a set of clips: a tally for each attribute, and one for each of its values."""

    attributes: dict[str, Tally]
    values: dict[str, dict[str, Tally]]

    @property
    def accuracy(self) -> dict[str, float]:
        """Attribute → fraction of clips read as labelled."""
        return {name: tally.accuracy for name, tally in self.attributes.items()}

    def points_below(self, reference: "Adherence") -> dict[str, float]:
        """Return by how many percentage points each attribute is below a reference (negative: above)."""
        return {name: tally.points_below(reference.attributes[name]) for name, tally in self.attributes.items()}


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


def score(classifier: AttributeClassifier, videos: Iterable[Tensor], labels: Mapping[str, Tensor]) -> Adherence:
    """Count how often the classifier reads off clips what their labels say.

    Args:
        videos: batches, float [B, T, 3, H, W] in [0, 1] or uint8 [B, T, H, W, 3], together as many clips as labels.
        labels: attribute → int64 [clips]; −1 is not counted. Missing attributes are not scored.

    Raises:
        ValueError: an unknown attribute, or another number of clips than of labels.
    """
    unknown = sorted(set(labels) - set(classifier.vocabularies))
    if unknown or not labels:
        raise ValueError(f"labels={unknown or '{}'}: expected some of {sorted(classifier.vocabularies)}")
    batches = [read(classifier, pixels) for pixels in videos]
    attributes: dict[str, Tally] = {}
    values: dict[str, dict[str, Tally]] = {}
    for name, wanted in labels.items():
        seen = torch.cat([batch[name] for batch in batches]).cpu() if batches else torch.empty(0, dtype=torch.long)
        if len(seen) != len(wanted):
            raise ValueError(f"clips={len(seen)}: expected as many as labels of {name!r} ({len(wanted)})")
        wanted = wanted.cpu()
        right = seen == wanted
        attributes[name] = _tally(right[wanted != IGNORED])
        tallies = {word: _tally(right[wanted == i]) for i, word in enumerate(classifier.vocabularies[name])}
        values[name] = {word: tally for word, tally in tallies.items() if tally.count}
    return Adherence(attributes=attributes, values=values)


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


@torch.no_grad()
def read(classifier: AttributeClassifier, pixels: Tensor) -> dict[str, Tensor]:
    """Read clips, float [B, T, 3, H, W] in [0, 1] or uint8 [B, T, H, W, 3]: attribute → value, int64 [B].

    A clip longer than the classifier's window is read in overlapping windows, whose probabilities are averaged.
    """
    if pixels.dtype == torch.uint8:
        pixels = pixels.movedim(-1, 2)
    T, window = pixels.shape[1], classifier.frames
    starts = torch.linspace(0, max(T - window, 0), -(-T // window)).round().long().tolist()
    training = classifier.training
    classifier.eval()
    total: dict[str, Tensor] = {}
    for start in starts:
        part = pixels[:, start : start + window]
        logits = classifier(part / 255.0 if part.dtype == torch.uint8 else part)
        for name, value in logits.items():
            total[name] = total.get(name, 0.0) + value.softmax(-1)
    classifier.train(training)
    return {name: value.argmax(-1) for name, value in total.items()}


def _tally(right: Tensor) -> Tally:
    return Tally(correct=int(right.sum()), count=right.numel())
