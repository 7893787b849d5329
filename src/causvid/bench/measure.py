"""All that `causvid bench` reports about a model, as one record of plain values."""

import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

from causvid.bench.against import compare
from causvid.bench.roofline import count_flops, kernel_share, measure_ceilings
from causvid.bench.subject import PROMPT, Subject, resized
from causvid.bench.timing import Work, alternate
from causvid.engine.memory import describe_machine
from causvid.loading.inductor import InductorPasses
from causvid.pipeline import Pipeline
from causvid.timeline import versions

Record = dict[str, Any]
COLD = """
import sys
import time
from causvid import Pipeline
next(Pipeline.from_pretrained(sys.argv[1] or None, device=sys.argv[2], accelerate=sys.argv[3]).stream(sys.argv[4]))
"""
SWEEPS = ("window", "chunk", "steps", "sessions")


def stages(subject: Subject, *, seconds: float) -> Record:
    """Time every part of a chunk, and the whole; with FLOPs, and their share of what the machine can do at most."""
    pipeline, device = subject.pipeline, subject.latents.device
    works = subject.stages()
    took = alternate({**works, "whole chunk": subject.next}, seconds=seconds)
    ceilings = measure_ceilings(device, seconds=seconds / 8)
    compiled, subject.model.accelerated = subject.model.accelerated, None  # the same products, which nobody can count
    counts = {name: count_flops(work) for name, work in works.items() if name != "file"}
    subject.model.accelerated = compiled
    rows: list[Record] = []
    for name, spent in took.items():
        row: Record = {"stage": name, "ms": round(1000 * spent, 2)}
        if flops := counts.get(name, 0):
            row |= {"gflop": round(flops / 1e9, 3), "of peak": round(flops / spent / ceilings.flops, 3)}
        rows.append(row)
    frames = pipeline.chunk_frames
    if isinstance(compiled, InductorPasses):
        subject.model.accelerated = InductorPasses(subject.model, named=True)
        subject.next()  # compiles it
    share = kernel_share(subject.next, seconds=seconds / 8)
    subject.model.accelerated = compiled
    return {
        "stages": rows,
        "fps": round(frames / took["whole chunk"], 1),
        "times real time": round(frames / took["whole chunk"] / pipeline.fps, 2),
        "in products, convolutions and attention": round(share, 3),
        "ceilings": {"gflops": round(ceilings.flops / 1e9), "gb_per_s": round(ceilings.bandwidth / 1e9, 1)},
    }


def first_frame(pipeline: Pipeline, *, model: str | None, accelerate: str, cold: bool, seconds: float) -> Record:
    """Time a new stream's first chunk, and with `cold` that of a new process, from its start."""
    device = pipeline.bundle.transformer.patch_in.weight.device
    found = {"warm, s": alternate({"new": lambda: next(pipeline.stream(PROMPT))}, seconds=seconds)["new"]}
    if cold:
        command = [sys.executable, "-c", COLD, model or "", str(device), accelerate, PROMPT]

        def start() -> None:
            subprocess.run(command, check=True, capture_output=True)

        found["cold, s"] = alternate({"process": start}, seconds=0, least=2)["process"]
    return {name: round(value, 3) for name, value in found.items()}


def teacher(pipeline: Pipeline, subject: Subject) -> Record | None:
    """Time the teacher's clip beside the student's chunks, by frames a second; None if there is none."""
    if pipeline.bundle.teacher is None:
        return None
    began = time.perf_counter()
    clip = pipeline.teach([PROMPT], seeds=[0])[0]
    took = time.perf_counter() - began
    chunk = alternate({"chunk": subject.next}, seconds=2)["chunk"]
    student, theirs = pipeline.chunk_frames / chunk, len(clip) / took
    return {
        "teacher, frames/s": round(theirs, 2),
        "student, frames/s": round(student, 2),
        "ratio": round(student / theirs, 1),
    }


def long_stream(subject: Subject, *, chunks: int, seconds: float) -> Record:
    """Make so many chunks; then compare the next ones with those of a new stream, and memory with that at the start.

    The two streams take turns, since a machine may get slower or faster in the minutes between.
    """
    memory = []
    for _ in range(chunks):
        subject.next()
        memory.append(resident())
    took = alternate({"new": Subject(subject.pipeline).next, "long": subject.next}, seconds=seconds)
    part = max(1, chunks // 10)
    return {
        "chunks": chunks,
        "seconds of video": round(chunks * subject.pipeline.chunk_frames / subject.pipeline.fps),
        "new, ms": round(1000 * took["new"], 1),
        "long, ms": round(1000 * took["long"], 1),
        "memory, MiB more": round((max(memory[-part:]) - max(memory[:part])) / 2**20, 1),
    }


def sweep(pipeline: Pipeline, name: str, values: Sequence[int], *, seconds: float) -> list[Record]:
    """Time a chunk for several windows, chunks, steps, or streams at once, in turn."""
    if name == "sessions":
        works = {value: _several(pipeline, value) for value in values}
    elif name == "steps":
        works = {value: _advance(pipeline, steps=value) for value in values}
    else:
        works = {value: Subject(resized(pipeline, **{name: value})).next for value in values}
    took = alternate({str(value): work for value, work in works.items()}, seconds=seconds)
    return [{name: value, "ms": round(1000 * took[str(value)], 1)} for value in values]


def against_diffusers(subject: Subject, *, seconds: float) -> Record:
    """Compare with a recomputed history; see `against.py`."""
    found = compare(subject, seconds=seconds)
    return {
        "ours, ms": round(1000 * found.ours, 1),
        "recomputed in diffusers, ms": round(1000 * found.theirs, 1),
        "ratio": round(found.theirs / found.ours, 2),
        "relative error": float(f"{found.error:.1e}"),
    }


def about(device: torch.device, command: str) -> Record:
    """Say what was run, where and with what."""
    return {"command": command, "machine": describe_machine(device), "versions": versions()}


def resident() -> int:
    """Return the bytes of memory that this process holds, on the device where it is CUDA; 0 where nobody says."""
    if torch.cuda.is_available():
        return torch.cuda.memory_allocated()
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * 4096
    except OSError:
        return 0


def peak() -> int:
    """Return the most memory that was held, in MiB: of the device where it is CUDA."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() // 2**20
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // (2**20 if sys.platform == "darwin" else 2**10)


def _advance(pipeline: Pipeline, **options: int) -> Work:
    stream = pipeline.stream(PROMPT, seed=0, **options)
    for _ in range(4):
        next(stream)
    return lambda: next(stream)


def _several(pipeline: Pipeline, count: int) -> Callable[[], object]:
    from causvid.stream import advance

    streams = [pipeline.stream(PROMPT, seed=number) for number in range(count)]
    for _ in range(4):
        advance(streams)
    return lambda: advance(streams)
