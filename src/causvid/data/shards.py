"""Tensors in safetensors files that appear whole, and numbered shards of them with captions.

A shard is a function of its number and the seed, so one that is lost or damaged can be computed again.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from causvid.files.writing import new_file


def save_tensors(tensors: dict[str, Tensor], path: Path, *, captions: Sequence[str] | None = None) -> None:
    """Write tensors, and captions in the file's metadata; the file appears whole or not at all."""
    # Copies, since safetensors refuses tensors that share memory, as a text encoder's embedding does under two names.
    whole = torch.contiguous_format
    copies = {name: t.detach().to("cpu", copy=True, memory_format=whole) for name, t in tensors.items()}
    with new_file(path) as partial:
        save_file(copies, partial, metadata=None if captions is None else {"captions": json.dumps(captions)})


def is_whole(path: Path) -> bool:
    """Tell whether a file that `save_tensors` wrote is there and of its full length."""
    try:
        with safe_open(path, framework="pt"):
            return True
    except (OSError, SafetensorError):
        return False


def load_tensors(path: Path, *, made_by: str) -> dict[str, Tensor]:
    """Read what an earlier stage wrote; a `ValueError` names that stage if the file is missing or damaged."""
    if not path.is_file():
        raise ValueError(f"{path} is missing: run `causvid train {made_by}` first, with the same --out")
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged ({error}): run `causvid train {made_by}` again") from None


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
            tensors.append(load_tensors(path, made_by=self.folder.name)[name])
            with safe_open(path, framework="pt") as file:
                captions += json.loads(file.metadata()["captions"])
        return torch.cat(tensors).to(device), captions
