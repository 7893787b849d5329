"""`causvid world`: the procedural world that the built-in model was trained on."""

import re
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from causvid.cli.options import DeviceOption, find_device, progress_bar
from causvid.media import VideoWriter, contact_sheet, to_bytes

if TYPE_CHECKING:
    from causvid.worlds.storybook import Scene, World

WorldOption = Annotated[
    Literal["nano", "full", "storybook"],
    typer.Option("--preset", help="nano is the part the built-in model knows; storybook has more words, and plurals."),
]
BATCH = 4


def preview(
    output: Annotated[Path, typer.Option("--output", "-o", help="A folder, created if missing.")],
    preset: WorldOption = "full",
    clips: Annotated[int, typer.Option(min=1, help="How many; every subject once before any repeats.")] = 28,
    seconds: Annotated[float, typer.Option(min=0.1, max=600, help="Length of a clip.")] = 3.0,
    fps: Annotated[float, typer.Option(min=1, max=120, help="Frames a second.")] = 12.0,
    height: Annotated[int, typer.Option(min=16, help="Pixels.")] = 128,
    width: Annotated[int, typer.Option(min=16, help="Pixels.")] = 192,
    seed: Annotated[int, typer.Option(min=0, help="Another seed draws other scenes.")] = 0,
    device: DeviceOption = None,
) -> None:
    """Render clips of the world, named after their captions, with a contact sheet."""
    from causvid.worlds.storybook import World, caption, render

    target = find_device(device)
    output.mkdir(exist_ok=True)
    world = World.preset(preset)
    scenes = list(_tour(world, clips, seed))
    captions = [caption(scene, scene.seed, language=world.language) for scene in scenes]
    stills = []
    with progress_bar() as progress:
        task = progress.add_task("rendering", total=clips, detail="")
        for start in range(0, clips, BATCH):
            video = render(
                scenes[start : start + BATCH],
                frames=max(1, round(seconds * fps)),
                height=height,
                width=width,
                fps=fps,
                device=target,
            )
            for number, frames in enumerate(to_bytes(video).numpy(), start):
                path = output / f"{number:02d}-{re.sub('[^a-z0-9]+', '-', captions[number])}.mp4"
                with VideoWriter(path, fps=fps, height=height, width=width) as writer:
                    writer.write(frames)
                stills.append(frames)
                progress.update(task, advance=1, detail=captions[number])
    sheet = output / "contact_sheet.png"
    contact_sheet(stills, captions, columns=4, stills=1).save(sheet)
    print(f"{output}: {clips} clips, and {sheet.name}")


def words(preset: WorldOption = "nano") -> None:
    """List what the world shows, and every word its captions use."""
    from causvid.worlds.storybook import World
    from causvid.worlds.storybook import words as all_words

    world = World.preset(preset)
    for name in ("subjects", "colours", "places", "motions", "weathers", "times", "cameras"):
        print(fill(f"{name}: {', '.join(getattr(world, name))}", width=100, subsequent_indent="  "))
    known = all_words(world)
    print(fill(f"all {len(known)} words: {' '.join(known)}", width=100, subsequent_indent="  "))


def _tour(world: "World", clips: int, seed: int) -> "Iterator[Scene]":
    """Sample scenes from a seed, one for each subject in turn."""
    from causvid.worlds.storybook import sample_scene

    scenes = (sample_scene(world, number, split="all") for number in count(seed * 1_000_000))
    for number in range(clips):
        subject = world.subjects[number % len(world.subjects)]
        yield next(scene for scene in scenes if scene.subject == subject)
