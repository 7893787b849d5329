"""Tensors in safetensors files that appear whole, and numbered shards of them with captions.

A shard is a function of its number and the seed, so one that is lost or damaged can be computed again.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from causvid.files.writing import read_tensors, write_tensors


def save_tensors(tensors: dict[str, Tensor], path: Path, *, captions: Sequence[str] | None = None) -> None:
    """Write tensors, and captions in the file's metadata; the file appears whole or not at all."""
    write_tensors(path, tensors, {} if captions is None else {"captions": json.dumps(captions)})


def is_whole(path: Path) -> bool:
    """Tell whether a file that `save_tensors` wrote is there and as it was written."""
    try:
        return path.is_file() and bool(read_tensors(path))
    except ValueError:
        return False


def load_tensors(path: Path, *, made_by: str) -> dict[str, Tensor]:
    """Read what an earlier stage wrote; a `ValueError` names that stage if the file is missing or damaged."""
    return _load(path, made_by=made_by)[0]


def _load(path: Path, *, made_by: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    if not path.is_file():
        raise ValueError(f"{path} is missing: run `causvid train {made_by}` first, with the same --out")
    try:
        return read_tensors(path)
    except ValueError as error:
        raise ValueError(f"{error}: run `causvid train {made_by}` again") from None


@dataclass(frozen=True)
class Shards:
    """The `count` files of a stage: `<folder>/shard_0000.safetensors` and so on. The folder has the stage's name."""

    folder: Path
    count: int

    def path(self, n: int) -> Path:
        """Return where shard n is."""
        return self.folder / f"shard_{n:04d}.safetensors"

    def save(self, n: int, tensors: dict[str, Tensor], captions: Sequence[str]) -> None:
        """Write shard n."""
        save_tensors(tensors, self.path(n), captions=captions)

    def repair(self, make: Callable[[int], object]) -> None:
        """Call `make` for every shard that was lost or damaged since it was written."""
        for n in range(self.count):
            if not is_whole(self.path(n)):
                make(n)

    def read(self, name: str, *, device: torch.device) -> tuple[Tensor, list[str]]:
        """Return one tensor of all shards joined, and their captions.

        Raises:
            ValueError: naming the stage, if a shard is missing or damaged.
        """
        tensors: list[Tensor] = []
        captions: list[str] = []
        for path in map(self.path, range(self.count)):
            stored, metadata = _load(path, made_by=self.folder.name)
            try:
                tensor, own = stored[name], json.loads(metadata["captions"])
                if not isinstance(own, list) or not all(isinstance(caption, str) for caption in own):
                    raise ValueError
                if tensor.ndim == 0 or tensor.shape[1:] != (tensors or [tensor])[0].shape[1:]:
                    raise ValueError
            except (KeyError, ValueError, RecursionError):
                raise ValueError(f"{path} has no {name} with captions: delete it, and it is made again") from None
            tensors.append(tensor)
            captions += own
        return torch.cat(tensors).to(device), captions
