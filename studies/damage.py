"""Damage renders of the built-in world on purpose, and see which measure moves: writes the table of docs/damage.md.

    python studies/damage.py

Letters: T pixel frames, H W rows and columns.
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from causvid.evaluate.card import table
from causvid.evaluate.measures import drift, flow_speed, sharpness
from causvid.evaluate.vbench import score_video
from causvid.worlds.storybook import World, render, sample_scene

CLIPS, FRAMES, HEIGHT, WIDTH, FPS = 6, 36, 64, 96, 12
PAGE = Path(__file__).parent.parent / "docs" / "damage.md"
MOVED = 0.25
"""A measure has moved where its mean changes by so many of its standard deviations over undamaged clips."""
INTRO = """# Damaged videos and what notices

{clips} renders of the built-in world ({frames} frames, {width} × {height}, {fps} a second), damaged on purpose. Means
of each measure; bold where it moves by at least {moved:g} of its standard deviation over undamaged clips.
Written by `python studies/damage.py`.
"""


def flicker(video: Tensor, _: Tensor) -> Tensor:
    """Darken every second frame by 15 %."""
    scale = 1 - 0.15 * (torch.arange(len(video)) % 2)
    return (video * scale[:, None, None, None]).to(torch.uint8)


def fade(video: Tensor, _: Tensor) -> Tensor:
    """Drift: towards grey-red, by half at the end."""
    part = torch.linspace(0, 0.5, len(video))[:, None, None, None]
    return (video * (1 - part) + torch.tensor([150.0, 110, 110]) * part).to(torch.uint8)


def freeze(video: Tensor, _: Tensor) -> Tensor:
    """Show the first frame throughout."""
    return video[:1].expand_as(video)


def blur(video: Tensor, _: Tensor) -> Tensor:
    """Average over 5 × 5 pixels."""
    return F.avg_pool2d(video.movedim(-1, 1).float(), 5, 1, 2, count_include_pad=False).movedim(1, -1).to(torch.uint8)


def swap(video: Tensor, other: Tensor) -> Tensor:
    """Swap the subject, with its scene, for another's half way."""
    return torch.cat([video[: len(video) // 2], other[len(video) // 2 :]])


DAMAGES = {"flicker": flicker, "drift": fade, "freeze": freeze, "blur": blur, "swapped subject": swap}


def measure(video: Tensor) -> dict[str, float]:
    """Measure a video, uint8 [T, H, W, 3]."""
    ends = {f"drift_{name}": value for name, value in drift(video, edge=FPS).items()}
    return {**score_video(video, fps=FPS), "speed": flow_speed(video, fps=FPS), "sharpness": sharpness(video)} | ends


def main() -> None:
    """Measure undamaged and damaged clips, and write the page."""
    world = World.preset("nano")
    scenes = [sample_scene(world, seed, split="held-out") for seed in range(CLIPS)]
    pixels = render(scenes, frames=FRAMES, height=HEIGHT, width=WIDTH, fps=FPS)
    clips = list((pixels.movedim(2, -1) * 255).round().to(torch.uint8))
    undamaged = [measure(clip) for clip in clips]
    columns = {
        name: [measure(damage(clip, clips[n - 1])) for n, clip in enumerate(clips)] for name, damage in DAMAGES.items()
    }
    rows = []
    for name in undamaged[0]:
        plain = torch.tensor([one[name] for one in undamaged])
        cells = [f"{plain.mean():.4f}"]
        for column in columns.values():
            mean = torch.tensor([one[name] for one in column]).mean()
            moved = abs(mean - plain.mean()) >= MOVED * max(float(plain.std()), 1e-4)
            cells.append(f"**{mean:.4f}**" if moved else f"{mean:.4f}")
        rows.append([name, *cells])
    intro = INTRO.format(clips=CLIPS, frames=FRAMES, width=WIDTH, height=HEIGHT, fps=FPS, moved=MOVED)
    PAGE.write_text(f"{intro}\n{table(['measure', 'undamaged', *columns], rows)}\n", encoding="utf-8")
    print(f"wrote {PAGE}")


if __name__ == "__main__":
    main()
