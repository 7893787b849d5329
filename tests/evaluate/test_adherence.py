"""Scores, speeds and drift, on a classifier whose answers are known."""

import time
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from causvid.evaluate.adherence import (
    Adherence,
    Mode,
    Tally,
    describe_machine,
    measure,
    measure_drift,
    points_below,
    read,
    relative,
    score,
)
from causvid.evaluate.classifier import AttributeClassifier

FPS = 4.0


class ByBrightness(AttributeClassifier):
    """Read the value of every attribute off the mean brightness of a clip: value i is (i + 0.5) / n."""

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        mean = pixels.mean((1, 2, 3, 4))
        return {
            name: -100.0 * (mean[:, None] - (torch.arange(len(words)) + 0.5) / len(words)).abs()
            for name, words in self.vocabularies.items()
        }


class Fading:
    """Make clips whose brightness is their seed / 10 and falls to zero after half of a long clip."""

    fps = FPS

    def stream(self, prompt: str, *, seconds: float, seed: int) -> Iterator[Tensor]:
        clip = self.generate_batch([prompt], seeds=[seed], seconds=seconds, mode="student")[0]
        for part in clip.split(4):
            time.sleep(0.002)
            yield part

    def generate_batch(self, prompts: list[str], *, seeds: list[int], seconds: float, mode: Mode) -> Tensor:
        frames = round(seconds * self.fps)
        value = torch.tensor(seeds)[:, None] * 25.5 * torch.ones(frames)
        if seconds > 10:
            value[:, frames // 2 :] = 0.0
        return value.round().to(torch.uint8)[:, :, None, None, None].expand(-1, -1, 4, 6, 3).contiguous()


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


def test_relative_and_points() -> None:
    ceiling = Adherence(attributes={"colour": Tally(correct=8, count=10)}, values={})
    measured = Adherence(attributes={"colour": Tally(correct=6, count=10)}, values={})
    assert relative(measured, ceiling)["colour"] == pytest.approx(0.75)
    assert points_below(measured, ceiling)["colour"] == pytest.approx(20.0)


def test_interval_of_a_fraction_is_wilsons() -> None:
    low, high = Tally(correct=9, count=10).interval
    assert (low, high) == pytest.approx((0.5958, 0.9821), abs=1e-4)
    assert Tally(correct=10, count=10).interval[1] == pytest.approx(1.0)


@pytest.mark.parametrize("mode", ["student", "teacher"])
def test_measure_seeds_every_clip_by_its_place_and_times_it(classifier: ByBrightness, mode: Mode) -> None:
    labels = {"colour": torch.tensor([0, 0, 1, 0])}
    done: list[tuple[int, int]] = []
    result = measure(
        Fading(), classifier, ["a"] * 4, labels, mode=mode, steps=3, seconds=4.0, seed=3, batch=3,
        progress=lambda count, total: done.append((count, total)),
    )  # fmt: skip
    assert result.adherence.accuracy["colour"] == 0.75  # brightness 0.3, 0.4, 0.5, 0.6
    assert done == [(3, 4), (4, 4)]
    assert result.speed.frames == 16 and result.speed.fps > 0
    early = result.speed.first_frame_seconds < result.speed.clip_seconds
    assert early if mode == "student" else result.speed.first_frame_seconds <= result.speed.clip_seconds


def test_drift_compares_both_ends(classifier: ByBrightness) -> None:
    drift = measure_drift(Fading(), classifier, ["a", "b"], {"colour": torch.tensor([1, 1])}, seconds=30.0, seed=8)
    assert drift.videos == 2
    assert drift.first.accuracy["colour"] == 1.0 and drift.last.accuracy["colour"] == 0.0
    with pytest.raises(ValueError, match="edge_seconds"):
        measure_drift(Fading(), classifier, ["a"], {"colour": torch.tensor([1])}, seconds=8.0, seed=0)


def test_mistakes_are_named(classifier: ByBrightness) -> None:
    pixels = torch.zeros(2, 9, 3, 4, 6)
    with pytest.raises(ValueError, match="weather"):
        score(classifier, [pixels], {"weather": torch.tensor([0, 0])})
    with pytest.raises(ValueError, match="clips=2"):
        score(classifier, [pixels], {"colour": torch.tensor([0, 0, 0])})


def test_the_machine_names_its_gpu_where_one_was_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"Card {device.index}")
    assert describe_machine("cuda:1") == f"Card 1; {describe_machine()}"
    assert describe_machine("cpu") == describe_machine()
