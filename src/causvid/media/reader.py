"""Read video frame by frame, at the rate and size asked for, whatever the file's own.

Letters: H height, W width.
"""

import re
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from math import floor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from causvid.media.clip import Clip, camera
from causvid.media.clock import begins, repeats
from causvid.media.image import Colour, Fit, check_fit, fit_frame, open_image

FRAME_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
LONGEST_END = 3600
"""Seconds of an end that may be asked for: its frames are held in memory."""
MARGIN = 1
"""Seconds more that are decoded before an end: frames that follow a jump may be incomplete."""


@dataclass(frozen=True)
class Probe:
    """What a video says of itself. None: unknown.

    height, width: pixels of the first frame as it is shown. frames: how many. seconds: running time. fps: mean rate.
    """

    height: int
    width: int
    frames: int | None = None
    seconds: float | None = None
    fps: float | None = None


def probe(source: str | Path) -> Probe:
    """Look at a video's header and first frame; `source` and errors are those of `read_video`."""
    if _is_folder(source):
        files = _frame_files(Path(source))
        width, height = open_image(files[0], (0, 0, 0)).size
        return Probe(height, width, frames=len(files))
    with Clip.opened(source) as clip:
        width, height = clip.picture(next(clip.frames()), (0, 0, 0)).size
        seconds, rate = clip.seconds, clip.stream.average_rate
        return Probe(
            height,
            width,
            frames=clip.stream.frames or None,
            seconds=None if seconds is None else float(seconds),
            fps=float(rate) if rate else None,
        )


def read_video(
    source: str | Path,
    *,
    height: int,
    width: int,
    fps: float,
    fit: Fit = "cover",
    colour: Colour = (0, 0, 0),
    last: float | None = None,
) -> Iterator[NDArray[np.uint8]]:
    """Yield a video's frames, uint8 [H, W, 3], upright and without transparency, as they are decoded.

    Frame k is the one whose timestamp is nearest to k / `fps` seconds after the first; the earlier of two as near.

    source: a file; a folder of pictures, one a frame at `fps`, in the order of the numbers in their names; or a
    camera: "webcam", "webcam:1", "/dev/video1". fit: see `fit_frame`. colour: what pads a frame and shines through it.
    last: seconds of the end to yield instead of the whole.

    Where a file is damaged, what can be decoded is yielded and the rest logged as a warning. Raises ValueError for a
    wrong option at once; for a file without a frame that can be decoded when the first frame is asked for, and OSError
    then for what cannot be opened.
    """
    check_fit(height, width, fit, colour)
    if not 0.01 <= fps <= 1000:
        raise ValueError(f"fps={fps}: expected 0.01 to 1000 frames a second")
    if last is not None and not 0 < last <= LONGEST_END:
        raise ValueError(f"last={last}: expected seconds, more than 0 and at most {LONGEST_END}")
    if last is not None and camera(source):
        raise ValueError(f"last={last}: {source} is a camera, which has no end")
    rate = Fraction(fps).limit_denominator(1001)
    count = None if last is None else max(1, floor(Fraction(last) * rate + Fraction(1, 2)))

    def fitted(image: Image.Image) -> NDArray[np.uint8]:
        return fit_frame(np.asarray(image), height, width, fit, colour)

    def read(clip: Clip, origin: Fraction | None = None) -> Iterator[NDArray[np.uint8]]:
        for frame, times in repeats(begins(clip.stamped(), usual=clip.usual, origin=origin), rate):
            if times:
                pixels = fitted(clip.picture(frame, colour))
                yield from (pixels.copy() for _ in range(times))

    def whole() -> Iterator[NDArray[np.uint8]]:
        with Clip.opened(source) as clip:
            yield from read(clip)

    def end() -> Iterator[NDArray[np.uint8]]:
        tail: deque[NDArray[np.uint8]] = deque(maxlen=count)
        with suppress(ValueError), Clip.opened(source) as clip:
            origin = clip.seek_end(Fraction(last or 0) + MARGIN)
            if origin is not None:
                tail.extend(read(clip, origin))
        # Where the header is wrong about the end, or key frames are missing, only reading it all is right.
        yield from tail if len(tail) == count else deque(whole(), maxlen=count)

    if _is_folder(source):
        files = _frame_files(Path(source))
        return (fitted(open_image(file, colour)) for file in files[-(count or len(files)) :])
    return whole() if last is None else end()


def _is_folder(source: str | Path) -> bool:
    return camera(source) is None and Path(source).is_dir()


def _frame_files(folder: Path) -> list[Path]:
    """Return the pictures of a folder by the numbers in their names: 9.png before 10.png."""

    def order(file: Path) -> list[str | int]:
        return [int(part) if part.isascii() and part.isdigit() else part for part in re.split("([0-9]+)", file.name)]

    files = [file for file in folder.iterdir() if file.suffix.lower() in FRAME_SUFFIXES and file.name[0] != "."]
    if not files:
        raise ValueError(f"the folder {folder} holds no frames: expected {', '.join(FRAME_SUFFIXES)}")
    return sorted(files, key=order)
