"""`causvid translate`: a video is made anew under a prompt."""

from dataclasses import asdict
from typing import Annotated

import typer

from causvid.cli.film import FitOption, Keeping, Making, OutputOption, play_film
from causvid.cli.options import DeviceOption, ModelOption, Parts, flat, load_pipeline
from causvid.media import probe
from causvid.media.clip import camera


@flat
def translate(
    video: Annotated[str, typer.Argument(help="A video, or webcam.")],
    prompt: Annotated[str, typer.Argument(help="What to show, in a sentence.")],
    output: OutputOption,
    making: Making,
    keeping: Keeping,
    parts: Parts,
    model: ModelOption = None,
    strength: Annotated[
        float | None, typer.Option(help="How much may change: 1 keeps nothing of the video. Default: most.")
    ] = None,
    adapt: Annotated[bool, typer.Option("--adapt", help="Change less of what moves more.")] = False,
    seconds: Annotated[
        float | None, typer.Option(help="Length. Default: all of the video; of a webcam, until Ctrl-C.")
    ] = None,
    fit: FitOption = "cover",
    device: DeviceOption = None,
) -> None:
    """Make a video anew as a sentence says, chunk by chunk, keeping what it shows where."""
    keeping.check(output)
    pipeline = load_pipeline(model, device, parts)
    from causvid.generate.timeline import Timeline

    timeline = Timeline.make(
        seconds=_length(video, pipeline.fps, pipeline.generation.max_seconds) if seconds is None else seconds,
        shots=[{"at": 0, "prompt": prompt}],
        model=model,
        source=video,
        **({} if strength is None else {"strength": strength}),
        adapt=adapt,
        fit=fit,
        **asdict(making),
    )
    play_film(pipeline, timeline, output, keeping)


def _length(video: str, fps: float, most: float) -> float:
    """Return seconds enough for all of a video: it ends where the video ends."""
    if camera(video) is not None:
        return most
    found = probe(video)
    seconds = found.seconds if found.seconds is not None else (found.frames or most * fps) / fps
    # What a header states is rounded; a second more than there is costs nothing.
    return min(most, seconds + 1)
