"""No word is unknown to the subword tokenizer, and words of the captions are few tokens."""

import pytest

from causvid.models.subword import train_subword_tokenizer
from causvid.models.text import TextEncoder
from causvid.worlds.storybook import STORYBOOK, caption, sample_scene


@pytest.fixture(scope="module")
def tokenizer():
    scenes = [sample_scene(STORYBOOK, seed) for seed in range(1500)]
    return train_subword_tokenizer([caption(scene, scene.seed, language="rich") for scene in scenes])


@pytest.mark.parametrize("text", ["a red swan", "wombats, émigrés & 猫 🦣", "snowwy tundrra"])
def test_every_text_comes_back_lowercased_without_punctuation(tokenizer, text):
    told = tokenizer.rules.decode(tokenizer([text])[0].ids)
    assert told.split() == text.lower().replace(",", "").replace("&", "").split()


def test_no_word_is_unknown(tokenizer):
    assert tokenizer.unknown is None
    assert TextEncoder.unknown_words(type("Known", (), {"tokenizer": tokenizer})(), "a zebra") == []


def test_common_words_are_one_token_wherever_they_stand(tokenizer):
    ids = tokenizer(["swan, red swan"])[0].ids
    assert len(ids) == 4 and ids[0] == ids[2]


def test_captions_are_few_tokens(tokenizer):
    texts = [caption(sample_scene(STORYBOOK, seed), seed, language="rich") for seed in range(5000, 5300)]
    lengths = [len(coded.ids) for coded in tokenizer(texts)]
    assert max(lengths) <= 48 and sum(lengths) / len(lengths) < 18


def test_the_same_captions_make_the_same_tokens():
    texts = ["a red swan flying over a lake"] * 20 + ["two blue swans"] * 20
    first, again = (train_subword_tokenizer(texts, size=300).vocabulary() for _ in range(2))
    assert first == again and first["<pad>"] == 0 and first["</s>"] == 1


def test_too_little_to_train_on_is_an_error():
    with pytest.raises(ValueError, match="no word"):
        train_subword_tokenizer(["", "once"])
    with pytest.raises(ValueError, match="size=100 has no room"):
        train_subword_tokenizer(["a swan"], size=100)
