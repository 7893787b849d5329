"""Prompts become zero-padded embeddings, whatever the size of the encoder."""

import pytest
import torch

from causvid.config import TextConfig
from causvid.models.text import TextEncoder, clean_prompt, train_tokenizer
from causvid.worlds.storybook import FULL, caption, sample_scene

CAPTIONS = ["A red swan, flying over a lake.", "a blue mammoth walks in the snow", "the red mammoth at night"]
CONFIG = TextConfig(dim=24, layers=2, heads=2, head_dim=12, ffn_dim=40, max_tokens=11)


def encoder(seed: int = 0) -> TextEncoder:
    return TextEncoder.create(CONFIG, train_tokenizer(CAPTIONS), generator=torch.Generator().manual_seed(seed))


def test_special_tokens_have_fixed_ids_and_words_end_with_the_end_mark() -> None:
    tokenizer = train_tokenizer(CAPTIONS)
    assert [tokenizer.id(token) for token in ("<pad>", "</s>", "<unk>")] == [0, 1, 2]
    words = [tokenizer.id(word) for word in ("a", "red", "swan")]
    known, empty, unknown = (coded.ids for coded in tokenizer(["A RED, swan!", "", "a wombat"]))
    assert known == [*words, 1] and empty == [1] and unknown[1:] == [2, 1]


def test_training_a_tokenizer_on_nothing_is_an_error() -> None:
    with pytest.raises(ValueError, match="no word"):
        train_tokenizer(["", " ,. "])


def test_rows_beyond_the_prompt_are_zero_and_the_rest_are_normed() -> None:
    text = encoder()
    x = text.embed(["a red swan", "", "a blue mammoth walks in the snow"])
    assert x.shape == (3, CONFIG.max_tokens, text.dim)
    lengths = [4, 1, 8]
    for row, length in zip(x, lengths, strict=True):
        assert torch.count_nonzero(row[length:]) == 0
        assert torch.allclose(row[:length].square().mean(-1), torch.ones(length), atol=1e-3)


def test_an_embedding_does_not_depend_on_its_batch_mates() -> None:
    text = encoder().eval()
    both = text.embed(["a red swan", "a blue mammoth walks in the snow"])
    assert torch.allclose(text.embed(["a red swan"])[0], both[0], atol=1e-6)


def test_the_seed_alone_decides_the_weights_and_the_global_generator_is_untouched() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    a, b, c = encoder(1), encoder(1), encoder(2)
    assert torch.equal(torch.rand(3), expected)
    assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))
    assert not torch.equal(a.embed(["a red swan"]), c.embed(["a red swan"]))


def test_a_small_encoder_learns_a_word_from_scratch() -> None:
    text = encoder()
    head = torch.nn.Linear(CONFIG.dim, 3)
    prompts = ["a red swan", "a blue swan", "the night", "red snow", "blue snow over the lake", "night at a lake"]
    labels = torch.tensor([0, 1, 2, 0, 1, 2])
    ids, mask = text.tokens(prompts)
    optimizer = torch.optim.Adam([*text.parameters(), *head.parameters()], 1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(head(text(ids, mask).sum(1)), labels)
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.05


def test_an_overlong_prompt_says_both_counts() -> None:
    with pytest.raises(ValueError, match="13 tokens, at most 11"):
        encoder().tokens(["a " * 12])


def test_unknown_words_are_named_as_written() -> None:
    text = encoder()
    assert text.unknown_words("A Purple swan, and a Wombat (purple). A Wombat!") == ["Purple", "and", "Wombat"]
    assert text.unknown_words("A RED swan!") == []


@pytest.mark.parametrize(
    "prompt, cleaned",
    [
        ("a red swan over a lake", "a red swan over a lake"),
        ("  a red\n\tswan  ", "a red swan"),
        ("schÃ¶n", "schön"),
        ("salt &amp;amp; pepper", "salt & pepper"),
        ("“quoted” ﬁsh", '"quoted" fish'),
        ("", ""),
    ],
)
def test_prompts_are_cleaned_as_wan_cleans_them(prompt: str, cleaned: str) -> None:
    assert clean_prompt(prompt) == cleaned
    assert torch.equal(encoder().tokens([prompt])[0], encoder().tokens([cleaned])[0])


def test_cleaning_leaves_the_captions_of_the_world_as_they_are() -> None:
    captions = [caption(sample_scene(FULL, seed), seed) for seed in range(200)]
    assert [clean_prompt(caption) for caption in captions] == captions
