"""Ctrl-C that takes effect at the end of a step; the signal with which a system ends programs (SIGTERM) is the same."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event, current_thread, main_thread
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def gentle_interrupt() -> Iterator[Event]:
    """Turn the first Ctrl-C or SIGTERM into an event, so that the step in progress can finish; a second acts at once.

    Outside the main thread, which alone receives signals, the event is never set.
    """
    stop = Event()

    def handle(*_: object) -> None:
        stop.set()
        _install(previous)

    previous = {number: signal.getsignal(number) for number in SIGNALS}
    with _handlers(dict.fromkeys(SIGNALS, handle)):
        yield stop


@contextmanager
def terminable() -> Iterator[None]:
    """Let SIGTERM raise `KeyboardInterrupt`, as Ctrl-C does, so that whatever is being written is cleared away."""
    with _handlers({signal.SIGTERM: signal.default_int_handler}):
        yield


@contextmanager
def _handlers(handlers: dict[signal.Signals, Any]) -> Iterator[None]:
    if current_thread() is not main_thread():
        yield
        return
    previous = {number: signal.getsignal(number) for number in handlers}
    _install(handlers)
    try:
        yield
    finally:
        _install(previous)


def _install(handlers: dict[signal.Signals, Any]) -> None:
    for number, handler in handlers.items():
        signal.signal(number, handler)
