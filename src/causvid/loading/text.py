"""Text encoders from and to files: UMT5 as transformers or as Wan 2.1 names it, and its tokenizer. No code runs."""

import json
import re
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError

from causvid.config import one_line
from causvid.files.checkpoint import Checkpoint, open_checkpoint, read_json
from causvid.files.writing import write_state
from causvid.loading.names import check_shapes
from causvid.loading.spec import Placement
from causvid.models.text import WAN_TOKENS, EncoderOnDemand, TextEncoder
from causvid.models.tokenizer import FILE, Tokenizer
from causvid.models.umt5 import UMT5Config, UMT5Encoder
from causvid.opening import read_text
from causvid.seeding import without_contents

# transformers, Wan's original
_OUTSIDE = {"shared": "token_embedding", "encoder.final_layer_norm": "norm"}
_IN_BLOCK = {
    "layer.0.layer_norm": "norm1",
    "layer.0.SelfAttention.relative_attention_bias": "pos_embedding.embedding",
    **{f"layer.0.SelfAttention.{part}": f"attn.{part}" for part in "qkvo"},
    "layer.1.layer_norm": "norm2",
    "layer.1.DenseReluDense.wi_0": "ffn.gate.0",
    "layer.1.DenseReluDense.wi_1": "ffn.fc1",
    "layer.1.DenseReluDense.wo": "ffn.fc2",
}
# transformers writes the table of tokens a second time under this name.
_TIED = "encoder.embed_tokens.weight"
_FACTORS = ("scaled_fp8", ".scale_weight", ".weight_scale", ".comfy_quant")
"""Ends of names that only weights of ComfyUI's 8-bit formats have beside them."""
_BLOCK = re.compile(r"encoder\.block\.(\d+)\.(.+)\.weight")
TOKENIZER = 64 * 2**20
"""Most bytes of a tokenizer.json: four times that of UMT5."""
_SPECIAL_TOKENS = ("pad_token", "eos_token", "unk_token")


def load_text_encoder(
    encoder: Path,
    tokenizer: Path,
    *,
    dtype: torch.dtype | None = torch.float32,
    device: torch.device | str = "cpu",
    placement: Placement = "keep",
) -> TextEncoder:
    """Read a UMT5 encoder of any size and its tokenizer, in evaluation mode.

    Args:
        encoder: a folder of transformers', or a file with Wan's names (`models_t5_umt5-xxl-enc-bf16.pth`).
        tokenizer: a folder of transformers'.
        dtype: of the weights; None leaves that of the file.
        placement: whether the weights stay on `device`, stay on the CPU, or are read onto `device` for every call and
            released after it.

    Raises:
        ValueError: if a file is missing or damaged, or a weight is missing or of a wrong shape.
    """
    words, length = read_tokenizer(tokenizer)
    # transformers says 1e30 where the tokenizer names no length.
    max_tokens = int(length) if length is not None and 0 < length < 100_000 else WAN_TOKENS
    if placement == "release":
        config = read_umt5_config(encoder)
        network = EncoderOnDemand(lambda: _read_umt5(encoder, dtype, device), config, device=torch.device(device))
        return TextEncoder(words, network, max_tokens=max_tokens).eval()
    here = "cpu" if placement == "cpu" else device
    return TextEncoder(words, _read_umt5(encoder, dtype, here), max_tokens=max_tokens).eval()


def save_text_encoder(text: TextEncoder, encoder_folder: Path, tokenizer_folder: Path, *, dtype: torch.dtype) -> None:
    """Write both folders as transformers does, the weights stored as `dtype`."""
    encoder = text.encoder.read() if isinstance(text.encoder, EncoderOnDemand) else text.encoder
    settings = {
        "architectures": ["UMT5EncoderModel"],
        "model_type": "umt5",
        "dtype": str(dtype).removeprefix("torch."),
        **encoder.config.model_dump(mode="json"),
    }
    write_state(encoder_folder, settings, encoder.state_dict(), dtype, file="model.safetensors")
    text.tokenizer.save(tokenizer_folder, max_tokens=text.max_tokens)


def read_tokenizer(folder: Path) -> tuple[Tokenizer, float | None]:
    """Read a tokenizer from its `tokenizer.json`, and how many tokens it says a prompt has.

    Raises:
        ValueError: if a file is missing or damaged.
    """
    from tokenizers import Tokenizer as Rules

    settings = read_json(folder / "tokenizer_config.json")
    file = folder / FILE
    try:
        if not file.is_file():
            raise ValueError(f"{FILE} is missing; fetch it too, a model of sentencepiece alone is not read")
        text = read_text(file, most=TOKENIZER)
        _check_templates(json.loads(text).get("post_processor"))
        rules = Rules.from_str(text)
        found = (settings.get(name) for name in _SPECIAL_TOKENS)
        # transformers writes a token alone, or with how it is matched.
        pad, end, unknown = (token["content"] if isinstance(token, dict) else token for token in found)
        pad = pad or (rules.padding or {}).get("pad_token", "")
        length = settings.get("model_max_length")
        return Tokenizer(rules, pad=pad, end=end, unknown=unknown), None if length is None else float(length)
    except BaseException as error:  # tokenizers raises its errors as plain Exceptions, and panics as none
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{folder} holds no readable tokenizer: {reason}") from error


def _check_templates(processor: Any) -> None:
    """Refuse a template with a token that it does not define, at which tokenizers panics."""
    if not isinstance(processor, dict):
        return
    for part in processor.get("processors") or ():
        _check_templates(part)
    for piece in (*(processor.get("single") or ()), *(processor.get("pair") or ())):
        token = (piece.get("SpecialToken") or {}).get("id")
        if token is not None and token not in (processor.get("special_tokens") or {}):
            raise ValueError(f"its template has the token {token!r}, which it does not define")


def read_umt5_config(place: Path) -> UMT5Config:
    """Read the sizes of an encoder, but not its weights.

    Raises:
        ValueError: if a file is missing or damaged.
    """
    if not place.is_dir():
        checkpoint = open_checkpoint(place)
        if any(name.endswith(_FACTORS) for name in checkpoint.sections.get("", ())):
            raise ValueError(f"{place} is a text encoder in scaled fp8, which is not read: use one of fp16 or bf16")
        return _infer_config(checkpoint)
    try:
        return UMT5Config.model_validate(read_json(place / "config.json"))
    except ValidationError as error:
        raise ValueError(f"{place / 'config.json'}: {one_line(error)}") from None


def _read_umt5(place: Path, dtype: torch.dtype | None, device: torch.device | str) -> UMT5Encoder:
    config, checkpoint = read_umt5_config(place), open_checkpoint(place)
    with without_contents():
        encoder = UMT5Encoder(config)
    theirs = place.is_dir() or "shared.weight" in checkpoint.sections.get("", {})  # ComfyUI's file is named so too
    names = {name if theirs else _wan_name(name): name for name in encoder.state_dict()}
    # A whole UMT5 has a decoder too, which a folder of transformers' may hold.
    skipped = (_TIED, "decoder.", "lm_head.") if theirs else ()
    entries = checkpoint.sections.get("", {})
    found = {name: entry for name, entry in entries.items() if not name.startswith(skipped)}
    try:
        check_shapes(found, {name: encoder.get_parameter(names[name]).shape for name in names})
    except ValueError as error:
        raise ValueError(f"{checkpoint.path} is not a UMT5 encoder of its sizes: {error}") from None
    # The output of a feed-forward layer overflows in fp16; transformers keeps it in fp32 too.
    wide = {name for name in found if dtype == torch.float16 and names[name].endswith(".wo.weight")}
    state: dict[str, torch.Tensor] = {}
    for some, kind in ((found.keys() - wide, dtype), (wide, torch.float32)):
        state |= {names[name]: tensor for name, tensor in checkpoint.read(sorted(some), dtype=kind, device=device)}
    encoder.load_state_dict(state, assign=True)
    return encoder.eval()


def _infer_config(checkpoint: Checkpoint) -> UMT5Config:
    """Read the sizes off the shapes of weights with Wan's names; the rest is the same for all of UMT5."""
    entries = checkpoint.sections.get("", {})
    if "shared.weight" in entries:
        known = [name for name in entries if _BLOCK.fullmatch(name) or name.removesuffix(".weight") in _OUTSIDE]
        entries = {_wan_name(name): entries[name] for name in known}

    def shape(name: str) -> torch.Size:
        if name not in entries or len(entries[name].shape) != 2:
            raise ValueError(f"{checkpoint.path} is not Wan's UMT5 encoder: there is no matrix {name}")
        return entries[name].shape

    vocabulary, dim = shape("token_embedding.weight")
    buckets, heads = shape("blocks.0.pos_embedding.embedding.weight")
    return UMT5Config.make(
        vocab_size=vocabulary,
        d_model=dim,
        d_kv=shape("blocks.0.attn.q.weight")[0] // max(heads, 1),
        d_ff=shape("blocks.0.ffn.gate.0.weight")[0],
        num_heads=heads,
        num_layers=sum(name.endswith(".norm1.weight") for name in entries),
        relative_attention_num_buckets=buckets,
    )


def _wan_name(name: str) -> str:
    """Translate a name of transformers' to Wan's."""
    block = _BLOCK.fullmatch(name)
    if block is None:
        return f"{_OUTSIDE[name.removesuffix('.weight')]}.weight"
    return f"blocks.{block[1]}.{_IN_BLOCK.get(block[2], block[2])}.weight"
