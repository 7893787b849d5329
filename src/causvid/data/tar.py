"""Shards of samples as WebDataset has them: plain tar files in which the members of a sample share the name to its dot.

Source: the WebDataset format, https://github.com/webdataset/webdataset. The same samples give the same bytes.
"""

import hashlib
import io
import tarfile
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from causvid.files.writing import new_file

Array = NDArray[np.generic]


@dataclass(frozen=True)
class Member:
    """Where the bytes of one member are: in which shard, from where on, how many."""

    shard: Path
    offset: int
    size: int

    def read(self) -> bytes:
        """Read the bytes; `ValueError` if the shard is shorter than it was."""
        with self.shard.open("rb") as file:
            file.seek(self.offset)
            data = file.read(self.size)
        if len(data) != self.size:
            raise ValueError(f"{self.shard} is damaged: run `causvid data prepare` again")
        return data

    def array(self, crc: int) -> Array:
        """Read an array of a known CRC-32; `ValueError` if it is damaged."""
        data = self.read()
        if zlib.crc32(data) != crc:
            raise ValueError(f"{self.shard} is damaged (a checksum is another): run `causvid data prepare` again")
        return from_npy(data)


def to_npy(array: Array) -> bytes:
    """Return an array in NumPy's format."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def from_npy(data: bytes) -> Array:
    """Read what `to_npy` returns; `ValueError` for anything else."""
    try:
        array: Array = np.load(io.BytesIO(data), allow_pickle=False)
    except Exception as error:  # NumPy reads the header as Python, whose tokenizer has errors of its own
        raise ValueError(f"an array of NumPy's cannot be read: {' '.join(str(error).split())}") from None
    return array


def write_shard(path: Path, samples: Iterable[tuple[str, Mapping[str, bytes]]]) -> None:
    """Write samples, each a key and its members by extension; the file appears whole or not at all.

    Raises:
        OSError: if it cannot be written.
    """
    with new_file(path) as place, tarfile.open(place, "w", format=tarfile.USTAR_FORMAT) as tar:
        for key, members in samples:
            for extension, data in members.items():
                info = tarfile.TarInfo(f"{key}.{extension}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))


def read_index(path: Path) -> dict[str, dict[str, Member]]:
    """Return where the members of every sample are, by key and extension.

    Raises:
        ValueError: if the file is missing or no tar.
    """
    samples: dict[str, dict[str, Member]] = {}
    try:
        with tarfile.open(path, "r:") as tar:
            for info in tar:
                key, _, extension = info.name.partition(".")
                samples.setdefault(key, {})[extension] = Member(path, info.offset_data, info.size)
    except (OSError, tarfile.TarError) as error:
        raise ValueError(f"{path} is damaged ({error}): run `causvid data prepare` again") from None
    return samples


def digest(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
