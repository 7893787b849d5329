"""Who has a session or a job where several servers share a folder: a file that its owner's process locks.

The kernel (on a network drive, the file server) frees the lock when the process dies, so that another takes over at
once, and never while the owner only stalls: two processes cannot both write a film.
"""

import fcntl
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Self

ATTEMPTS = 5
"""Times a lock is tried: another process may only be asking who holds it."""
UNNAMED = 100
"""Times a file that is locked and empty is looked at again."""
PAUSE = 0.01


class Elsewhere(Exception):
    """Another server has the session. address: where it answers, `http://10.0.0.7:41234`."""

    def __init__(self, address: str) -> None:
        super().__init__(f"another server has it, at {address or 'no address'}")
        self.address = address


class Lease:
    """A lock that this process holds."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor: int | None = descriptor

    @classmethod
    def take(cls, file: Path, address: str) -> Self:
        """Lock a file and write into it where its owner answers.

        Raises:
            Elsewhere: if another holds it.
        """
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o644)
        for attempt in range(ATTEMPTS):
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if attempt < ATTEMPTS - 1:
                    time.sleep(PAUSE)
                continue
            os.truncate(descriptor, 0)
            os.pwrite(descriptor, f"{address}\n".encode(), 0)
            return cls(descriptor)
        os.close(descriptor)
        raise Elsewhere(holder(file) or "")

    def release(self) -> None:
        """Let others take it; a second call does nothing."""
        if self._descriptor is not None:
            os.truncate(self._descriptor, 0)  # what still names its owner was open when that died
            os.close(self._descriptor)
            self._descriptor = None


def abandoned(folder: Path, name: str, address: str) -> list[Path]:
    """Return the folders in `folder` whose file `name` says that a server, which died, had them."""
    found = []
    for file in folder.glob(f"*/{name}"):
        with suppress(OSError):
            if file.read_text(encoding="utf-8").strip() == address and holder(file) is None:
                found.append(file.parent)
    return found


def holder(file: Path) -> str | None:
    """Return where the owner of a file answers; None if nobody holds it.

    One who has locked the file a moment ago, or is about to free it, has nothing in it: that is waited for.
    """
    with suppress(FileNotFoundError):
        descriptor = os.open(file, os.O_RDONLY)
        try:
            for _ in range(UNNAMED):
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
                except BlockingIOError:
                    if line := os.pread(descriptor, 1024, 0).decode():
                        return line.strip()
                    time.sleep(PAUSE)
                else:
                    return None
            return ""
        finally:
            os.close(descriptor)
    return None
