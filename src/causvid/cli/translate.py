"""`causvid translate`: video-to-video."""

from typing import Annotated

import typer

from causvid.cli.options import DeviceOption, Generation, Parts, flat
from causvid.cli.output import Keeping, OutputOption, PromptArgument, load, named, play_timeline
from causvid.media import probe
from causvid.media.clip import camera


@flat
def translate(
    video: Annotated[str, typer.Argument(help="A video, or webcam.")],
    prompt: PromptArgument,
    output: OutputOption,
    options: Generation,
    keeping: Keeping,
    parts: Parts,
    strength: Annotated[
        float | None, typer.Option(help="How much may change: 1 keeps nothing of the video. Default: most.")
    ] = None,
    adapt: Annotated[bool, typer.Option("--adapt", help="Change less of what moves more.")] = False,
    seconds: Annotated[
        float | None, typer.Option(help="Length. Default: all of the video; of a webcam, until Ctrl-C.")
    ] = None,
    device: DeviceOption = None,
) -> None:
    """Video-to-video: regenerate a video chunk by chunk as a sentence says, keeping what it shows where."""
    keeping.check(output)
    pipeline = load(parts, device)
    from causvid.timeline import Timeline

    timeline = Timeline.make(
        seconds=_length(video, pipeline.fps, pipeline.generation.max_seconds) if seconds is None else seconds,
        shots=[{"at": 0, "prompt": prompt}],
        source=video,
        adapt=adapt,
        **({} if strength is None else {"strength": strength}),
        **options,
        **named(parts, pipeline),
    )
    play_timeline(pipeline, timeline, output, keeping)


def _length(video: str, fps: float, most: float) -> float:
    """Return seconds enough for all of a video: it ends where the video ends."""
    if camera(video) is not None:
        return most
    found = probe(video)
    seconds = found.seconds if found.seconds is not None else (found.frames or most * fps) / fps
    # What a header states is rounded; a second more than there is costs nothing.
    return min(most, seconds + 1)
