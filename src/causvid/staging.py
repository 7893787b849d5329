"""Where a file may go, and the hidden folder beside it in which it is made.

The folder is locked while its process lives. What a killed one left has no lock, and the next run that writes there
removes it.
"""

import errno
import fcntl
import glob
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PREFIX, SUFFIX = ".causvid-", ".partial"
NEW, OLD = "new", "old"
"""Inside: a folder that is being made, and the one that it is about to replace."""
ENCODED = (".mp4", ".webm", ".mkv")
VIDEOS = (*ENCODED, ".gif", ".png")
"""Suffixes of what video is written as; a name without one is a folder of frames."""
_KNOWN = f"{', '.join(VIDEOS)}, or a folder for numbered PNG frames"
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


def check_target(path: str | Path) -> Path:
    """Return `path` if a video can be written there; touch nothing.

    A name without a suffix, or an existing folder, means a folder of PNG frames; it must be new or empty.

    Raises:
        ValueError: for an unknown suffix, and a name that no file can have. FileNotFoundError: for a missing parent
        folder, and a link to nothing. PermissionError: for a folder that is not writable. FileExistsError: for what
        exists and must not be replaced.
    """
    path = Path(path)
    if path.suffix.lower() in VIDEOS:
        frames = path.suffix.lower() == ".png"
        check_file(path, longer=len("-00000") if frames else 0)
        if frames and next(path.parent.glob(numbered(path, "[0-9]*", glob.escape)), None):
            raise FileExistsError(
                f"frames named {numbered(path, '…')} exist already in {path.parent}: choose another name"
            )
        return path
    check_file(path, folder=True)
    if path.is_dir():
        if any(path.iterdir()):
            raise FileExistsError(f"the folder {path} is not empty: choose a new one for the frames")
    elif path.suffix:
        raise ValueError(f"output {path} has unknown suffix {path.suffix!r}: expected {_KNOWN}")
    elif path.exists():
        raise FileExistsError(f"output {path} is a file without a suffix: expected {_KNOWN}")
    return path


def numbered(path: Path, number: str, spell: Callable[[str], str] = str) -> str:
    """Return the name of a frame: that of the video with a number."""
    return f"{spell(path.stem)}-{number}{spell(path.suffix)}"


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
