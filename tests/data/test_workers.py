"""A process that dies loses the call that ends it, and no other."""

import os
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from causvid.data.workers import DIED, reading_processes


def test_only_calls_that_end_a_process_alone_are_lost() -> None:
    calls: list[Callable[[], object]] = [partial(int, n) for n in range(12)]
    calls[1] = partial(os._exit, 0)
    calls[2] = partial(signal.raise_signal, signal.SIGSEGV)
    calls[9] = partial(signal.raise_signal, signal.SIGKILL)
    with reading_processes(2) as readers:
        found = list(readers.in_order(calls))
        assert list(readers.in_order([partial(int, 5)])) == [5]
    assert found == [0, DIED, DIED, 3, 4, 5, 6, 7, 8, DIED, 10, 11]


def test_a_call_whose_process_was_killed_is_repeated(tmp_path: Path) -> None:
    once = partial(os.system, f"mkdir {tmp_path}/died 2> /dev/null && kill -9 $PPID")
    with reading_processes(1) as readers:
        (process,) = readers.in_order([os.getpid])
        repeated, another = readers.in_order([once, os.getpid])
    assert repeated != DIED and another != process


def test_processes_that_cannot_start_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sitecustomize.py").write_text("import os, sys\n'spawn_main' in str(sys.orig_argv) and os._exit(1)\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    with reading_processes(1) as readers, pytest.raises(ValueError, match="die as they start: is there enough memory"):
        list(readers.in_order([os.getpid]))
