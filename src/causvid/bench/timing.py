"""Medians of alternating runs: machines drift, so what is compared takes turns."""

import statistics
import time
from collections.abc import Callable, Mapping

import torch

Work = Callable[[], object]


def alternate(works: Mapping[str, Work], *, seconds: float, least: int = 5) -> dict[str, float]:
    """Run works in turn, the order reversed every other round, for so long; return the median seconds of each.

    The first round warms up and does not count. least: rounds that are run however long they take.
    """
    times: dict[str, list[float]] = {name: [] for name in works}
    until = 0.0
    done = -1
    while done < least or time.perf_counter() < until:
        order = list(works) if done % 2 else list(works)[::-1]
        for name in order:
            _wait()
            began = time.perf_counter()
            works[name]()
            _wait()
            if done >= 0:
                times[name].append(time.perf_counter() - began)
        if done < 0:
            until = time.perf_counter() + seconds
        done += 1
    return {name: statistics.median(taken) for name, taken in times.items()}


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
