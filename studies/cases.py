"""What the measures of streams have in common: cases, readings, seams.

Letters: T pixel frames, H W rows and columns.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from causvid.config import Settings
from causvid.evaluate.adherence import Mode, Progress, Tally, read
from causvid.evaluate.classifier import IGNORED, AttributeClassifier
from causvid.engine.state import Policy

SMOOTH = 2.0
"""A seam is smooth when it is at most so many ordinary steps of its video."""
EXAMPLES = 2
_STILL = 0.1
"""Ordinary steps count as at least so many grey levels of 255, so that a video that stands still has a seam too."""

Readings = dict[str, Tally]
"""Attribute → how many clips were read as their prompts say."""
Show = Callable[[str, str, Tensor], None]
"""Called with a picture's name, a caption, and a video uint8 [T, H, W, 3] to be seen in that picture."""


@dataclass(frozen=True)
class Said:
    """A prompt and what it says: attribute → word; None is not counted."""

    prompt: str
    words: Mapping[str, str | None]


@dataclass(frozen=True)
class Case:
    """A scene to measure on.

    said: its prompt. bare: one that names neither its colour nor its place. changes: attribute → the prompt in which
    that attribute alone is another. render: a clip of the scene, uint8 [T, H, W, 3].
    """

    said: Said
    bare: str
    changes: Mapping[str, Said]
    render: Tensor


class StreamMaker(Protocol):
    """What is measured; `causvid.pipeline.Pipeline` is one."""

    @property
    def fps(self) -> float:
        """Native frames a second."""

    def stream(
        self,
        prompt: str,
        *,
        seconds: float | None = None,
        seed: int = 0,
        sink: int | None = None,
        image: Any = None,
        after: Any = None,
        source: Any = None,
        strength: float = ...,
        adapt: bool = False,
        policy: Policy = "window",
    ) -> Iterator[Tensor]:
        """Yield uint8 [T, H, W, 3]."""

    def generate_batch(
        self, prompts: Sequence[str], *, seeds: Sequence[int], seconds: float, mode: Mode = "student"
    ) -> Tensor:
        """Return uint8 [B, T, H, W, 3]."""


@dataclass(frozen=True)
class Bench:
    """Who is measured, by whom, on what; case i is made with seed + i."""

    pipeline: StreamMaker
    classifier: AttributeClassifier
    cases: Sequence[Case]
    seed: int
    show: Show = lambda picture, caption, video: None

    def frames(self, seconds: float) -> int:
        """Return how many pixel frames last so long."""
        return round(seconds * self.pipeline.fps)

    def numbered(self, progress: Progress | None) -> Iterator[tuple[int, Case]]:
        """Yield seed and case, one after the other, and tell how far it is."""
        for done, case in enumerate(self.cases, 1):
            yield self.seed + done - 1, case
            if progress is not None:
                progress(done, len(self.cases))

    def example(self, seed: int, picture: str, caption: str, video: Tensor) -> None:
        """Show a video of a case, if it is one of the first."""
        if seed < self.seed + EXAMPLES:
            self.show(picture, caption, video)

    def matches(self, clips: Sequence[Tensor], words: Mapping[str, str | None]) -> list[dict[str, bool]]:
        """Say for clips of one size, uint8 [T, H, W, 3], which attributes are read off them as `words` say."""
        seen = read(self.classifier, torch.stack(list(clips)))
        wanted = {name: int(label) for name, label in self.classifier.labels([words]).items()}
        counted = [name for name, label in wanted.items() if label != IGNORED]
        return [{name: int(seen[name][i]) == wanted[name] for name in counted} for i in range(len(clips))]


class Counts:
    """Readings that are still being counted."""

    def __init__(self) -> None:
        """Start with nothing counted."""
        self._right: dict[str, list[bool]] = defaultdict(list)

    def add(self, match: Mapping[str, bool], names: Iterable[str] | None = None) -> None:
        """Count a clip's attributes, or only those named."""
        for name in match if names is None else names:
            self._right[name].append(match[name])

    @property
    def readings(self) -> Readings:
        """Return what was counted so far."""
        return {name: Tally(correct=sum(right), count=len(right)) for name, right in self._right.items()}


def pooled(readings: Readings) -> Tally:
    """Count all attributes together."""
    tallies = readings.values()
    return Tally(correct=sum(t.correct for t in tallies), count=sum(t.count for t in tallies))


def gap(tally: Tally, reference: Tally) -> float:
    """Return by how many percentage points a fraction is below another (negative: above)."""
    return round(100.0 * (reference.accuracy - tally.accuracy), 6)


class Steps(Settings):
    """Steps from a frame to the next at one place of many videos, in ordinary steps of the same video.

    median, tenth: the middle one, and the one that a tenth of the videos exceed. smooth: those of at most `SMOOTH`.
    """

    median: float
    tenth: float
    smooth: Tally

    @classmethod
    def of(cls, values: Sequence[float]) -> "Steps":
        """Sum up the steps of several videos."""
        every = torch.tensor(values, dtype=torch.float64)
        return cls(
            median=round(float(every.quantile(0.5)), 4),
            tenth=round(float(every.quantile(0.9)), 4),
            smooth=Tally(correct=int((every <= SMOOTH).sum()), count=len(values)),
        )


def seam(video: Tensor, at: int, stop: int | None = None) -> float:
    """Return the mean absolute step into frame `at` of a video, uint8 [T, H, W, 3], over the median of the others.

    With `stop`, the largest of the steps into the frames from `at` to before it.
    """
    steps = difference(video[1:], video[:-1])
    return float(steps[at - 1 : (stop or at + 1) - 1].max()) / ordinary_step(video, at, stop)


def ordinary_step(video: Tensor, at: int, stop: int | None = None) -> float:
    """Return the median mean absolute step of a video, uint8 [T, H, W, 3], without those into frames `at` to `stop`."""
    steps = difference(video[1:], video[:-1])
    return max(float(torch.cat((steps[: at - 1], steps[(stop or at + 1) - 1 :])).median()), _STILL)


def difference(a: Tensor, b: Tensor) -> Tensor:
    """Return the mean absolute differences of frames, uint8 [T, H, W, 3], as grey levels of 255: [T]."""
    return (a.short() - b.short()).abs().float().mean((1, 2, 3))


def take(stream: Iterator[Tensor], frames: int) -> Tensor:
    """Return so many frames of a stream, and those that its last chunk has beyond: uint8 [T, H, W, 3]."""
    parts, count = [], 0
    while count < frames:
        parts.append(next(stream))
        count += len(parts[-1])
    return torch.cat(parts)
