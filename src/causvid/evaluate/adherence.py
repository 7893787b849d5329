"""How well videos show what their prompts ask for, also at both ends: attributes that a classifier reads off them.

Letters: B batch, T pixel frames, H W rows and columns.
"""

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from causvid.config import Settings
from causvid.evaluate.classifier import IGNORED, MIN_FRAMES, AttributeClassifier, labels_of

EDGE_SECONDS = 5.0
BOTH = {"pair": " and ", "morph": " into "}
"""Attributes that name two subjects, and the word between them."""


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


def wanted(classifier: AttributeClassifier, clips: Sequence[Mapping[str, str | None]]) -> dict[str, Tensor]:
    """Turn the words of clips into labels: the classifier's, and both subjects of pairs and morphs, int64 [clips, 2].

    Raises:
        ValueError: a word is not in the attribute's vocabulary, or a pair or morph does not name two.
    """
    labels = labels_of(classifier.vocabularies, clips)
    for name, between in BOTH.items():
        pairs = [(clip.get(name) or between).split(between) for clip in clips]
        if any(len(pair) != 2 for pair in pairs):
            raise ValueError(f"{name}: expected two subjects, such as `swan{between}cat`")
        if "subject" in labels and any(map(any, pairs)):
            words = [[{"subject": pair[end] or None} for pair in pairs] for end in (0, 1)]
            ends = [labels_of(classifier.vocabularies, own)["subject"] for own in words]
            labels[name] = torch.stack(ends, dim=1)
    return labels


def score(classifier: AttributeClassifier, videos: Iterable[Tensor], labels: Mapping[str, Tensor]) -> Adherence:
    """Count how often the classifier reads off clips what their labels say.

    A pair is read if its subjects are the two likeliest, a morph if the first subject is the likeliest in some stretch
    of nine frames, and the second in a later one.

    Args:
        videos: batches, float [B, T, 3, H, W] in [0, 1] or uint8 [B, T, H, W, 3], together as many clips as labels.
        labels: as from `wanted`; −1 is not counted. Missing attributes are not scored.

    Raises:
        ValueError: an unknown attribute, or another number of clips than of labels.
    """
    unknown = sorted(set(labels) - {*classifier.vocabularies, *BOTH})
    if unknown or not labels:
        raise ValueError(f"labels={unknown or '{}'}: expected some of {sorted(classifier.vocabularies)}")
    parts: dict[str, list[Tensor]] = {name: [] for name in labels}
    done = 0
    for pixels in videos:
        own = {name: label[done : done + len(pixels)].to(pixels.device) for name, label in labels.items()}
        done += len(pixels)
        if any(len(label) < len(pixels) for label in own.values()):
            continue  # counted, to be named
        likely = probabilities(classifier, pixels)
        for name, label in own.items():
            parts[name].append(_is_read(classifier, pixels, likely, name, label).cpu())
    attributes: dict[str, Tally] = {}
    values: dict[str, dict[str, Tally]] = {}
    for name, label in labels.items():
        if done != len(label):
            raise ValueError(f"clips={done}: expected as many as labels of {name!r} ({len(label)})")
        right, asked = torch.cat([torch.empty(0, dtype=torch.bool), *parts[name]]), label.cpu()
        attributes[name] = _tally(right[(asked != IGNORED).view(len(asked), -1).all(1)])
        if name not in BOTH:
            tallies = {word: _tally(right[asked == i]) for i, word in enumerate(classifier.vocabularies[name])}
            values[name] = {word: tally for word, tally in tallies.items() if tally.count}
    return Adherence(attributes=attributes, values=values)


def _is_read(
    classifier: AttributeClassifier, pixels: Tensor, likely: Mapping[str, Tensor], name: str, label: Tensor
) -> Tensor:
    """Tell of which clips an attribute's value [B], or both subjects of a pair or morph [B, 2], are read: bool [B]."""
    if name not in BOTH:
        return _best(likely[name]) == label
    if name == "pair":
        two = likely["subject"].mean(1).topk(2).indices
        return (two.sort(1).values == label.sort(1).values).all(1)
    right = torch.zeros(len(label), dtype=torch.bool, device=label.device)
    if len(rows := (label[:, 0] != IGNORED).nonzero().flatten()):
        seen = probabilities(classifier, pixels[rows], frames=MIN_FRAMES, hop=MIN_FRAMES // 3)["subject"].argmax(-1)
        first, second = (seen == label[rows, end, None] for end in (0, 1))
        right[rows] = ((first.cumsum(1) > 0) & second).any(1)
    return right


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


def read(classifier: AttributeClassifier, pixels: Tensor) -> dict[str, Tensor]:
    """Read clips, float [B, T, 3, H, W] in [0, 1] or uint8 [B, T, H, W, 3]: attribute → value, int64 [B].

    A clip longer than the classifier's window is read in overlapping windows, whose probabilities are averaged.
    """
    return {name: _best(value) for name, value in probabilities(classifier, pixels).items()}


@torch.no_grad()
def probabilities(
    classifier: AttributeClassifier, pixels: Tensor, *, frames: int | None = None, hop: int | None = None
) -> dict[str, Tensor]:
    """Read clips as `read` does, window by window: attribute → probability of each value [B, windows, n].

    frames: of a window, by default the classifier's. hop: frames from one window to the next, at most; by default they
    overlap as little as they can.
    """
    if pixels.dtype == torch.uint8:
        pixels = pixels.movedim(-1, 2)
    T, window = pixels.shape[1], frames or classifier.frames
    spare = max(T - window, 0)
    starts = torch.linspace(0, spare, 1 + -(-spare // (hop or window))).round().long().tolist()
    training = classifier.training
    classifier.eval()
    found: dict[str, list[Tensor]] = {}
    for start in starts:
        part = pixels[:, start : start + window]
        logits = classifier(part / 255.0 if part.dtype == torch.uint8 else part)
        for name, value in logits.items():
            found.setdefault(name, []).append(value.softmax(-1))
    classifier.train(training)
    return {name: torch.stack(values, dim=1) for name, values in found.items()}


def _best(likely: Tensor) -> Tensor:
    """Return the value that is likeliest on average, int64 [B], of probabilities [B, windows, n]."""
    return likely.mean(1).argmax(-1)


def _tally(right: Tensor) -> Tally:
    return Tally(correct=int(right.sum()), count=right.numel())
