"""`causvid extend`: a video is continued."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from causvid.cli.options import DeviceOption, Generation, Parts, flat
from causvid.cli.output import Keeping, OutputOption, PromptArgument, load, named, play_timeline
from causvid.media import read_video

if TYPE_CHECKING:
    from causvid.pipeline import Pipeline
    from causvid.timeline import Timeline


@flat
def extend(
    video: Annotated[str, typer.Argument(help="A video, or the latents of a run (.safetensors).")],
    prompt: PromptArgument,
    output: OutputOption,
    options: Generation,
    keeping: Keeping,
    parts: Parts,
    seconds: Annotated[float | None, typer.Option(help="Of what is new. Default: a clip.")] = None,
    only_new: Annotated[bool, typer.Option("--only-new", help="Leave the given video out of the file.")] = False,
    device: DeviceOption = None,
) -> None:
    """Continue a video: the file holds it, at the model's size and rate, and what follows."""
    keeping.check(output)
    pipeline = load(parts, device)
    from causvid.timeline import Timeline

    timeline = Timeline.make(
        seconds=pipeline.clip_seconds if seconds is None else seconds,
        shots=[{"at": 0, "prompt": prompt}],
        after=video,
        **options,
        **named(parts, pipeline),
    )
    before = iter(()) if only_new else _given(pipeline, video, timeline)
    play_timeline(pipeline, timeline, output, keeping, before=before)


def _given(pipeline: "Pipeline", video: str, timeline: "Timeline") -> Iterator[Any]:
    """Yield the frames of the given video as the model sees them, uint8 [T, H, W, 3]."""
    from causvid.engine.latents import SUFFIX, decode_latents, load_latents

    if Path(video).suffix == SUFFIX:
        latents, _ = load_latents(Path(video))
        device, chunk = pipeline.bundle.transformer.patch_in.weight.device, pipeline.generation.chunk
        yield from decode_latents(pipeline.bundle.autoencoder, latents, chunk=chunk, device=device)
        return
    own = pipeline.generation
    height, width = timeline.height or own.height, timeline.width or own.width
    for frame in read_video(video, height=height, width=width, fps=pipeline.fps, fit=timeline.fit):
        yield frame[None]
