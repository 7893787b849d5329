"""Graphs of a model's passes, one for every size of their inputs, kept on disk for the next start."""

import hashlib
import os
import shutil
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Generic, TypeVar

from torch import Tensor, nn

from causvid.files.writing import new_folder

Inputs = tuple[Tensor, ...]
Graph = TypeVar("Graph")


class Graphs(Generic[Graph]):
    """Makes, keeps and reads graphs of a model with its present weights.

    write: makes the graph of some inputs in a new folder. read: opens such a folder, or raises RuntimeError if it is
    damaged. made_by: whatever else a graph depends on, such as versions and the processor.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        write: Callable[[Inputs, Path], None],
        read: Callable[[Path], Graph],
        made_by: tuple[object, ...],
    ) -> None:
        self._model, self._write, self._read = model, write, read
        self._made_by = (*made_by, version("torch"), version("causvid"))
        self._open: dict[tuple[tuple[int, ...], ...], Graph] = {}
        self._digest = ""

    def of(self, inputs: Inputs) -> Graph:
        """Return the graph for inputs of such sizes: an open one, else one from disk, else a new one."""
        sizes = tuple(tuple(tensor.shape) for tensor in inputs)
        if sizes not in self._open:
            self._open[sizes] = self._find(inputs, cache_folder() / self._name(sizes))
        return self._open[sizes]

    def _find(self, inputs: Inputs, kept: Path) -> Graph:
        if kept.is_dir():
            try:
                return self._read(kept)
            except RuntimeError:
                pass  # damaged: it is made again
        return self._make(inputs, kept)

    def _make(self, inputs: Inputs, kept: Path) -> Graph:
        with TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            self._write(inputs, Path(folder))
            graph = self._read(Path(folder))
            try:
                with new_folder(kept) as new:
                    shutil.copytree(folder, new, dirs_exist_ok=True)
            except OSError:
                pass  # a disk that is full costs the next start some time, and nothing else
        return graph

    def _name(self, sizes: tuple[tuple[int, ...], ...]) -> str:
        if not self._digest:
            digest = hashlib.sha256()
            for name, tensor in self._model.state_dict().items():
                digest.update(f"{name} {list(tensor.shape)}".encode())
                digest.update(tensor.detach().contiguous().numpy().tobytes())
            self._digest = digest.hexdigest()
        return hashlib.sha256(repr((self._digest, sizes, self._made_by)).encode()).hexdigest()[:32]


def cache_folder() -> Path:
    """Return where graphs are kept: `CAUSVID_CACHE`, or `causvid` in the user's folder of caches."""
    own = os.environ.get("CAUSVID_CACHE")
    return Path(own) if own else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "causvid"
