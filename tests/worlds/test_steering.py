"""A player's actions: the prompt that each makes, and that the built-in model does what it says."""

from itertools import product

import pytest
import torch

from causvid.evaluate.classifier import AttributeClassifier
from causvid.pipeline import Pipeline
from causvid.worlds.storybook.steering import ACTIONS, steer

ASKED = {"left": "moving left", "right": "moving right", "hop": "hopping", "spin": "spinning"}


@pytest.mark.parametrize(
    ("prompt", "steered"),
    [
        ("a red swan over a lake", "a red swan moving to the left over a lake"),
        ("a red swan swimming right over a lake", "a red swan moving to the left over a lake"),
        ("A red swan Hopping up and down over a lake", "A red swan moving to the left over a lake"),
        ("over a lake, a red swan", "over a lake, a red swan moving to the left"),
        ("over a lake, a red swan spinning", "over a lake, a red swan moving to the left"),
        ("a dog, in the rain", "a dog moving to the left, in the rain"),
        ("a dog runs.", "a dog runs moving to the left"),
    ],
)
def test_only_the_motion_of_a_prompt_changes(prompt: str, steered: str) -> None:
    assert steer(prompt, "left") == steered


def test_an_action_repeated_changes_nothing() -> None:
    for action in ACTIONS:
        once = steer("a red swan over a lake", action)
        assert steer(once, action) == once


def test_an_unknown_action_is_refused() -> None:
    with pytest.raises(ValueError, match=r"action='fly': expected one of left, right, hop, spin, stop"):
        steer("a swan", "fly")


def test_the_subject_does_what_the_player_asks() -> None:
    pipeline = Pipeline.from_pretrained()
    assert pipeline.bundle.classifier is not None
    classifier = AttributeClassifier.load(pipeline.bundle.classifier)
    right = []
    for subject, (first, then) in product(
        ("swan", "rocket", "fish"), (("left", "right"), ("right", "left"), ("left", "hop"))
    ):
        stream = pipeline.stream(pipeline.steered(f"a red {subject} over a lake", first), seed=1)
        for _ in range(3):
            next(stream)
        stream.prompt = pipeline.steered(stream.prompt, then)
        next(stream)  # the change
        clip = torch.cat([next(stream), next(stream)]).movedim(-1, 1)[None].float() / 255
        seen = classifier(clip)["motion"].argmax()
        right.append(classifier.vocabularies["motion"][seen] == ASKED[then])
    assert sum(right) >= 8
