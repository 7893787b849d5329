"""Read a video frame by frame, at any rate and size.

Letters: H height, W width.
"""

import re
from collections import deque
from collections.abc import Iterator
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from fractions import Fraction
from math import floor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from causvid.media.clip import Clip, camera
from causvid.media.clock import repair_times, resample
from causvid.media.image import Fit, check_fit, fit_image, open_image
from causvid.media.picture import Picture, is_picture

FRAME_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
LONGEST_END = 3600
"""Most seconds for `last`: its frames are held in memory."""
MARGIN = 1
"""Seconds decoded before `last` and dropped: frames just after a seek may be incomplete."""


@dataclass(frozen=True)
class Probe:
    """What a video states about itself; None where unknown.

    height, width: pixels of the first frame as shown. frames: how many. seconds: duration. fps: mean rate.
    """

    height: int
    width: int
    frames: int | None = None
    seconds: float | None = None
    fps: float | None = None


def probe(source: str | Path) -> Probe:
    """Read a video's header and first frame; `source` and errors are those of `read_video`."""
    if _is_folder(source):
        files = _frame_files(Path(source))
        width, height = open_image(files[0]).size
        return Probe(height, width, frames=len(files))
    with _open(source) as clip:
        _, _, frame = next(clip.frames())
        width, height = clip.image(frame).size
        seconds, rate = clip.seconds, clip.rate
        return Probe(
            height,
            width,
            frames=clip.count,
            seconds=None if seconds is None else float(seconds),
            fps=float(rate) if rate else None,
        )


def read_video(
    source: str | Path, *, height: int, width: int, fps: float, fit: Fit = "cover", last: float | None = None
) -> Iterator[NDArray[np.uint8]]:
    """Yield a video's frames, uint8 [H, W, 3], upright and over black where transparent, as they are decoded.

    Frame k is the one whose timestamp is nearest to k / `fps` seconds after the first, the earlier of two equally near.

    source: a file; a folder of images, one a frame at `fps`, in the order of the numbers in their names; or a camera:
    "webcam", "webcam:1", "/dev/video1". fit: see `fit_frame`. last: yield only so many seconds at the end.

    Of a damaged file, what can be decoded is yielded and a warning logged. Raises ValueError for an invalid option at
    once; ValueError for a file without a decodable frame, and OSError for a source that cannot be opened, with the
    first frame.
    """
    check_fit(height, width, fit)
    if not 0.01 <= fps <= 1000:
        raise ValueError(f"fps={fps}: expected 0.01 to 1000 frames a second")
    if last is not None and not 0 < last <= LONGEST_END:
        raise ValueError(f"last={last}: expected seconds, more than 0 and at most {LONGEST_END}")
    if last is not None and camera(source):
        raise ValueError(f"last={last}: {source} is a camera, which has no end")
    rate = Fraction(fps).limit_denominator(1001)
    count = None if last is None else max(1, floor(Fraction(last) * rate + Fraction(1, 2)))

    def fitted(image: Image.Image) -> NDArray[np.uint8]:
        return fit_image(image, height, width, fit)

    def read(clip: Any, origin: Fraction | None = None, begin: Fraction = Fraction(0)) -> Iterator[NDArray[np.uint8]]:
        timed = repair_times(clip.frames(), default=clip.frame_seconds, origin=origin)
        for frame, times in resample((item for item in timed if item[0] >= begin), rate):
            if times:
                pixels = fitted(clip.image(frame))
                yield from (pixels.copy() for _ in range(times))

    def whole() -> Iterator[NDArray[np.uint8]]:
        with _open(source) as clip:
            yield from read(clip)

    def end() -> Iterator[NDArray[np.uint8]]:
        assert count is not None
        tail: deque[NDArray[np.uint8]] = deque(maxlen=count)
        with suppress(ValueError), _open(source) as clip:
            origin = clip.seek_end(Fraction(last or 0) + MARGIN)
            if origin is not None:
                # Frames before those that are kept are decoded, but not converted; two more than needed, for rounding.
                tail.extend(read(clip, origin, begin=clip.seconds - (count + 2) / rate))
        # Where the header is wrong about the end, or key frames are missing, only reading all of it is right.
        yield from tail if len(tail) == count else deque(whole(), maxlen=count)

    if _is_folder(source):
        files = _frame_files(Path(source))
        return (fitted(open_image(file)) for file in files[-(count or len(files)) :])
    return whole() if last is None else end()


def _open(source: str | Path) -> AbstractContextManager[Any]:
    picture = camera(source) is None and is_picture(source)
    return Picture.open(source) if picture else Clip.open(source)


def _is_folder(source: str | Path) -> bool:
    return camera(source) is None and Path(source).is_dir()


def _frame_files(folder: Path) -> list[Path]:
    """List the images of a folder by the numbers in their names: 9.png before 10.png."""

    def order(file: Path) -> list[str | int]:
        return [int(part) if part.isascii() and part.isdigit() else part for part in re.split("([0-9]+)", file.name)]

    files = [file for file in folder.iterdir() if file.suffix.lower() in FRAME_SUFFIXES and file.name[0] != "."]
    if not files:
        raise ValueError(f"the folder {folder} has no frames: expected {', '.join(FRAME_SUFFIXES)}")
    return sorted(files, key=order)
