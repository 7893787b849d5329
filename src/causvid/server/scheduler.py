"""One thread owns the model and makes every chunk: of sessions and of jobs, in turn.

The turn goes to the task that has waited longest since its last chunk, so that all have equal shares; what others want
at that moment, and has the same shape, is made in the same batch where that is faster on this machine (`measure`).
Everything else that computes or changes a stream (start, fork, rewind) is a call that runs between two chunks.
"""

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, TypeVar

from torch import Tensor

from causvid.stream import Stream, advance

log = logging.getLogger("causvid.server")
T = TypeVar("T")
NEVER = math.inf


@dataclass(frozen=True)
class Turn:
    """How a chunk came about. waited: seconds that its task was ready before; made: of the whole batch's work.

    batch: how many chunks were made at once.
    """

    waited: float
    made: float
    batch: int


@dataclass(eq=False)
class Task:
    """A stream that takes turns. All functions are called in the scheduler's thread, and must be quick.

    due: seconds until it wants its next chunk, at most 0 when it wants it now, `NEVER` until `wake`.
    made: takes each chunk's frames, uint8 `[T, H, W, 3]`. ended: is called once, after its last chunk, with the error
    if there was one; then the task is gone.
    """

    stream: Stream
    due: Callable[[], float]
    made: Callable[[Tensor, Turn], None]
    ended: Callable[[Exception | None], None]
    ready_since: float | None = None
    served: float = 0.0


@dataclass
class Scheduler:
    """Owns the model. largest: chunks made in one batch, at most."""

    largest: int = 1
    busy_seconds: float = 0.0
    _tasks: list[Task] = field(default_factory=list)
    _calls: deque[tuple[Callable[[], Any], "Future[Any]"]] = field(default_factory=deque)
    _wake: threading.Condition = field(default_factory=threading.Condition)
    _stopping: bool = False
    _pause: float | None = None
    _thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the thread."""
        self._thread = threading.Thread(target=self._run, name="model", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Finish the chunk in hand and the calls that wait, then end the thread."""
        with self._wake:
            self._stopping = True
            self._wake.notify()
        if self._thread is not None:
            self._thread.join()

    def call(self, work: Callable[[], T]) -> "Future[T]":
        """Run `work` between two chunks, in the thread that owns the model."""
        future: Future[T] = Future()
        with self._wake:
            if self._stopping:
                raise RuntimeError("the scheduler has stopped")
            self._calls.append((work, future))
            self._wake.notify()
        return future

    def add(self, task: Task) -> None:
        """Let a task take turns."""
        with self._wake:
            # As if it had just had its turn: newcomers do not push in front of those who wait.
            task.served = time.monotonic()
            if task not in self._tasks:
                self._tasks.append(task)
            self._wake.notify()

    def remove(self, task: Task) -> None:
        """Take a task out; its chunk in hand, if there is one, is still delivered. Its `ended` is not called."""
        with self._wake:
            if task in self._tasks:
                self._tasks.remove(task)

    def wake(self) -> None:
        """Ask every task again whether it is due."""
        with self._wake:
            self._wake.notify()

    @property
    def waiting(self) -> int:
        """Return how many tasks wait for the model at this moment."""
        return sum(task.ready_since is not None for task in tuple(self._tasks))

    def _run(self) -> None:
        while True:
            with self._wake:
                calls = [self._calls.popleft() for _ in range(len(self._calls))]
                batch = [] if calls else self._next()
                if not calls and not batch:
                    if self._stopping:
                        return
                    self._wake.wait(self._pause)
                    continue
            for work, future in calls:
                if future.set_running_or_notify_cancel():
                    try:
                        future.set_result(work())
                    except Exception as error:
                        future.set_exception(error)
            if batch:
                self._make(batch)

    def _next(self) -> list[Task]:
        """Choose whose turn it is, and who goes along."""
        if self._stopping:
            return []
        now = time.monotonic()
        ready, self._pause = [], None
        for task in self._tasks:
            due = task.due()
            if due > 0:
                task.ready_since = None
                if due < NEVER:
                    self._pause = min(due, self._pause or NEVER)
            else:
                task.ready_since = task.ready_since or now
                ready.append(task)
        ready.sort(key=lambda task: task.served)
        alike = [task for task in ready if _shape(task.stream) == _shape(ready[0].stream)]
        return alike[: self.largest]

    def _make(self, batch: list[Task]) -> None:
        began = time.monotonic()
        waits = [began - (task.ready_since or began) for task in batch]
        try:
            chunks = advance([task.stream for task in batch])
        except Exception as error:
            if len(batch) > 1:  # find out whose fault it is: a stream is unchanged where its chunk was not finished
                for task in batch:
                    self._make([task])
            else:
                if not isinstance(error, ValueError | OSError):
                    log.exception("a chunk failed")
                self._end(batch[0], error)
            return
        took = time.monotonic() - began
        self.busy_seconds += took
        for task, waited, frames in zip(batch, waits, chunks, strict=True):
            task.served, task.ready_since = time.monotonic(), None
            if frames is None:
                self._end(task, None)
                continue
            try:
                task.made(frames, Turn(waited, took, len(batch)))
            except Exception as error:
                log.exception("a chunk could not be delivered")
                self._end(task, error)

    def _end(self, task: Task, error: Exception | None) -> None:
        self.remove(task)
        task.ended(error)


def _shape(stream: Stream) -> Hashable:
    """Return what streams must have in common to be worth one batch."""
    session = stream.session
    geometry, frames = session.geometry, session.point.frames
    return geometry.shape, geometry.window, geometry.sink, geometry.sigmas, frames == 0, session.source is None
