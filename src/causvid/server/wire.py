"""Frames as bytes: H.264 for the film and for browsers, fragments of MP4, pictures; and back.

Letters: T frames, H height, W width.
"""

import io
from collections.abc import Iterable, Sequence
from fractions import Fraction
from functools import cache

import av
import numpy as np
from av.container import InputContainer
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from causvid.media import fit_frame
from causvid.media.encoder import Colours
from causvid.media.image import identify

Frames = NDArray[np.uint8]
"""Frames of uint8 `[T, H, W, 3]`."""
TICKS = 90_000
"""MP4 time units a second."""
CAMERA_PIXELS = 2**24
"""Most pixels of a camera's picture."""


def encode_h264(frames: Frames, *, fps: float) -> list[bytes]:
    """Encode frames that can be decoded without any before them: Annex B, one access unit a frame."""
    rate = Fraction(fps).limit_denominator(1001)
    codec = av.CodecContext.create("libx264", "w")
    assert isinstance(codec, av.VideoCodecContext)
    codec.height, codec.width = frames.shape[1:3]
    codec.pix_fmt, codec.framerate, codec.time_base = "yuv420p", rate, 1 / rate
    codec.options = {
        "preset": "veryfast",
        "tune": "zerolatency",
        "crf": "18",
        "threads": "1",
        "g": str(len(frames)),
        "profile": "main",
    }
    colours = Colours(codec.height)
    colours.tag(codec)
    units = []
    for number, pixels in enumerate(frames):
        frame = colours.convert(av.VideoFrame.from_ndarray(pixels, format="rgb24"))
        frame.pts = number
        units += [bytes(packet) for packet in codec.encode(frame)]
    units += [bytes(packet) for packet in codec.encode(None)]
    assert len(units) == len(frames), "without reordering and lookahead, every frame gives a packet"
    return units


def decode_h264(units: Sequence[bytes]) -> Frames:
    """Decode what `encode_h264` made, uint8 `[T, H, W, 3]`."""
    codec = av.CodecContext.create("h264", "r")
    assert isinstance(codec, av.VideoCodecContext)
    packets = [*map(av.Packet, units), None]
    return np.stack(
        [frame.to_ndarray(format="rgb24", threads=1) for packet in packets for frame in codec.decode(packet)]
    )


@cache
def codec_name(height: int, width: int, *, fps: float) -> str:
    """Return how WebCodecs and MediaSource call what `encode_h264` makes of such frames, `avc1.…`."""
    (unit,) = encode_h264(np.zeros((1, height, width, 3), np.uint8), fps=fps)
    start = unit.index(b"\x00\x00\x01\x67")
    return f"avc1.{unit[start + 4 : start + 7].hex()}"


def mux_mp4(units: Iterable[bytes], file: str | io.BytesIO, *, fps: float, metadata: dict[str, str]) -> None:
    """Put access units into an MP4 as they are: whole, with its index in front, in a file; in memory as a fragment."""
    rate = Fraction(fps).limit_denominator(1001)
    flags = "+faststart" if isinstance(file, str) else "frag_keyframe+empty_moov+default_base_moof"
    options = {"movflags": f"{flags}+use_metadata_tags", "fflags": "+bitexact"}
    with av.open(io.BytesIO(b"".join(units)), format="h264") as film, av.open(file, "w", "mp4", options=options) as out:
        assert isinstance(film, InputContainer)
        out.metadata.update(metadata)
        stream = out.add_stream_from_template(film.streams.video[0])
        stream.time_base = Fraction(1, TICKS)
        for count, packet in enumerate(packet for packet in film.demux(video=0) if packet.size):
            packet.stream = stream
            packet.time_base = Fraction(1, TICKS)
            packet.pts = packet.dts = round(count * TICKS / rate)
            packet.duration = round((count + 1) * TICKS / rate) - packet.pts
            out.mux(packet)


def fragment_mp4(units: Sequence[bytes], *, fps: float, position: int) -> tuple[bytes, bytes]:
    """Make a fragment that starts with frame `position`; return (initialisation, fragment): ISO 14496-12."""
    file = io.BytesIO()
    mux_mp4(units, file, fps=fps, metadata={})
    data = bytearray(file.getvalue())
    start, ends = data.index(b"moof") - 4, data.rfind(b"mfra") - 4
    end = ends if ends > start else len(data)
    scale = int.from_bytes(data[(mdhd := data.index(b"mdhd")) + 16 : mdhd + 20])
    base = data.index(b"tfdt", start)
    wide = data[base + 4] == 1
    data[base + 8 : base + (16 if wide else 12)] = round(position / fps * scale).to_bytes(8 if wide else 4)
    number = data.index(b"mfhd", start)
    data[number + 8 : number + 12] = (position + 1).to_bytes(4)
    return bytes(data[:start]), bytes(data[start:end])


def pictures(frames: Frames, kind: str) -> list[bytes]:
    """Encode every frame as a picture, `webp` or `jpeg`."""
    out = []
    for pixels in frames:
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, kind, quality=90, **({"method": 0} if kind == "webp" else {}))
        out.append(file.getvalue())
    return out


def read_picture(data: bytes, height: int, width: int) -> Frames:
    """Read a camera's picture at a size, uint8 `[H, W, 3]`.

    Raises:
        ValueError: if it is not a picture, or too large.
    """
    try:
        with identify(io.BytesIO(data), formats=("JPEG", "WEBP", "PNG")) as picture:
            if picture.width * picture.height > CAMERA_PIXELS:
                raise ValueError(f"a picture of {picture.width} x {picture.height} is too large")
            picture.draft("RGB", (width, height))
            return fit_frame(np.asarray(picture.convert("RGB")), height, width, fit="cover")
    except UnidentifiedImageError:
        raise ValueError("the camera's message is not a JPEG, WebP or PNG picture") from None
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"the camera's message is not a JPEG, WebP or PNG picture: {error}") from None
