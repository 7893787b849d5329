"""What a part of a chunk costs by its shapes, what this machine can do at most, and where its time goes."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from causvid.bench.timing import Work, alternate

KERNELS = ("addmm", "::mm", "bmm", "convolution", "scaled_dot_product", "_linear_pointwise", "linear_backward")
"""Parts of the names of the operations that are products, convolutions and attention."""
SIDE = 2048
COPIED = 2**26


@dataclass(frozen=True)
class Ceilings:
    """The most that was seen of this machine in this run: FLOP/s of a large product, bytes/s of a copy."""

    flops: float
    bandwidth: float


def measure_ceilings(device: torch.device, *, seconds: float, dtype: torch.dtype = torch.float32) -> Ceilings:
    """Multiply large matrices of a type and copy much memory for a while."""
    a, b = (torch.randn(SIDE, SIDE, device=device).to(dtype) for _ in range(2))
    source = torch.ones(COPIED, device=device)
    target = torch.empty_like(source)
    took = alternate({"product": lambda: a @ b, "copy": lambda: target.copy_(source)}, seconds=seconds)
    return Ceilings(2 * SIDE**3 / took["product"], 2 * 4 * COPIED / took["copy"])


def count_flops(work: Work) -> int:
    """Count the floating-point operations of products, convolutions and attention in a work."""
    counted: dict[Any, Callable[..., int]] = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention}
    if hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        counted[torch.ops.mkldnn._linear_pointwise] = _linear
    # What is compiled cannot be looked into, and would never be run as compiled again after one attempt.
    eager = torch.compiler.set_stance("force_eager")
    with eager, FlopCounterMode(display=False, custom_mapping=counted) as counter:
        work()
    return int(counter.get_total_flops())


def _attention(query: Sequence[int], key: Sequence[int], *_: object, **__: object) -> int:
    batch, heads, queries, width = query
    return 4 * batch * heads * queries * key[2] * width


def _linear(x: Sequence[int], weight: Sequence[int], *_: object, **__: object) -> int:
    return 2 * math.prod(x) * weight[0]


def kernel_share(work: Work, *, seconds: float) -> float:
    """Return which share of a work's time is spent inside products, convolutions and attention."""
    work()
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        until = time.perf_counter() + seconds  # the profiler has taken its time to start
        work()
        while time.perf_counter() < until:
            work()
    events = seen.key_averages()
    inside = sum(event.self_cpu_time_total for event in events if any(kernel in event.key for kernel in KERNELS))
    return float(inside / max(1, sum(event.self_cpu_time_total for event in events)))
