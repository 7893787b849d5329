"""What to ask of a model: held-out scenes of the Storybook world, or the lines of a text file.

Letters: B batch, T pixel frames, H W rows and columns.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from pydantic import Field
from torch import Tensor

from causvid.config import GenerationConfig, Settings
from causvid.worlds.storybook import World, caption, render, sample_scene


class Prompt(Settings):
    """A prompt. scene: seed of the held-out scene that it describes; labels: attribute → word, None is not counted."""

    text: str
    scene: int | None = None
    labels: Mapping[str, str | None] = Field(default_factory=dict)


def held_out(world: World, count: int, *, seed: int) -> list[Prompt]:
    """Describe `count` scenes of a world that no training clip shows."""
    scenes = [sample_scene(world, seed + number, split="held-out") for number in range(count)]
    return [Prompt(text=caption(scene, scene.seed), scene=scene.seed, labels=scene.readable()) for scene in scenes]


def read_prompts(file: Path) -> list[Prompt]:
    """Read a prompt from each line of a text file that is not blank.

    Raises:
        ValueError: the file has none, or is not UTF-8.
    """
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError:
        raise ValueError(f"prompts={file}: expected a text file in UTF-8") from None
    prompts = [Prompt(text=line.strip()) for line in lines if line.strip()]
    if not prompts:
        raise ValueError(f"prompts={file}: expected a prompt in each line, found none")
    return prompts


def renders(
    world: World, prompts: Sequence[Prompt], generation: GenerationConfig, *, frames: int, batch: int = 8
) -> Iterator[Tensor]:
    """Yield renders of held-out scenes in batches, float [B, T, 3, H, W] in [0, 1], at a model's size and frame rate.

    Raises:
        ValueError: a prompt describes no scene.
    """
    own = generation
    for start in range(0, len(prompts), batch):
        seeds = [prompt.scene for prompt in prompts[start : start + batch]]
        scenes = [sample_scene(world, seed, split="held-out") for seed in seeds if seed is not None]
        if len(scenes) < len(seeds):
            raise ValueError("prompts from a file describe no scene of the world: there is nothing to render")
        yield render(scenes, frames=frames, height=own.height, width=own.width, fps=own.fps)
