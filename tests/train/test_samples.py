"""What a stage leaves to look at."""

import sys

import pytest
import torch
from PIL import Image

from causvid.media import to_bytes
from causvid.train.samples import write_samples


def clips(count: int, frames: int) -> torch.Tensor:
    return torch.rand(count, frames, 3, 16, 24, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("count", "rows", "columns"), [(12, 3, 4), (7, 1, 4), (2, 1, 2)])
def test_clips_move_side_by_side(count, rows, columns, tmp_path):
    av = pytest.importorskip("av")
    levels = clips(count, 5) * torch.linspace(0.2, 1, count)[:, None, None, None, None]
    for _ in range(2):  # the second time over the first
        write_samples(to_bytes(levels), ["a red fish"] * count, tmp_path, fps=8)
    with av.open(str(tmp_path / "samples.mp4")) as video:
        frames = [frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)]
    assert len(frames) == 5 and frames[0].shape == (2 * 16 * rows, 2 * 24 * columns, 3)
    # A clip stands at its place in the sheet: row by row.
    seen = torch.tensor(frames[0][:32, 48:96] / 255.0).mean((0, 1))
    torch.testing.assert_close(seen.float(), levels[:, 0].mean((2, 3))[1], atol=0.03, rtol=0)


def test_single_frames_and_machines_without_pyav_get_the_sheet_alone(tmp_path, monkeypatch):
    write_samples(to_bytes(clips(4, 1)), ["a red fish"] * 4, tmp_path, fps=8)
    monkeypatch.setitem(sys.modules, "av", None)
    write_samples(to_bytes(clips(4, 5)), ["a red fish"] * 4, tmp_path, fps=8)
    assert [path.name for path in tmp_path.iterdir()] == ["samples.png"]
    assert Image.open(tmp_path / "samples.png").size[0] > 200
