"""The teacher's trajectories, stored in shards: what ODE initialisation trains on.

Letters: B batch, N clips, S levels of the student and then the clean end, F latent frames, C channels, h w.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from causvid.data.shards import Shards, number
from causvid.distill.levels import gather_states
from causvid.preset import Preset
from causvid.recipe import required


def trajectory_shards(preset: Preset, folder: Path) -> Shards:
    """Return the shards of a preset's trajectories, in a folder."""
    config = required(preset.recipe.pairs, "pairs")
    return Shards(folder, -(-config.clips // config.batch))


@dataclass(frozen=True)
class TrajectoryStore:
    """Trajectories in memory: half `[N, S + 1, F, C, h, w]`, the last state clean, and their captions' numbers `[N]`.

    A frame that the teacher was conditioned on is the same in every state.
    """

    trajectory: Tensor
    captions: Sequence[str]
    numbers: Tensor

    @classmethod
    def open(cls, preset: Preset, folder: Path, *, device: torch.device) -> "TrajectoryStore":
        """Read all shards onto a device; `ValueError` if stage `pairs` has not finished."""
        trajectory, captions = trajectory_shards(preset, folder).read("trajectory", device=device)
        distinct, numbers = number(captions)
        return cls(trajectory, distinct, torch.tensor(numbers, device=device))

    def draw(self, index: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Draw trajectories and pick the state at level `index` `[B, F]` of each frame.

        Returns the states and the clean ends, fp32 `[B, F, C, h, w]`, the levels, the last one for frames that the
        teacher was conditioned on, and the captions' numbers `[B]`.
        """
        rows = torch.randint(len(self.trajectory), (len(index),), generator=generator, device=generator.device)
        rows = rows.to(self.trajectory.device)
        trajectory = self.trajectory[rows].float()
        clean = (trajectory[:, 0] == trajectory[:, -1]).flatten(2).all(dim=2)
        index = index.to(trajectory.device).masked_fill(clean, trajectory.shape[1] - 1)
        return gather_states(trajectory, index), trajectory[:, -1], index, self.numbers[rows]
