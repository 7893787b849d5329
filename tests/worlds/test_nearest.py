"""Unknown words become known ones of their kind, and nothing else does."""

import pytest

from causvid.worlds.storybook import NANO, STORYBOOK, words
from causvid.worlds.storybook.nearest import nearest_words

KNOWN = words(NANO)


@pytest.mark.parametrize(
    "prompt, meant, changes",
    [
        (
            "woolly mammoths venturing through a snowy tundra",
            "woolly mammoth walking through a snowy tundra",
            [("mammoths", "mammoth"), ("venturing", "walking")],
        ),
        ("a paper aeroplane", "a paper airplane", [("aeroplane", "airplane")]),
        ("a crimson kitty leaps", "a red cat hopping", [("crimson", "red"), ("kitty", "cat"), ("leaps", "hopping")]),
        ("elephants strolled", "mammoth walking", [("elephants", "mammoth"), ("strolled", "walking")]),
        ("a yelow star", "a yelow star", []),
        ("a purpple star", "a purple star", [("purpple", "purple")]),
    ],
)
def test_unknown_words_become_known_ones_of_their_kind(prompt, meant, changes):
    assert nearest_words(prompt, KNOWN) == (meant, changes)


def test_known_words_are_left_alone():
    for word in KNOWN:
        assert nearest_words(word.upper(), KNOWN) == (word.upper(), [])


@pytest.mark.parametrize("prompt", ["a zebra", "dogs", "lying on the ground", "unmoving, it remains", "", "42!"])
def test_words_of_another_kind_are_left_alone(prompt):
    assert nearest_words(prompt, words(STORYBOOK)) == (prompt, [])


def test_replacements_are_known_and_settle_at_once():
    prompt = "Elephants and a tabby soar, twirled by ebony parasols beyond the alps"
    meant, changes = nearest_words(prompt, KNOWN)
    assert all(new in KNOWN for _, new in changes)
    assert nearest_words(meant, KNOWN) == (meant, [])


def test_a_word_is_reported_once():
    assert nearest_words("kitty, Kitty", KNOWN) == ("cat, cat", [("kitty", "cat")])
