"""Read a video frame by frame, at any rate and size.

Letters: H height, W width.
"""

import re
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain
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
BACK = (1, 5, 30)
"""Seconds before the first frame to which a file is asked to seek, one after the other until it lands before it."""


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
    source: str | Path,
    *,
    height: int,
    width: int,
    fps: float,
    fit: Fit = "cover",
    last: float | None = None,
    first: int = 0,
    strict: bool = False,
    rough: bool = False,
) -> Iterator[NDArray[np.uint8]]:
    """Yield a video's frames, uint8 [H, W, 3], upright and over black where transparent, as they are decoded.

    Frame k is the one whose timestamp is nearest to k / `fps` seconds after the first, the earlier of two equally near.

    source: a file; a folder of images, one a frame at `fps`, in the order of the numbers in their names; or a camera:
    "webcam", "webcam:1", "/dev/video1". fit: see `fit_frame`. last: yield only so many seconds at the end. first: the
    number of the first frame to yield. strict: raise `BrokenClock` where timestamps do not say where a frame is, and
    find `first` by seeking, without decoding all that is before. rough: reduce large frames quickly, to look at them.

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
    if first < 0 or (first and last is not None):
        raise ValueError(f"first={first}, last={last}: expected one of them, and 0 or more")
    rate = Fraction(fps).limit_denominator(1001)
    count = None if last is None else max(1, floor(Fraction(last) * rate + Fraction(1, 2)))

    def fitted(image: Image.Image) -> NDArray[np.uint8]:
        return fit_image(image, height, width, fit)

    def read(clip: Any, timed: Iterable[tuple[Fraction, Fraction, Any]]) -> Iterator[NDArray[np.uint8]]:
        for frame, times in resample(timed, rate, first=first):
            if times:
                pixels = fitted(clip.image(frame, within=2 * min(height, width) if rough else None))
                yield from (pixels.copy() for _ in range(times))

    def whole() -> Iterator[NDArray[np.uint8]]:
        if strict and first:
            with _open(source) as clip:
                later = _timed_from(clip, first / rate)
                if later is not None:
                    yield from read(clip, later)
                    return
        with _open(source) as clip:
            yield from read(clip, repair_times(clip.frames(), default=clip.frame_seconds, strict=strict))

    def end() -> Iterator[NDArray[np.uint8]]:
        assert count is not None
        tail: deque[NDArray[np.uint8]] = deque(maxlen=count)
        with suppress(ValueError), _open(source) as clip:
            origin = clip.seek_end(Fraction(last or 0) + MARGIN)
            if origin is not None:
                # Frames before those that are kept are decoded, but not converted; two more than needed, for rounding.
                begin = clip.seconds - (count + 2) / rate
                timed = repair_times(clip.frames(), default=clip.frame_seconds, origin=origin)
                tail.extend(read(clip, (item for item in timed if item[0] >= begin)))
        # Where the header is wrong about the end, or key frames are missing, only reading all of it is right.
        yield from tail if len(tail) == count else deque(whole(), maxlen=count)

    if _is_folder(source):
        files = _frame_files(Path(source))
        return (fitted(open_image(file)) for file in files[first:][-(count or len(files)) :])
    return whole() if last is None else end()


def _timed_from(clip: Any, begin: Fraction) -> Iterator[tuple[Fraction, Fraction, Any]] | None:
    """Yield timed frames from a key frame before second `begin` on, as if read from the beginning; None if it cannot.

    Timestamps must rise. A file may land after the frame it was asked for, so the first frame is looked at.
    """
    origin, _, _ = next(clip.frames())
    for back in BACK if origin is not None else ():
        if begin <= back or not clip.seek(origin + begin - back):
            break
        timed = repair_times(clip.frames(keyed=True), default=clip.frame_seconds, origin=origin, strict=True)
        with suppress(ValueError):  # no frame after that place, or one before the first
            early = next(timed)
            if early[0] <= begin - Fraction(back, 2):
                return chain([early], timed)
    return None


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
