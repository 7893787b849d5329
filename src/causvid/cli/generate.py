"""`causvid generate`: a sentence becomes a file, encoded while later chunks are still being made."""

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from causvid.cli.options import DeviceOption, Generation, Parts, flat
from causvid.cli.output import (
    Keeping,
    OutputOption,
    PromptArgument,
    load,
    named,
    note_unknown_words,
    play_timeline,
    write_video,
)
from causvid.cli.variations import make_variations, variation_files

if TYPE_CHECKING:
    from causvid.pipeline import Pipeline


@flat
def generate(
    prompt: PromptArgument,
    output: OutputOption,
    options: Generation,
    keeping: Keeping,
    parts: Parts,
    seconds: Annotated[float | None, typer.Option(help="Length. Default: that of the clips it was trained on.")] = None,
    image: Annotated[Path | None, typer.Option(help="Start with this picture as the first frame.")] = None,
    variations: Annotated[
        int, typer.Option(min=1, max=64, help="So many videos, of consecutive seeds, and a contact sheet.")
    ] = 1,
    teacher: Annotated[bool, typer.Option("--teacher", help="Use the slow teacher: the whole clip at once.")] = False,
    device: DeviceOption = None,
) -> None:
    """Make a video of a sentence, chunk by chunk."""
    if variations > 1:
        for file in variation_files(output, variations, options["seed"]):
            keeping.check(file)
        if keeping.save_timeline is not None or keeping.latents is not None:
            raise ValueError(f"variations={variations}: timeline and latents are kept of one video, give its seed")
    keeping.check(output)
    pipeline = load(parts, device, teacher=teacher)
    _note_preset(pipeline, parts)
    length = pipeline.clip_seconds if seconds is None else seconds
    if teacher:
        kept: dict[str, Any] = {"image": image, "save_timeline": keeping.save_timeline, "latents": keeping.latents}
        kept["variations"] = variations if variations > 1 else None
        _teach(pipeline, prompt, output, options | kept, seconds=length, scale=keeping.scale)
        return
    from causvid.timeline import Timeline

    shot = {"at": 0, "prompt": prompt, "image": None if image is None else str(image)}
    timeline = Timeline.make(seconds=length, shots=[shot], **options, **named(parts, pipeline))
    if variations > 1:
        make_variations(pipeline, timeline, output, variations, scale=keeping.scale)
    else:
        play_timeline(pipeline, timeline, output, keeping)


def _note_preset(pipeline: "Pipeline", parts: dict[str, Any]) -> None:
    chosen = pipeline.bundle.provenance.get("preset")
    if parts["student"] is not None and parts["preset"] is None and chosen is not None:
        print(
            f"note: it generates as preset {chosen} says, by its name or size; --preset chooses another",
            file=sys.stderr,
        )


def _teach(
    pipeline: "Pipeline", prompt: str, output: Path, options: dict[str, Any], *, seconds: float, scale: int | None
) -> None:
    """Let the teacher make a clip, which has no chunks: nothing can be done to it underway."""
    own = {name: options.pop(name) for name in ("steps", "height", "width")}
    seed = options.pop("seed")
    changed = [name for name, value in options.items() if value not in (None, "window", "cover")]
    if changed:
        raise ValueError(f"{', '.join(changed)} cannot be used with --teacher: it makes whole clips from noise")
    began = time.perf_counter()
    note_unknown_words(pipeline, [prompt])
    clip = pipeline.teach([prompt], seeds=[seed], seconds=seconds, **own)
    written = write_video(clip, output, fps=pipeline.fps, scale=scale, began=began)
    if written.stopped:
        raise KeyboardInterrupt
    print(written.line(output, pipeline.fps))
