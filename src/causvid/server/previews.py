"""Pictures that stand for a video: one frame, or many in a grid."""

from pathlib import Path

from PIL import Image

from causvid.files.writing import new_file
from causvid.media import probe, read_video

COLUMNS = 4
ROWS = 4


def thumbnail(video: Path, file: Path) -> Path:
    """Write the middle frame of a video as WebP, unless it is there; return its file."""
    return _write(_stills(video, 1)[0], file)


def spritesheet(video: Path, file: Path) -> Path:
    """Write evenly spaced frames of a video, row by row, as JPEG, unless it is there; return its file."""
    stills = _stills(video, COLUMNS * ROWS)
    width, height = stills[0].size
    sheet = Image.new("RGB", (COLUMNS * width, -(-len(stills) // COLUMNS) * height))
    for number, still in enumerate(stills):
        sheet.paste(still, (number % COLUMNS * width, number // COLUMNS * height))
    return _write(sheet, file)


def _stills(video: Path, count: int) -> list[Image.Image]:
    """Read frames evenly spaced over a video, all of them if they are fewer; a single one is the middle."""
    found = probe(video)
    total = found.frames or 1
    count = min(count, total)
    wanted = {(2 * number + 1) * total // (2 * count) for number in range(count)}
    frames = read_video(video, height=found.height, width=found.width, fps=found.fps or 1)
    return [Image.fromarray(frame) for number, frame in enumerate(frames) if number in wanted]


def _write(image: Image.Image, file: Path) -> Path:
    with new_file(file) as place:
        image.save(place, quality=90)
    return file
