"""How much memory a computation takes: counted ahead on tensors that have sizes but no contents, or measured.

On the `meta` device every operation makes tensors of the right shape and type without storage. Counting their bytes
while they live gives the peak of the real computation, whatever the code does, for models of any size. A measurement
reads the peak of a device, or of the process where that is the CPU.
"""

import ctypes
import gc
import os
import platform
import resource
import sys
import time
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

T = TypeVar("T")
_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")


def weight_bytes(module: nn.Module, dtype: torch.dtype | None = None) -> int:
    """Count the bytes of a module's parameters and buffers, in the types they have or in another."""
    tensors = (*module.parameters(), *module.buffers())
    return sum(t.numel() * (t.element_size() if dtype is None else dtype.itemsize) for t in tensors)


def peak_bytes(function: Callable[[], Any]) -> int:
    """Return the most bytes of tensors made by `function` that are alive at one time, its result's included.

    Tensors that existed before are not counted, nor is what an operation allocates internally.
    """
    with torch.inference_mode(), _FlashAttention():
        return peak_with_gradients(function)


def peak_with_gradients(function: Callable[[], Any]) -> int:
    """Return the same of a computation that differentiates, on tensors of any kind: real ones, or fake ones."""
    return peaks_with_gradients(function)[0]


def peaks_with_gradients(*functions: Callable[[], Any]) -> list[int]:
    """Return the same of each of several, which are run one after another: what an earlier one keeps counts too."""
    tally, peaks = _Tally(), []
    with tally:
        for function in functions:
            tally.peak = tally.live
            function()
            peaks.append(tally.peak)
    return peaks


class _Tally(TorchDispatchMode):
    """Count the bytes of storages made while it is active, until they are freed."""

    def __init__(self) -> None:
        TorchDispatchMode.__init__(self)
        self.live = self.peak = 0
        self._known: dict[int, weakref.ref[torch.UntypedStorage]] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        self._count((args, kwargs), new=False)
        out = func(*args, **(kwargs or {}))
        self._count(out, new=True)
        return out

    def _count(self, values: object, *, new: bool) -> None:
        for value in tree_leaves(values):
            if not isinstance(value, Tensor):
                continue
            storage = value.untyped_storage()
            key, size = id(storage), storage.nbytes() if new else 0
            if key in self._known:
                continue

            def forget(_: Any, key: int = key, size: int = size) -> None:
                del self._known[key]
                self.live -= size

            self._known[key] = weakref.ref(storage, forget)
            self.live += size
            self.peak = max(self.peak, self.live)


class _FlashAttention(TorchFunctionMode):
    """Let attention allocate its result alone, as on real devices; on meta it would allocate all scores."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func is functional.scaled_dot_product_attention:
            return torch.empty_like(args[0])
        return func(*args, **(kwargs or {}))


def release() -> None:
    """Free what nothing refers to, and return free pages to the system.

    A session is part of a circle (it and its task know each other), as a stage of training is, and holds tensors, whose
    size Python's collector does not see: left to itself, it comes late.
    """
    gc.collect()
    if (trim := _glibc("malloc_trim")) is not None:
        trim(0)


def map_large_blocks() -> None:
    """Have glibc map every block of a MiB or more for itself, so that it is returned the moment it is freed.

    Otherwise it comes to carve blocks of up to 32 MiB out of its heap, where freed activations of a large model leave
    gaps: 4 GB beside 11 GB of tensors in a step of Wan's 1.3B. Small models are better off with `keep_freed_blocks`.
    """
    if (set_option := _glibc("mallopt")) is not None:
        set_option(_M_MMAP_THRESHOLD, 2**20)
        set_option(_M_MMAP_MAX, 2**16)


def keep_freed_blocks() -> None:
    """Have glibc keep in its heap whatever is freed, for the next step: the system would clear every page anew.

    That was a fifth of the time of a training step of 5 GB.
    """
    if (set_option := _glibc("mallopt")) is not None:
        set_option(_M_MMAP_MAX, 0)
        set_option(_M_TRIM_THRESHOLD, -1)


_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_MMAP_MAX = -1, -3, -4


@cache
def _glibc(function: str) -> Any:
    """Return a function of glibc, or None for another C library."""
    try:
        return getattr(ctypes.CDLL(None), function)
    except (OSError, AttributeError):
        return None


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
    before = _taken(device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif _CLEAR.exists():
        _CLEAR.write_text("5")  # Linux: the peak of the resident set becomes what is resident now
    start = time.perf_counter()
    model = load()
    between = time.perf_counter()
    loaded, loading = _taken(device), _taken(device, peak=True)
    frames = run(model)
    return Footprint(
        before=before,
        loading=loading - before,
        loaded=loaded - before,
        peak=_taken(device, peak=True) - before,
        loading_seconds=between - start,
        running_seconds=time.perf_counter() - between,
        frames=frames,
    )


def _taken(device: torch.device, *, peak: bool = False) -> int:
    """Return the bytes taken now or at most: by tensors on CUDA, by the whole process on the CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) if peak else torch.cuda.memory_allocated(device)
    if _STATUS.is_file():
        name = "VmHWM:" if peak else "VmRSS:"
        line = next(line for line in _STATUS.read_text().splitlines() if line.startswith(name))
        return int(line.split()[1]) * 1024
    # Elsewhere only the peak since the start is known.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def describe_machine(device: torch.device | str = "cpu") -> str:
    """Name the GPU, if `device` is one, the processor, the cores this process may use, and the version of torch."""
    name = platform.processor() or platform.machine()
    facts = Path("/proc/cpuinfo")
    if facts.is_file():
        lines = facts.read_text(encoding="utf-8").splitlines()
        name = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), name)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    threads = torch.get_num_threads()
    host = f"{name} ({platform.machine()}), {cores} cores, {threads} threads, torch {torch.__version__}"
    device = torch.device(device)
    return f"{torch.cuda.get_device_name(device)}; {host}" if device.type == "cuda" else host
