"""Write videos in the format of their suffix; nothing half-written ever has the final name.

Letters: T frames, H height, W width.
"""

import errno
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, BinaryIO, Self

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image

from causvid.media.encoder import Encoder
from causvid.staging import ENCODED, check_target, numbered, staging

if TYPE_CHECKING:
    from torch import Tensor

LONGEST_SIDE = 2**14
"""Most pixels of a side that every codec here takes."""
_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class VideoWriter:
    """Encode frames as they arrive; the complete file appears under its name when the `with` block ends.

    On KeyboardInterrupt the file has the frames so far; on any other error nothing is left behind.

    target: a path, or a file object, which gets fragmented MP4 as frames arrive, for a player that begins at once.
    fps: frames a second. height, width: pixels of the frames to `write`. scale: integer enlargement for display.

    Raises:
        ValueError: if a value is out of range. OSError: if the file cannot be written, as `check_target` says.
    """

    def __init__(
        self,
        target: str | Path | BinaryIO,
        *,
        fps: float,
        height: int,
        width: int,
        scale: int = 1,
    ) -> None:
        if isinstance(fps, bool) or not isinstance(fps, int | float) or not 0 < fps < math.inf:
            raise ValueError(f"fps={fps!r} is not positive")
        for name, value in (("height", height), ("width", width), ("scale", scale)):
            if isinstance(value, bool) or not isinstance(value, int) or value <= 0:
                raise ValueError(f"{name}={value!r} is not positive: expected a whole number")
        if max(height, width) * scale > LONGEST_SIDE:
            raise ValueError(f"{width * scale} x {height * scale} pixels: expected at most {LONGEST_SIDE} a side")
        self.frames = 0
        self._shape = (height, width, 3)
        self._size = (width * scale, height * scale)
        self._rate = Fraction(fps).limit_denominator(1001)
        self._hidden = ExitStack()
        self._sink: Encoder | _Gif | _FrameFiles | None = None
        self._partial = Path()
        if isinstance(target, str | Path):
            self._target: Path | BinaryIO = check_target(target).resolve()
            self._suffix = "" if self._target.is_dir() else self._target.suffix.lower()
        else:
            self._target, self._suffix = target, ".mp4"

    def __enter__(self) -> Self:
        with self._naming_target():
            if not isinstance(self._target, Path):
                self._sink = Encoder(self._target, self._suffix, self._rate, self._size)
                return self
            try:
                self._partial = self._hidden.enter_context(staging(self._target.parent)) / f"new{self._suffix}"
                self._sink = self._open(self._partial)
            except BaseException:
                self._hidden.close()
                raise
        return self

    def describe(self, metadata: Mapping[str, str]) -> None:
        """Put a title, a comment and the like into a video file; before the first frame."""
        if isinstance(self._sink, Encoder):
            self._sink.describe(metadata)

    def _open(self, partial: Path) -> "Encoder | _Gif | _FrameFiles":
        if self._suffix in ENCODED:
            return Encoder(partial, self._suffix, self._rate, self._size)
        return _Gif(partial, self._rate) if self._suffix == ".gif" else _FrameFiles(partial)

    def write(self, frames: ArrayLike) -> None:
        """Append frames, uint8 [T, H, W, 3]."""
        assert self._sink is not None, "write() belongs inside the `with` block"
        array = np.asarray(frames)
        if array.ndim != 4 or array.shape[1:] != self._shape or array.dtype != np.uint8:
            expected = ", ".join(map(str, self._shape))
            raise ValueError(f"frames are {array.dtype} {list(array.shape)}: expected uint8 [T, {expected}]")
        with self._naming_target():
            for pixels in array:
                image = Image.fromarray(pixels)
                if image.size != self._size:
                    image = image.resize(self._size, Image.Resampling.LANCZOS)
                self._sink.add(image)
                self.frames += 1

    def keep_sound(self, video: str | Path) -> None:
        """Write a video's sound beside the frames, as far as both go; to be called first. GIF and PNG have none."""
        if isinstance(self._sink, Encoder):
            with self._naming_target():
                self._sink.keep_sound(video)

    def end_sound(self) -> None:
        """Let the frames that follow be silent."""
        if isinstance(self._sink, Encoder):
            self._sink.end_sound()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        finish = self.frames > 0 and (kind is None or issubclass(kind, KeyboardInterrupt))
        with self._hidden:
            assert self._sink is not None
            if finish:
                with self._naming_target():
                    self._sink.finish()
                    self._publish()
            else:
                self._sink.abandon()
        if kind is None and not finish:
            raise ValueError(f"no frames were written to {self._target}")

    def _publish(self) -> None:
        if not isinstance(self._target, Path):
            return
        if self._suffix != ".png":
            os.replace(self._partial, self._target)
            return
        for file in sorted(self._partial.iterdir()):
            os.replace(file, self._target.with_name(numbered(self._target, file.stem)))

    @contextmanager
    def _naming_target(self) -> Iterator[None]:
        import av

        try:
            yield
        except (OSError, av.error.FFmpegError) as error:
            reason = "no space left" if error.errno in _SPACE else error.strerror or str(error)
            raise OSError(error.errno, f"cannot write {self._target}: {reason}") from error


class _Gif:
    """A palette for each frame, chosen as it arrives; Pillow writes the file at the end, from all of them."""

    def __init__(self, partial: Path, rate: Fraction) -> None:
        self._partial, self._rate = partial, rate
        self._images: list[Image.Image] = []
        partial.touch()

    def add(self, image: Image.Image) -> None:
        self._images.append(image.quantize(256, dither=Image.Dither.NONE))

    def finish(self) -> None:
        # Frames last whole hundredths of a second: rounding their end times keeps the mean rate exact.
        ticks = [round(100 * i / self._rate) for i in range(len(self._images) + 1)]
        durations = [10 * (b - a) for a, b in pairwise(ticks)]
        first, *rest = self._images
        first.save(self._partial, "GIF", save_all=True, append_images=rest, duration=durations, loop=0)

    def abandon(self) -> None:
        self._images.clear()


class _FrameFiles:
    """A folder of 00000.png, 00001.png, …"""

    def __init__(self, partial: Path) -> None:
        partial.mkdir()
        self._partial, self._count = partial, 0

    def add(self, image: Image.Image) -> None:
        image.save(self._partial / f"{self._count:05d}.png")
        self._count += 1

    def finish(self) -> None: ...

    def abandon(self) -> None: ...


def quantised(pixels: "Tensor") -> "Tensor":
    """Convert pixels `[..., 3, H, W]` in [0, 1] to uint8 `[..., H, W, 3]` where they are."""
    import torch

    return (pixels.clamp(0, 1) * 255).round().to(torch.uint8).movedim(-3, -1).contiguous()


def to_bytes(pixels: "Tensor") -> "Tensor":
    """Convert pixels `[..., 3, H, W]` in [0, 1] to uint8 `[..., H, W, 3]` on the CPU."""
    import torch

    frames = quantised(pixels).cpu()
    # A tensor made in inference mode never allows in-place changes; one made of its memory outside does.
    with torch.inference_mode(False):
        return torch.from_numpy(frames.numpy())
