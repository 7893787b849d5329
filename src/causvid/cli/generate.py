"""`causvid generate`: a sentence becomes a file, encoded while later chunks are still being made."""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from causvid.cli.early import check_picture, check_request
from causvid.cli.options import DeviceOption, Generation, Parts, flat, stages
from causvid.cli.output import (
    Keeping,
    OutputOption,
    PromptArgument,
    load,
    make_timeline,
    note_unknown_words,
    play_timeline,
    write_video,
)

if TYPE_CHECKING:
    from torch import Tensor

    from causvid.pipeline import Pipeline
    from causvid.timeline import Playback, Timeline

STILLS = 6
"""Frames of each variation in the contact sheet."""


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
        for file in _variation_files(output, variations, options["seed"]):
            keeping.check(file, image)
        if keeping.save_timeline is not None or keeping.latents is not None:
            raise ValueError(f"variations={variations}: timeline and latents are kept of one video, give its seed")
    keeping.check(output, image)
    check_request(prompt, parts, seconds=seconds, **options)
    check_picture(image)
    pipeline = load(parts, device, teacher=teacher)
    _note_preset(pipeline, parts)
    seconds = pipeline.clip_seconds if seconds is None else seconds
    if teacher:
        kept: dict[str, Any] = {"image": image, "save_timeline": keeping.save_timeline, "latents": keeping.latents}
        kept["variations"] = variations if variations > 1 else None
        _teach(pipeline, prompt, output, options | kept, seconds=seconds, scale=keeping.scale)
        return
    shot = {"prompt": prompt, "image": None if image is None else str(image)}
    timeline = make_timeline(pipeline, parts, shot, seconds=seconds, **options)
    if variations > 1:
        _vary(pipeline, timeline, output, variations, scale=keeping.scale)
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
    pipeline: "Pipeline",
    prompt: str,
    output: Path,
    options: dict[str, Any],
    *,
    seconds: float | None,
    scale: int | None,
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
    write_video(clip, output, fps=pipeline.fps, scale=scale, began=began).report(output, pipeline.fps)


def _variation_files(output: Path, count: int, seed: int) -> list[Path]:
    """Return the files of the variations; raise an error if their names, or their seeds, cannot be."""
    if output.suffix.lower() in ("", ".png"):
        raise ValueError(f"output {output}: variations are files such as .mp4, with a contact sheet in .png")
    if output.with_suffix(".png").is_dir():
        raise ValueError(f"the contact sheet {output.with_suffix('.png')} is a folder: choose another name")
    if not 0 <= seed <= 2**63 - count:
        raise ValueError(f"seed={seed} is not from 0 to 2^63 - {count}")
    return [output.with_name(f"{output.stem}-{number}{output.suffix}") for number in range(count)]


def _vary(pipeline: "Pipeline", timeline: "Timeline", output: Path, count: int, *, scale: int | None) -> None:
    """Make the video with `count` seeds, side by side where that can be, and say how different the videos are."""
    import torch

    from causvid.evaluate.diversity import difference

    files, seeds = _variation_files(output, count, timeline.seed), range(timeline.seed, timeline.seed + count)
    note_unknown_words(pipeline, [timeline.shots[0].prompt])
    began = time.perf_counter()
    with stages() as stage:
        if _is_plain(timeline):
            videos = pipeline.generate_batch(
                [timeline.shots[0].prompt] * count,
                seeds=seeds,
                seconds=timeline.seconds,
                steps=timeline.steps,
                progress=stage(f"frames of {count} videos"),
            )
        else:
            playbacks = (pipeline.play(timeline.model_copy(update={"seed": seed})) for seed in seeds)
            videos = torch.stack(
                [_video(playback, stage(f"frames of seed {playback.timeline.seed}")) for playback in playbacks]
            )
    took = time.perf_counter() - began
    for file, video in zip(files, videos, strict=True):
        if write_video([video], file, fps=pipeline.fps, scale=scale, began=began).stopped:
            raise KeyboardInterrupt
    from causvid.media import contact_sheet

    sheet = output.with_suffix(".png")
    partial = sheet.with_name(f".{sheet.name}.partial")
    contact_sheet(list(videos.numpy()), [f"seed {seed}" for seed in seeds], stills=STILLS).save(partial, "PNG")
    partial.replace(sheet)
    distance, measure = difference(videos, pipeline.bundle.classifier)
    print(
        f"{files[0]} to {files[-1].name}, {sheet.name}: {count} videos of {videos.shape[1]} frames in {took:.1f} s · "
        f"difference {distance:.3f} ({measure})"
    )


def _video(playback: "Playback", advance: Callable[[int, int], None]) -> "Tensor":
    """Make all of a video, uint8 `[T, H, W, 3]`, showing after every chunk how many frames there are, and will be."""
    import torch

    chunks = []
    for frames in playback:
        chunks.append(frames)
        advance(playback.frames, playback.length)
    return torch.cat(chunks)


def _is_plain(timeline: "Timeline") -> bool:
    """Say whether it is a prompt and nothing else, which can be made as one batch."""
    own = timeline.shots[0].image is None and timeline.policy == "window"
    return own and all(getattr(timeline, name) is None for name in ("height", "width", "window", "sink"))
