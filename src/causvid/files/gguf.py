"""GGUF files: weights in blocks of few bits, as llama.cpp and ComfyUI-GGUF write them, dequantised tensor by tensor.

The package `gguf` reads them, which comes with `pip install 'causvid[gguf]'`.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

_SHAPE = "comfy.gguf.orig_shape."
"""Entry of a tensor of more dimensions than GGUF has."""
_PLAIN = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


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
