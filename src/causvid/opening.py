"""Files that others wrote, opened with care: a regular file, of a bounded size, and never a pipe or a device."""

import os
import stat
from pathlib import Path
from typing import BinaryIO

TEXT_BYTES = 4 * 2**20
"""Most bytes of a file of settings, JSON or TOML."""


def open_regular(path: str | Path, *, most: int | None = None) -> BinaryIO:
    """Open a regular file for reading; most: bytes it may have.

    Raises:
        OSError: FileNotFoundError, IsADirectoryError, PermissionError and others, saying which file.
        ValueError: for a pipe, a device or a socket, an empty file, one that is too large, or a name that cannot be.
    """
    try:
        # Opening a pipe waits for its writer, unless it is asked not to.
        number = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except FileNotFoundError:
        raise FileNotFoundError(f"{path} does not exist") from None
    except IsADirectoryError:
        raise IsADirectoryError(f"{path} is a folder: expected a file") from None
    except PermissionError:
        kind = "is a folder: expected a file" if os.path.isdir(path) else None
        raise PermissionError(f"{path} {kind}" if kind else f"no permission to read {path}") from None
    except OSError as error:
        raise ValueError(f"{path} is not a regular file that can be read: {error.strerror}") from None
    found = os.fstat(number)
    problem = None
    if stat.S_ISDIR(found.st_mode):
        os.close(number)
        raise IsADirectoryError(f"{path} is a folder: expected a file")
    if not stat.S_ISREG(found.st_mode):
        problem = "is not a regular file"
    elif found.st_size == 0:
        problem = "is empty, 0 bytes"
    elif most is not None and found.st_size > most:
        problem = f"has {found.st_size} bytes, expected at most {most}"
    if problem:
        os.close(number)
        raise ValueError(f"{path} {problem}")
    return open(path, "rb", opener=lambda *_: number)  # so that it keeps its name


def read_text(path: str | Path, *, most: int = TEXT_BYTES) -> str:
    """Read a file of text in UTF-8; errors are those of `open_regular`, and ValueError for other bytes."""
    with open_regular(path, most=most) as file:
        try:
            size = min(most, os.fstat(file.fileno()).st_size)  # so much is allocated
            return file.read(size).decode("utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(f"{path} is not text in UTF-8: {error}") from None
