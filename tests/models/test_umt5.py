"""Our UMT5 and its tokenizer are transformers', from the same files."""

from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, UMT5EncoderModel

from causvid.config import TextConfig
from causvid.loading.text import load_text_encoder, save_text_encoder
from causvid.models.subword import train_subword_tokenizer
from causvid.models.text import TextEncoder, train_tokenizer
from causvid.models.tokenizer import Tokenizer
from causvid.worlds.storybook import FULL, caption, sample_scene

CAPTIONS = [caption(sample_scene(FULL, seed), seed) for seed in range(120)]
PROMPTS = ["", "a red swan", CAPTIONS[0], "Ünïcode 天鹅 🦢 ﬁsh", "</s> <pad> <unk> red", " a\u00a0b\t", "red " * 30]
SMALL = TextConfig(dim=24, layers=2, heads=2, head_dim=12, ffn_dim=40, max_tokens=200)
LARGER = TextConfig(dim=64, layers=3, heads=5, head_dim=16, ffn_dim=96, max_tokens=331)


def written(folder: Path, config: TextConfig, tokenizer: Tokenizer | None = None) -> tuple[Path, Path]:
    """Write a random encoder and a tokenizer as two folders."""
    generator = torch.Generator().manual_seed(config.dim)
    text = TextEncoder.create(config, tokenizer or train_tokenizer(CAPTIONS), generator=generator)
    with torch.no_grad():
        for name, parameter in text.named_parameters():
            if "layer_norm" in name:
                parameter.uniform_(0.5, 1.5, generator=generator)
    save_text_encoder(text, folder / "text_encoder", folder / "tokenizer", dtype=torch.float32)
    return folder / "text_encoder", folder / "tokenizer"


@pytest.mark.parametrize("train", [train_tokenizer, train_subword_tokenizer])
def test_ids_and_masks_are_those_of_transformers(tmp_path: Path, train: type[Tokenizer]) -> None:
    encoder, folder = written(tmp_path, SMALL, train(CAPTIONS))
    reference = AutoTokenizer.from_pretrained(folder)
    assert reference.model_max_length == SMALL.max_tokens
    coded = reference(PROMPTS, padding="max_length", max_length=SMALL.max_tokens, return_tensors="pt")
    text = load_text_encoder(encoder, folder)
    raw = [one.ids for one in text.tokenizer(PROMPTS)]
    assert raw == [ids[mask.bool()].tolist() for ids, mask in zip(coded.input_ids, coded.attention_mask, strict=True)]
    plain = [prompt for prompt in PROMPTS if prompt.isascii() and prompt == " ".join(prompt.split())]
    again = reference(plain, padding="max_length", max_length=SMALL.max_tokens, return_tensors="pt")
    ids, mask = text.tokens(plain)
    assert torch.equal(ids, again.input_ids) and torch.equal(mask, again.attention_mask.bool())


@pytest.mark.parametrize("config", [SMALL, LARGER])
@torch.no_grad()
def test_hidden_states_are_those_of_transformers(tmp_path: Path, config: TextConfig) -> None:
    encoder, folder = written(tmp_path, config)
    text, reference = load_text_encoder(encoder, folder), UMT5EncoderModel.from_pretrained(encoder).eval()
    ids, mask = text.tokens([*PROMPTS, "a red swan " * 60])
    expected = reference(input_ids=ids, attention_mask=mask.long()).last_hidden_state
    assert torch.allclose(text.encoder(ids, mask)[mask], expected[mask], rtol=0, atol=1e-5)


@torch.no_grad()
def test_weights_that_transformers_wrote_load_unchanged(tmp_path: Path) -> None:
    encoder, folder = written(tmp_path, SMALL)
    reference = UMT5EncoderModel.from_pretrained(encoder, dtype=torch.bfloat16).eval()
    reference.save_pretrained(tmp_path / "theirs")
    text = load_text_encoder(tmp_path / "theirs", folder, dtype=None)
    state = reference.state_dict()
    assert text.encoder.dtype == torch.bfloat16
    wide = text.encoder.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in wide.items())
    ids, mask = text.tokens(PROMPTS[:3])
    expected = reference(input_ids=ids, attention_mask=mask.long()).last_hidden_state
    assert torch.allclose(text.encoder(ids, mask)[mask].float(), expected[mask].float(), atol=0.1)


@torch.no_grad()
def test_a_row_without_tokens_is_finite(tmp_path: Path) -> None:
    text = load_text_encoder(*written(tmp_path, SMALL))
    ids, mask = text.tokens(["a red swan"])
    assert text.encoder(ids, torch.zeros_like(mask)).isfinite().all()
