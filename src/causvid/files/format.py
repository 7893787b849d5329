"""Which format a file of weights has, and whether it is whole: without torch, which takes seconds to import."""

import pickle
import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from safetensors import SafetensorError, safe_open

from causvid.opening import open_regular

Format = Literal["safetensors", "PyTorch", "PyTorch before 1.6", "GGUF"]
HEADER = 32 * 2**20
"""Most bytes of a safetensors header: a hundred times what the largest model has."""

_NO_WEIGHTS = {
    rb"version https://git-lfs": "a pointer of git-lfs, not the weights; run `git lfs pull` where it came from",
    rb"\s*<(!doctype|html|head|\?xml)": "a web page, not weights; fetch the file itself",
}


def recognise(file: Path) -> Format:
    """Return the format of a file of weights, by its first bytes.

    Raises:
        ValueError: if it is something else, saying what.
    """
    if file.suffix == ".incomplete":
        raise ValueError(f"{file} is a download that has not finished; fetch it again")
    try:
        with open_regular(file) as stream:
            head = stream.read(64)
    except FileNotFoundError:
        raise ValueError(f"{file} is missing") from None
    except OSError as error:
        raise ValueError(f"{file} cannot be read: {error}") from None
    except ValueError as error:
        raise ValueError(f"{error}; fetch it again") from None
    if head[8:9] == b"{":  # before all others: the length of its header comes first, and may look like anything
        check_header(file)
        return "safetensors"
    for pattern, what in _NO_WEIGHTS.items():
        if re.match(pattern, head, re.IGNORECASE):
            raise ValueError(f"{file} is {what}")
    if head.startswith(b"GGUF"):
        return "GGUF"
    if head.startswith(b"PK\x03\x04"):
        return "PyTorch"
    if file.suffix == ".safetensors":
        check_header(file)
        return "safetensors"
    if head.startswith(b"\x80"):
        return "PyTorch before 1.6"
    raise ValueError(f"{file} ({file.stat().st_size} bytes) is neither safetensors nor a PyTorch file; fetch it again")


def check_header(file: Path) -> None:
    """Refuse a safetensors file with a header that no model needs, before it is parsed.

    Raises:
        ValueError, OSError: for that, or if it is no regular file.
    """
    with open_regular(file) as stream:
        size = int.from_bytes(stream.read(8), "little")
    if HEADER < size <= file.stat().st_size:
        raise ValueError(f"{file}: its header is too large, {size} bytes, expected at most {HEADER}")


def check_weights(file: Path) -> None:
    """Refuse a file that is damaged, or of another format, reading little of it.

    Raises:
        ValueError: for that, saying what to do.
    """
    format = recognise(file)
    with whole(file, format):
        if format == "safetensors":
            safe_open(file, framework="np")
        elif format == "PyTorch":
            zipfile.ZipFile(file).close()


@contextmanager
def whole(file: Path, format: Format) -> Iterator[None]:
    """Turn what a damaged or hostile file makes a library raise into one line."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise ValueError(f"{file} cannot be opened: {error}") from None
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        if isinstance(error, pickle.UnpicklingError):
            named = re.search(r"GLOBAL (\S+)", reason)
            if named:
                raise ValueError(
                    f"{file} holds the Python object {named[1]} beside tensors and is not opened, since that may run "
                    "code; save the tensors alone where you trust it"
                ) from None
            reason = "its pickle does not describe plain tensors"
        elif not isinstance(error, SafetensorError):
            reason = reason.split(". ")[0]
        size = file.stat().st_size if file.exists() else 0
        raise ValueError(
            f"{file} ({size} bytes) is not a whole {format} file: {reason}; fetch or write it again"
        ) from None
