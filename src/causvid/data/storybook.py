"""The procedural world as a dataset: clips rendered, encoded and captioned once, in shards.

Letters: N clips, F latent frames, C channels, h w latent rows and columns, P phrasings of a caption.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from causvid.data.dataset import Batch, number
from causvid.data.renders import render_clips, training_caption, training_scenes, world_of
from causvid.data.shards import Shards
from causvid.models.autoencoder import pixel_frames
from causvid.preset import Preset
from causvid.recipe import required
from causvid.seeding import step_generator
from causvid.worlds.storybook import Scene, sample_scene

SHARD = 512
PHRASINGS = 4
TERSE = 3
"""The phrasing that leaves things out, so that a short prompt is not a mixture of all it does not say."""


def storybook_shards(preset: Preset, folder: Path) -> Shards:
    """Return the shards of a preset's clips, in a folder."""
    return Shards(folder, -(-required(preset.recipe.data, "data").clips // SHARD))


@torch.no_grad()
def encode_shard(
    preset: Preset, encode: Callable[[Tensor], Tensor], n: int, *, seed: int, device: torch.device
) -> tuple[dict[str, Tensor], list[str]]:
    """Render and encode the clips of shard n; `encode` turns pixels `[B, T, 3, H, W]` into latents.

    Returns latents, half `[N, F, C, h, w]`, and the seeds of their scenes, int64 `[N]`, both on the CPU, and P captions
    of each clip, all those of a clip together.
    """
    world, config = world_of(preset), required(preset.recipe.data, "data")
    frames, batch = pixel_frames(preset.generation.clip_frames), config.batch
    count = min(SHARD, config.clips - n * SHARD)
    scenes = training_scenes(preset, count, generator=step_generator(seed, "data", n))
    latents = [
        encode(render_clips(preset, scenes[begin : begin + batch], frames=frames, device=device)).half().cpu()
        for begin in range(0, len(scenes), batch)
    ]
    captions = [
        training_caption(world, scene, PHRASINGS * scene.seed + phrasing, terse=phrasing == TERSE)
        for scene in scenes
        for phrasing in range(PHRASINGS)
    ]
    return {"latents": torch.cat(latents), "seeds": torch.tensor([scene.seed for scene in scenes])}, captions


def stored_scenes(preset: Preset, folder: Path) -> list[Scene]:
    """Return the scenes of all clips in a folder, in order; `ValueError` if stage `data` has not finished."""
    seeds, _ = storybook_shards(preset, folder).read("seeds", device=torch.device("cpu"))
    return [sample_scene(world_of(preset), seed, split="train") for seed in seeds.tolist()]


@dataclass(frozen=True)
class StorybookDataset:
    """Encoded clips in memory: latents half `[N, F, C, h, w]`, and `phrasings` `[N, P]`, numbers of captions."""

    latents: Tensor
    captions: Sequence[str]
    phrasings: Tensor

    @classmethod
    def open(cls, preset: Preset, folder: Path, *, device: torch.device) -> "StorybookDataset":
        """Read all shards onto a device; `ValueError` if stage `data` has not finished."""
        latents, captions = storybook_shards(preset, folder).read("latents", device=device)
        distinct, numbers = number(captions)
        return cls(latents, distinct, torch.tensor(numbers, device=device).view(len(latents), PHRASINGS))

    def batch(self, size: int, *, frames: int, generator: torch.Generator) -> Batch:
        """Draw clips' first `frames` latent frames, with one of their captions: half of the time the terse one."""
        here, drawn = self.latents.device, generator.device
        index = torch.randint(len(self.latents), (size,), generator=generator, device=drawn).to(here)
        last = self.phrasings.shape[1] - 1
        phrasing = torch.randint(max(1, 2 * last), (size,), generator=generator, device=drawn).clamp(max=last).to(here)
        return Batch(self.latents[index, :frames].float(), self.phrasings[index, phrasing])
