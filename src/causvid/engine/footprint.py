"""How much memory and time a model really takes: the peak of a device, or of the process where that is the CPU."""

import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch

T = TypeVar("T")
_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")


@dataclass(frozen=True)
class Footprint:
    """What loading something and running it took, in bytes beyond `before`, and in seconds.

    before: bytes taken when loading began. loading: the peak while loading. loaded: what stayed. peak: of all.
    frames: what the run returned.
    """

    before: int
    loading: int
    loaded: int
    peak: int
    loading_seconds: float
    running_seconds: float
    frames: int


def measure(load: Callable[[], T], run: Callable[[T], int], device: torch.device) -> Footprint:
    """Load something, run it, and read the memory of the device meanwhile."""
    before = taken_bytes(device)
    restart_peak(device)
    start = time.perf_counter()
    loaded = load()
    between = time.perf_counter()
    taken, loading = taken_bytes(device), peak_taken_bytes(device)
    frames = run(loaded)
    return Footprint(
        before=before,
        loading=loading - before,
        loaded=taken - before,
        peak=peak_taken_bytes(device) - before,
        loading_seconds=between - start,
        running_seconds=time.perf_counter() - between,
        frames=frames,
    )


def taken_bytes(device: torch.device) -> int:
    """Return what is taken now: by tensors on CUDA, by the whole process, libraries included, on the CPU."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    return _status("VmRSS") if _STATUS.is_file() else peak_taken_bytes(device)


def peak_taken_bytes(device: torch.device) -> int:
    """Return the most that was taken at any time since `restart_peak`, or where that cannot be done since the start."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if _STATUS.is_file():
        return _status("VmHWM")
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def restart_peak(device: torch.device) -> None:
    """Forget earlier peaks."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif _CLEAR.exists():
        _CLEAR.write_text("5")  # Linux: the peak of the resident set becomes what is resident now


def _status(name: str) -> int:
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024
