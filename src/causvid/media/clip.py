"""An open video file or camera: decoded frames, timestamps, seeking to the end."""

import logging
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain, dropwhile
from math import floor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from PIL import Image

from causvid.media.clock import LONGEST_FRAME
from causvid.media.colour import is_wide, to_srgb
from causvid.media.deinterlace import Deinterlacer
from causvid.media.image import PIXELS, flatten
from causvid.opening import open_regular

if TYPE_CHECKING:
    from av import VideoCodecContext, VideoFrame, VideoStream
    from av.container import InputContainer
    from av.video.reformatter import VideoReformatter

HD_LINES = 720
"""Lines from which on a video that does not state its colours is of BT.709."""
_UNSPECIFIED, _BT709 = 2, 1

_log = logging.getLogger(__name__)


def camera(source: str | Path) -> str | None:
    """Return the device named by "webcam", "webcam:1" or "/dev/video1"; None for any other source."""
    match = re.fullmatch(r"webcam(?::([0-9]+))?|/dev/video([0-9]+)", str(source))
    return f"/dev/video{match[1] or match[2] or 0}" if match else None


@dataclass
class Clip:
    """The video of an open file or camera; `source` names it in errors."""

    source: str | Path
    container: "InputContainer"
    stream: "VideoStream"
    converter: "VideoReformatter"
    orientation: list[Image.Transpose] | None = None

    @classmethod
    @contextmanager
    def open(cls, source: str | Path) -> Iterator[Self]:
        """Open a file or camera and find its video stream. A file cannot refer to other files or to the network.

        Raises ValueError for a file without a video, OSError for a source that cannot be opened.
        """
        import av

        device = camera(source)
        with ExitStack() as stack:
            file = device or stack.enter_context(open_regular(source))
            kind, options = ("v4l2", {}) if device else (None, {"protocol_whitelist": "none"})
            try:
                container = av.open(file, "r", format=kind, options=options, metadata_errors="replace")
            except (av.error.FFmpegError, OSError, ValueError) as error:
                reason = getattr(error, "strerror", None) or error
                if device:
                    raise OSError(f"no camera can be opened at {device}: {reason}") from error
                raise ValueError(f"{source} is damaged or not a video: {reason}") from error
            stack.enter_context(container)
            yield cls(source, container, _video(source, container), av.video.reformatter.VideoReformatter())

    @property
    def seconds(self) -> Fraction | None:
        """Duration according to the header."""
        import av

        if self.stream.duration and self.stream.time_base:
            seconds = self.stream.duration * self.stream.time_base
        else:
            seconds = Fraction(self.container.duration or 0, av.time_base)
        return seconds if seconds > 0 else None

    @property
    def frame_seconds(self) -> Fraction:
        """Duration of a frame that does not state its own."""
        rate = self.stream.average_rate
        return 1 / rate if rate and 1 / rate <= LONGEST_FRAME else Fraction(1, 25)

    def seek_end(self, seconds: Fraction) -> Fraction | None:
        """Seek to a key frame at least `seconds` before the end; return the first frame's timestamp.

        None if the duration is unknown or not longer than that.
        """
        unit = self.stream.time_base
        if unit is None or self.stream.start_time is None or self.seconds is None or self.seconds <= seconds:
            return None
        start = self.stream.start_time * unit
        return start if self.seek(start + self.seconds - seconds) else None

    def seek(self, timestamp: Fraction) -> bool:
        """Seek to a key frame at or before a timestamp, so far as the file knows; return whether it can."""
        import av

        unit = self.stream.time_base
        if unit is None:
            return False
        try:
            self.container.seek(floor(timestamp / unit), stream=self.stream)
        except (av.error.FFmpegError, OSError):
            return False
        return True

    @property
    def count(self) -> int | None:
        """Return how many frames the header states."""
        return self.stream.frames or None

    @property
    def rate(self) -> Fraction | None:
        """Return the mean rate that the header states."""
        return self.stream.average_rate

    def frames(self, *, keyed: bool = False) -> Iterator[tuple[Fraction | None, Fraction | None, "VideoFrame"]]:
        """Yield (timestamp, duration, frame) in seconds, None where unknown, of what can be decoded.

        keyed: begin with a key frame; after seeking, frames before it lack what they are predicted from.

        Log a warning where some cannot; raise ValueError where none can.
        """
        import av

        packets, decoded, damaged, combed = self.container.demux(self.stream), 0, False, Deinterlacer()
        decoder = _with_alpha(self.stream)
        while True:
            try:
                packet = next(packets)
                frames = packet.decode() if decoder is None else decoder.decode(packet if packet.size else None)
            except StopIteration:
                break
            except (av.error.FFmpegError, OSError):
                damaged = True
                continue
            if keyed and frames:
                frames = list(dropwhile(lambda frame: not frame.key_frame, frames))
                keyed = not frames
            decoded += len(frames)
            for whole in chain.from_iterable(map(combed.give, frames)):
                yield *_times(whole), whole
        for whole in combed.end():
            yield *_times(whole), whole
        if not decoded:
            raise ValueError(f"{self.source} has no frame that can be decoded")
        if damaged:
            _log.warning("%s is damaged: %d frames could be decoded, others could not", self.source, decoded)

    def image(self, frame: "VideoFrame", within: int | None = None) -> Image.Image:
        """Convert a frame to what a player shows: RGB, upright, square pixels, over black where transparent.

        within: reduce it first, roughly, so that its shorter side has so many pixels: many times as fast.
        """
        _check_size(self.source, frame.width, frame.height)
        transparent = frame.format.has_palette or any(part.is_alpha for part in frame.format.components)
        wide = not transparent and is_wide(frame)
        scale = min(1.0, (within or PIXELS) / min(frame.width, frame.height))
        # One thread and one converter: starting them for every frame costs more than the conversion.
        rgb = self.converter.reformat(
            frame,
            max(1, round(frame.width * scale)),
            max(1, round(frame.height * scale)),
            interpolation="AREA" if scale < 1 else None,
            format="rgba" if transparent else "rgb48le" if wide else "rgb24",
            src_colorspace=self._matrix(frame),
            threads=1,
        )
        pixels: Any = rgb.to_ndarray()
        if wide:
            pixels = to_srgb(pixels, transfer=int(frame.color_trc), primaries=int(frame.color_primaries))
        image = Image.fromarray(pixels)
        aspect = self.stream.sample_aspect_ratio
        if aspect and aspect != 1 and 0.1 <= aspect <= 10 and image.width * aspect * image.height <= PIXELS:
            image = image.resize((max(1, round(image.width * aspect)), image.height), Image.Resampling.LANCZOS)
        if transparent:
            image = flatten(image)
        if self.orientation is None:  # once: reading its side data keeps a frame alive until garbage collection
            self.orientation = _orientation(frame)
        for transpose in self.orientation:
            image = image.transpose(transpose)
        return image

    def _matrix(self, frame: "VideoFrame") -> int | None:
        """Return the matrix of a frame that states none but has the lines of HD, where it is BT.709; None for its own.

        JPEG and WebP pictures are of BT.601's at every size.
        """
        untagged = int(frame.colorspace) == _UNSPECIFIED and frame.height >= HD_LINES
        return _BT709 if untagged and self.stream.codec_context.name not in ("mjpeg", "webp") else None


def _times(frame: "VideoFrame") -> tuple[Fraction | None, Fraction | None]:
    unit = frame.time_base
    timestamp = None if frame.pts is None or not unit else frame.pts * unit
    return timestamp, frame.duration * unit if unit else None


def _with_alpha(stream: "VideoStream") -> "VideoCodecContext | None":
    """Return a decoder that reads a WebM's transparency, which FFmpeg's own of VP8 and VP9 leave out."""
    import av

    name = {"vp8": "libvpx", "vp9": "libvpx-vp9"}.get(stream.codec_context.name)
    if name is None or stream.metadata.get("alpha_mode") != "1":
        return None
    try:
        decoder = av.CodecContext.create(name, "r")
    except (av.error.FFmpegError, ValueError):
        _log.warning("transparency of %s cannot be read: this FFmpeg lacks %s", stream.codec_context.name, name)
        return None
    assert isinstance(decoder, av.VideoCodecContext)
    return decoder


def _video(source: str | Path, container: "InputContainer") -> "VideoStream":
    import av

    stream = container.streams.best("video")
    # Cover art is not a video, nor is plain text, which FFmpeg would render as a terminal.
    if stream is None or stream.disposition & av.stream.Disposition.attached_pic or container.format.name == "tty":
        raise ValueError(f"{source} has no video")
    assert isinstance(stream, av.VideoStream)
    if stream.codec_context is None:
        raise ValueError(f"{source} has video of a codec that cannot be decoded")
    _check_size(source, stream.width, stream.height)
    stream.codec_context.options = {"max_pixels": str(PIXELS)}  # frames may be larger than the header says
    return stream


def _check_size(source: str | Path, width: int, height: int) -> None:
    if width * height > PIXELS:
        raise ValueError(f"{source} has {width} × {height} pixels: expected at most {PIXELS} in all")


def _orientation(frame: "VideoFrame") -> list[Image.Transpose]:
    """Return the transpositions a frame's display matrix asks for: x' = a x + c y, y' = b x + d y."""
    try:
        matrix: Any = frame.side_data.get("DISPLAYMATRIX")
    except ValueError:  # PyAV reads no side data of a frame that has a kind it does not know, such as EXIF
        turned = {90: Image.Transpose.ROTATE_90, 180: Image.Transpose.ROTATE_180, 270: Image.Transpose.ROTATE_270}
        angle = round(frame.rotation) % 360
        return [turned[angle]] if angle in turned else []
    if matrix is None:
        return []
    a, b, _, c, d = np.frombuffer(matrix, np.int32)[:5].astype(int)
    transposes = []
    if abs(b) + abs(c) > abs(a) + abs(d):
        transposes.append(Image.Transpose.TRANSPOSE)
        a, d = c, b
    if a < 0:
        transposes.append(Image.Transpose.FLIP_LEFT_RIGHT)
    if d < 0:
        transposes.append(Image.Transpose.FLIP_TOP_BOTTOM)
    return transposes
