"""Streams without end: whether they still show what was asked, and what they cost, minute after minute."""

import gc
import os
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from cases import Bench, Counts
from notebook import Notebook, Row
from torch import Tensor

from causvid.evaluate.classifier import MIN_FRAMES
from causvid.evaluate.videos import Progress

READ_SECONDS, READ_EVERY = 2.0, 6.0
"""A clip so long is read so often: the classifier is not what is timed."""
EARLY_SECONDS = 10.0
"""After so much of a stream, each chunk is timed beside the one that came then."""
MEMORY, SLOWING = 0.01, 0.05
"""Shares by which memory, and a chunk's time, may differ from those of the first stretch."""


def measure_endless(bench: Bench, book: Notebook, *, minutes: float) -> None:
    """Run one stream of the first case for so many minutes with each kind of history."""
    histories: dict[str, dict[str, Any]] = {
        "window with sink": {"policy": "window", "sink": bench.pipeline.generation.sink or 1},
        "window without sink": {"policy": "window", "sink": 0},
        "recomputed history": {"policy": "recompute"},
    }
    about = f"The first prompt for {minutes:g} minutes; a clip of {READ_SECONDS:g} s is read every {READ_EVERY:g} s."
    for name, options in histories.items():
        rows = list(follow(bench, options, minutes=minutes, progress=bench.stage(name)))
        book.close(f"{name}: last stretch", rows[-1].readings["as asked"], rows[0].readings["as asked"], "the first")
        for column, limit in (("memory (MiB)", MEMORY), ("over an early one", SLOWING)):
            first, last = rows[0].numbers[column], rows[-1].numbers[column]
            if first is not None and last is not None:
                wanted = f"{name}: {column} grows by at most {limit:.0%} after the first stretch"
                book.limit(wanted, last / first - 1, limit, f"{last / first - 1:+.1%} at the end")
        book.section(f"Without end: {name}", about, rows)


def follow(bench: Bench, options: dict[str, Any], *, minutes: float, progress: Progress) -> Iterator[Row]:
    """Run one stream of the first case, and yield a row a minute, or two where it lasts less.

    After every chunk an early one is made again: the ratio of both times tells a slower stream from a slower machine.
    """
    case, frames = bench.cases[0], bench.frames(60 * minutes)
    length, stretch = max(bench.frames(READ_SECONDS), MIN_FRAMES), frames // max(2, round(minutes))
    stream = bench.pipeline.stream(case.prompt.text, seed=bench.seed, **options)
    early, state, done, next_read, next_row = None, None, 0, length, stretch
    tail = torch.empty(0, dtype=torch.uint8)
    counts, looks, times, ratios = Counts(), list[Tensor](), list[float](), list[float]()
    while done < frames:
        chunk, spent = _timed(stream)
        if early is not None and state is not None:
            early.restore(state)
            ratios.append(spent / _timed(early)[1])
        elif done >= min(bench.frames(EARLY_SECONDS), stretch // 2):
            early = stream.fork()
            state = early.snapshot()
        tail = torch.cat((tail, chunk))[-length:] if done else chunk
        done += len(chunk)
        times.append(spent)
        looks.append(colours(chunk))
        if done >= next_read:
            next_read += bench.frames(READ_EVERY)
            counts.add(bench.matches([tail[-length:]], case.prompt.labels)[0])
        progress(min(done, frames), frames)
        if done >= next_row:
            next_row += stretch
            seen = {"as asked": counts.total()}
            numbers = dict(zip(("saturation", "contrast", "luminance"), torch.cat(looks).mean(0).tolist(), strict=True))
            numbers["memory (MiB)"] = resident_mib()
            numbers["chunk (ms)"] = 1000 * statistics.median(times)
            numbers["over an early one"] = statistics.median(ratios) if ratios else None
            yield Row(name=f"until {done / bench.pipeline.fps:.0f} s", readings=seen, numbers=numbers)
            counts, looks, times, ratios = Counts(), [], [], []


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


def colours(frames: Tensor) -> Tensor:
    """Return saturation, RMS contrast and mean luminance, each in [0, 1], of frames, uint8 [T, H, W, 3]: [T, 3]."""
    pixels = frames.float() / 255
    most, least = pixels.amax(-1), pixels.amin(-1)
    saturation = ((most - least) / most.clamp(min=1 / 255)).mean((1, 2))
    light = pixels @ pixels.new_tensor([0.2126, 0.7152, 0.0722])  # Rec. 709
    return torch.stack((saturation, light.std((1, 2), correction=0), light.mean((1, 2))), dim=-1)
