"""Clips of the procedural world, rendered for training."""

from collections.abc import Callable, Sequence
from functools import cache, lru_cache

import torch
from torch import Tensor

from causvid.preset import Preset
from causvid.recipe import PixelStage
from causvid.seeding import step_generator
from causvid.worlds.storybook import Scene, World, caption, render, sample_scene, words

POOL_BATCH = 256
CORPUS = 4000
"""Scenes whose captions a tokenizer is trained on."""


def world_of(preset: Preset) -> World:
    """Return the subset of the procedural world that a preset trains on."""
    if preset.world is None:
        raise ValueError(f"preset={preset.name} has no world to render: choose one that has, such as nano")
    return World.preset(preset.world)


def render_batch(
    preset: Preset, batch: int, *, frames: int, generator: torch.Generator, device: torch.device
) -> tuple[Tensor, list[Scene]]:
    """Draw training scenes; render `frames` pixel frames of each, `[B, T, 3, H, W]` in [0, 1], at the preset's size."""
    scenes = training_scenes(preset, batch, generator=generator)
    return render_clips(preset, scenes, frames=frames, device=device), scenes


def training_scenes(preset: Preset, count: int, *, generator: torch.Generator) -> list[Scene]:
    """Draw scenes to train on."""
    world = world_of(preset)
    seeds = torch.randint(2**31, (count,), generator=generator, device=generator.device).tolist()
    return [sample_scene(world, seed, split="train") for seed in seeds]


def render_clips(preset: Preset, scenes: Sequence[Scene], *, frames: int, device: torch.device) -> Tensor:
    """Render `frames` pixel frames of scenes, `[B, T, 3, H, W]` in [0, 1], at the preset's size."""
    g = preset.generation
    return render(scenes, frames=frames, height=g.height, width=g.width, fps=g.fps, device=device)


def clip_batches(
    preset: Preset,
    config: PixelStage,
    *,
    seed: int,
    device: torch.device,
    weight: Callable[[Scene], float] = lambda scene: 1.0,
) -> Callable[[torch.Generator], tuple[Tensor, list[Scene]]]:
    """Return a function that draws a batch of clips of training scenes, `[B, T, 3, H, W]` in [0, 1], and the scenes.

    A pool is rendered at the first call, the same one however often a stage resumes. weight: how often a clip of it is
    drawn, compared with the others.

    Raises:
        ValueError: if the preset has no world.
    """
    world_of(preset)

    @cache
    def pool() -> tuple[Tensor, list[Scene], Tensor]:
        """Render many clips at a time, since they share their strokes, and keep them as bytes, with their weights."""
        g, generator, scenes = preset.generation, step_generator(seed, "pool", 0), list[Scene]()
        clips = torch.empty(config.pool, config.frames, 3, g.height, g.width, dtype=torch.uint8, device=device)
        for part in clips.split(POOL_BATCH):
            pixels, drawn = render_batch(preset, len(part), frames=config.frames, generator=generator, device=device)
            part.copy_(pixels.mul_(255).round_())
            scenes += drawn
        return clips, scenes, torch.tensor([weight(scene) for scene in scenes])

    def draw(generator: torch.Generator) -> tuple[Tensor, list[Scene]]:
        if not config.pool:
            return render_batch(preset, config.batch, frames=config.frames, generator=generator, device=device)
        pixels, scenes, weights = pool()
        index = weights.to(generator.device).multinomial(config.batch, replacement=True, generator=generator)
        return pixels[index.to(device)].float() / 255, [scenes[i] for i in index.tolist()]

    return draw


def training_caption(world: World, scene: Scene, seed: int, *, terse: bool = False) -> str:
    """Return a caption to train on, in the language of the world; in the rich one some words are misspelt."""
    return caption(scene, seed, terse=terse, language=world.language, slips=world.language == "rich")


def captions_of(preset: Preset, scenes: Sequence[Scene]) -> list[str]:
    """Return one caption a scene to train on, its phrasing chosen by the scene's seed."""
    world = world_of(preset)
    return [training_caption(world, scene, scene.seed) for scene in scenes]


def held_out_prompts(preset: Preset, count: int) -> list[str]:
    """Return captions of scenes whose attribute combinations training never shows."""
    world = world_of(preset)
    scenes = (sample_scene(world, seed, split="held-out") for seed in range(count))
    return [caption(scene, seed, language=world.language) for seed, scene in enumerate(scenes)]


@lru_cache(maxsize=1)
def corpus(world: World) -> tuple[str, ...]:
    """Return captions that hold every word of a world, as often as its captions do."""
    scenes = (sample_scene(world, seed, split="all") for seed in range(CORPUS))
    captions = (caption(scene, seed, language=world.language) for seed, scene in enumerate(scenes))
    return (*captions, " ".join(words(world)))
