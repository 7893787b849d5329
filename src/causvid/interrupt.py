"""Ctrl-C that takes effect at the end of a step."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event, current_thread, main_thread


@contextmanager
def gentle_interrupt() -> Iterator[Event]:
    """Turn the first Ctrl-C into an event, so that the step in progress can finish; a second interrupts at once.

    Outside the main thread, which alone receives signals, the event is never set.
    """
    stop = Event()
    if current_thread() is not main_thread():
        yield stop
        return
    previous = signal.getsignal(signal.SIGINT)

    def handle(*_: object) -> None:
        stop.set()
        signal.signal(signal.SIGINT, previous)

    signal.signal(signal.SIGINT, handle)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, previous)
