"""What a stage makes in many files: numbered shards in its folder, each of which can be made again."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from causvid.train.artifacts import is_whole, load_tensors, save_tensors


@dataclass(frozen=True)
class Shards:
    """The `count` files of a stage: `run / stage / <prefix>_0000.safetensors` and on."""

    run: Path
    stage: str
    prefix: str
    count: int

    def path(self, n: int) -> Path:
        """Return where shard n is."""
        return self.run / self.stage / f"{self.prefix}_{n:04d}.safetensors"

    def save(self, n: int, tensors: dict[str, Tensor]) -> None:
        """Write shard n."""
        save_tensors(tensors, self.path(n))

    def mend(self, make: Callable[[int], object]) -> None:
        """Call `make` for every shard that was lost or damaged since it was made."""
        for n in range(self.count):
            if not is_whole(self.path(n)):
                make(n)

    def read(self, name: str, *more: str, device: torch.device) -> tuple[Tensor, ...]:
        """Return tensors of all shards joined; a `ValueError` names the stage if a shard is missing or damaged."""
        shards = [load_tensors(self.path(n), made_by=self.stage) for n in range(self.count)]
        return tuple(torch.cat([shard[key] for shard in shards]).to(device) for key in (name, *more))
