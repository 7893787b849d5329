"""The attribute classifier: it reads clips of any size, and survives a trip to disk."""

from pathlib import Path

import pytest
import torch

from causvid.evaluate.classifier import IGNORED, AttributeClassifier, labels_of

VOCABULARIES = {"colour": ("red", "green", "blue"), "motion": ("left", "right")}


@pytest.mark.parametrize(("height", "width"), [(33, 57), (64, 96)])
@pytest.mark.parametrize("frames", [9, 30])
def test_any_size_and_length_gives_logits(height: int, width: int, frames: int) -> None:
    model = AttributeClassifier(VOCABULARIES, width=4).eval()
    logits = model(torch.rand(2, frames, 3, height, width))
    assert {name: tuple(value.shape) for name, value in logits.items()} == {"colour": (2, 3), "motion": (2, 2)}


def test_it_is_small() -> None:
    model = AttributeClassifier({"subject": tuple(f"s{i}" for i in range(30)), **VOCABULARIES})
    assert sum(weight.numel() for weight in model.parameters()) < 400_000


def test_saved_and_loaded_reads_the_same(tmp_path: Path) -> None:
    model = AttributeClassifier(VOCABULARIES, width=4, rows=24, frames=9)
    pixels = torch.rand(4, 9, 3, 24, 36, generator=torch.Generator().manual_seed(0))
    model(pixels)  # its statistics are no longer those of an untrained one
    model.eval().save(tmp_path / "classifier")
    again = AttributeClassifier.load(tmp_path / "classifier")
    assert again.vocabularies == model.vocabularies
    for name, value in again(pixels).items():
        torch.testing.assert_close(value, model(pixels)[name], rtol=1e-2, atol=1e-3)  # stored in half precision


def test_words_become_labels() -> None:
    clips = [{"colour": "blue", "motion": None, "mood": "calm"}, {"colour": "red", "motion": "right"}]
    labels = labels_of(VOCABULARIES, clips)
    assert {name: value.tolist() for name, value in labels.items()} == {"colour": [2, 0], "motion": [IGNORED, 1]}
    with pytest.raises(ValueError, match="colour=mauve"):
        labels_of(VOCABULARIES, [{"colour": "mauve"}])


def test_mistakes_are_named(tmp_path: Path) -> None:
    model = AttributeClassifier(VOCABULARIES, width=4)
    with pytest.raises(ValueError, match="frames=5"):
        model(torch.rand(1, 5, 3, 48, 48))
    with pytest.raises(ValueError, match="uint8"):
        model(torch.zeros(1, 9, 3, 48, 48, dtype=torch.uint8))
    with pytest.raises(ValueError, match="classifier="):
        AttributeClassifier.load(tmp_path)
