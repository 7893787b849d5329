"""Frames to MP4, WebM or lossless Matroska, tagged with their colours, and a source's sound beside them."""

from collections.abc import Mapping
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from causvid.media.sound import RATE, Sound

if TYPE_CHECKING:
    import av
    from av.container import OutputContainer

MUXERS = {".mp4": "mp4", ".webm": "webm", ".mkv": "matroska"}
SOUNDS = {".mp4": "aac", ".webm": "libopus", ".mkv": "flac"}
LINES_OF_709 = 720
"""Lines from which video is taken for BT.709 by everyone who is not told; below, it is BT.601."""


class Encoder:
    """A video file as it is encoded; `finish` or `abandon` ends it."""

    def __init__(self, target: Path | BinaryIO, suffix: str, rate: Fraction, size: tuple[int, int]) -> None:
        """Open a path, or a file object that is written in order, from which a player can begin before the end.

        size: width and height in pixels.
        """
        import av

        # bitexact omits random identifiers and dates: the same frames make the same file.
        options = {"fflags": "+bitexact"}
        if isinstance(target, Path):
            # Created here first, because the operating system's error is clearer than the muxer's. Absolute, because
            # the muxer takes what stands before a colon for a protocol.
            target.touch()
            name: Any = str(target.absolute())
            options |= {"movflags": "+faststart"} if suffix == ".mp4" else {}
        else:
            name = _Forward(target)
            options |= {"flush_packets": "1"}
            options |= {"movflags": "+empty_moov+default_base_moof+frag_every_frame"} if suffix == ".mp4" else {}
        self._container = av.open(name, "w", format=MUXERS[suffix], options=options)
        codec, pixels, options = _codec(suffix, live=not isinstance(target, Path))
        stream = self._container.add_stream(codec, rate=rate, options=options)
        assert isinstance(stream, av.VideoStream)
        # yuv420p allows no odd sides: their last row and column are repeated.
        right, below = (side % 2 if pixels == "yuv420p" else 0 for side in size)
        self._padding = ((0, below), (0, right), (0, 0))
        stream.width, stream.height = size[0] + right, size[1] + below
        stream.pix_fmt = pixels
        stream.time_base = stream.codec_context.time_base = 1 / rate
        self._colours = Colours(size[1]) if pixels == "yuv420p" else None
        if self._colours is not None:
            self._colours.tag(stream.codec_context)
        self._stream, self._rate, self._count = stream, rate, 0
        self._sound = SOUNDS[suffix]
        self._track: _Track | None = None

    def describe(self, metadata: Mapping[str, str]) -> None:
        """Put a title, a comment and the like into the file; before the first frame."""
        self._container.metadata.update(metadata)

    def keep_sound(self, video: str | Path) -> None:
        """Write the sound of a video beside the frames that are added, from the first on."""
        import av

        sound = Sound.open(video) if self._sound in av.codecs_available else None
        self._track = None if sound is None else _Track(self._container, sound, self._sound)

    def add(self, image: Image.Image) -> None:
        """Append a frame, and the sound that lasts as long."""
        import av

        frame = av.VideoFrame.from_ndarray(np.pad(np.asarray(image), self._padding, mode="edge"), format="rgb24")
        if self._colours is not None:
            frame = self._colours.convert(frame)
        frame.pts = self._count
        self._count += 1
        self._container.mux(self._stream.encode(frame))
        if self._track is not None:
            self._track.feed(round(self._count / self._rate * RATE))

    def end_sound(self) -> None:
        """Let what is added from now on be silent."""
        if self._track is not None:
            self._track.end()

    def finish(self) -> None:
        """Write what is left, and close."""
        self._container.mux(self._stream.encode())
        if self._track is not None:
            self._track.finish()
        self._container.close()

    def abandon(self) -> None:
        """Close, whatever that leaves."""
        import av

        with suppress(OSError, av.error.FFmpegError):  # the file is removed anyway
            self._container.close()
        if self._track is not None:
            self._track.end()


class _Forward:
    """A file object that a muxer cannot seek in, so that it writes what needs no correction."""

    def __init__(self, file: BinaryIO) -> None:
        self.write = file.write


class Colours:
    """The matrix of a height in lines, BT.709 or BT.601, which the file names."""

    def __init__(self, lines: int) -> None:
        from av.video.reformatter import ColorRange, Colorspace, VideoReformatter

        self._reformatter = VideoReformatter()  # one for all frames: making it costs more than using it
        self._matrix = Colorspace.ITU709 if lines >= LINES_OF_709 else Colorspace.ITU601
        self._number = 1 if lines >= LINES_OF_709 else 6  # of ITU-T H.273
        self._range = ColorRange.MPEG

    def tag(self, target: "av.VideoCodecContext | av.VideoFrame") -> None:
        """Name the colours in a stream or a frame."""
        target.colorspace = target.color_primaries = target.color_trc = self._number
        target.color_range = self._range

    def convert(self, frame: "av.VideoFrame") -> "av.VideoFrame":
        """Return an RGB frame as yuv420p."""
        # Threads would be started and joined for every frame, which on a busy machine takes longer than converting it.
        result = self._reformatter.reformat(
            frame, format="yuv420p", dst_colorspace=self._matrix, dst_color_range=self._range, threads=1
        )
        self.tag(result)
        return result


class _Track:
    """The sound of a file that is written."""

    def __init__(self, container: "OutputContainer", sound: Sound, codec: str) -> None:
        import av

        stream = container.add_stream(codec, rate=RATE, options={} if codec == "flac" else {"b": "160k"})
        assert isinstance(stream, av.AudioStream)
        stream.codec_context.layout = sound.layout
        self._container, self._stream, self._sound = container, stream, sound
        self._blocks, self._left = sound.blocks(), np.zeros((1, 0), np.float32)
        self._done, self._ended = 0, False

    def feed(self, until: int) -> None:
        """Write samples until there are so many, or no more."""
        while not self._ended and self._done < until:
            if not self._left.size:
                block = next(self._blocks, None)
                if block is None:
                    return self.end()
                self._left = block
            part, self._left = np.split(self._left, [until - self._done], axis=1)
            self._write(part)
        return None

    def end(self) -> None:
        """Read no more."""
        if not self._ended:
            self._ended = True
            self._sound.close()

    def finish(self) -> None:
        """Write what the encoder holds back."""
        self.end()
        if self._done:
            self._container.mux(self._stream.encode())

    def _write(self, samples: NDArray[np.float32]) -> None:
        import av

        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples), format="fltp", layout=self._sound.layout)
        frame.sample_rate, frame.pts = RATE, self._done
        self._container.mux(self._stream.encode(frame))
        self._done += samples.shape[1]


def _codec(suffix: str, *, live: bool) -> tuple[str, str, dict[str, str]]:
    """Return the name, the pixel format and the options of a suffix's encoder. live: it holds no frames back."""
    import av

    if suffix == ".mkv":
        return "ffv1", "bgr0", {"level": "3"}
    if suffix == ".webm":
        held = {"lag-in-frames": "0"} if live else {}
        return "libvpx-vp9", "yuv420p", {"crf": "24", "b": "0", "deadline": "realtime", "cpu-used": "5", **held}
    if "libx264" in av.codecs_available:
        held = {"tune": "zerolatency"} if live else {}
        # With its tree of macroblocks, x264 writes another file of the same frames in one of a hundred runs.
        return "libx264", "yuv420p", {"crf": "17", "preset": "veryfast", "x264-params": "mbtree=0", **held}
    return "mpeg4", "yuv420p", {"q:v": "3"}
