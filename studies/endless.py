"""Streams without end: whether they still show what was asked, and what they cost, minute after minute."""

import gc
import os
import statistics
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from cases import Bench, Counts
from notebook import Notebook, Row
from torch import Tensor

from causvid.evaluate.adherence import Tally
from causvid.evaluate.classifier import MIN_FRAMES
from causvid.evaluate.drift import colours
from causvid.evaluate.videos import Progress

READ_SECONDS = 2.0
READ_ONE_IN = 3
"""Of a long stream, one clip of so many is read: the classifier is not what is timed."""
EARLY_SECONDS = 10.0
"""After so much of a long stream, each chunk is timed beside the one that came then."""
STILLS = 7
MEMORY = 0.01
"""Share by which memory may differ from that of the first stretch."""
SLOWING = 0.05
"""Share by which a chunk's time may grow after the first stretch."""


def measure_endless(bench: Bench, book: Notebook, *, minutes: float) -> None:
    """Run one stream of the first case for so many minutes with each kind of history."""
    histories: dict[str, dict[str, Any]] = {
        "window with sink": {"policy": "window", "sink": bench.pipeline.generation.sink or 1},
        "window without sink": {"policy": "window", "sink": 0},
        "recomputed history": {"policy": "recompute"},
    }
    about = f"The first prompt for {minutes:g} minutes; one clip of {READ_SECONDS:g} s in {READ_ONE_IN} is read."
    for name, options in histories.items():
        rows = list(follow(bench, name, options, minutes=minutes, progress=bench.stage(name)))
        memory = [row.numbers["memory (MiB)"] for row in rows]
        known = [value for value in memory if value is not None]
        if len(known) == len(rows):
            peak = max(abs(value / known[0] - 1) for value in known)
            wanted = f"{name}: memory within {MEMORY:.0%} of that after the first stretch"
            book.limit(wanted, peak, MEMORY, f"{peak:.2%} off at most")
        first, last = rows[0].numbers["over an early one"], rows[-1].numbers["over an early one"]
        if first is not None and last is not None:
            wanted = f"{name}: a chunk's time grows by at most {SLOWING:.0%} after the first stretch"
            book.limit(wanted, last / first - 1, SLOWING, f"{last / first - 1:+.1%} at the end")
        book.close(f"{name}: last stretch", rows[-1].readings["as asked"], rows[0].readings["as asked"], "the first")
        book.section(f"Without end: {name}", about, rows, "endless" if name == "recomputed history" else None)


@dataclass
class _Stretch:
    """What is gathered of a stretch of a stream."""

    counts: Counts = field(default_factory=Counts)
    colours: list[Tensor] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    over_early: list[float] = field(default_factory=list)

    def row(self, seconds: float) -> Row:
        saturation, contrast, luminance = torch.cat(self.colours).mean(0).tolist()
        numbers: dict[str, float | None] = {
            "saturation": saturation,
            "contrast": contrast,
            "luminance": luminance,
            "memory (MiB)": resident_mib(),
            "chunk (ms)": 1000 * statistics.median(self.times),
            "over an early one": statistics.median(self.over_early) if self.over_early else None,
        }
        seen: dict[str, Tally] = {"as asked": self.counts.total()}
        return Row(name=f"until {seconds / 60:g} min", readings=seen, numbers=numbers)


def follow(bench: Bench, name: str, options: dict[str, Any], *, minutes: float, progress: Progress) -> Iterator[Row]:
    """Run one stream of the first case, and yield a row a minute, or two where it lasts less.

    After every chunk an early one is made again: the ratio of both times tells a slower stream from a slower machine.
    """
    case, frames = bench.cases[0], bench.frames(60 * minutes)
    parts = max(2, round(minutes))
    bounds = deque(frames * (i + 1) // parts for i in range(parts))
    stills_at = {frames * i // (STILLS - 1) for i in range(STILLS)}
    stream = bench.pipeline.stream(case.prompt.text, seed=bench.seed, **options)
    length = max(bench.frames(READ_SECONDS), MIN_FRAMES)
    waiting: list[Tensor] = []
    stills: list[Tensor] = []
    stretch, done, clips, early, state = _Stretch(), 0, 0, None, None
    while done < frames:
        chunk, spent = _timed(stream)
        stretch.times.append(spent)
        if early is not None and state is not None:
            early.restore(state)
            stretch.over_early.append(spent / _timed(early)[1])
        elif done >= min(bench.frames(EARLY_SECONDS), bounds[0] // 2):
            early = stream.fork()
            state = early.snapshot()
        stretch.colours.append(colours(chunk))
        waiting.append(chunk)
        if sum(map(len, waiting)) >= length:
            if clips % READ_ONE_IN == 0:
                stretch.counts.add(bench.matches([torch.cat(waiting)[-length:]], case.prompt.labels)[0])
            waiting, clips = [], clips + 1
        reached = {at for at in stills_at if at < done + len(chunk) or done + len(chunk) >= frames}
        stills_at -= reached
        stills += [chunk[-1].clone()] * len(reached)
        done += len(chunk)
        progress(min(done, frames), frames)
        if done >= bounds[0]:
            yield stretch.row(bounds.popleft() / bench.pipeline.fps)
            stretch = _Stretch()
    bench.show("endless", f"{name}, {minutes:g} minutes: {case.prompt.text}", torch.stack(stills), seed=bench.seed)


def resident_mib() -> float | None:
    """Return this process's resident memory in MiB, after a collection; None where the system does not say."""
    gc.collect()
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return None
    return round(pages * os.sysconf("SC_PAGE_SIZE") / 2**20, 2)


def _timed(stream: Iterator[Tensor]) -> tuple[Tensor, float]:
    """Return the next chunk and the seconds it took."""
    started = time.perf_counter()
    chunk = next(stream)
    return chunk, time.perf_counter() - started
