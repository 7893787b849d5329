"""Colours come out as an ordinary screen shows them, whatever a file's colour space, transparency or lines."""

import io
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image, ImageCms

from causvid.media import probe, read_image, read_video

SAMPLES = Path(__file__).parents[1] / "samples"


def frames(source: Path, height: int, width: int, **options: Any) -> np.ndarray:
    return np.stack(list(read_video(source, height=height, width=width, **{"fps": 10, **options})))


def flat(
    path: Path,
    colour: tuple[int, int, int],
    *,
    size: tuple[int, int] = (96, 96),
    count: int = 1,
    codec: str = "libx264rgb",
    pixels: str = "rgb24",
    tags: dict[str, int] | None = None,
) -> Path:
    """Write a video of one colour, whose numbers are stored as they are; tags: what its frames state."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=10, options={"crf": "0", "qp": "0"})
        stream.width, stream.height, stream.pix_fmt = *size, pixels
        for name, value in (tags or {}).items():
            setattr(stream.codec_context, name, value)
        for number in range(count):
            if pixels == "yuv420p":
                planes = [np.full((size[1], size[0]), colour[0], np.uint8)]
                planes += [np.full((size[1] // 2, size[0] // 2), part, np.uint8) for part in colour[1:]]
                stacked = np.concatenate([plane.reshape(-1, size[0]) for plane in planes])
                frame = av.VideoFrame.from_ndarray(stacked, format="yuv420p")
            else:
                frame = av.VideoFrame.from_ndarray(np.full((size[1], size[0], 3), colour, np.uint8), format="rgb24")
            for name, value in (tags or {}).items():
                setattr(frame, name, value)
            frame.pts, frame.time_base = number, Fraction(1, 10)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


@pytest.mark.parametrize("name", ["pq.mp4", "hlg.mp4"])
def test_hdr_greys_are_those_that_were_meant(name: str) -> None:
    middle = frames(SAMPLES / name, 96, 320)[0, 48, 32::64].astype(int)
    assert np.abs(middle - np.array([0, 64, 128, 192, 255])[:, None]).max() <= 6


@pytest.mark.parametrize(
    ("colour", "expected", "tags"),
    [
        ((148, 148, 148), (255, 255, 255), {"color_trc": 16, "color_primaries": 9}),
        ((191, 191, 191), (255, 255, 255), {"color_trc": 18, "color_primaries": 9}),
        ((0, 0, 0), (0, 0, 0), {"color_trc": 16, "color_primaries": 9}),
        ((200, 100, 50), (240, 73, 17), {"color_trc": 1, "color_primaries": 9}),
        ((128, 128, 128), (128, 128, 128), {"color_trc": 1, "color_primaries": 12}),
        ((200, 100, 50), (200, 100, 50), {"color_trc": 1, "color_primaries": 1}),
    ],
)
def test_tagged_colours_are_converted(
    tmp_path: Path, colour: tuple[int, int, int], expected: tuple[int, int, int], tags: dict[str, int]
) -> None:
    shown = frames(flat(tmp_path / "a.mkv", colour, tags=tags), 96, 96)[0, 48, 48].astype(int)
    assert np.abs(shown - expected).max() <= 3


@pytest.mark.parametrize(
    ("size", "matrix", "red"),
    [((64, 480), 2, 601), ((64, 720), 2, 709), ((64, 1080), 2, 709), ((64, 720), 5, 601), ((64, 480), 1, 709)],
)
def test_untagged_video_of_720_lines_is_of_hd_colours(
    tmp_path: Path, size: tuple[int, int], matrix: int, red: int
) -> None:
    y, v = (81, 240) if red == 601 else (63, 240)
    u = 90 if red == 601 else 102
    tags = {} if matrix == 2 else {"colorspace": matrix}
    file = flat(tmp_path / "a.mkv", (y, u, v), size=size, codec="libx264", pixels="yuv420p", tags=tags)
    shown = frames(file, size[1], size[0])[0, size[1] // 2, 32].astype(int)
    assert np.abs(shown - (255, 0, 0)).max() <= 4


def test_transparent_ground_of_a_webm_is_black() -> None:
    shown = frames(SAMPLES / "alpha9.webm", 96, 160)[0]
    assert shown[2, 2].tolist() == [0, 0, 0]
    assert shown[48, 80, 1] > 240 and shown[..., 0].max() < 12


@pytest.mark.parametrize("last", [None, 0.3])
def test_the_end_of_a_transparent_webm_is_the_end_of_the_whole(last: float | None) -> None:
    shown = frames(SAMPLES / "alpha9.webm", 96, 160, last=last)
    assert len(shown) and not shown[:, 2, 2].any()


def combs(video: np.ndarray) -> float:
    lines = video.astype(int)
    return float(np.abs(lines[:, 1:-1:2] - (lines[:, :-2:2] + lines[:, 2::2]) / 2).mean())


def test_interlaced_video_has_no_combs() -> None:
    shown = frames(SAMPLES / "bar_i.mp4", 180, 320, fps=25)
    assert len(shown) == probe(SAMPLES / "bar_i.mp4").frames
    assert combs(shown[..., :179, :, :]) < 0.5
    assert np.abs(np.diff(shown.astype(int), axis=0)).mean() > 0.5, "the bar still moves"


@pytest.mark.parametrize("name", ["exif_plain.jpg", "exif.png"])
def test_a_photo_read_as_a_video_is_one_upright_frame(name: str) -> None:
    shown = frames(SAMPLES / name, 64, 32)
    assert shown.shape == (1, 64, 32, 3)
    assert np.array_equal(shown[0], read_image(SAMPLES / name, height=64, width=32))
    assert (probe(SAMPLES / name).height, probe(SAMPLES / name).width) == (64, 32)


@pytest.mark.parametrize("suffix", ["webp", "png", "gif"])
def test_an_animation_read_as_a_video_keeps_its_delays(tmp_path: Path, suffix: str) -> None:
    first, *rest = [Image.new("RGB", (32, 32), colour) for colour in ((255, 0, 0), (0, 255, 0), (0, 0, 255))]
    options: dict[str, Any] = {"lossless": True} if suffix == "webp" else {}
    first.save(tmp_path / f"a.{suffix}", save_all=True, append_images=rest, duration=[500, 100, 400], **options)
    shown = frames(tmp_path / f"a.{suffix}", 32, 32)
    assert np.bincount(shown[:, 16, 16].argmax(1)).tolist() == [3, 3, 4]


def test_a_published_animated_webp_is_read() -> None:
    shown = frames(SAMPLES / "an.webp", 32, 32)
    assert shown[:, 8, 8].argmax(1).tolist() == [0] * 3 + [2] * 7


def test_a_wide_gamut_photo_is_converted() -> None:
    for shown in (read_image(SAMPLES / "p3.jpg", height=32, width=32), frames(SAMPLES / "p3.jpg", 32, 32)[0]):
        assert np.abs(shown[16, 16].astype(int) - (219, 14, 0)).max() <= 3


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "L"])
def test_a_profile_is_used_in_every_mode(tmp_path: Path, mode: str) -> None:
    profile = Image.open(SAMPLES / "p3.jpg").info["icc_profile"]
    plain = Image.new("RGB", (16, 16), (200, 50, 20))
    (plain.quantize(4) if mode == "P" else plain.convert(mode)).save(tmp_path / "a.png", icc_profile=profile)
    shown = read_image(tmp_path / "a.png", height=16, width=16)[8, 8].astype(int)
    assert np.abs(shown - ((219, 14, 0) if mode != "L" else (91, 91, 91))).max() <= 3


def test_a_profile_of_srgb_or_of_nothing_changes_nothing(tmp_path: Path) -> None:
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8))
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for profile in (srgb, b"no profile", srgb[:90]):
        picture.save(tmp_path / "a.png", icc_profile=profile)
        assert np.array_equal(read_image(tmp_path / "a.png", height=16, width=16), np.asarray(picture))


def test_a_transparent_grey_of_16_bits_is_black() -> None:
    assert not read_image(SAMPLES / "g16trns.png", height=32, width=32).any()


@pytest.mark.parametrize(("bits", "clear"), [(1, 1), (2, 3), (4, 15), (8, 255), (16, 65535)])
def test_the_transparent_grey_of_every_depth_is_black(tmp_path: Path, bits: int, clear: int) -> None:
    (tmp_path / "a.png").write_bytes(grey_png(bits, clear))
    shown = read_image(tmp_path / "a.png", height=8, width=16)[..., 0]
    assert not shown[:, 10:].any(), "white is the transparent grey"
    other = grey_png(bits, 0)
    (tmp_path / "a.png").write_bytes(other)
    assert read_image(tmp_path / "a.png", height=8, width=16)[4, 12, 0] == 255


def grey_png(bits: int, clear: int) -> bytes:
    """A PNG of 16 × 8 pixels, its right half white, in which one grey is transparent."""
    import struct
    import zlib

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    row = b"\0" + bytes(bits) + b"\xff" * bits
    header = struct.pack(">IIBBBBB", 16, 8, bits, 0, 0, 0, 0)
    parts = ((b"IHDR", header), (b"tRNS", struct.pack(">H", clear)), (b"IDAT", zlib.compress(row * 8)), (b"IEND", b""))
    out = io.BytesIO(b"\x89PNG\r\n\x1a\n")
    out.seek(0, 2)
    for kind, data in parts:
        out.write(chunk(kind, data))
    return out.getvalue()
