"""The LMDB layout in which CausVid and Self Forcing store latents and ODE trajectories with their prompts.

Letters: N rows, S states of a trajectory, F latent frames, C channels, h w latent rows and columns.

Source: https://github.com/tianweiy/CausVid: keys `latents_shape` (numbers with spaces), `latents_<n>_data` (fp16), and
`prompts_<n>_data` (UTF-8).
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

DATABASE = "data.mdb"


def may_list(folder: Path) -> bool:
    """Tell whether files in a folder can be found and read."""
    return os.access(folder, os.R_OK | os.X_OK)


@dataclass(frozen=True)
class LmdbRows:
    """An open database. shape: of all latents, `[N, F, C, h, w]`, or `[N, S, F, C, h, w]` for trajectories."""

    path: Path
    shape: tuple[int, ...]
    environment: Any

    @classmethod
    def open(cls, path: Path) -> "LmdbRows":
        """Open a folder for reading.

        Raises:
            ValueError: if the package is not installed, or the folder has another layout or must not be read.
        """
        if not may_list(path):
            raise ValueError(f"no permission to read {path}")
        try:
            import lmdb
        except ImportError:
            raise ValueError(f"{path} needs the package lmdb: pip install lmdb") from None
        try:
            environment = lmdb.open(str(path), readonly=True, lock=False, readahead=False)
            with environment.begin() as reader:
                shape = tuple(map(int, (reader.get(b"latents_shape") or b"").split()))
        except (lmdb.Error, ValueError) as error:
            raise ValueError(f"{path} is damaged or no LMDB of latents: {error}") from None
        if len(shape) not in (5, 6) or min(shape) < 1:
            raise ValueError(f"{path}: latents_shape is {list(shape)}, expected [N, F, C, h, w] or [N, S, F, C, h, w]")
        return cls(path, shape, environment)

    def prompt(self, n: int) -> str:
        """Return the prompt of row n, white space joined."""
        try:
            return " ".join(self._get(f"prompts_{n}_data").decode("utf-8").split())
        except UnicodeDecodeError as error:
            raise ValueError(f"{self.path}: the prompt of row {n} is not text in UTF-8: {error}") from None

    def latents(self, n: int) -> NDArray[np.float16]:
        """Return the clean latents of row n, `[F, C, h, w]`: of a trajectory its last state."""
        data = np.frombuffer(self._get(f"latents_{n}_data"), dtype=np.float16)
        if data.size != np.prod(self.shape[1:]):
            raise ValueError(f"{self.path}: row {n} has {data.size} numbers, expected {np.prod(self.shape[1:])}")
        row = data.reshape(self.shape[1:])
        return row if len(self.shape) == 5 else row[-1]

    def _get(self, key: str) -> bytes:
        with self.environment.begin() as reader:
            value = reader.get(key.encode())
        if value is None:
            raise ValueError(f"{self.path} lacks {key}")
        return bytes(value)
