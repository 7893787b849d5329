"""Read an image of any format and fit it to a size.

Letters: H height, W width; h, w before fitting.
"""

import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

from causvid.opening import open_regular

_log = logging.getLogger(__name__)

Fit = Literal["cover", "contain", "stretch"]

# Listed, because Pillow would otherwise try formats that start other programs (EPS).
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF", "JPEG2000")
PIXELS = 2**26
"""Most pixels of an image: a quarter of a GiB as Pillow holds it."""
BYTES = 2**30
"""Most bytes of the file of an image."""
_LEVELS = {"1": 255, "L;2": 85, "L;4": 17}
"""How Pillow spreads the levels of a PNG of fewer than 8 bits."""


def fit_frame(frame: ArrayLike, height: int, width: int, fit: Fit = "cover") -> NDArray[np.uint8]:
    """Resize a frame, uint8 [h, w, 3], to uint8 [H, W, 3] with Lanczos filtering.

    fit: "cover" keeps the aspect ratio and crops the centre; "contain" keeps it and pads with black; "stretch"
    distorts.

    Raises ValueError for a frame of another shape or type, or an invalid option.
    """
    check_fit(height, width, fit)
    pixels = np.asarray(frame)
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8 or not pixels.size:
        raise ValueError(f"frame is {pixels.dtype} {list(pixels.shape)}: expected uint8 [h, w, 3]")
    return fit_image(Image.fromarray(pixels), height, width, fit)


def fit_image(image: Image.Image, height: int, width: int, fit: Fit) -> NDArray[np.uint8]:
    """Resize an RGB image as `fit_frame` does a frame."""
    size, lanczos = (width, height), Image.Resampling.LANCZOS
    if fit == "cover":
        return np.array(ImageOps.fit(image, size, lanczos))
    if fit == "stretch":
        return np.array(image.resize(size, lanczos))
    scale = min(width / image.width, height / image.height)
    inner = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    canvas = Image.new("RGB", size)
    canvas.paste(image.resize(inner, lanczos), ((width - inner[0]) // 2, (height - inner[1]) // 2))
    return np.array(canvas)


def read_image(path: str | Path, *, height: int, width: int, fit: Fit = "cover") -> NDArray[np.uint8]:
    """Read an image as uint8 [H, W, 3]: upright, over black where transparent, the first frame of an animation.

    fit: see `fit_frame`.

    Raises ValueError for a file that is not an image, damaged or larger than `PIXELS`; OSError for one that cannot be
    opened.
    """
    check_fit(height, width, fit)
    return fit_image(open_image(Path(path)), height, width, fit)


def open_image(path: Path) -> Image.Image:
    """Read an image as sRGB at its original size, upright and over black; raise as `read_image` does."""
    with open_regular(path, most=BYTES) as file, picture_errors(path):
        return upright(identify(file))


def check_image(path: str | Path) -> None:
    """Raise as `read_image` does for what its header alone shows."""
    with open_regular(path, most=BYTES) as file, picture_errors(path):
        image = identify(file)
        _check_size(image.width, image.height)


def identify(file: IO[bytes], formats: tuple[str, ...] = FORMATS) -> Image.Image:
    """Open a picture by its header.

    Of WebP, Pillow makes room for the whole picture at once, so its size is read before.

    Raises:
        Image.DecompressionBombError: if it is WebP with more than `PIXELS`; and what Pillow raises.
    """
    head = file.read(30)
    file.seek(0)
    kind, size = head[8:16], (0, 0)
    if kind == b"WEBPVP8X":
        size = 1 + int.from_bytes(head[24:27], "little"), 1 + int.from_bytes(head[27:30], "little")
    elif kind == b"WEBPVP8L":
        bits = int.from_bytes(head[21:25], "little")
        size = 1 + bits % 2**14, 1 + (bits >> 14) % 2**14
    elif kind == b"WEBPVP8 ":
        size = int.from_bytes(head[26:28], "little") % 2**14, int.from_bytes(head[28:30], "little") % 2**14
    if size[0] * size[1] > PIXELS:
        raise Image.DecompressionBombError(_too_large(*size))
    return Image.open(file, formats=formats)


def upright(image: Image.Image) -> Image.Image:
    """Decode an open image as sRGB, upright and over black."""
    _check_size(image.width, image.height)
    levels = 1
    tiles = getattr(image, "tile", None)
    if image.format == "PNG" and tiles:
        levels = _LEVELS.get(str(tiles[0][3]), 1)
    image.load()
    return _rgb(ImageOps.exif_transpose(image), levels)


def _check_size(width: int, height: int) -> None:
    if width * height > PIXELS:
        raise ValueError(_too_large(width, height))


def _too_large(width: int, height: int) -> str:
    return f"it has {width} × {height} pixels, expected at most {PIXELS} in all"


@contextmanager
def picture_errors(path: str | Path) -> Iterator[None]:
    """Turn what Pillow raises for a damaged file into one line, and silence its warnings."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        except UnidentifiedImageError:
            raise ValueError(f"{path} is not an image: expected {', '.join(FORMATS)}") from None
        except Exception as error:  # a damaged file makes Pillow's readers raise nearly anything
            raise ValueError(f"{path} cannot be read as an image: {error or type(error).__name__}") from error


def check_fit(height: int, width: int, fit: str) -> None:
    """Raise ValueError for an invalid size or `fit`."""
    if not (height > 0 and width > 0 and height * width <= PIXELS):
        raise ValueError(f"height={height}, width={width}: expected positive numbers and at most {PIXELS} pixels")
    if fit not in get_args(Fit):
        raise ValueError(f"fit={fit!r} is unknown: expected {', '.join(get_args(Fit))}")


def flatten(image: Image.Image) -> Image.Image:
    """Composite an image with transparency over black."""
    black = Image.new("RGBA", image.size, (0, 0, 0, 255))
    return Image.alpha_composite(black, image.convert("RGBA")).convert("RGB")


def _rgb(image: Image.Image, levels: int) -> Image.Image:
    """Convert to sRGB over black. levels: what a level of the file's transparent grey is in the decoded image."""
    if image.mode == "F":
        raise ValueError("its pixels are floating-point numbers, expected 8 or 16 bits")
    profile, clear = image.info.get("icc_profile"), image.info.get("transparency")
    alpha = None
    if image.mode.startswith("I"):  # 16-bit grey, which Pillow's conversion would clip to white
        alpha = _mask(image, clear) if isinstance(clear, int) else None
        image = _eight_bits(image)
    elif image.has_transparency_data:
        if isinstance(clear, int) and image.mode in ("1", "L"):
            image.info["transparency"] = min(clear * levels, 255)
        elif isinstance(clear, tuple) and max(clear, default=0) > 255:  # of 16 bits, where Pillow keeps the upper 8
            image.info["transparency"] = tuple(part >> 8 for part in clear)
        image = image.convert("RGBA")
        alpha = image.getchannel("A")
    image = _by_profile(image, profile) if profile else image.convert("RGB")
    if alpha is None:
        return image
    black = Image.new("RGB", image.size)
    black.paste(image, mask=alpha)
    return black


def _bands(image: Image.Image) -> Iterator[tuple[int, NDArray[np.int32]]]:
    """Yield a grey image in bands of rows, each after the number of its first, so that no copy is as large."""
    rows = max(1, 2**20 // image.width)
    for top in range(0, image.height, rows):
        part = image.crop((0, top, image.width, min(top + rows, image.height)))
        yield top, np.clip(np.asarray(part, np.int64), 0, 65535).astype(np.int32)


def _eight_bits(image: Image.Image) -> Image.Image:
    grey = Image.new("L", image.size)
    for top, band in _bands(image):
        grey.paste(Image.fromarray(((band * 255 + 32767) // 65535).astype(np.uint8)), (0, top))
    return grey


def _mask(image: Image.Image, clear: int) -> Image.Image:
    """Return the opacity of a grey image, one grey of which is transparent."""
    mask = Image.new("L", image.size)
    for top, band in _bands(image):
        mask.paste(Image.fromarray(np.where(band == clear, 0, 255).astype(np.uint8)), (0, top))
    return mask


def _by_profile(image: Image.Image, profile: bytes) -> Image.Image:
    """Convert to sRGB what an ICC profile describes; one that cannot be used is passed over with a warning."""
    try:
        described = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if ImageCms.getProfileDescription(described).startswith("sRGB"):
            return image.convert("RGB")
        mode = {"GRAY": "L", "CMYK": "CMYK"}.get(described.profile.xcolor_space.strip(), "RGB")
        plain = image if image.mode == mode else image.convert(mode)
        converted = ImageCms.profileToProfile(plain, described, ImageCms.createProfile("sRGB"), outputMode="RGB")
        assert converted is not None, "it is not converted in place"
        return converted
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError) as error:
        _log.warning("the colour profile of an image cannot be used: %s", error)
        return image.convert("RGB")
