"""What a stage shows of its present state: a sheet of stills and, where PyAV is installed, a clip.

Letters: B clips, T pixel frames, H W.
"""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from einops import rearrange
from torch import Tensor

from causvid.media import VideoWriter, contact_sheet, to_bytes

SAMPLES = 12
"""Held-out prompts that are looked at."""
COLUMNS = 4
SCALE = 2


def write_samples(pixels: Tensor, captions: Sequence[str], folder: Path, *, fps: float, stills: int = 5) -> None:
    """Write clips `[B, T, 3, H, W]` in [0, 1] as `samples.png`, each over its caption, and as one moving picture.

    `samples.mp4` shows them in rows of four, without those of a row that is not full. It is left out for single frames
    and where PyAV is not installed.
    """
    clips = to_bytes(pixels).numpy()
    sheet = contact_sheet(list(clips), captions, columns=2, stills=min(stills, len(clips[0])), scale=SCALE)
    sheet.save(folder / "samples.png")
    if len(clips[0]) == 1 or find_spec("av") is None:
        return
    columns = min(COLUMNS, len(clips))
    whole_rows = clips[: len(clips) - len(clips) % columns]
    tiles = rearrange(whole_rows, "(r c) t h w k -> t (r h) (c w) k", c=columns)
    _, height, width, _ = tiles.shape
    with VideoWriter(folder / "samples.mp4", fps=fps, height=height, width=width, scale=SCALE) as writer:
        writer.write(tiles)
