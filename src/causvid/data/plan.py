"""What a prepared set will hold: which pieces of which sources, and why others are left out.

A function of what was found in the sources, in their order, so that a run that was killed decides the same again.
"""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from causvid.config import Settings
from causvid.data.pieces import MARKS, Scan
from causvid.data.scan import HASH
from causvid.data.workers import DIED

Kind = Literal["video", "latents", "lmdb", "prompts"]
WIDEST = 2.5
"""Most that a bucket's sides differ by, as a factor."""


class Rules(Settings):
    """What is left out of a set, and how videos are cut."""

    cuts: bool = Field(default=True, description="Cut videos at scene changes, which PySceneDetect finds.")
    buckets: bool = Field(default=False, description="Keep aspect ratios, in sizes of one area; else crop to one size.")
    still: Annotated[float, Field(ge=0, le=1)] = Field(
        default=0.002, description="Leave out clips whose pixels change less, from frame to frame, of 1."
    )
    black: Annotated[float, Field(ge=0, le=1)] = Field(
        default=0.03, description="Leave out clips whose brightest frame is darker, of 1."
    )
    duplicate: Annotated[int, Field(ge=-1, le=HASH * HASH)] = Field(
        default=2, description="Leave out clips whose perceptual hash differs in so few bits of 64; -1 keeps all."
    )


@dataclass(frozen=True)
class Item:
    """A sample to be made.

    start: its first frame, row or line in the source. size: height and width in pixels. steady: that of a `Scan`.
    """

    source: Path
    kind: Kind
    caption: str
    start: int = 0
    size: tuple[int, int] = (0, 0)
    steady: bool = True


@dataclass(frozen=True)
class LeftOut:
    """What is not in a set, and why; `detail` says more of it."""

    source: Path
    reason: str
    detail: str = ""
    start: int = 0


def bucket_sizes(height: int, width: int, edge: int) -> list[tuple[int, int]]:
    """Return sizes of about the same area as `height` x `width`, itself the first; sides are multiples of `edge`."""
    sizes = [(height, width)]
    for rows in range(edge, height * 4, edge):
        columns = round(height * width / rows / edge) * edge
        if columns and max(rows / columns, columns / rows) <= WIDEST:
            sizes.append((rows, columns))
    return list(dict.fromkeys(sizes))


def nearest_size(height: int, width: int, sizes: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """Return the size whose aspect ratio is nearest, the first of equals."""
    return min(sizes, key=lambda size: round(abs(math.log(size[1] / size[0] * height / width)), 6))


def choose_pieces(
    scans: Mapping[Path, Scan | str],
    caption_of: Callable[[Path], str],
    rules: Rules,
    sizes: Sequence[tuple[int, int]],
) -> tuple[list[Item], list[LeftOut]]:
    """Choose pieces of videos; a scan that failed is the line that says why.

    A duplicate is left out wherever in the set its like is; the first stays.
    """
    items, left_out, seen = list[Item](), list[LeftOut](), SeenMarks()
    for source, found in scans.items():
        if isinstance(found, str):
            left_out.append(LeftOut(source, "process died" if found == DIED else "unreadable", found))
            continue
        try:
            caption = caption_of(source)
        except ValueError as error:
            left_out.append(LeftOut(source, "caption", str(error)))
            continue
        if not found.pieces:
            scenes = f"{found.frames} frames in {found.scenes} scene{'s' * (found.scenes > 1)}"
            left_out.append(LeftOut(source, "too short", scenes))
        size = nearest_size(found.height, found.width, sizes)
        for piece in found.pieces:
            like = rules.duplicate >= 0 and seen.nearest(piece.marks) <= rules.duplicate
            checks = (("black", piece.light < rules.black), ("still", piece.motion < rules.still), ("duplicate", like))
            reason = next((name for name, holds in checks if holds), None)
            if reason is not None:
                detail = f"light {piece.light:g}, motion {piece.motion:g}"
                left_out.append(LeftOut(source, reason, detail, piece.start))
                continue
            seen.add(piece.marks)
            items.append(Item(source, "video", caption, piece.start, size, found.steady))
    return items, left_out


class SeenMarks:
    """The marks of the pieces that were kept, in an array that grows: compared at once, however many they are."""

    def __init__(self) -> None:
        """Start with none."""
        self._rows: NDArray[np.uint64] = np.empty((0, MARKS), np.uint64)
        self._count = 0

    def add(self, marks: Sequence[int]) -> None:
        """Add those of a piece."""
        if self._count == len(self._rows):
            grown = np.empty((max(64, 2 * self._count), MARKS), np.uint64)
            grown[: self._count] = self._rows[: self._count]
            self._rows = grown
        self._rows[self._count] = marks
        self._count += 1

    def nearest(self, marks: Sequence[int]) -> float:
        """Return the least mean number of bits, rounded up, in which a piece's marks differ from those seen."""
        if not self._count:
            return math.inf
        differ = np.bitwise_count(self._rows[: self._count] ^ np.array(marks, np.uint64)).sum(axis=1, dtype=np.int64)
        return math.ceil(int(differ.min()) / len(marks))


def count_reasons(left_out: Sequence[LeftOut]) -> dict[str, int]:
    """Count what was left out, by reason."""
    return dict(sorted(Counter(one.reason for one in left_out).items()))
