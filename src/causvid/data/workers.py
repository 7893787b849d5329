"""Processes beside this one that read videos, and end when it does, however it ends."""

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from itertools import islice
from typing import TypeVar

T = TypeVar("T")
AHEAD = 2
"""Results that wait, for each process."""


@contextmanager
def reading_processes(count: int) -> Iterator[ProcessPoolExecutor]:
    """Yield so many processes; what is queued is dropped when the block ends in an error.

    Raises:
        ValueError: if one of them was killed.
    """
    context = multiprocessing.get_context("spawn")  # a copy of a process that has threads may hang
    pool = ProcessPoolExecutor(count, mp_context=context, initializer=_begin)
    try:
        yield pool
    except BrokenProcessPool:
        raise ValueError("a process that reads videos was killed (out of memory?): try fewer --workers") from None
    finally:
        pool.shutdown(cancel_futures=True)


def in_order(pool: ProcessPoolExecutor, count: int, calls: Iterable[Callable[[], T]]) -> Iterator[T]:
    """Yield the results of calls in their order, so that only some of them wait in memory."""
    waiting: deque[Future[T]] = deque()
    rest = iter(calls)
    waiting.extend(pool.submit(call) for call in islice(rest, AHEAD * count))
    while waiting:
        yield waiting.popleft().result()
        waiting.extend(pool.submit(call) for call in islice(rest, 1))


def _begin() -> None:
    """Leave Ctrl-C to the parent, and end with it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
