"""Where a file may go, and the hidden folder beside it in which it is made.

The folder is locked while its process lives. What a killed one left has no lock, and the next run that writes there
removes it.
"""

import errno
import fcntl
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PREFIX, SUFFIX = ".causvid-", ".partial"
NEW, OLD = "new", "old"
"""Inside: a folder that is being made, and the one that it is about to replace."""
NAME_BYTES = 255
"""Longest name of a file, in bytes, where the system does not say."""


def check_file(path: Path, *, longer: int = 0, folder: bool = False) -> Path:
    """Return `path` if a regular file can be created or replaced there; touch nothing.

    longer: by how many bytes the names of what is written are longer than its own. folder: it may be one.

    Raises:
        ValueError: if it has no name of a file, or one that is too long. FileNotFoundError: if its folder is missing,
        or it is a link to nothing. PermissionError: if the folder is not writable. FileExistsError: if it is a folder,
        a device or a pipe.
    """
    if path.name in ("", "..") or "\0" in path.name:
        raise ValueError(f"output {str(path)!r} has no name of a file")
    parent = path.parent
    try:
        if not parent.is_dir():
            raise FileNotFoundError(f"the folder of the output does not exist: {parent}")
        if not os.access(parent, os.W_OK | os.X_OK):
            raise PermissionError(f"no permission to write in the folder {parent}")
        length, most = len(os.fsencode(path.name)) + longer, _longest_name(parent)
        if length > most:
            raise ValueError(f"output {path.name[:40]}… is a name of {length} bytes: expected at most {most}")
        if path.is_symlink() and not path.exists():
            raise FileNotFoundError(f"output {path} is a link to {os.readlink(path)}, which does not exist")
        if path.exists() and not path.is_file() and not (folder and path.is_dir()):
            kind = "a folder" if path.is_dir() else "a pipe" if stat.S_ISFIFO(path.stat().st_mode) else "a device"
            raise FileExistsError(f"output {path} is {kind}: expected the name of a file")
    except OSError as error:
        if error.errno is None:  # one of ours, already a line
            raise
        raise OSError(error.errno, f"cannot write {str(path)[:80]}: {error.strerror}") from None
    return path


@contextmanager
def staging(folder: Path) -> Iterator[Path]:
    """Yield a new hidden folder inside `folder`, gone when the block ends; remove what killed processes left there."""
    for left in folder.glob(f"{PREFIX}*{SUFFIX}"):
        _remove_unlocked(left)
    place, lock = _locked_folder(folder)
    try:
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)
        os.close(lock)


@contextmanager
def only_process(folder: Path) -> Iterator[None]:
    """Keep a folder, made if it is missing, for one process at a time; an empty one that was made is removed again.

    Raises:
        ValueError: if another process has it.
    """
    made = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / ".lock"
    lock = os.open(file, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"{folder} is in use by another run: wait for it, or use another --out") from None
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):  # some network drives have no locks
                raise
        yield
    finally:
        os.close(lock)
        if made and [file] == list(folder.iterdir()):
            file.unlink()
            folder.rmdir()


def _locked_folder(folder: Path) -> tuple[Path, int]:
    """Make a hidden folder and lock it; return it and the descriptor that holds the lock."""
    while True:
        place = Path(tempfile.mkdtemp(prefix=PREFIX, suffix=SUFFIX, dir=folder.absolute()))
        lock = os.open(place, os.O_RDONLY)
        with suppress(OSError):  # without locks nothing is ever taken for left behind
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if place.exists():  # else another process saw it in the moment before it was locked
            return place, lock
        os.close(lock)


def _remove_unlocked(place: Path) -> None:
    """Remove a hidden folder unless a living process holds it."""
    with suppress(OSError):
        lock = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not ((place / NEW).exists() and (place / OLD).exists()):  # killed in mid swap: both may be all there is
                shutil.rmtree(place, ignore_errors=True)
        finally:
            os.close(lock)


def _longest_name(folder: Path) -> int:
    try:
        return os.pathconf(folder, "PC_NAME_MAX")
    except (OSError, ValueError):
        return NAME_BYTES
