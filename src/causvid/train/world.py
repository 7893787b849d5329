"""Batches of rendered clips for training."""

from collections.abc import Sequence

import torch
from torch import Tensor

from causvid.config import Preset
from causvid.worlds.storybook import Scene, World, caption, render, sample_scene


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
    seeds = torch.randint(2**31, (batch,), generator=generator).tolist()
    scenes = [sample_scene(world, seed, split="train") for seed in seeds]
    return render_scenes(preset, scenes, frames=frames, device=device), scenes


def captions(scenes: Sequence[Scene], seeds: Sequence[int]) -> list[str]:
    """Return one caption a scene, its phrasing chosen by the seed."""
    return [caption(scene, seed) for scene, seed in zip(scenes, seeds, strict=True)]
