"""Write videos in the format of their suffix; nothing half-written ever has the final name.

Letters: T frames, H height, W width.
"""

import errno
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image

if TYPE_CHECKING:
    from torch import Tensor

SUFFIXES = (".mp4", ".webm", ".mkv", ".gif", ".png")
_KNOWN = f"{', '.join(SUFFIXES)}, or a folder for numbered PNG frames"
_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def check_target(path: str | Path) -> Path:
    """Return `path` if a video can be written there; touch nothing.

    A name without a suffix, or an existing folder, means a folder of PNG frames; it must be new or empty.

    Raises ValueError for an unknown suffix, FileNotFoundError for a missing parent folder, PermissionError for one
    that is not writable, FileExistsError for an existing file or folder that must not be replaced.
    """
    path = Path(path)
    folder = path.is_dir() or not path.suffix
    if not folder and path.suffix.lower() not in SUFFIXES:
        raise ValueError(f"output {path} has unknown suffix {path.suffix!r}: expected {_KNOWN}")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"the folder of the output does not exist: {path.parent}")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise PermissionError(f"no permission to write in the folder {path.parent}")
    if path.is_dir():
        if path.suffix.lower() in SUFFIXES:
            raise FileExistsError(f"output {path} is a folder: expected the name of a file")
        if any(path.iterdir()):
            raise FileExistsError(f"the folder {path} is not empty: choose a new one for the frames")
    elif folder and path.exists():
        raise FileExistsError(f"output {path} is a file without a suffix: expected {_KNOWN}")
    elif path.suffix.lower() == ".png" and next(path.parent.glob(_numbered(path, "[0-9]*")), None):
        raise FileExistsError(
            f"frames named {_numbered(path, '…')} exist already in {path.parent}: choose another name"
        )
    return path


class VideoWriter:
    """Encode frames as they arrive; the complete file appears under its name when the `with` block ends.

    On KeyboardInterrupt the file has the frames so far; on any other error nothing is left behind.

    fps: frames a second. height, width: pixels of the frames to `write`. scale: integer enlargement for display.
    """

    def __init__(self, path: str | Path, *, fps: float, height: int, width: int, scale: int = 1) -> None:
        for name, value in (("fps", fps), ("height", height), ("width", width), ("scale", scale)):
            if value <= 0:
                raise ValueError(f"{name}={value} is not positive")
        self.path = check_target(path)
        self.frames = 0
        self._shape = (height, width, 3)
        self._size = (width * scale, height * scale)
        self._rate = Fraction(fps).limit_denominator(1001)
        suffix = "" if self.path.is_dir() else self.path.suffix.lower()
        self._partial = self.path.with_name(f".{self.path.name}.{os.getpid()}.partial")
        self._kind = _FrameFiles if suffix in ("", ".png") else _Gif if suffix == ".gif" else _Video
        self._sink: _Video | _Gif | _FrameFiles | None = None

    def __enter__(self) -> Self:
        with self._naming_target():
            self._sink = self._kind(self._partial, self.path.suffix.lower(), self._rate, self._size)
        return self

    def describe(self, metadata: Mapping[str, str]) -> None:
        """Put a title, a comment and the like into a video file; before the first frame."""
        if isinstance(self._sink, _Video):
            self._sink.describe(metadata)

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

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        finish = self.frames > 0 and (kind is None or issubclass(kind, KeyboardInterrupt))
        try:
            assert self._sink is not None
            if finish:
                with self._naming_target():
                    self._sink.finish()
                    self._publish()
            else:
                self._sink.abandon()
        finally:
            if self._partial.is_dir():
                shutil.rmtree(self._partial, ignore_errors=True)
            else:
                self._partial.unlink(missing_ok=True)
        if kind is None and not finish:
            raise ValueError(f"no frames were written to {self.path}")

    def _publish(self) -> None:
        if self.path.suffix.lower() != ".png":
            os.replace(self._partial, self.path)
            return
        for file in sorted(self._partial.iterdir()):
            os.replace(file, self.path.with_name(_numbered(self.path, file.stem)))

    @contextmanager
    def _naming_target(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            reason = "no space left" if error.errno in _SPACE else error.strerror or str(error)
            raise OSError(error.errno, f"cannot write {self.path}: {reason}") from error


class _Video:
    """mp4, webm and lossless mkv through PyAV."""

    def __init__(self, partial: Path, suffix: str, rate: Fraction, size: tuple[int, int]) -> None:
        import av

        # Created here first, because the operating system's error is clearer than the muxer's.
        partial.touch()
        # bitexact omits random identifiers and dates: the same frames make the same file.
        muxer = "matroska" if suffix == ".mkv" else suffix[1:]
        self._container = av.open(str(partial), "w", format=muxer, options={"fflags": "+bitexact"})
        codec, pixels, options = _codec(suffix)
        stream = self._container.add_stream(codec, rate=rate, options=options)
        assert isinstance(stream, av.VideoStream)
        # yuv420p allows no odd sides: their last row and column are repeated.
        right, below = (side % 2 if pixels == "yuv420p" else 0 for side in size)
        self._padding = ((0, below), (0, right), (0, 0))
        stream.width, stream.height = size[0] + right, size[1] + below
        stream.pix_fmt = pixels
        stream.time_base = stream.codec_context.time_base = 1 / rate
        self._stream = stream
        self._count = 0

    def describe(self, metadata: Mapping[str, str]) -> None:
        self._container.metadata.update(metadata)

    def add(self, image: Image.Image) -> None:
        import av

        frame = av.VideoFrame.from_ndarray(np.pad(np.asarray(image), self._padding, mode="edge"), format="rgb24")
        frame.pts = self._count
        self._count += 1
        self._container.mux(self._stream.encode(frame))

    def finish(self) -> None:
        self._container.mux(self._stream.encode())
        self._container.close()

    def abandon(self) -> None:
        with suppress(OSError):  # the file is removed anyway
            self._container.close()


def _codec(suffix: str) -> tuple[str, str, dict[str, str]]:
    """Return the name, the pixel format and the options of a suffix's encoder."""
    import av

    if suffix == ".mkv":
        return "ffv1", "bgr0", {"level": "3"}
    if suffix == ".webm":
        return "libvpx-vp9", "yuv420p", {"crf": "24", "b": "0", "deadline": "realtime", "cpu-used": "5"}
    if "libx264" in av.codecs_available:
        return "libx264", "yuv420p", {"crf": "17", "preset": "veryfast"}
    return "mpeg4", "yuv420p", {"q:v": "3"}


class _Gif:
    """A palette for each frame, chosen as it arrives; Pillow writes the file at the end, from all of them."""

    def __init__(self, partial: Path, suffix: str, rate: Fraction, size: tuple[int, int]) -> None:
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

    def __init__(self, partial: Path, suffix: str, rate: Fraction, size: tuple[int, int]) -> None:
        partial.mkdir()
        self._partial, self._count = partial, 0

    def add(self, image: Image.Image) -> None:
        image.save(self._partial / f"{self._count:05d}.png")
        self._count += 1

    def finish(self) -> None: ...

    def abandon(self) -> None: ...


def _numbered(path: Path, number: str) -> str:
    return f"{path.stem}-{number}{path.suffix}"


def to_bytes(pixels: "Tensor") -> "Tensor":
    """Convert pixels `[..., 3, H, W]` in [0, 1] to uint8 `[..., H, W, 3]` on the CPU."""
    import torch

    frames = (pixels.clamp(0, 1) * 255).round().to(torch.uint8).movedim(-3, -1).contiguous().cpu()
    # A tensor made in inference mode never allows in-place changes; one made of its memory outside does.
    with torch.inference_mode(False):
        return torch.from_numpy(frames.numpy())
