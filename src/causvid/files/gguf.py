"""GGUF files: weights in blocks of few bits, as llama.cpp and ComfyUI-GGUF write them, dequantised tensor by tensor.

The package `gguf` reads them, which comes with `pip install 'causvid[gguf]'`.
"""

import struct
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from causvid.opening import open_regular

_SHAPE = "comfy.gguf.orig_shape."
"""Entry of a tensor of more dimensions than GGUF has."""
_PLAIN = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}

_LARGEST = 100_000
"""Most entries, tensors, and values in arrays of a header, which the package reads one by one."""
_STRING, _ARRAY = 8, 9
_BYTES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
"""What a value of each type takes."""


class Gguf:
    """An open file: shapes and types at once, values on demand."""

    def __init__(self, path: Path) -> None:
        """Read the header.

        Raises:
            ModuleNotFoundError: if the package `gguf` is not installed. Whatever that raises for a damaged file.
        """
        try:
            from gguf import GGUFReader
        except ModuleNotFoundError:
            raise ModuleNotFoundError("it is GGUF, which needs a package: pip install 'causvid[gguf]'") from None
        _check_header(path)
        reader = GGUFReader(path)
        self._tensors = {tensor.name: tensor for tensor in reader.tensors}
        self._fields = reader.fields

    def names(self) -> list[str]:
        """Return the names of all tensors."""
        return list(self._tensors)

    def shape(self, name: str) -> torch.Size:
        """Return a tensor's shape, outermost dimension first."""
        tensor: Any = self._tensors[name]
        own = [int(size) for size in reversed(tensor.shape)]
        field = self._fields.get(_SHAPE + name)
        stated = own if field is None else [int(field.parts[place][0]) for place in field.data]
        if np.prod(stated, dtype=object) != np.prod(own, dtype=object) or min(stated, default=1) < 0:
            raise ValueError(f"{name} is {own}, which is not as many values as {stated}")
        return torch.Size(stated)

    def dtype(self, name: str) -> torch.dtype:
        """Return the type a tensor is read as: that of the file, or bfloat16 where it is quantised."""
        return _PLAIN.get(self._tensors[name].tensor_type.name, torch.bfloat16)

    def tensor(self, name: str) -> Tensor:
        """Read a tensor."""
        from gguf import dequantize

        stored: Any = self._tensors[name]
        values = np.array(dequantize(stored.data, stored.tensor_type))
        return torch.from_numpy(values).reshape(self.shape(name)).to(self.dtype(name))


def _check_header(path: Path) -> None:
    """Refuse a header whose entries are more than a model has, or more than the file.

    Source: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md

    Raises:
        ValueError: for that.
    """
    with open_regular(path) as file:
        size = path.stat().st_size
        _, version, tensors, entries = struct.unpack("<IIQQ", file.read(24).ljust(24, b"\0"))
        if version not in (2, 3):
            raise ValueError(f"it is of version {version}, expected 2 or 3")
        left = _LARGEST
        for what, count in (("tensors", tensors), ("entries", entries)):
            if count > _LARGEST:
                raise ValueError(f"it states {count} {what}, expected at most {_LARGEST}")
        for _ in range(entries):
            _skip(file, _number(file, 8), size)
            kind, count = _number(file, 4), 1
            if kind == _ARRAY:
                kind, count = _number(file, 4), _number(file, 8)
                left -= count
            if left < 0 or kind == _ARRAY:
                raise ValueError(f"an array of its header has {count} values, expected at most {_LARGEST} in all")
            if kind == _STRING:
                for _ in range(count):
                    _skip(file, _number(file, 8), size)
            else:
                _skip(file, count * _BYTES.get(kind, 8), size)


def _number(file: BinaryIO, size: int) -> int:
    read = file.read(size)
    if len(read) < size:
        raise ValueError("its header is cut short")
    return int.from_bytes(read, "little")


def _skip(file: BinaryIO, count: int, size: int) -> None:
    if count > size:
        raise ValueError("its header is cut short")
    file.seek(count, 1)
