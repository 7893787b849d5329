"""Measure how well videos show what their prompts ask for, and how fast they are made.

Renders of the world give the ceiling: what the classifier reads off perfect video. Teacher and student are read on the
same prompts. A long video is judged by its first and last seconds.

Letters: B batch, T pixel frames, H W rows and columns, n values of one attribute.
"""

import os
import platform
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Literal, Protocol

import torch
from torch import Tensor

from causvid.config import Settings
from causvid.evaluate.classifier import IGNORED, AttributeClassifier

Mode = Literal["student", "teacher"]


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


class Adherence(Settings):
    """What a classifier read off a set of clips: a tally an attribute, and one for each of its values."""

    attributes: dict[str, Tally]
    values: dict[str, dict[str, Tally]]

    @property
    def accuracy(self) -> dict[str, float]:
        """Attribute → fraction of clips read as labelled."""
        return {name: tally.accuracy for name, tally in self.attributes.items()}


class Speed(Settings):
    """How fast one clip is made, decoder included, after a warm-up; medians over repeats."""

    clip_seconds: float
    """Wall time to make the clip."""
    first_frame_seconds: float
    """Wall time until the first frames can be shown."""
    frames: int
    """Pixel frames in the clip."""

    @property
    def fps(self) -> float:
        """Pixel frames made a second of wall time."""
        return self.frames / self.clip_seconds


class Measurement(Settings):
    """Adherence and speed of one way of making videos."""

    mode: Mode
    steps: int
    """Denoising steps a chunk (student) or a clip (teacher)."""
    video_seconds: float
    adherence: Adherence
    speed: Speed


class Drift(Settings):
    """Adherence at both ends of long videos made by the student."""

    videos: int
    video_seconds: float
    edge_seconds: float
    first: Adherence
    last: Adherence


class VideoMaker(Protocol):
    """What is measured; `causvid.pipeline.Pipeline` is one."""

    @property
    def fps(self) -> float:
        """Native frames a second."""

    def stream(self, prompt: str, *, seconds: float, seed: int) -> Iterable[Tensor]:
        """Yield uint8 [T, H, W, 3]."""

    def generate_batch(self, prompts: list[str], *, seeds: list[int], seconds: float, mode: Mode) -> Tensor:
        """Return uint8 [B, T, H, W, 3]."""


Progress = Callable[[int, int], None]
"""Called with (clips done, clips in all)."""


def score(classifier: AttributeClassifier, videos: Iterable[Tensor], labels: dict[str, Tensor]) -> Adherence:
    """Count how often the classifier reads off clips what their labels say.

    A clip longer than the classifier's window is read in overlapping windows, whose probabilities are averaged.

    Args:
        videos: batches, float [B, T, 3, H, W] in [0, 1] or uint8 [B, T, H, W, 3], together as many clips as labels.
        labels: attribute → int64 [clips]; −1 is not counted. Attributes left out are not scored.

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


@torch.no_grad()
def read(classifier: AttributeClassifier, pixels: Tensor) -> dict[str, Tensor]:
    """Read clips, float [B, T, 3, H, W] in [0, 1] or uint8 [B, T, H, W, 3], whole: attribute → value, int64 [B]."""
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


def relative(measured: Adherence, ceiling: Adherence) -> dict[str, float]:
    """Divide measured accuracies by those of the ceiling, attribute by attribute."""
    return {name: value / max(ceiling.accuracy[name], 1e-9) for name, value in measured.accuracy.items()}


def points_below(measured: Adherence, reference: Adherence) -> dict[str, float]:
    """Say by how many percentage points a score is below a reference (negative: above), attribute by attribute."""
    # Rounded, so that a gap of exactly five points is not a hair more.
    return {name: round(100.0 * (reference.accuracy[name] - value), 6) for name, value in measured.accuracy.items()}


def measure(
    pipeline: VideoMaker,
    classifier: AttributeClassifier,
    prompts: list[str],
    labels: dict[str, Tensor],
    *,
    mode: Mode,
    steps: int,
    seconds: float,
    seed: int,
    batch: int = 8,
    repeats: int = 3,
    progress: Progress | None = None,
) -> Measurement:
    """Make a clip of every prompt, score the clips, and time single clips.

    Args:
        labels: attribute → int64 [prompts]; −1 is not counted.
        mode: who makes the clips.
        steps: the denoising steps that `mode` takes, for the record.
        seconds: length of a clip.
        seed: clip i is made with seed + i.
        batch: clips made together for the score; the speed is that of a single clip.
        repeats: clips timed.
    """

    def videos() -> Iterator[Tensor]:
        yield from make(pipeline, prompts, mode=mode, seconds=seconds, seed=seed, batch=batch, progress=progress)

    adherence = score(classifier, videos(), labels)
    speed = measure_speed(pipeline, prompts[0], mode=mode, seconds=seconds, seed=seed, repeats=repeats)
    return Measurement(mode=mode, steps=steps, video_seconds=seconds, adherence=adherence, speed=speed)


def measure_drift(
    pipeline: VideoMaker,
    classifier: AttributeClassifier,
    prompts: list[str],
    labels: dict[str, Tensor],
    *,
    seconds: float = 30.0,
    edge_seconds: float = 5.0,
    seed: int,
    batch: int = 4,
    progress: Progress | None = None,
) -> Drift:
    """Make long videos with the student and score their first and last `edge_seconds` by themselves."""
    edge = round(edge_seconds * pipeline.fps)
    if 2 * edge_seconds > seconds:
        raise ValueError(f"edge_seconds={edge_seconds}: expected at most half of seconds={seconds}")
    first, last = [], []
    for clips in make(pipeline, prompts, mode="student", seconds=seconds, seed=seed, batch=batch, progress=progress):
        first.append(clips[:, :edge].clone())
        last.append(clips[:, -edge:].clone())
    return Drift(
        videos=len(prompts),
        video_seconds=seconds,
        edge_seconds=edge_seconds,
        first=score(classifier, first, labels),
        last=score(classifier, last, labels),
    )


def measure_speed(
    pipeline: VideoMaker, prompt: str, *, mode: Mode, seconds: float, seed: int, repeats: int = 3
) -> Speed:
    """Time single clips, decoder included, after one that is not counted; the student streams, the teacher cannot."""
    if repeats < 1:
        raise ValueError(f"repeats={repeats}: expected 1 or more")
    totals, firsts, frames = [], [], 0
    for repeat in range(repeats + 1):
        first, frames, start = 0.0, 0, time.perf_counter()
        if mode == "student":
            for part in pipeline.stream(prompt, seconds=seconds, seed=seed + repeat):
                first = first or time.perf_counter() - start
                frames += part.shape[0]
        else:
            frames = pipeline.generate_batch([prompt], seeds=[seed + repeat], seconds=seconds, mode=mode).shape[1]
            first = time.perf_counter() - start
        if repeat:
            totals.append(time.perf_counter() - start)
            firsts.append(first)
    middle = repeats // 2
    return Speed(clip_seconds=sorted(totals)[middle], first_frame_seconds=sorted(firsts)[middle], frames=frames)


def make(
    pipeline: VideoMaker,
    prompts: list[str],
    *,
    mode: Mode,
    seconds: float,
    seed: int,
    batch: int,
    progress: Progress | None = None,
) -> Iterator[Tensor]:
    """Yield a clip of every prompt in batches, uint8 [B, T, H, W, 3]; clip i is made with seed + i."""
    if not prompts or batch < 1:
        raise ValueError(f"prompts={len(prompts)}, batch={batch}: expected 1 or more of each")
    for start in range(0, len(prompts), batch):
        part = prompts[start : start + batch]
        seeds = [seed + start + i for i in range(len(part))]
        yield pipeline.generate_batch(part, seeds=seeds, seconds=seconds, mode=mode)
        if progress is not None:
            progress(start + len(part), len(prompts))


def describe_machine(device: torch.device | str = "cpu") -> str:
    """Name the GPU, if `device` is one, the processor, the cores this process may use, and the version of torch."""
    name = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            name = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), name)
    except OSError:
        pass
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    threads = torch.get_num_threads()
    host = f"{name} ({platform.machine()}), {cores} cores, {threads} threads, torch {torch.__version__}"
    device = torch.device(device)
    return f"{torch.cuda.get_device_name(device)}; {host}" if device.type == "cuda" else host


def _tally(right: Tensor) -> Tally:
    return Tally(correct=int(right.sum()), count=right.numel())
