"""Contact sheets: many videos in one image."""

from collections.abc import Sequence
from textwrap import wrap

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image, ImageDraw, ImageFont


def contact_sheet(
    videos: Sequence[ArrayLike], captions: Sequence[str], *, columns: int = 1, stills: int = 5, scale: int = 1
) -> Image.Image:
    """Draw videos, uint8 [T, H, W, 3] and all of one size, as rows of evenly spaced stills over their captions.

    columns: videos side by side. stills: frames of each, from first to last; a single one is the middle frame.
    """
    first = np.asarray(videos[0])
    height, width = first.shape[1] * scale, first.shape[2] * scale
    gap, line, letter = 6, 15, 6.2
    strip = stills * width + (stills - 1) * 2
    texts = [wrap(caption, max(1, int(strip / letter)), max_lines=2, placeholder="…") for caption in captions]
    cell = (strip + gap, height + line * max(map(len, texts), default=0) + gap)
    rows = -(-len(videos) // columns)
    sheet = Image.new("RGB", (columns * cell[0] + gap, rows * cell[1] + gap), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(12)
    for number, (video, text) in enumerate(zip(videos, texts, strict=True)):
        frames = np.asarray(video)
        left, top = gap + number % columns * cell[0], gap + number // columns * cell[1]
        times = np.linspace(0, len(frames) - 1, stills) if stills > 1 else [len(frames) // 2]
        for place, frame in enumerate(frames[np.round(times).astype(int)]):
            image = Image.fromarray(frame).resize((width, height), Image.Resampling.LANCZOS)
            sheet.paste(image, (left + place * (width + 2), top))
        draw.text((left, top + height), "\n".join(text), fill="black", font=font, spacing=2)
    return sheet
