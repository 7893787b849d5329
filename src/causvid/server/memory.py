"""Give memory back: sessions that are over, and what the allocator kept of them."""

import ctypes
import gc
from functools import cache
from typing import Any


def settle() -> None:
    """Leave what there is now, which stays for ever, out of later collections: they take milliseconds then."""
    gc.collect()
    gc.freeze()


def release() -> None:
    """Free what nothing refers to, and return free pages to the system.

    A session is part of a circle (it and its task know each other), and holds tensors, whose size Python's collector
    does not see: left to itself, it comes late.
    """
    gc.collect()
    if (trim := _malloc_trim()) is not None:
        trim(0)


@cache
def _malloc_trim() -> Any:
    """Return glibc's function, or None for another C library."""
    try:
        return ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError):
        return None
