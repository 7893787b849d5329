"""Measure streams without end: whether they still show what was asked, and what they cost, minute after minute.

Letters: T pixel frames, H W rows and columns.
"""

import gc
import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from causvid.config import Settings
from causvid.evaluate.adherence import Progress, Tally
from causvid.engine.bench import Bench, Case, Counts, Readings, pooled, take
from causvid.evaluate.classifier import MIN_FRAMES
from causvid.engine.state import Policy
from causvid.stream import Stream

READ_SECONDS = 2.0
READ_ONE_IN = 3
"""Of a long stream, one clip of so many is read: the classifier is not what is timed."""
EDGE_SECONDS = 10.0
EARLY_SECONDS = 10.0
"""After so much of a long stream its chunks are timed beside the one that came then."""
STILLS = 7


class Past(Settings):
    """What a stream sees of its past: the policy, and the sink where it is not the model's own."""

    name: str
    policy: Policy
    sink: int | None = None


class Span(Settings):
    """A stretch of one long stream, up to `end` seconds.

    saturation: mean of (max - min) / max of a pixel's colours. contrast: deviation of the luminance of a frame's pixels
    from its mean, root mean square. luminance: its mean. All in [0, 1]. memory: resident, in MiB, at the end of the
    stretch; None where it cannot be read. chunk_ms: median time of a chunk; noise_ms: median absolute deviation.
    over_early: median of a chunk's time over that of an early chunk which is made again right after it; None if the
    stream is too short for one.
    """

    end: float
    adherence: Tally
    saturation: float
    contrast: float
    luminance: float
    memory: float | None
    chunk_ms: float
    noise_ms: float
    over_early: float | None = None


class Endless(Settings):
    """One way to see the past: a long stream, stretch by stretch, and both ends of shorter ones of several prompts."""

    past: Past
    spans: tuple[Span, ...]
    start: Readings
    end: Readings

    @property
    def growth(self) -> tuple[float, float] | None:
        """Return last and highest memory over that of the first stretch, minus 1; None where it cannot be read."""
        memory = [span.memory for span in self.spans if span.memory is not None]
        if len(memory) < len(self.spans):
            return None
        return memory[-1] / memory[0] - 1, max(memory) / memory[0] - 1

    @property
    def slowing(self) -> float | None:
        """Return by what share a chunk takes longer in the last stretch than in the first; None if not timed."""
        first, last = self.spans[0].over_early, self.spans[-1].over_early
        return None if first is None or last is None else last / first - 1


class WithoutEnd(Settings):
    """All ways to see the past. minutes: of the long stream; prompts, short_minutes: of the others."""

    minutes: float
    prompts: int
    short_minutes: float
    edge_seconds: float
    runs: tuple[Endless, ...]


def measure_without_end(
    bench: Bench, several: Bench, pasts: Sequence[Past], *, minutes: float, stage: Callable[[str], Progress]
) -> WithoutEnd:
    """For every way to see the past, let the first case of `bench` run for so many minutes, and every case of `several`
    for a tenth of that, but at least six seconds.

    stage: gives a stage what it is to tell of seconds of video made.
    """
    short = min(minutes, max(minutes / 10, 0.1))
    runs = []
    for past in pasts:
        progress = stage(past.name)
        total = round(60 * (minutes + len(several.cases) * short))

        def told(done: float, progress: Progress = progress, total: int = total) -> None:
            progress(round(done), total)

        spans = tuple(follow(bench, past, minutes=minutes, told=told))
        start, end = Counts(), Counts()
        for number, case in enumerate(several.cases):
            for late, clip in edges(several, past, several.seed + number, case, minutes=short):
                (end if late else start).add(several.matches([clip], case.said.words)[0])
            told(60 * (minutes + (number + 1) * short))
        runs.append(Endless(past=past, spans=spans, start=start.readings, end=end.readings))
    return WithoutEnd(
        minutes=minutes,
        prompts=len(several.cases),
        short_minutes=short,
        edge_seconds=min(EDGE_SECONDS, 30 * short),
        runs=tuple(runs),
    )


@dataclass
class _Stretch:
    """What is gathered of a stretch of a stream."""

    counts: Counts = field(default_factory=Counts)
    colours: list[Tensor] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    over_early: list[float] = field(default_factory=list)

    def span(self, end: float) -> Span:
        saturation, contrast, luminance = torch.cat(self.colours).mean(0).tolist()
        middle = statistics.median(self.times)
        return Span(
            end=end,
            adherence=pooled(self.counts.readings),
            saturation=round(saturation, 4),
            contrast=round(contrast, 4),
            luminance=round(luminance, 4),
            memory=resident_mib(),
            chunk_ms=round(1000 * middle, 2),
            noise_ms=round(1000 * statistics.median(abs(one - middle) for one in self.times), 2),
            over_early=round(statistics.median(self.over_early), 4) if self.over_early else None,
        )


def follow(bench: Bench, past: Past, *, minutes: float, told: Callable[[float], None]) -> Iterator[Span]:
    """Let one stream of the first case run, and yield a span a minute, or two where it lasts less."""
    case, frames = bench.cases[0], bench.frames(60 * minutes)
    bounds = [frames * (i + 1) // max(2, round(minutes)) for i in range(max(2, round(minutes)))]
    pictured = {frames * i // (STILLS - 1) for i in range(STILLS)}
    stream = cast(Stream, bench.pipeline.stream(case.said.prompt, seed=bench.seed, sink=past.sink, policy=past.policy))
    length = max(bench.frames(READ_SECONDS), MIN_FRAMES)
    waiting, stills = [], []
    stretch, done, clips = _Stretch(), 0, 0
    early: _Early | None = None
    while done < frames:
        chunk, spent = _timed(stream)
        stretch.times.append(spent)
        if early is not None:
            stretch.over_early.append(spent / early.again())
        elif done >= min(bench.frames(EARLY_SECONDS), bounds[0] // 2):
            early = _Early(stream)
        stretch.colours.append(colours(chunk))
        waiting.append(chunk)
        if sum(map(len, waiting)) >= length:
            if clips % READ_ONE_IN == 0:
                stretch.counts.add(bench.matches([torch.cat(waiting)[-length:]], case.said.words)[0])
            waiting, clips = [], clips + 1
        if reached := {at for at in pictured if at < done + len(chunk) or done + len(chunk) >= frames}:
            pictured -= reached
            stills += [chunk[-1].clone()] * len(reached)
        done += len(chunk)
        told(done / bench.pipeline.fps)
        if done >= bounds[0]:
            yield stretch.span(bounds.pop(0) / bench.pipeline.fps)
            stretch = _Stretch()
    bench.show("endless", f"{past.name}, {minutes:g} minutes: {case.said.prompt}", torch.stack(stills))


class _Early:
    """The chunk that a stream is about to make, to be made again whenever it is asked for."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream.fork()
        self._state = self._stream.snapshot()

    def again(self) -> float:
        """Make it and return the seconds it took."""
        self._stream.restore(self._state)
        return _timed(self._stream)[1]


def _timed(stream: Iterator[Tensor]) -> tuple[Tensor, float]:
    """Return the next chunk and the seconds it took."""
    started = time.perf_counter()
    chunk = next(stream)
    return chunk, time.perf_counter() - started


def edges(bench: Bench, past: Past, seed: int, case: Case, *, minutes: float) -> Iterator[tuple[bool, Tensor]]:
    """Yield clips of the first seconds of a stream, with False, and then of its last, with True."""
    frames, length = bench.frames(60 * minutes), max(bench.frames(READ_SECONDS), MIN_FRAMES)
    edge = max(1, min(bench.frames(EDGE_SECONDS), frames // 2) // length) * length
    stream = bench.pipeline.stream(case.said.prompt, seed=seed, sink=past.sink, policy=past.policy)
    held = take(stream, edge)
    yield from ((False, clip) for clip in held[:edge].split(length))
    done = len(held)
    while done < frames:
        chunk = next(stream)
        held, done = torch.cat((held, chunk))[-edge:], done + len(chunk)
    yield from ((True, clip) for clip in held[-edge:].split(length))


def colours(frames: Tensor) -> Tensor:
    """Return saturation, contrast and luminance, each in [0, 1], of every frame, uint8 [T, H, W, 3]: [T, 3]."""
    pixels = frames.float() / 255
    most, least = pixels.amax(-1), pixels.amin(-1)
    saturation = ((most - least) / most.clamp(min=1 / 255)).mean((1, 2))
    light = pixels @ pixels.new_tensor([0.2126, 0.7152, 0.0722])
    return torch.stack((saturation, light.std((1, 2), correction=0), light.mean((1, 2))), dim=-1)


def resident_mib() -> float | None:
    """Return this process's resident memory in MiB, after a collection; None where the system does not tell."""
    gc.collect()
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return None
    return round(pages * os.sysconf("SC_PAGE_SIZE") / 2**20, 2)
