"""A video is looked through in parts as it is in one go, and clips are decoded alike from wherever they are sought."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from causvid.data import scan
from causvid.data.pieces import find_cuts
from causvid.data.scan import look_at_part, look_at_start, look_through
from causvid.media import VideoWriter


def write(path: Path, clip: np.ndarray, fps: float = 8) -> None:
    with VideoWriter(path, fps=fps, height=clip.shape[1], width=clip.shape[2]) as writer:
        writer.write(clip)


def test_cuts_are_where_the_picture_changes(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    scenes = [np.full((length, 16, 24, 3), rng.integers(0, 255, 3), np.uint8) for length in (9, 12, 7)]
    write(tmp_path / "a.mkv", np.concatenate(scenes))
    assert find_cuts(look_at_start(tmp_path / "a.mkv", fps=8).change, 8) == [9, 21]
    assert find_cuts([], 8) == []


def test_parts_of_a_long_video_are_the_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "a.mp4"
    write(file, np.random.default_rng(0).integers(0, 255, (120, 8, 12, 3), np.uint8).repeat(4, 1).repeat(4, 2))
    whole = look_through(file, fps=6)
    monkeypatch.setattr(scan, "PART", 4)
    start = look_at_start(file, fps=6)
    assert start.rest == 3 and len(start.light) == 24 and start.steady and not whole.steady
    later = [look_at_part(file, n, fps=6, last=n == 3) for n in (1, 2, 3)]
    for name in ("light", "motion", "change", "mark"):
        joined = [value for look in (start, *later) for value in getattr(look, name)]
        assert joined == getattr(whole, name), name


def test_clips_are_decoded_alike_from_key_frames_and_the_beginning(tmp_path: Path) -> None:
    file = tmp_path / "a.mp4"
    write(file, np.random.default_rng(0).integers(0, 255, (120, 8, 12, 3), np.uint8).repeat(4, 1).repeat(4, 2))
    options: dict[str, Any] = {"fps": 6, "frames": 5, "height": 16, "width": 24}
    starts = [2, 7, 30, 80]
    sought, whole = (scan.decode(file, starts, steady=steady, **options) for steady in (True, False))
    np.testing.assert_array_equal(sought, whole)
    with pytest.raises(ValueError, match=r"frames \d+ to \d+ of .* cannot be decoded"):
        scan.decode(file, [88], steady=True, **options)
