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
DIED = "the process that read it died: out of memory, or a fault of its decoder"


class Readers:
    """So many processes. When one dies, only the call that ends a process alone is lost."""

    def __init__(self, count: int) -> None:
        """Start none yet: they start with the first calls."""
        self._count, self._pool = count, _pool(count)

    def in_order(self, calls: Iterable[Callable[[], T]]) -> Iterator[T | str]:
        """Yield the results of calls in their order, so that only some wait in memory; `DIED` for one that is lost.

        Raises:
            ValueError: if no process can be started.
        """
        waiting: deque[tuple[Callable[[], T], Future[T | str]]] = deque()
        rest = iter(calls)
        while True:
            more = islice(rest, AHEAD * self._count - len(waiting))
            waiting.extend((call, self._submit(call)) for call in more)
            if not waiting:
                return
            if _lost(waiting[0][1]):
                self._repeat(waiting)
            yield waiting.popleft()[1].result()

    def close(self) -> None:
        """End the processes; what is queued is dropped."""
        self._pool.shutdown(cancel_futures=True)

    def _repeat(self, waiting: deque[tuple[Callable[[], T], Future[T | str]]]) -> None:
        """Repeat what was lost with a process one call at a time, which also takes the least memory."""
        self._restart()
        for n, (call, future) in enumerate(waiting):
            if _lost(future):
                again = self._submit(call)
                if _lost(again):
                    self._restart()
                    again = Future()
                    again.set_result(DIED)
                waiting[n] = call, again

    def _submit(self, call: Callable[[], T]) -> Future[T | str]:
        try:
            return self._pool.submit(call)
        except BrokenProcessPool as error:  # it is lost with those before it
            future: Future[T | str] = Future()
            future.set_exception(error)
            return future

    def _restart(self) -> None:
        self._pool.shutdown()
        self._pool = _pool(self._count)
        if _lost(self._submit(int)):
            raise ValueError("processes that read videos die as they start: is there enough memory?")


@contextmanager
def reading_processes(count: int) -> Iterator[Readers]:
    """Yield so many processes, which end with the block."""
    readers = Readers(count)
    try:
        yield readers
    finally:
        readers.close()


def _pool(count: int) -> ProcessPoolExecutor:
    context = multiprocessing.get_context("spawn")  # a copy of a process that has threads may hang
    return ProcessPoolExecutor(count, mp_context=context, initializer=_begin)


def _lost(future: Future[T]) -> bool:
    """Wait for a call; tell whether its pool ended before it did."""
    return isinstance(future.exception(), BrokenProcessPool)


def _begin() -> None:
    """Leave Ctrl-C to the parent, and end with it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
