"""Drift and diversity of videos that are known."""

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor

from causvid.evaluate.adherence import measure_drift
from causvid.evaluate.classifier import AttributeClassifier
from causvid.evaluate.diversity import difference


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
