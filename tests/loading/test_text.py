"""A text encoder and its tokenizer come back from files bit for bit, in both spellings, and no code runs."""

import json
from pathlib import Path

import pytest
import torch

from causvid.config import TextConfig
from causvid.loading.text import load_text_encoder, read_tokenizer, save_text_encoder
from causvid.models.text import TextEncoder, train_tokenizer

CAPTIONS = ["A red swan, flying over a lake.", "a blue mammoth walks in the snow", "the red mammoth at night"]
CONFIG = TextConfig(dim=24, layers=2, heads=2, head_dim=12, ffn_dim=40, max_tokens=11)


def encoder(seed: int = 0) -> TextEncoder:
    return TextEncoder.create(CONFIG, train_tokenizer(CAPTIONS), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_saved_and_loaded_is_the_same_to_the_precision_of_the_file(tmp_path: Path, dtype: torch.dtype) -> None:
    text = encoder()
    save_text_encoder(text, tmp_path / "text_encoder", tmp_path / "tokenizer", dtype=dtype)
    again = load_text_encoder(tmp_path / "text_encoder", tmp_path / "tokenizer")
    assert again.max_tokens == CONFIG.max_tokens
    for a, b in zip(text.parameters(), again.parameters(), strict=True):
        assert b.dtype == torch.float32
        assert torch.equal(a.to(dtype).float(), b)
    if dtype == torch.float32:
        assert torch.equal(text.embed(["a red swan"]), again.embed(["a red swan"]))


def test_missing_and_damaged_files_are_named(tmp_path: Path) -> None:
    a, b = tmp_path / "text_encoder", tmp_path / "tokenizer"
    with pytest.raises(ValueError, match=r"config\.json is missing"):
        load_text_encoder(a, b)
    save_text_encoder(encoder(), a, b, dtype=torch.float32)
    weights = a / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="not a whole safetensors file"):
        load_text_encoder(a, b)
    weights.write_bytes(whole)
    config = json.loads((a / "config.json").read_text())
    (a / "config.json").write_text(json.dumps({**config, "num_layers": 3}))
    with pytest.raises(ValueError, match=r"missing encoder\.block\.2"):
        load_text_encoder(a, b)
    (a / "config.json").write_text("{")
    with pytest.raises(ValueError, match="not readable JSON"):
        load_text_encoder(a, b)


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
    save_text_encoder(text, tmp_path / "text_encoder", tmp_path / "tokenizer", dtype=torch.float32)
    again = load_text_encoder(wan_file(text, tmp_path / "models_t5.pth"), tmp_path / "tokenizer")
    assert torch.equal(again.embed(CAPTIONS[2:]), text.embed(CAPTIONS[2:]))
    own = text.encoder.state_dict()
    assert all(torch.equal(tensor, own[name]) for name, tensor in again.encoder.state_dict().items())

    text.encoder.bfloat16()
    half = load_text_encoder(wan_file(text, tmp_path / "models_t5.pth"), tmp_path / "tokenizer", dtype=None)
    assert half.encoder.dtype == torch.bfloat16


def test_a_file_that_is_not_wans_encoder_is_refused_by_name(tmp_path: Path) -> None:
    text = encoder()
    save_text_encoder(text, tmp_path / "text_encoder", tmp_path / "tokenizer", dtype=torch.float32)
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
        with pytest.raises(ValueError, match=rf"models_t5\.pth is not .*UMT5 encoder.*: .*{message}"):
            load_text_encoder(file, tmp_path / "tokenizer")


def test_released_weights_give_the_same_embedding_and_are_gone_afterwards(tmp_path: Path) -> None:
    text = encoder().eval()
    a, b = tmp_path / "text_encoder", tmp_path / "tokenizer"
    save_text_encoder(text, a, b, dtype=torch.float32)
    # Without gradients other kernels run, which round differently.
    for place in (a, wan_file(text, tmp_path / "models_t5.pth")):
        released = load_text_encoder(place, b, placement="release")
        assert not list(released.parameters()) and released.dim == CONFIG.dim
        embedding = released.embed(["a red swan"])
        assert not embedding.requires_grad
        assert torch.allclose(embedding, text.embed(["a red swan"]), atol=1e-6)
        assert not list(released.parameters())
    save_text_encoder(released, tmp_path / "again", tmp_path / "tokenizer2", dtype=torch.float32)
    again = load_text_encoder(tmp_path / "again", tmp_path / "tokenizer2")
    assert torch.equal(again.embed(["a red swan"]), text.embed(["a red swan"]))


def test_the_encoder_may_stay_on_the_cpu(tmp_path: Path) -> None:
    save_text_encoder(encoder(), tmp_path / "a", tmp_path / "b", dtype=torch.float32)
    text = load_text_encoder(tmp_path / "a", tmp_path / "b", device="meta", placement="cpu")
    assert text.encoder.device.type == "cpu"
    assert text.embed(["a red swan"], "meta").device.type == "meta"


def test_the_tokenizer_file_is_read_as_it_stands(tmp_path: Path) -> None:
    tokenizer = train_tokenizer(CAPTIONS)
    tokenizer.save(tmp_path, max_tokens=11)
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
    hostile = {"auto_map": {"AutoTokenizer": ["evil.Tokenizer", None]}, "tokenizer_class": "Evil"}
    settings["pad_token"] = {"content": "<pad>", "special": True}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({**settings, **hostile}))
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'it ran')!r}, 'w')\nclass Tokenizer: pass\n")
    again, length = read_tokenizer(tmp_path)
    assert again(CAPTIONS) == tokenizer(CAPTIONS) and length == 11
    assert (again.pad, again.end, again.unknown) == ("<pad>", "</s>", "<unk>")
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(ValueError, match="holds no readable tokenizer"):
        read_tokenizer(tmp_path)
    assert not (tmp_path / "it ran").exists()


@pytest.mark.parametrize(
    ("token", "number", "line"),
    [("<unk>", None, "the tokenizer cannot read the prompt: .*unk"), ("<pad>", 10**6, "gives token 1000000, but")],
)
def test_a_tokenizer_that_lacks_a_token_or_numbers_it_beyond_the_encoder(
    tmp_path: Path, token: str, number: int | None, line: str
) -> None:
    save_text_encoder(encoder(), tmp_path / "a", tmp_path / "b", dtype=torch.float32)
    file, settings = tmp_path / "b" / "tokenizer.json", tmp_path / "b" / "tokenizer_config.json"
    rules = json.loads(file.read_text())
    rules["added_tokens"] = [
        {**one, "id": number} if one["content"] == token else one
        for one in rules["added_tokens"]
        if number or one["content"] != token
    ]
    rules["model"]["vocab"].pop(token)
    if number:
        rules["model"]["vocab"][token] = number
    file.write_text(json.dumps(rules))
    named = json.loads(settings.read_text())
    named.pop("unk_token")
    settings.write_text(json.dumps(named))
    with pytest.raises(ValueError, match=f"(?i){line}") as error:
        load_text_encoder(tmp_path / "a", tmp_path / "b").embed(["a wombat"])
    assert "\n" not in str(error.value)


def test_a_config_cannot_name_code_to_fetch(tmp_path: Path) -> None:
    save_text_encoder(encoder(), tmp_path / "a", tmp_path / "b", dtype=torch.float32)
    settings = json.loads((tmp_path / "a" / "config.json").read_text())
    for name in ("attn_implementation", "_attn_implementation"):
        (tmp_path / "a" / "config.json").write_text(json.dumps({**settings, name: "kernels-community/evil"}))
        assert load_text_encoder(tmp_path / "a", tmp_path / "b").dim == CONFIG.dim


def test_in_fp16_the_feed_forward_output_stays_in_fp32(tmp_path: Path) -> None:
    text = encoder()
    save_text_encoder(text, tmp_path / "a", tmp_path / "b", dtype=torch.float32)
    for place in (tmp_path / "a", wan_file(text, tmp_path / "t5.pth")):
        half = load_text_encoder(place, tmp_path / "b", dtype=torch.float16)
        wide = {name for name, p in half.named_parameters() if p.dtype == torch.float32}
        assert wide and all(name.endswith(".wo.weight") for name in wide)
        assert half.embed(["a red swan"]).isfinite().all()
