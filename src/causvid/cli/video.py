"""`causvid extend`, `translate`, `play` and `decode`: videos from what is there, a video, a timeline or latents."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from causvid.cli.early import check_device, check_latents, check_model, check_picture, check_request, check_source
from causvid.cli.options import DeviceOption, Generation, Options, Parts, find_device, flat
from causvid.cli.output import (
    Keeping,
    OutputOption,
    PromptArgument,
    ScaleOption,
    load,
    make_timeline,
    named,
    play_timeline,
    write_video,
)
from causvid.engine.request import LATENTS
from causvid.loading.spec import ModelSpec

if TYPE_CHECKING:
    from causvid.pipeline import Pipeline
    from causvid.timeline import Timeline

DECODED_TOGETHER = 3
"""Latent frames that `decode` decodes at a time."""
OTHER_PARTS = ("student", "umt5", "lora", "lora_strength", "preset", "text_encoder", "teacher")
"""Of a model, what decoding does not need."""


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
    keeping.check(output, video)
    check_request(prompt, parts, seconds=seconds, **options)
    check_source(video)
    pipeline = load(parts, device)
    timeline = make_timeline(pipeline, parts, {"prompt": prompt}, seconds=seconds, after=video, **options)
    before = None if only_new else _given(pipeline, video, timeline)
    play_timeline(pipeline, timeline, output, keeping, before=before)


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
    keeping.check(output, video)
    if strength is not None:
        options["strength"] = strength
    check_request(prompt, parts, seconds=seconds, **options)
    check_source(video)
    pipeline = load(parts, device)
    if seconds is None:
        seconds = _length(video, pipeline.fps, pipeline.generation.max_seconds)
    timeline = make_timeline(pipeline, parts, {"prompt": prompt}, seconds=seconds, source=video, adapt=adapt, **options)
    play_timeline(pipeline, timeline, output, keeping)


@flat
def play(
    timeline: Annotated[Path, typer.Argument(help="A timeline as .toml or .json: its shots, and all that decides it.")],
    output: OutputOption,
    keeping: Keeping,
    parts: Parts,
    device: DeviceOption = None,
) -> None:
    """Play a timeline, written by hand or by --save-timeline, into a file; options here win over what it says."""
    keeping.check(output, timeline)
    from causvid.timeline import Timeline

    found = Timeline.load(timeline)
    parts = {name: getattr(found, name) if value is None else value for name, value in parts.items()}
    check_model(parts)
    for source in filter(None, (found.after, found.source)):
        check_source(source)
    for shot in found.shots:
        check_picture(shot.image)
    pipeline = load(parts, device)
    play_timeline(pipeline, found.model_copy(update=named(parts, pipeline)), output, keeping)


@flat
def decode(
    latents: Annotated[Path, typer.Argument(help="What --latents of another command wrote.")],
    output: OutputOption,
    parts: Annotated[dict[str, Any], Options(ModelSpec, without=OTHER_PARTS)],
    scale: ScaleOption = None,
    device: DeviceOption = None,
) -> None:
    """Decode the latents of a run into a video; of the model, only the autoencoder is read."""
    Keeping().check(output, latents)
    check_model(parts)
    if not latents.exists():
        raise ValueError(f"latents {latents} is missing")
    check_device(device)
    check_latents(latents)
    from causvid.engine.latents import decode_latents, load_latents
    from causvid.loading.assemble import load_autoencoder

    loaded, fps = load_latents(latents)
    place = find_device(device)
    autoencoder = load_autoencoder(ModelSpec.make(**parts), device=place)
    began = time.perf_counter()
    frames = decode_latents(autoencoder, loaded, chunk=DECODED_TOGETHER, device=place)
    write_video(frames, output, fps=fps, scale=scale, began=began).report(output, fps)


def _given(pipeline: "Pipeline", video: str, timeline: "Timeline") -> Iterator[Any]:
    """Yield the frames of the given video as the model sees them, uint8 [T, H, W, 3]."""
    from causvid.engine.latents import decode_latents, load_latents

    own = pipeline.generation
    if Path(video).suffix == LATENTS:
        latents, _ = load_latents(Path(video))
        device = pipeline.bundle.transformer.patch_in.weight.device
        yield from decode_latents(pipeline.bundle.autoencoder, latents, chunk=own.chunk, device=device)
        return
    height, width = timeline.height or own.height, timeline.width or own.width
    from causvid.media import read_video

    for frame in read_video(video, height=height, width=width, fps=pipeline.fps, fit=timeline.fit):
        yield frame[None]


def _length(video: str, fps: float, most: float) -> float:
    """Return seconds enough for all of a video: it ends where the video ends."""
    from causvid.media import probe
    from causvid.media.clip import camera

    if camera(video) is not None:
        return most
    found = probe(video)
    seconds = found.seconds if found.seconds is not None else (found.frames or most * fps) / fps
    # What a header states is rounded; a second more than there is costs nothing.
    return min(most, seconds + 1)
