"""`causvid generate`: a sentence becomes a file, encoded while later chunks are still being made."""

import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from causvid.cli.film import (
    Keeping,
    Making,
    OutputOption,
    PromptArgument,
    note_unknown_words,
    play_film,
    write_video,
)
from causvid.cli.options import Parts, flat
from causvid.cli.variations import make_variations, variation_files

if TYPE_CHECKING:
    from causvid.pipeline import Pipeline


@flat
def generate(
    prompt: PromptArgument,
    output: OutputOption,
    making: Making,
    keeping: Keeping,
    parts: Parts,
    seconds: Annotated[float | None, typer.Option(help="Length. Default: that of the clips it was trained on.")] = None,
    image: Annotated[Path | None, typer.Option(help="Begin with this picture as the first frame.")] = None,
    variations: Annotated[
        int, typer.Option(min=1, max=64, help="So many videos, of seeds one after the other, and a contact sheet.")
    ] = 1,
    teacher: Annotated[bool, typer.Option("--teacher", help="Use the slow teacher: the whole clip at once.")] = False,
) -> None:
    """Make a video of a sentence, chunk by chunk."""
    if variations > 1:
        for file in variation_files(output, variations, making.seed):
            keeping.check(file)
        if keeping.save_script is not None or keeping.latents is not None:
            raise ValueError(f"variations={variations}: a script and latents are kept of one video, give its seed")
    keeping.check(output)
    pipeline = replace(parts, teacher=teacher).load()
    _note_preset(pipeline, parts)
    length = pipeline.clip_seconds if seconds is None else seconds
    if teacher:
        _teach(pipeline, prompt, output, making, keeping, seconds=length, image=image, variations=variations)
        return
    from causvid.timeline import Timeline

    timeline = Timeline.make(
        seconds=length,
        shots=[{"at": 0, "prompt": prompt, "image": None if image is None else str(image)}],
        **asdict(making),
        **parts.named(pipeline),
    )
    if variations > 1:
        make_variations(pipeline, timeline, output, variations, scale=keeping.scale)
    else:
        play_film(pipeline, timeline, output, keeping)


def _note_preset(pipeline: "Pipeline", parts: Parts) -> None:
    chosen = pipeline.bundle.provenance.get("preset")
    if parts.student is not None and parts.preset is None and chosen is not None:
        told = "told by its name or size; --preset chooses another"
        print(f"note: it generates as preset {chosen} says, {told}", file=sys.stderr)


def _teach(
    pipeline: "Pipeline",
    prompt: str,
    output: Path,
    making: Making,
    keeping: Keeping,
    *,
    seconds: float,
    image: Path | None,
    variations: int,
) -> None:
    """Let the teacher make a clip, which is no film: it has no chunks, and nothing can be done to it underway."""
    if variations > 1 or keeping.save_script is not None or keeping.latents is not None:
        raise ValueError("variations, save-script and latents cannot be used with --teacher")
    began = time.perf_counter()
    clip = pipeline.stream(
        prompt, seconds=seconds, mode="teacher", image=None if image is None else str(image), **asdict(making)
    )
    note_unknown_words(pipeline, [prompt])
    written = write_video(clip, output, fps=pipeline.fps, scale=keeping.scale, began=began)
    if written.stopped:
        raise KeyboardInterrupt
    print(written.line(output, pipeline.fps))
