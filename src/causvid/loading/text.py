"""Text encoders from and to files: UMT5 as transformers or as Wan 2.1 names it, and its tokenizer. No code runs."""

import logging
import re
from pathlib import Path
from typing import cast

import torch
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast, UMT5Config, UMT5EncoderModel
from transformers.utils import logging as progress

from causvid.files.checkpoint import Checkpoint, open_checkpoint, read_json
from causvid.loading.names import check_shapes
from causvid.loading.spec import Placement
from causvid.models.text import WAN_TOKENS, EncoderOnDemand, TextEncoder

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
_TIED = "encoder.embed_tokens.weight"
_BLOCK = re.compile(r"encoder\.block\.(\d+)\.(.+)\.weight")
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
    words = read_tokenizer(tokenizer)
    length = words.model_max_length
    # transformers says 1e30 where the tokenizer names no length.
    max_tokens = length if length is not None and length < 100_000 else WAN_TOKENS
    if placement == "release":
        config = read_umt5_config(encoder)
        network = EncoderOnDemand(lambda: _read_umt5(encoder, dtype, device), config, device=torch.device(device))
        return TextEncoder(words, network, max_tokens=max_tokens).eval()
    here = "cpu" if placement == "cpu" else device
    return TextEncoder(words, _read_umt5(encoder, dtype, here), max_tokens=max_tokens).eval()


def save_text_encoder(text: TextEncoder, encoder_folder: Path, tokenizer_folder: Path, *, dtype: torch.dtype) -> None:
    """Write both folders as transformers does, the weights stored as `dtype`."""
    encoder = text.encoder.read() if isinstance(text.encoder, EncoderOnDemand) else text.encoder
    here = encoder.dtype
    state = {name: tensor.detach().to(dtype) for name, tensor in encoder.state_dict().items()}
    encoder.config.dtype = dtype
    level, bars = progress.get_verbosity(), progress.is_progress_bar_enabled()
    progress.set_verbosity(logging.CRITICAL)  # what goes wrong is raised
    progress.disable_progress_bar()
    try:
        encoder.save_pretrained(encoder_folder, state_dict=state)
        text.tokenizer.save_pretrained(tokenizer_folder)
    finally:
        encoder.config.dtype = here
        progress.set_verbosity(level)
        if bars:
            progress.enable_progress_bar()


def read_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """Read a tokenizer: its `tokenizer.json` as it stands, or what transformers makes of an older kind's files.

    Raises:
        ValueError: if a file is missing or damaged.
    """
    settings = read_json(folder / "tokenizer_config.json")
    file = folder / "tokenizer.json"
    try:
        if not file.is_file():
            loaded = AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
            return cast(PreTrainedTokenizerBase, loaded)
        special = {name: settings[name] for name in _SPECIAL_TOKENS if settings.get(name) is not None}
        # transformers writes a token alone, or with how it is matched.
        special = {name: token if isinstance(token, str) else token["content"] for name, token in special.items()}
        length = settings.get("model_max_length")
        return PreTrainedTokenizerFast(tokenizer_file=str(file), model_max_length=length, **special)
    except Exception as error:  # tokenizers raises its errors as plain Exceptions
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{folder} holds no readable tokenizer: {reason}") from error


def read_umt5_config(place: Path) -> UMT5Config:
    """Read the sizes of an encoder, but not its weights.

    Raises:
        ValueError: if a file is missing or damaged.
    """
    if not place.is_dir():
        return _infer_config(open_checkpoint(place))
    settings = read_json(place / "config.json")
    # transformers fetches and runs an attention kernel that a config.json names.
    settings = {name: value for name, value in settings.items() if "_implementation" not in name}
    try:
        return UMT5Config.from_dict(settings)
    except Exception as error:  # settings of another model make transformers raise anything
        raise ValueError(f"{place / 'config.json'}: {' '.join(str(error).split())}") from error


def _read_umt5(place: Path, dtype: torch.dtype | None, device: torch.device | str) -> UMT5EncoderModel:
    config, checkpoint = read_umt5_config(place), open_checkpoint(place)
    with torch.device("meta"):
        encoder = UMT5EncoderModel(config)
    weights = [name for name in encoder.state_dict() if name != _TIED]
    theirs = place.is_dir() or "shared.weight" in checkpoint.sections.get("", {})  # ComfyUI's file is named so too
    names = {name if theirs else _wan_name(name): name for name in weights}
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
    encoder.load_state_dict(state | {_TIED: state["shared.weight"]}, assign=True)
    encoder.tie_weights()
    encoder.eval()
    return encoder


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
    return UMT5Config(
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
