"""Several videos of one prompt, and how different they are."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from causvid.cli.options import stages
from causvid.cli.output import note_unknown_words, write_video
from causvid.media import contact_sheet

if TYPE_CHECKING:
    from torch import Tensor

    from causvid.pipeline import Pipeline
    from causvid.timeline import Playback, Timeline

STILLS = 6
"""Frames of each video in the contact sheet."""


def variation_files(output: Path, count: int, seed: int) -> list[Path]:
    """Return the files of the variations; raise an error if their names, or their seeds, cannot be."""
    if output.suffix.lower() in ("", ".png"):
        raise ValueError(f"output {output}: variations are files such as .mp4, with a contact sheet in .png")
    if output.with_suffix(".png").is_dir():
        raise ValueError(f"the contact sheet {output.with_suffix('.png')} is a folder: choose another name")
    if not 0 <= seed <= 2**63 - count:
        raise ValueError(f"seed={seed} is not from 0 to 2^63 - {count}")
    return [output.with_name(f"{output.stem}-{number}{output.suffix}") for number in range(count)]


def make_variations(pipeline: "Pipeline", timeline: "Timeline", output: Path, count: int, *, scale: int | None) -> None:
    """Make the video with `count` seeds, side by side where that can be, and say how different the videos are."""
    import torch

    from causvid.evaluate.diversity import difference

    files, seeds = variation_files(output, count, timeline.seed), range(timeline.seed, timeline.seed + count)
    note_unknown_words(pipeline, [timeline.shots[0].prompt])
    began = time.perf_counter()
    with stages() as stage:
        if _is_plain(timeline):
            prompts, told = [timeline.shots[0].prompt] * count, stage(f"frames of {count} videos")
            videos = pipeline.generate_batch(
                prompts, seeds=seeds, seconds=timeline.seconds, steps=timeline.steps, progress=told
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
    sheet = output.with_suffix(".png")
    partial = sheet.with_name(f".{sheet.name}.partial")
    contact_sheet(list(videos.numpy()), [f"seed {seed}" for seed in seeds], stills=STILLS).save(partial, "PNG")
    partial.replace(sheet)
    distance, measure = difference(videos, pipeline.bundle.classifier)
    print(
        f"{files[0]} to {files[-1].name}, {sheet.name}: {count} videos of {videos.shape[1]} frames in {took:.1f} s · "
        f"difference {distance:.3f} ({measure})"
    )


def _video(playback: "Playback", told: Callable[[int, int], None]) -> "Tensor":
    """Make all of a video, uint8 `[T, H, W, 3]`, telling after every chunk how many frames there are, and will be."""
    import torch

    chunks = []
    for frames in playback:
        chunks.append(frames)
        told(playback.frames, playback.length)
    return torch.cat(chunks)


def _is_plain(timeline: "Timeline") -> bool:
    """Say whether it is a prompt and nothing else, which can be made as one batch."""
    own = timeline.shots[0].image is None and timeline.policy == "window"
    return own and all(getattr(timeline, name) is None for name in ("height", "width", "window", "sink"))
