"""Damage renders of the built-in world on purpose, and see which measure notices what: writes docs/damage.md.

    python studies/damage.py

What each measure must notice, and to what else its definition may react, is `NOTICES`; it must stay under the rest.

Letters: T pixel frames, H W rows and columns.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from causvid.evaluate.card import table
from causvid.evaluate.measures import border_flicker, drift, flicker, sharpness
from causvid.evaluate.vbench import score_video
from causvid.worlds.storybook import Scene, World, render, sample_scene

CLIPS, FRAMES, HEIGHT, WIDTH, FPS = 24, 36, 64, 96, 12
BORDERS = (1, 13, 25)
"""Frames that begin a chunk, as the built-in model groups them."""
WORLDS = ("nano", "full")
PAGE = Path(__file__).parent.parent / "docs" / "damage.md"
EFFECT, SHARE = 0.5, 0.85
"""A measure moves where the mean change of a clip is at least `EFFECT` standard deviations between undamaged clips (a
medium effect by Cohen) and at least a share of `SHARE` of the clips change that way."""
Direction = Literal[-1, 0, 1]


@dataclass(frozen=True)
class Reaction:
    """What a measure does under a damage. why: the reason it may, by its definition; none where it must."""

    direction: Direction
    why: str = ""


@dataclass(frozen=True)
class Cell:
    """What one measure did under one damage. effect: in standard deviations between clips; share: of clips that way."""

    effect: float
    share: float
    expected: Reaction

    @property
    def moved(self) -> Direction:
        """The direction it moved in, or 0."""
        if abs(self.effect) < EFFECT or self.share < SHARE:
            return 0
        return 1 if self.effect > 0 else -1

    @property
    def holds(self) -> bool:
        """Whether it did what was expected; what has a reason may also stay."""
        return self.moved == self.expected.direction or (self.moved == 0 and self.expected.why != "")


STILL = "a still video is perfect"
FADED = "a fading picture has ever smaller steps"
SOFT = "soft edges make smaller steps"
CUT = "a cut is one large step"
STAYS = Reaction(0)
NOTICES: Mapping[str, Mapping[str, Reaction]] = {
    "consistency": {"swapped subject": Reaction(-1), "freeze": Reaction(1, STILL)},
    "temporal_flickering": {
        "flicker": Reaction(-1),
        "seam": Reaction(-1, CUT),
        "freeze": Reaction(1, STILL),
        "stutter": Reaction(1, "every second step is none"),
        "drift": Reaction(1, FADED),
        "focus": Reaction(1, SOFT),
        "blur": Reaction(1, SOFT),
        "swapped subject": Reaction(-1, CUT),
    },
    "flicker": {
        "flicker": Reaction(1),
        "freeze": Reaction(-1, STILL),
        "stutter": Reaction(1, "frames that stand and leap in turn alternate"),
    },
    "border_flicker": {
        "seam": Reaction(1),
        "freeze": Reaction(-1, "no step at all"),
        "flicker": Reaction(-1, "all other steps grow"),
        "stutter": Reaction(-1, "the steps into these borders are none"),
    },
    "motion_smoothness": {
        "stutter": Reaction(-1),
        "flicker": Reaction(-1, "no frame is between its neighbours"),
        "seam": Reaction(-1, CUT),
        "freeze": Reaction(1, STILL),
        "drift": Reaction(1, FADED),
        "focus": Reaction(1, SOFT),
        "blur": Reaction(1, SOFT),
        "swapped subject": Reaction(-1, CUT),
    },
    "dynamic_degree": {"freeze": Reaction(-1)},
    "speed": {
        "freeze": Reaction(-1),
        "stutter": Reaction(-1, "blocks are not found beyond their reach, where they leap"),
    },
    "sharpness": {"blur": Reaction(-1), "focus": Reaction(-1)},
    "drift_colour": {"drift": Reaction(1), "freeze": Reaction(-1, STILL)},
    "drift_contrast": {"drift": Reaction(-1), "focus": Reaction(-1, "blur evens out neighbouring parts")},
    "drift_sharpness": {"focus": Reaction(-1)},
    "drift_features": {"swapped subject": Reaction(1), "freeze": Reaction(-1, STILL)},
}
INTRO = """# Damaged videos and what notices

{clips} renders of the built-in world ({worlds} prompts in turn, held out; {frames} frames, {width} × {height}, {fps} a
second), damaged on purpose. In each cell: the mean change of a clip, in standard deviations between undamaged clips,
and the share of clips that change that way. A measure *moves* at {effect:g} standard deviations or more, the same way
in {share:.0%} of the clips or more; otherwise it stays. Written by `python studies/damage.py`, whose table
`NOTICES` states what is expected of every cell.

**Bold**: made to notice. *Italic*: may react, by its definition (reasons below). Plain: must stay. ✗: not as expected.
"""


def darken(video: Tensor, _: Tensor) -> Tensor:
    """Darken every second frame by 15 %."""
    scale = 1 - 0.15 * (torch.arange(len(video)) % 2)
    return (video * scale[:, None, None, None]).to(torch.uint8)


def seams(video: Tensor, _: Tensor) -> Tensor:
    """Darken every second chunk by 10 %."""
    scale = 1 - 0.1 * ((torch.arange(len(video))[:, None] >= torch.tensor(BORDERS)).sum(1) % 2)
    return (video * scale[:, None, None, None]).to(torch.uint8)


def fade(video: Tensor, _: Tensor) -> Tensor:
    """Fade towards grey-red, by half at the end."""
    part = torch.linspace(0, 0.5, len(video))[:, None, None, None]
    return (video * (1 - part) + torch.tensor([150.0, 110, 110]) * part).to(torch.uint8)


def defocus(video: Tensor, _: Tensor) -> Tensor:
    """Blend into the blurred video, wholly at the end."""
    part = torch.linspace(0, 1, len(video))[:, None, None, None]
    return (video * (1 - part) + blur(video, video) * part).to(torch.uint8)


def freeze(video: Tensor, _: Tensor) -> Tensor:
    """Show the first frame throughout."""
    return video[:1].expand_as(video)


def stutter(video: Tensor, _: Tensor) -> Tensor:
    """Show every second frame twice."""
    return video[torch.arange(len(video)) // 2 * 2]


def blur(video: Tensor, _: Tensor) -> Tensor:
    """Average over 5 × 5 pixels."""
    return F.avg_pool2d(video.movedim(-1, 1).float(), 5, 1, 2, count_include_pad=False).movedim(1, -1).to(torch.uint8)


def swap(video: Tensor, other: Tensor) -> Tensor:
    """Half way, put another subject of the same colour in the same place and motion."""
    return torch.cat([video[: len(video) // 2], other[len(video) // 2 :]])


DAMAGES: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    "flicker": darken,
    "seam": seams,
    "drift": fade,
    "focus": defocus,
    "freeze": freeze,
    "stutter": stutter,
    "blur": blur,
    "swapped subject": swap,
}


def draw(count: int) -> list[tuple[Tensor, Tensor]]:
    """Render so many scenes, each with one more that has another subject: uint8 [T, H, W, 3] both."""
    found: list[tuple[Tensor, Tensor]] = []
    for seed in range(count):
        world = World.preset(WORLDS[seed % len(WORLDS)])
        # A morph is another subject without any damage.
        scene = replace(sample_scene(world, seed, split="held-out"), morph=None)
        pixels = render([scene, _other(world, scene)], frames=FRAMES, height=HEIGHT, width=WIDTH, fps=FPS)
        first, second = (pixels.movedim(2, -1) * 255).round().to(torch.uint8)
        found.append((first, second))
    return found


def _other(world: World, scene: Scene) -> Scene:
    others = [name for name in world.subjects if name != scene.subject]
    return replace(scene, subject=others[scene.seed % len(others)], morph=None)


def measure(video: Tensor) -> dict[str, float]:
    """Measure a video, uint8 [T, H, W, 3]."""
    found = score_video(video, fps=FPS)
    found |= {"flicker": flicker(video), "border_flicker": border_flicker(video, BORDERS)}
    found["sharpness"] = sharpness(video)
    found |= {f"drift_{name}": value for name, value in drift(video, edge=FPS).items()}
    return {name: found[name] for name in NOTICES}


def compare(clips: Sequence[tuple[Tensor, Tensor]]) -> tuple[dict[str, float], dict[str, dict[str, Cell]]]:
    """Measure clips undamaged and damaged: measure → mean, and measure → damage → cell."""
    plain = [measure(video) for video, _ in clips]
    hurt = {name: [measure(damage(*clip)) for clip in clips] for name, damage in DAMAGES.items()}
    means, cells = dict[str, float](), dict[str, dict[str, Cell]]()
    for name in NOTICES:
        before = torch.tensor([row[name] for row in plain], dtype=torch.float64)
        means[name], spread = float(before.mean()), float(before.std())
        cells[name] = {}
        for damage, rows in hurt.items():
            change = torch.tensor([row[name] for row in rows], dtype=torch.float64) - before
            mean = float(change.mean())
            effect = mean / spread if spread else math.copysign(math.inf, mean) if mean else 0.0
            share = float((change * mean > 0).double().mean())
            cells[name][damage] = Cell(effect, share, NOTICES[name].get(damage, STAYS))
    return means, cells


def write(means: Mapping[str, float], cells: Mapping[str, Mapping[str, Cell]], *, clips: int) -> str:
    """Return the page."""
    rows = [[name, f"{means[name]:.4f}", *map(_cell, row.values())] for name, row in cells.items()]
    size = {"frames": FRAMES, "width": WIDTH, "height": HEIGHT, "fps": FPS}
    parts = [INTRO.format(clips=clips, worlds=" and ".join(WORLDS), effect=EFFECT, share=SHARE, **size)]
    parts.append(table(["measure", "undamaged", *DAMAGES], rows) + "\n")
    flat = [(name, damage, cell) for name, row in cells.items() for damage, cell in row.items()]
    missed = [f"{name} under {damage}" for name, damage, cell in flat if not cell.holds]
    may = sum(cell.expected.why != "" for _, _, cell in flat)
    must = sum(cell.expected.direction != 0 for _, _, cell in flat) - may
    verdict = f"{len(flat) - len(missed)} of {len(flat)} expectations hold ({must} must move, {may} may, the rest stay)"
    parts.append(f"{verdict}{'; not ' + ', '.join(missed) if missed else ''}.\n")
    parts.append("## The damages\n\n" + "\n".join(f"- {name}: {_about(make)}" for name, make in DAMAGES.items()) + "\n")
    whys = [f"- {name}, {damage}: {one.why}" for name, row in NOTICES.items() for damage, one in row.items() if one.why]
    parts.append("## Reactions by definition\n\n" + "\n".join(whys) + "\n")
    return "\n".join(parts)


def _cell(cell: Cell) -> str:
    text = f"{cell.effect:+.2f} ({cell.share:.0%})".replace("inf", "∞")
    mark = "" if cell.expected.direction == 0 else "*" if cell.expected.why else "**"
    return f"{mark}{text}{mark}{'' if cell.holds else ' ✗'}"


def _about(make: Callable[[Tensor, Tensor], Tensor]) -> str:
    assert make.__doc__ is not None
    return make.__doc__[0].lower() + make.__doc__[1:].rstrip(".")


def main() -> None:
    """Measure undamaged and damaged clips, and write the page."""
    means, cells = compare(draw(CLIPS))
    for name, row in cells.items():
        for damage, cell in row.items():
            print(f"{name:20} {damage:16} {_cell(cell):22} {'expected' if cell.holds else 'UNEXPECTED'}")
    PAGE.write_text(write(means, cells, clips=CLIPS), encoding="utf-8")
    print(f"wrote {PAGE}")


if __name__ == "__main__":
    main()
