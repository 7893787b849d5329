"""Read a picture of any kind and fit it to a size.

Letters: H height, W width, before fitting h and w.
"""

import warnings
from pathlib import Path
from typing import BinaryIO, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

Fit = Literal["cover", "contain", "stretch"]
Colour = tuple[int, int, int]

# A list, since Pillow would otherwise try formats that start other programs (EPS).
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF", "JPEG2000")
PIXELS = 2**28 // 3
"""The most pixels of a picture: a quarter of a GiB of RGB, as in Pillow."""


def fit_frame(
    frame: ArrayLike, height: int, width: int, fit: Fit = "cover", colour: Colour = (0, 0, 0)
) -> NDArray[np.uint8]:
    """Resize a frame, uint8 [h, w, 3], to uint8 [H, W, 3] by Lanczos' filter.

    fit: "cover" keeps proportions and cuts what is over, evenly on both sides; "contain" keeps all and pads with
    `colour`; "stretch" keeps all and not the proportions.

    Raises ValueError for a frame or an option that is none.
    """
    check_fit(height, width, fit, colour)
    pixels = np.asarray(frame)
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8 or not pixels.size:
        raise ValueError(f"frame is {pixels.dtype} {list(pixels.shape)}: expected uint8 [h, w, 3]")
    image, size, lanczos = Image.fromarray(pixels), (width, height), Image.Resampling.LANCZOS
    if fit == "cover":
        return np.array(ImageOps.fit(image, size, lanczos))
    if fit == "stretch":
        return np.array(image.resize(size, lanczos))
    scale = min(width / image.width, height / image.height)
    inner = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    canvas = Image.new("RGB", size, colour)
    canvas.paste(image.resize(inner, lanczos), ((width - inner[0]) // 2, (height - inner[1]) // 2))
    return np.array(canvas)


def read_image(
    path: str | Path, *, height: int, width: int, fit: Fit = "cover", colour: Colour = (0, 0, 0)
) -> NDArray[np.uint8]:
    """Read a picture as uint8 [H, W, 3]: upright, without transparency, of an animation the first frame.

    fit: see `fit_frame`. colour: what pads the picture and shines through it.

    Raises ValueError for a file that is no picture, damaged or of more than `PIXELS`; OSError for one that cannot be
    opened.
    """
    check_fit(height, width, fit, colour)
    return fit_frame(np.asarray(open_image(Path(path), colour)), height, width, fit, colour)


def open_image(path: Path, colour: Colour) -> Image.Image:
    """Read a picture as RGB in its own size, upright and over `colour`; raise as `read_image` does."""
    with open_file(path) as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            image = Image.open(file, formats=FORMATS)
            image.load()
            return _rgb(ImageOps.exif_transpose(image), colour)
        except UnidentifiedImageError:
            raise ValueError(f"{path} is not a picture that can be read: expected {', '.join(FORMATS)}") from None
        except Exception as error:  # a damaged file makes Pillow's readers raise nearly anything
            raise ValueError(f"{path} cannot be read as a picture: {error or type(error).__name__}") from error


def open_file(path: Path) -> BinaryIO:
    """Open a file to read.

    Raises FileNotFoundError, IsADirectoryError, PermissionError; ValueError for an empty or special one.
    """
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder: expected a file")
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist")
    if not path.is_file():
        raise ValueError(f"{path} is not a regular file")
    if path.stat().st_size == 0:
        raise ValueError(f"{path} is empty")
    try:
        return path.open("rb")
    except PermissionError:
        raise PermissionError(f"no permission to read {path}") from None


def check_fit(height: int, width: int, fit: str, colour: Colour) -> None:
    """Raise ValueError unless frames can be fitted so."""
    if not (height > 0 and width > 0 and height * width <= PIXELS):
        raise ValueError(f"height={height}, width={width}: expected positive numbers and at most {PIXELS} pixels")
    if fit not in get_args(Fit):
        raise ValueError(f"fit={fit!r} is unknown: expected {', '.join(get_args(Fit))}")
    if len(colour) != 3 or not all(0 <= part <= 255 for part in colour):
        raise ValueError(f"colour={colour}: expected red, green and blue from 0 to 255")


def flatten(image: Image.Image, colour: Colour) -> Image.Image:
    """Lay a picture with transparency over `colour`."""
    ground = Image.new("RGBA", image.size, (*colour, 255))
    return Image.alpha_composite(ground, image.convert("RGBA")).convert("RGB")


def _rgb(image: Image.Image, colour: Colour) -> Image.Image:
    if image.mode == "F":
        raise ValueError("its pixels are floating-point numbers, expected 8 or 16 bits")
    if image.mode.startswith("I"):  # 16-bit grey, of which Pillow's own conversion makes white
        grey = np.clip(np.asarray(image, np.int64), 0, 65535)
        image = Image.fromarray(((grey * 255 + 32767) // 65535).astype(np.uint8))
    return flatten(image, colour) if image.has_transparency_data else image.convert("RGB")
