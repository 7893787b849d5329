"""Drift, colours, seams and diversity of videos that are known."""

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor

from causvid.evaluate.classifier import AttributeClassifier
from causvid.evaluate.diversity import difference
from causvid.evaluate.drift import colours, measure_drift
from causvid.evaluate.seams import seam


class ByBrightness(AttributeClassifier):
    """Read dark or bright off the mean of a clip."""

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        mean = pixels.mean((1, 2, 3, 4))
        return {"light": torch.stack((0.5 - mean, mean - 0.5), dim=-1)}


def read_drift(video: Tensor, labels: Mapping[str, Tensor]) -> tuple[float, float, float]:
    classifier = ByBrightness({"light": ("dark", "bright")}, width=4, frames=9)
    drift = measure_drift(classifier, [video, video], labels, fps=4)
    return drift.first.accuracy["light"], drift.last.accuracy["light"], drift.points


def test_drift_compares_both_ends() -> None:
    video = torch.full((1, 60, 4, 6, 3), 250, dtype=torch.uint8)
    bright = {"light": torch.tensor([1, 1])}
    assert read_drift(video, bright) == (1.0, 1.0, 0.0)
    video[:, 30:] = 0
    assert read_drift(video, bright) == (1.0, 0.0, -100.0)
    with pytest.raises(ValueError, match="edge_seconds=5"):
        read_drift(video[:, :39], bright)


def test_colours_of_known_frames() -> None:
    grey = torch.full((1, 4, 6, 3), 51, dtype=torch.uint8)
    red = torch.tensor([255, 0, 0], dtype=torch.uint8).expand(1, 4, 6, 3)
    half = torch.cat((torch.zeros(1, 4, 3, 3), torch.full((1, 4, 3, 3), 255.0)), dim=2).to(torch.uint8)
    expected = torch.tensor([[0, 0, 0.2], [1, 0, 0.2126], [0, 0.5, 0.5]])
    assert torch.allclose(colours(torch.cat((grey, red, half))), expected, atol=1e-4)


def test_a_seam_is_counted_in_ordinary_steps() -> None:
    video = torch.arange(0, 24, 2, dtype=torch.uint8)[:, None, None, None].expand(-1, 4, 6, 3).clone()
    assert seam(video, 7) == pytest.approx(1.0)
    video[7:] += 12
    assert seam(video, 7) == pytest.approx(7.0)
    assert seam(video, 6) == pytest.approx(1.0)
    assert [seam(video, 3, stop) for stop in (7, 8)] == pytest.approx([1.0, 7.0])
    video[:] = 9
    video[5:] = 10
    assert seam(video, 5) == pytest.approx(10.0)  # of a still video, an ordinary step counts as a tenth of a level


def test_difference_is_of_pixels_without_a_classifier(tmp_path: Path) -> None:
    dark = torch.zeros(2, 9, 16, 24, 3, dtype=torch.uint8)
    dark[1] = 51
    distance, measured = difference(dark, None)
    assert distance == pytest.approx(0.2, abs=1e-4) and measured == "mean pixel distance, of 1"
    AttributeClassifier({"light": ("dark", "bright")}, width=4, rows=16, frames=9).save(tmp_path)
    assert difference(dark[:, :8], tmp_path)[1] == "mean pixel distance, of 1"
    distance, measured = difference(dark, tmp_path)
    assert distance > 0 and "classifier" in measured
    assert difference(dark[[0, 0]], tmp_path)[0] == 0.0
