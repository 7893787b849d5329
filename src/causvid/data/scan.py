"""Look through a video for clips to train on: scene cuts, brightness, motion, perceptual hashes.

Runs in processes of its own, which import neither torch nor a model. Letters: T frames, H height, W width.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from causvid.media import probe, read_video

CUT = 27.0
"""Mean change of hue (of 180), saturation and value (of 255) at which a scene begins."""
LOOK = (64, 96)
"""Rows and columns that a video is looked through at."""
HASH = 8
MARKS = 3
"""Frames of a clip that are hashed: the first, the middle and the last."""


@dataclass(frozen=True)
class Piece:
    """A stretch of frames within one scene.

    start: its first frame, at the model's rate. light: mean of its brightest frame, of 1. motion: mean absolute change
    of a pixel from frame to frame, of 1. marks: perceptual hashes of `HASH` squared bits, of frames along it.
    """

    start: int
    light: float
    motion: float
    marks: tuple[int, ...]


@dataclass(frozen=True)
class Scan:
    """What a video holds: its size, how many frames at the model's rate, its scenes and the pieces of them."""

    height: int
    width: int
    frames: int
    scenes: int
    pieces: tuple[Piece, ...]

    @classmethod
    def read(cls, values: dict[str, Any]) -> "Scan":
        """Return a scan from what JSON made of it."""
        pieces = tuple(Piece(**{**piece, "marks": tuple(piece["marks"])}) for piece in values["pieces"])
        return cls(**{**values, "pieces": pieces})


def scan(source: Path, *, fps: float, frames: int, cuts: bool) -> Scan:
    """Look through a video at `fps`, and cut each of its scenes into pieces of `frames` frames.

    cuts: find scenes; else the whole video is one.

    Raises:
        ValueError, OSError: if no frame can be read.
    """
    size = probe(source)
    height, width = LOOK
    looked = list(read_video(source, height=height, width=width, fps=fps, fit="stretch"))
    bounds = [0, *(find_cuts(looked, fps) if cuts else ()), len(looked)]
    starts = [start for a, b in pairwise(bounds) for start in range(a, b - frames + 1, frames)]
    pieces = tuple(_describe(start, looked[start : start + frames]) for start in starts)
    return Scan(size.height, size.width, len(looked), len(bounds) - 1, pieces)


def find_cuts(frames: Sequence[NDArray[np.uint8]], fps: float) -> list[int]:
    """Return the frames, `[H, W, 3]`, at which a new scene begins, half a second or more apart.

    A scene begins where hue, saturation and value change by more than `CUT` on average, the measure and the threshold
    of PySceneDetect's content detector.
    """
    if not frames:
        return []
    seen = np.stack([np.asarray(Image.fromarray(frame).convert("HSV"), np.int16) for frame in frames])
    change = np.abs(np.diff(seen, axis=0)).astype(np.float32)
    change[..., 0] = np.minimum(change[..., 0], 256 - change[..., 0]) * 180 / 256
    cuts = [0]
    for number, value in enumerate(change.mean(axis=(1, 2, 3)), 1):
        if value > CUT and number - cuts[-1] >= max(1, round(fps / 2)):
            cuts.append(number)
    return cuts[1:]


def decode(
    source: Path, starts: Sequence[int], *, fps: float, frames: int, height: int, width: int
) -> list[NDArray[np.uint8]]:
    """Return pieces of a video, uint8 `[T, H, W, 3]`, in one pass; `starts` rise and the pieces do not overlap.

    Raises:
        ValueError, OSError: if the video is shorter than it was, or cannot be read any more.
    """
    stream, at, pieces = enumerate(read_video(source, height=height, width=width, fps=fps)), 0, []
    for start in starts:
        piece = [frame for _, frame in _until(stream, start + frames, at) if _ >= start]
        at = start + frames
        if len(piece) < frames:
            raise ValueError(f"{source} has changed while it was read: run the same command again")
        pieces.append(np.stack(piece))
    return pieces


def perceptual_hash(frame: NDArray[np.uint8]) -> int:
    """Return whether each cell of a coarse grey picture is brighter than its right neighbour, as bits (dHash)."""
    grey = Image.fromarray(frame).convert("L").resize((HASH + 1, HASH), Image.Resampling.BOX)
    cells = np.asarray(grey, dtype=np.int16)
    bits = (cells[:, 1:] > cells[:, :-1]).flatten()
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def distance(a: Sequence[int], b: Sequence[int]) -> int:
    """Return the mean number of bits in which the marks of two pieces differ, rounded up."""
    return math.ceil(sum((x ^ y).bit_count() for x, y in zip(a, b, strict=True)) / len(a))


def _until(stream: "enumerate[NDArray[np.uint8]]", stop: int, at: int) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """Yield what is left of a stream before frame `stop`, where frame `at` comes next."""
    for _ in range(stop - at):
        numbered = next(stream, None)
        if numbered is None:
            return
        yield numbered


def _describe(start: int, frames: Sequence[NDArray[np.uint8]]) -> Piece:
    video = np.stack(frames).astype(np.int16)
    light = float(video.mean(axis=(1, 2, 3)).max() / 255)
    motion = float(np.abs(np.diff(video, axis=0)).mean() / 255) if len(video) > 1 else 0.0
    places = np.linspace(0, len(frames) - 1, MARKS).round().astype(int)
    return Piece(start, round(light, 4), round(motion, 5), tuple(perceptual_hash(frames[n]) for n in places))
