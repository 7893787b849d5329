"""Colours and seams of frames that are known."""

import pytest
import torch


def test_colours_of_known_frames() -> None:
    from endless import colours

    grey = torch.full((1, 4, 6, 3), 51, dtype=torch.uint8)
    red = torch.tensor([255, 0, 0], dtype=torch.uint8).expand(1, 4, 6, 3)
    half = torch.cat((torch.zeros(1, 4, 3, 3), torch.full((1, 4, 3, 3), 255.0)), dim=2).to(torch.uint8)
    expected = torch.tensor([[0, 0, 0.2], [1, 0, 0.2126], [0, 0.5, 0.5]])
    assert torch.allclose(colours(torch.cat((grey, red, half))), expected, atol=1e-4)


def test_a_seam_is_counted_in_ordinary_steps() -> None:
    from seams import seam

    video = torch.arange(0, 24, 2, dtype=torch.uint8)[:, None, None, None].expand(-1, 4, 6, 3).clone()
    assert seam(video, 7) == pytest.approx(1.0)
    video[7:] += 12
    assert seam(video, 7) == pytest.approx(7.0)
    assert seam(video, 6) == pytest.approx(1.0)
    assert [seam(video, 3, stop) for stop in (7, 8)] == pytest.approx([1.0, 7.0])
    video[:] = 9
    video[5:] = 10
    assert seam(video, 5) == pytest.approx(10.0)  # of a still video, an ordinary step counts as a tenth of a level
