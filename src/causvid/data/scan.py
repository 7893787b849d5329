"""Look through a video frame by frame, and decode clips of it.

Runs in processes of its own, which import neither torch nor a model; a long video is looked through in parts, by
several of them. Memory does not grow with its length. Letters: T frames, H height, W width.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from causvid.media import BrokenClock, probe, read_video

ROWS, COLUMNS = 64, 96
"""The size at which a video is looked through."""
HASH = 8
PART = 120
"""Seconds of a part."""
MOST_PARTS = 1000
SKIP = 2
"""Seconds between two clips that are decoded and dropped; for more, it is cheaper to seek."""


@dataclass(frozen=True)
class Look:
    """What the frames of a stretch of video look like, at the model's rate.

    height, width: of the video. steady: its timestamps say where a frame is, so that it can be sought. rest: how many
    parts come after this one. Of each frame, light: its mean, of 1; motion: mean absolute change of a pixel since the
    frame before, of 1; change: mean change of hue (of 180), saturation and value (of 255); mark: a perceptual hash.
    """

    height: int
    width: int
    steady: bool
    rest: int
    light: list[float]
    motion: list[float]
    change: list[float]
    mark: list[int]


def look_at_start(source: Path, *, fps: float) -> Look:
    """Look through the first part of a video; through all of it where timestamps are missing or do not rise.

    Raises:
        ValueError, OSError: if no frame can be read.
    """
    seen, length = probe(source), part_frames(fps)
    try:
        light, motion, change, mark = _measure(source, fps, 0, length, strict=True)
    except BrokenClock:
        return look_through(source, fps=fps)
    rest = 0
    if len(light) == length:
        parts = math.ceil((seen.seconds or 0) / PART)
        rest = min(max(1, parts - 1), MOST_PARTS)
    return Look(seen.height, seen.width, True, rest, light, motion, change, mark)


def look_at_part(source: Path, part: int, *, fps: float, last: bool) -> Look:
    """Look through a later part; the last reaches to the end, wherever that is.

    Raises:
        BrokenClock: if its timestamps do not rise.
    """
    first = part * part_frames(fps)
    measured = _measure(source, fps, first, None if last else first + part_frames(fps), strict=True)
    return Look(0, 0, True, 0, *measured)


def look_through(source: Path, *, fps: float) -> Look:
    """Look through a video in one go, whatever its timestamps are.

    Raises:
        ValueError, OSError: if no frame can be read.
    """
    seen = probe(source)
    return Look(seen.height, seen.width, False, 0, *_measure(source, fps, 0, None, strict=False))


def part_frames(fps: float) -> int:
    """Return how many frames a part has."""
    return max(1, round(PART * fps))


def decode(
    source: Path, starts: Sequence[int], *, fps: float, frames: int, height: int, width: int, steady: bool
) -> list[NDArray[np.uint8]]:
    """Return clips of a video, uint8 `[T, H, W, 3]`; `starts` rise and the clips do not overlap.

    steady: seek to a key frame before a clip; else read from the beginning.

    Raises:
        ValueError, OSError: if the video is shorter than it looked, or cannot be read any more.
    """
    clips, at, stream = [], 0, None
    for start in starts:
        if stream is None or (steady and start - at > SKIP * fps):
            stream = read_video(source, height=height, width=width, fps=fps, first=start, strict=steady)
            at = start
        clip = list(islice(stream, start - at, start - at + frames))
        at = start + frames
        if len(clip) < frames:
            raise ValueError(f"frames {at - frames} to {at - 1} of {source} cannot be decoded")
        clips.append(np.stack(clip))
    return clips


def perceptual_hash(frame: NDArray[np.uint8]) -> int:
    """Return whether each cell of a coarse grey picture is brighter than its right neighbour, as bits (dHash)."""
    grey = Image.fromarray(frame).convert("L").resize((HASH + 1, HASH), Image.Resampling.BOX)
    cells = np.asarray(grey, dtype=np.int16)
    bits = (cells[:, 1:] > cells[:, :-1]).flatten()
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def _measure(
    source: Path, fps: float, first: int, stop: int | None, *, strict: bool
) -> tuple[list[float], list[float], list[float], list[int]]:
    """Return light, motion, change and hash of the frames from `first` to before `stop`."""
    begin = max(0, first - 1)  # the one before the first is what it is compared with
    options: dict[str, Any] = {"height": ROWS, "width": COLUMNS, "fps": fps, "fit": "stretch"}
    frames = read_video(source, **options, first=begin, strict=strict, rough=True)
    light, motion, change, mark = list[float](), list[float](), list[float](), list[int]()
    before = None
    for number, frame in enumerate(islice(frames, None if stop is None else stop - begin), begin):
        pixels, hsv = frame.astype(np.int16), np.asarray(Image.fromarray(frame).convert("HSV"), np.int16)
        if number >= first:
            light.append(round(float(pixels.mean()) / 255, 5))
            motion.append(0.0 if before is None else round(float(np.abs(pixels - before[0]).mean()) / 255, 6))
            change.append(0.0 if before is None else round(_colour_change(hsv, before[1]), 3))
            mark.append(perceptual_hash(frame))
        before = pixels, hsv
    return light, motion, change, mark


def _colour_change(a: NDArray[np.int16], b: NDArray[np.int16]) -> float:
    """Return by how much two frames in HSV differ, as PySceneDetect's content detector measures it."""
    change = np.abs(a - b).astype(np.float32)
    change[..., 0] = np.minimum(change[..., 0], 256 - change[..., 0]) * 180 / 256
    return float(change.mean())
