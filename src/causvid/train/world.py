"""Batches of rendered clips for training."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from causvid.preset import Preset
from causvid.train.loop import Run, step_generator
from causvid.worlds.storybook import Scene, World, caption, render, sample_scene

POOL_BATCH = 256


def world_of(preset: Preset) -> World:
    """Return the subset of the procedural world that a preset trains on."""
    if preset.world is None:
        raise ValueError(f"preset={preset.name} has no world to train on: choose one that has, such as nano")
    return World.preset(preset.world)


def render_scenes(
    preset: Preset, scenes: Sequence[Scene], *, frames: int, device: torch.device, start: int = 0
) -> Tensor:
    """Render scenes at the preset's size and frame rate: `[B, T, 3, H, W]` in [0, 1]."""
    g = preset.generation
    return render(scenes, frames=frames, height=g.height, width=g.width, fps=g.fps, start=start, device=device)


def render_batch(
    preset: Preset, batch: int, *, frames: int, generator: torch.Generator, device: torch.device
) -> tuple[Tensor, list[Scene]]:
    """Draw training scenes and render `frames` pixel frames of each."""
    world = world_of(preset)
    seeds = torch.randint(2**31, (batch,), generator=generator, device=generator.device).tolist()
    scenes = [sample_scene(world, seed, split="train") for seed in seeds]
    return render_scenes(preset, scenes, frames=frames, device=device), scenes


@dataclass(frozen=True)
class ClipPool:
    """Clips rendered once, bytes `[N, T, 3, H, W]` on the run's device, and what they show."""

    pixels: Tensor
    scenes: tuple[Scene, ...]

    @classmethod
    def render(
        cls, preset: Preset, clips: int, *, frames: int, generator: torch.Generator, device: torch.device
    ) -> "ClipPool":
        """Draw training scenes and render `frames` pixel frames of each, many at a time: they share their strokes."""
        g = preset.generation
        pixels = torch.empty(clips, frames, 3, g.height, g.width, dtype=torch.uint8, device=device)
        scenes: list[Scene] = []
        for part in pixels.split(POOL_BATCH):
            drawn, shown = render_batch(preset, len(part), frames=frames, generator=generator, device=device)
            part.copy_(drawn.mul_(255).round_())
            scenes += shown
        return cls(pixels, tuple(scenes))

    def draw(self, batch: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return random clips, fp32 `[B, T, 3, H, W]` in [0, 1], and their numbers, int64 `[B]`."""
        index = torch.randint(len(self.pixels), (batch,), generator=generator, device=generator.device)
        index = index.to(self.pixels.device)
        return self.pixels[index].float() / 255, index


def clip_batches(
    preset: Preset, run: Run, *, batch: int, frames: int, pool: int
) -> Callable[[torch.Generator], tuple[Tensor, list[Scene]]]:
    """Return a function that draws a batch of clips of training scenes, `[B, T, 3, H, W]` in [0, 1], and the scenes.

    pool: clips rendered once, at the first call, the same ones however often a stage resumes; 0 renders every batch.
    """

    @cache
    def rendered() -> ClipPool:
        generator = step_generator(run.seed, "pool", 0)
        return ClipPool.render(preset, pool, frames=frames, generator=generator, device=run.device)

    def draw(generator: torch.Generator) -> tuple[Tensor, list[Scene]]:
        if not pool:
            return render_batch(preset, batch, frames=frames, generator=generator, device=run.device)
        pixels, index = rendered().draw(batch, generator)
        return pixels, [rendered().scenes[i] for i in index.tolist()]

    return draw


def captions(preset: Preset, scenes: Sequence[Scene], seeds: Sequence[int], *, terse: bool = False) -> list[str]:
    """Return one caption a scene to train on, in the language of the preset's world, phrased as the seed says."""
    language = world_of(preset).language
    return [
        caption(scene, seed, terse=terse, language=language, slips=language == "rich")
        for scene, seed in zip(scenes, seeds, strict=True)
    ]
