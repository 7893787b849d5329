"""Prompts become zero-padded embeddings, whatever the size of the encoder."""

import json
from pathlib import Path

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
    assert tokenizer.convert_tokens_to_ids(["<pad>", "</s>", "<unk>"]) == [0, 1, 2]
    assert tokenizer.tokenize("A RED, swan!") == ["a", "red", "swan"]
    assert tokenizer("")["input_ids"] == [1]
    assert tokenizer("a wombat")["input_ids"][1:] == [2, 1]


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


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_saved_and_loaded_is_the_same_to_the_precision_of_the_file(tmp_path: Path, dtype: torch.dtype) -> None:
    text = encoder()
    text.save(tmp_path / "text_encoder", tmp_path / "tokenizer", dtype=dtype)
    again = TextEncoder.load(tmp_path / "text_encoder", tmp_path / "tokenizer")
    assert again.max_tokens == CONFIG.max_tokens
    for a, b in zip(text.parameters(), again.parameters(), strict=True):
        assert b.dtype == torch.float32
        assert torch.equal(a.to(dtype).float(), b)
    if dtype == torch.float32:
        assert torch.equal(text.embed(["a red swan"]), again.embed(["a red swan"]))


def test_missing_and_damaged_files_are_named(tmp_path: Path) -> None:
    a, b = tmp_path / "text_encoder", tmp_path / "tokenizer"
    with pytest.raises(ValueError, match=r"config\.json is missing"):
        TextEncoder.load(a, b)
    encoder().save(a, b, dtype=torch.float32)
    weights = a / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="text_encoder holds no readable"):
        TextEncoder.load(a, b)
    weights.write_bytes(whole)
    config = json.loads((a / "config.json").read_text())
    (a / "config.json").write_text(json.dumps({**config, "num_layers": 3}))
    with pytest.raises(ValueError, match=r"encoder\.block\.2"):
        TextEncoder.load(a, b)
    (a / "config.json").write_text("{")
    with pytest.raises(ValueError, match="not readable JSON"):
        TextEncoder.load(a, b)


def wan_file(text: TextEncoder, file: Path) -> Path:
    """Save an encoder under the names of Wan's own code."""
    own = text.encoder.state_dict()
    state = {"token_embedding.weight": own["shared.weight"], "norm.weight": own["encoder.final_layer_norm.weight"]}
    for i in range(CONFIG.layers):
        attention, feed_forward = f"encoder.block.{i}.layer.0", f"encoder.block.{i}.layer.1"
        state |= {
            f"blocks.{i}.norm1.weight": own[f"{attention}.layer_norm.weight"],
            f"blocks.{i}.norm2.weight": own[f"{feed_forward}.layer_norm.weight"],
            f"blocks.{i}.pos_embedding.embedding.weight": own[
                f"{attention}.SelfAttention.relative_attention_bias.weight"
            ],
            f"blocks.{i}.ffn.gate.0.weight": own[f"{feed_forward}.DenseReluDense.wi_0.weight"],
            f"blocks.{i}.ffn.fc1.weight": own[f"{feed_forward}.DenseReluDense.wi_1.weight"],
            f"blocks.{i}.ffn.fc2.weight": own[f"{feed_forward}.DenseReluDense.wo.weight"],
        }
        state |= {f"blocks.{i}.attn.{x}.weight": own[f"{attention}.SelfAttention.{x}.weight"] for x in "qkvo"}
    torch.save(state, file)
    return file


@torch.no_grad()
def test_wans_own_file_is_the_same_encoder_bit_for_bit(tmp_path: Path) -> None:
    text = encoder().eval()
    text.save(tmp_path / "text_encoder", tmp_path / "tokenizer", dtype=torch.float32)
    again = TextEncoder.load(wan_file(text, tmp_path / "models_t5.pth"), tmp_path / "tokenizer", max_tokens=11)
    assert torch.equal(again.embed(CAPTIONS[2:]), text.embed(CAPTIONS[2:]))
    own = text.encoder.state_dict()
    assert all(torch.equal(tensor, own[name]) for name, tensor in again.encoder.state_dict().items())
    assert again.encoder.shared.weight is again.encoder.encoder.embed_tokens.weight

    text.encoder.bfloat16()
    half = TextEncoder.load(wan_file(text, tmp_path / "models_t5.pth"), tmp_path / "tokenizer", dtype=None)
    assert half.encoder.dtype == torch.bfloat16


def test_a_file_that_is_not_wans_encoder_is_refused_by_name(tmp_path: Path) -> None:
    text = encoder()
    text.save(tmp_path / "text_encoder", tmp_path / "tokenizer", dtype=torch.float32)
    file = wan_file(text, tmp_path / "models_t5.pth")
    state = torch.load(file)
    for change, message in (
        (
            {"blocks.1.ffn.fc1.weight": torch.zeros(40, 8)},
            r"blocks\.1\.ffn\.fc1\.weight is \[40, 8\], expected \[40, 24\]",
        ),
        ({"blocks.1.norm3.weight": torch.zeros(24)}, r"unknown blocks\.1\.norm3\.weight"),
        ({"token_embedding.weight": torch.zeros(3)}, r"there is no matrix token_embedding\.weight"),
    ):
        torch.save({**state, **change}, file)
        with pytest.raises(ValueError, match=rf"models_t5\.pth is not Wan's UMT5 encoder: {message}"):
            TextEncoder.load(file, tmp_path / "tokenizer")


def test_released_weights_give_the_same_embedding_and_are_gone_afterwards(tmp_path: Path) -> None:
    text = encoder().eval()
    a, b = tmp_path / "text_encoder", tmp_path / "tokenizer"
    text.save(a, b, dtype=torch.float32)
    # Without gradients other kernels run, which round differently.
    for place in (a, wan_file(text, tmp_path / "models_t5.pth")):
        released = TextEncoder.load(place, b, placement="release")
        assert not list(released.parameters()) and released.dim == CONFIG.dim
        embedding = released.embed(["a red swan"])
        assert not embedding.requires_grad
        assert torch.allclose(embedding, text.embed(["a red swan"]), atol=1e-6)
        assert not list(released.parameters())
    released.save(tmp_path / "again", tmp_path / "tokenizer2", dtype=torch.float32)
    again = TextEncoder.load(tmp_path / "again", tmp_path / "tokenizer2")
    assert torch.equal(again.embed(["a red swan"]), text.embed(["a red swan"]))


def test_the_encoder_may_stay_on_the_cpu(tmp_path: Path) -> None:
    encoder().save(tmp_path / "a", tmp_path / "b", dtype=torch.float32)
    text = TextEncoder.load(tmp_path / "a", tmp_path / "b", device="meta", placement="cpu")
    assert text.encoder.device.type == "cpu"
    assert text.embed(["a red swan"], "meta").device.type == "meta"


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
