"""Read an image of any format and fit it to a size.

Letters: H height, W width; h, w before fitting.
"""

import warnings
from pathlib import Path
from typing import BinaryIO, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

Fit = Literal["cover", "contain", "stretch"]

# Listed, because Pillow would otherwise try formats that start other programs (EPS).
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF", "JPEG2000")
PIXELS = 2**28 // 3
"""Most pixels of an image: a quarter of a GiB of RGB, as in Pillow."""


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
    image, size, lanczos = Image.fromarray(pixels), (width, height), Image.Resampling.LANCZOS
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
    return fit_frame(np.asarray(open_image(Path(path))), height, width, fit)


def open_image(path: Path) -> Image.Image:
    """Read an image as RGB at its original size, upright and over black; raise as `read_image` does."""
    with open_file(path) as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            image = Image.open(file, formats=FORMATS)
            image.load()
            return _rgb(ImageOps.exif_transpose(image))
        except UnidentifiedImageError:
            raise ValueError(f"{path} is not an image: expected {', '.join(FORMATS)}") from None
        except Exception as error:  # a damaged file makes Pillow's readers raise nearly anything
            raise ValueError(f"{path} cannot be read as an image: {error or type(error).__name__}") from error


def open_file(path: Path) -> BinaryIO:
    """Open a file for reading.

    Raises FileNotFoundError, IsADirectoryError, PermissionError; ValueError for an empty or special file.
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


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F":
        raise ValueError("its pixels are floating-point numbers, expected 8 or 16 bits")
    if image.mode.startswith("I"):  # 16-bit grey, which Pillow's conversion would clip to white
        grey = np.clip(np.asarray(image, np.int64), 0, 65535)
        image = Image.fromarray(((grey * 255 + 32767) // 65535).astype(np.uint8))
    return flatten(image) if image.has_transparency_data else image.convert("RGB")
