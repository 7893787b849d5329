"""A picture or animation read as a video: PNG, JPEG, WebP and the like, by the code that reads pictures."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Self

from PIL import Image

from causvid.media.image import BYTES, identify, picture_errors, upright
from causvid.opening import open_regular

_STREAMS = (".mjpeg", ".mjpg")
"""Names of files that hold JPEG pictures one after another, which is a video."""


@dataclass
class Picture:
    """An open picture, with what a `Clip` has."""

    source: str | Path
    opened: Image.Image
    frame_seconds: Fraction = Fraction(1, 25)
    seconds: Fraction | None = None
    rate: Fraction | None = None

    @classmethod
    @contextmanager
    def open(cls, source: str | Path) -> Iterator[Self]:
        """Open a file that `is_picture`; errors are those of `read_image`."""
        with open_regular(source, most=BYTES) as file, picture_errors(source):
            yield cls(source, identify(file))

    @property
    def count(self) -> int | None:
        """Return how many frames there are."""
        return getattr(self.opened, "n_frames", 1)

    def seek_end(self, seconds: Fraction) -> Fraction | None:
        """Return None: it is read from its beginning."""
        return None

    def seek(self, timestamp: Fraction) -> bool:
        """Return False: it is read from its beginning."""
        return False

    def frames(self, *, keyed: bool = False) -> Iterator[tuple[Fraction | None, Fraction | None, Image.Image]]:
        """Yield (timestamp, duration, frame) in seconds, None where unknown; all are `keyed`."""
        start, number = Fraction(0), 0
        while True:
            try:
                self.opened.seek(number)
            except EOFError:
                return
            self.opened.load()
            stated = self.opened.info.get("duration")
            duration = Fraction(stated) / 1000 if isinstance(stated, int | float) and stated > 0 else None
            yield start, duration, upright(self.opened)
            start, number = start + (duration or self.frame_seconds), number + 1

    def image(self, frame: Image.Image, within: int | None = None) -> Image.Image:
        """Return a frame as it is."""
        return frame


def is_picture(source: str | Path) -> bool:
    """Return whether a file is a picture or an animation other than a GIF, which is read as other videos are."""
    path = Path(source)
    if path.suffix.lower() in _STREAMS or not path.is_file():
        return False
    try:
        with warnings.catch_warnings(), path.open("rb") as file:
            warnings.simplefilter("ignore")
            return identify(file).format != "GIF"
    except Image.DecompressionBombError:
        return True
    except Exception:  # whatever a damaged file makes Pillow's readers raise: it is none of theirs
        return False
