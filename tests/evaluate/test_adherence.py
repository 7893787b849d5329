"""Counts of what a classifier reads, on one whose answers are known."""

import pytest
import torch
from torch import Tensor

from causvid.evaluate.adherence import Adherence, Tally, pooled, read, score, wanted
from causvid.evaluate.classifier import AttributeClassifier


class ByBrightness(AttributeClassifier):
    """Read the value of every attribute off the mean brightness of a clip: value i is (i + 0.5) / n."""

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        mean = pixels.mean((1, 2, 3, 4))
        return {
            name: -100.0 * (mean[:, None] - (torch.arange(len(words)) + 0.5) / len(words)).abs()
            for name, words in self.vocabularies.items()
        }


@pytest.fixture
def classifier() -> ByBrightness:
    return ByBrightness({"colour": ("black", "white"), "place": ("a", "b", "c", "d")}, width=4, frames=9)


def test_score_counts_an_attribute_and_each_value(classifier: ByBrightness) -> None:
    level = torch.tensor([0.1, 0.1, 0.9, 0.9])
    pixels = level[:, None, None, None, None].expand(4, 9, 3, 4, 6)
    labels = {"colour": torch.tensor([0, 1, 1, -1]), "place": torch.tensor([0, 0, 3, 3])}
    result = score(classifier, pixels.split(3), labels)
    assert result.attributes["colour"] == Tally(correct=2, count=3)
    assert result.values["colour"] == {"black": Tally(correct=1, count=1), "white": Tally(correct=1, count=2)}
    assert result.accuracy["place"] == 1.0 and set(result.values["place"]) == {"a", "d"}
    assert Adherence.model_validate_json(result.model_dump_json()) == result


def test_score_reads_bytes_as_it_reads_floats(classifier: ByBrightness) -> None:
    clip = torch.full((2, 20, 4, 6, 3), 230, dtype=torch.uint8)
    assert read(classifier, clip)["place"].tolist() == [3, 3]
    assert read(classifier, clip.movedim(-1, 2) / 255.0)["place"].tolist() == [3, 3]


def test_a_long_clip_is_read_to_its_end(classifier: ByBrightness) -> None:
    clip = torch.zeros(1, 36, 3, 4, 6)
    clip[:, 9:] = 0.9
    assert read(classifier, clip)["colour"].tolist() == [1]


def test_accuracies_are_compared_as_shares_and_points() -> None:
    ceiling = Adherence(attributes={"colour": Tally(correct=8, count=10)}, values={})
    measured = Adherence(attributes={"colour": Tally(correct=6, count=10)}, values={})
    assert measured.points_below(ceiling) == {"colour": 20.0}
    assert pooled([*ceiling.attributes.values(), *measured.attributes.values()]) == Tally(correct=14, count=20)


def test_interval_of_a_fraction_is_wilsons() -> None:
    low, high = Tally(correct=9, count=10).interval
    assert (low, high) == pytest.approx((0.5958, 0.9821), abs=1e-4)
    assert Tally(correct=10, count=10).interval[1] == pytest.approx(1.0)


def test_mistakes_are_named(classifier: ByBrightness) -> None:
    pixels = torch.zeros(2, 9, 3, 4, 6)
    with pytest.raises(ValueError, match="weather"):
        score(classifier, [pixels], {"weather": torch.tensor([0, 0])})
    with pytest.raises(ValueError, match="clips=2"):
        score(classifier, [pixels], {"colour": torch.tensor([0, 0, 0])})


class ByPixel(AttributeClassifier):
    """Read subject i as likely as pixel i of the first row is bright, on average over time."""

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        return {name: 20.0 * pixels[:, :, 0, 0, : len(words)].mean(1) for name, words in self.vocabularies.items()}


def test_both_subjects_of_a_pair_are_its_two_likeliest_in_any_order() -> None:
    classifier = ByPixel({"subject": ("cat", "owl", "swan")}, width=4, frames=9)
    pixels = torch.zeros(4, 12, 3, 2, 3)
    pixels[:3, :, 0, 0] = torch.tensor([0.2, 0.9, 0.7])
    pixels[3, :, 0, 0, 0] = 1.0
    clips = [{"pair": "swan and owl"}, {"pair": "owl and swan"}, {"pair": "owl and cat"}, {"subject": "cat"}]
    result = score(classifier, pixels.split(3), wanted(classifier, clips))
    assert result.attributes == {"subject": Tally(correct=1, count=1), "pair": Tally(correct=2, count=3)}


def test_a_morph_shows_both_ends_in_their_order() -> None:
    classifier = ByPixel({"subject": ("cat", "owl", "swan")}, width=4, frames=25)
    frames = torch.zeros(36, 3)
    frames[:12, 0] = frames[12:24, 1] = frames[24:, 2] = 1.0
    there = torch.zeros(1, 36, 3, 2, 3)
    there[0, :, 0, 0] = frames
    clips = [{"morph": words} for words in ("cat into owl", "owl into cat", "cat into swan", "swan into swan")]
    asked = wanted(classifier, [*clips, {"subject": None}])
    assert asked["morph"].tolist() == [[0, 1], [1, 0], [0, 2], [2, 2], [-1, -1]] and "pair" not in asked
    result = score(classifier, [there.expand(5, -1, -1, -1, -1)], asked)
    assert result.attributes["morph"] == Tally(correct=3, count=4)


def test_what_is_not_two_subjects_that_the_classifier_knows_is_refused() -> None:
    classifier = ByPixel({"subject": ("cat", "owl", "swan")}, width=4, frames=9)
    with pytest.raises(ValueError, match="dog"):
        wanted(classifier, [{"pair": "cat and dog"}])
    with pytest.raises(ValueError, match="morph: expected two subjects, such as `swan into cat`"):
        wanted(classifier, [{"morph": "cat"}])
