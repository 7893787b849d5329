"""Any image becomes uint8 [H, W, 3]; anything else is refused in one line."""

import io
import os
import resource
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from causvid.media import fit_frame, image, read_image, read_video
from causvid.media.image import check_image, identify, open_image

QUARTERS = np.array([[(255, 0, 0), (0, 255, 0)], [(0, 0, 255), (255, 255, 255)]], np.uint8)
"""Red, green over blue, white."""


def quarters(height: int = 32, width: int = 32) -> np.ndarray:
    return QUARTERS.repeat(height // 2, 0).repeat(width // 2, 1)


def corners(pixels: np.ndarray) -> list[list[int]]:
    return np.round(pixels[[1, 1, -2, -2], [1, -2, 1, -2]] / 255).astype(int).tolist()


@pytest.mark.parametrize("fit", ["cover", "contain", "stretch"])
@pytest.mark.parametrize("size", [(1, 1), (7, 300), (300, 7), (64, 96), (33, 47)])
@pytest.mark.parametrize("target", [(64, 96), (31, 17)])
def test_every_size_fits_every_size(size: tuple[int, int], target: tuple[int, int], fit: image.Fit) -> None:
    pixels = fit_frame(np.zeros((*size, 3), np.uint8), *target, fit=fit)
    assert pixels.shape == (*target, 3)
    assert not pixels.any()


@pytest.mark.parametrize("fit", ["cover", "contain", "stretch"])
def test_a_frame_of_the_right_size_is_kept(fit: image.Fit) -> None:
    frame = np.random.default_rng(0).integers(0, 256, (33, 47, 3), dtype=np.uint8)
    assert np.array_equal(fit_frame(frame, 33, 47, fit), frame)


def test_cover_cuts_the_sides_contain_pads_and_stretch_does_neither() -> None:
    frame = np.zeros((32, 96, 3), np.uint8)
    frame[:, 32:64] = 200
    assert (fit_frame(frame, 32, 32, "cover")[:, 4:-4] > 150).all()
    contained = fit_frame(frame, 96, 96, "contain")
    assert not contained[:32].any() and not contained[64:].any()
    assert np.array_equal(contained[32:64], frame)
    assert (fit_frame(frame, 32, 30, "stretch")[:, [2, -2]] < 20).all()


@pytest.mark.parametrize(
    ("mode", "suffix"),
    [
        *(("RGB", suffix) for suffix in ("png", "jpg", "webp", "bmp", "tiff", "gif", "ppm")),
        *(("CMYK", "jpg"), ("CMYK", "tiff"), ("YCbCr", "jpg"), ("P", "png"), ("RGBA", "png"), ("RGBA", "webp")),
    ],
)
def test_every_kind_of_colour_reads_the_same(tmp_path: Path, mode: str, suffix: str) -> None:
    Image.fromarray(quarters()).convert(mode).save(tmp_path / f"a.{suffix}")
    pixels = read_image(tmp_path / f"a.{suffix}", height=32, width=32)
    assert pixels.dtype == np.uint8
    assert corners(pixels) == [[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 1]]


@pytest.mark.parametrize("mode", ["L", "LA", "1", "I;16", "I"])
def test_every_kind_of_grey_reads_the_same(tmp_path: Path, mode: str) -> None:
    grey = np.array([[0, 255]], np.uint8).repeat(16, 0).repeat(8, 1)
    if mode.startswith("I"):
        file, picture = tmp_path / "a.tiff", Image.fromarray(grey.astype(np.uint16 if ";" in mode else np.int32) * 257)
        assert picture.mode == mode
    else:
        file, picture = tmp_path / "a.png", Image.fromarray(grey).convert(mode)
    picture.save(file)
    assert np.array_equal(read_image(file, height=16, width=16), grey[..., None].repeat(3, 2))


def test_sixteen_bits_are_rounded_to_eight(tmp_path: Path) -> None:
    grey = np.linspace(0, 65535, 256 * 4).astype(np.uint16).reshape(32, 32)
    Image.fromarray(grey).save(tmp_path / "a.png")
    assert np.array_equal(read_image(tmp_path / "a.png", height=32, width=32)[..., 1], np.round(grey / 257))


@pytest.mark.parametrize(
    ("mode", "suffix"), [("RGBA", "png"), ("LA", "png"), ("P", "png"), ("RGBA", "gif"), ("RGBA", "webp")]
)
def test_transparent_images_are_shown_over_black(tmp_path: Path, mode: str, suffix: str) -> None:
    picture = Image.new("RGBA", (32, 32), (255, 255, 255, 0))
    picture.paste((255, 255, 255, 255), (16, 0, 32, 32))
    (picture.quantize(4) if mode == "P" else picture.convert(mode)).save(tmp_path / f"a.{suffix}")
    pixels = read_image(tmp_path / f"a.{suffix}", height=32, width=32)
    assert not pixels[:, :14].any()
    assert (pixels[:, 18:] == 255).all()


@pytest.mark.parametrize(
    ("orientation", "shown"),
    [(1, "RGBW"), (2, "GRWB"), (3, "WBGR"), (4, "BWRG"), (5, "RBGW"), (6, "BRWG"), (7, "WGBR"), (8, "GWRB")],
)
def test_a_photo_is_turned_upright(tmp_path: Path, orientation: int, shown: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(quarters()).save(tmp_path / "a.png", exif=exif)
    colours = {"R": [1, 0, 0], "G": [0, 1, 0], "B": [0, 0, 1], "W": [1, 1, 1]}
    assert corners(read_image(tmp_path / "a.png", height=32, width=32)) == [colours[letter] for letter in shown]


@pytest.mark.parametrize("suffix", ["gif", "png", "webp"])
def test_of_an_animation_the_first_frame_is_read(tmp_path: Path, suffix: str) -> None:
    first, *rest = [Image.new("RGB", (16, 16), (shade, 0, 0)) for shade in (200, 100, 0)]
    first.save(tmp_path / f"a.{suffix}", save_all=True, append_images=rest, duration=100)
    assert np.abs(read_image(tmp_path / f"a.{suffix}", height=8, width=8)[..., 0].astype(int) - 200).max() < 4


def bomb(width: int, height: int) -> bytes:
    """A PNG file of a few bytes that says it is of that size."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(99))) + chunk(b"IEND", b"")
    )


def saved(path: Path, **options: object) -> bytes:
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(path, **options)
    return path.read_bytes()


@pytest.mark.parametrize("kind", ["png", "jpg", "gif", "webp", "bmp", "tiff"])
@pytest.mark.parametrize("share", [0.1, 0.6])
def test_a_truncated_image_is_one_line(tmp_path: Path, kind: str, share: float) -> None:
    file = tmp_path / f"a.{kind}"
    whole = saved(file)
    file.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(ValueError, match=rf"a\.{kind} (cannot be read as|is not) an image") as caught:
        read_image(file, height=8, width=8)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"hello\n" * 100, "is not an image: expected PNG, JPEG"),
        (bytes(5000), "is not an image"),
        (b"\x89PNG\r\n\x1a\n", "an image"),
        (b"\xff\xd8\xff\xe0", "an image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n", "is not an image"),
        (b"<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>", "is not an image"),
        (bomb(100_000, 100_000), "cannot be read as an image: Image size"),
        (bomb(10_000, 9_500), "cannot be read as an image: it has 10000 × 9500 pixels"),
        (bomb(64, 64), "cannot be read as an image"),
    ],
)
def test_what_is_no_image_is_one_line(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        read_image(tmp_path / "a.png", height=8, width=8)
    assert str(tmp_path / "a.png") in str(caught.value) and "\n" not in str(caught.value)


def test_what_cannot_be_opened_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.png does not exist"):
        read_image(tmp_path / "none.png", height=8, width=8)
    with pytest.raises(IsADirectoryError, match="is a folder"):
        read_image(tmp_path, height=8, width=8)
    with pytest.raises(ValueError, match="not a regular file"):
        read_image("/dev/null", height=8, width=8)
    Image.fromarray(np.zeros((8, 8), np.float32)).save(tmp_path / "a.tiff")
    with pytest.raises(ValueError, match=r"a\.tiff .* floating-point"):
        read_image(tmp_path / "a.tiff", height=8, width=8)

    def refused(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refused)
    with pytest.raises(PermissionError, match=r"no permission to read .*a\.tiff"):
        read_image(tmp_path / "a.tiff", height=8, width=8)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"height": 0}, "height=0, width=8: expected positive"),
        ({"width": -3}, "width=-3: expected positive"),
        ({"height": 10**6, "width": 10**6}, "at most"),
        ({"fit": "crop"}, "fit='crop' is unknown: expected cover, contain, stretch"),
    ],
)
def test_an_invalid_option_is_one_line(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_image("none.png", **{"height": 8, "width": 8, **options})
    with pytest.raises(ValueError, match=message):
        fit_frame(np.zeros((4, 4, 3), np.uint8), **{"height": 8, "width": 8, **options})


@pytest.mark.parametrize("frame", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((0, 4, 3), np.uint8)])
def test_an_array_that_is_not_a_frame_is_refused(frame: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"expected uint8 \[h, w, 3\]"):
        fit_frame(frame, 8, 8)


@pytest.mark.parametrize("kind", ["extended", "lossless", "lossy"])
def test_a_webp_that_says_it_is_huge_is_refused_before_room_is_made_for_it(tmp_path: Path, kind: str) -> None:
    file = io.BytesIO()
    frames = [Image.new("RGB", (40, 24), colour) for colour in ("red", "blue")]
    moves = kind == "extended"
    frames[0].save(file, "WEBP", lossless=kind == "lossless", save_all=moves, append_images=frames[1:] if moves else ())
    data = bytearray(file.getvalue())
    start = {b"WEBPVP8X": 24, b"WEBPVP8L": 21, b"WEBPVP8 ": 26}[bytes(data[8:16])]
    sizes = {24: b"\xff\xff\x3f\xff\xff\x00", 21: b"\xff\xff\xff\x0f", 26: b"\xff\x3f\xff\x3f"}[start]
    place = tmp_path / "it.webp"
    place.write_bytes(data)
    assert identify(io.BytesIO(data)).size == (40, 24)
    data[start : start + len(sizes)] = sizes
    place.write_bytes(data)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for read in (check_image, open_image, lambda path: list(read_video(path, height=24, width=40, fps=12))):
        with pytest.raises(ValueError, match=r"pixels, expected at most \d+ in all"):
            read(place)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 * 1024
