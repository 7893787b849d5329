"""Weights of UMT5 encoders, as transformers or as Wan 2.1 names them, read at once or whenever they are needed."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import UMT5Config, UMT5EncoderModel
from transformers.modeling_outputs import BaseModelOutput
from transformers.utils import logging

from causvid.files.checkpoint import Checkpoint, open_checkpoint, read_json
from causvid.loading.names import compare_shapes

# transformers, Wan's original
_OUTSIDE = (("shared", "token_embedding"), ("encoder.final_layer_norm", "norm"))
_IN_BLOCK = (
    ("layer.0.layer_norm", "norm1"),
    ("layer.0.SelfAttention.relative_attention_bias", "pos_embedding.embedding"),
    *((f"layer.0.SelfAttention.{part}", f"attn.{part}") for part in "qkvo"),
    ("layer.1.layer_norm", "norm2"),
    ("layer.1.DenseReluDense.wi_0", "ffn.gate.0"),
    ("layer.1.DenseReluDense.wi_1", "ffn.fc1"),
    ("layer.1.DenseReluDense.wo", "ffn.fc2"),
)
_TIED = "encoder.embed_tokens.weight"
_BLOCK = re.compile(r"encoder\.block\.(\d+)\.(.+)\.weight")


def read_umt5(
    path: str | Path, *, dtype: torch.dtype | None = None, device: torch.device | str = "cpu"
) -> UMT5EncoderModel:
    """Read an encoder from a folder of transformers' or a file with Wan's names (`models_t5_umt5-xxl-enc-bf16.pth`).

    Args:
        dtype: of the weights; by default that of the file.

    Raises:
        ValueError: if a file is missing or damaged, or a weight is missing or of a wrong shape.
    """
    place = Path(path)
    encoder = _read_folder(place, dtype) if place.is_dir() else _read_file(place, dtype, device)
    return encoder.to(device).eval()  # type: ignore[arg-type]


def read_umt5_config(path: str | Path) -> UMT5Config:
    """Read the sizes of an encoder, but not its weights.

    Raises:
        ValueError: if a file is missing or damaged.
    """
    place = Path(path)
    if not place.is_dir():
        return _infer_config(open_checkpoint(place))
    settings = read_json(place / "config.json")
    try:
        return UMT5Config.from_dict(settings)
    except Exception as error:
        raise ValueError(f"{place / 'config.json'}: {first_line(error)}") from error


class EncoderOnDemand(nn.Module):
    """An encoder whose weights are read anew for every call and dropped after it; it takes no gradient."""

    def __init__(self, path: str | Path, *, dtype: torch.dtype | None, device: torch.device | str) -> None:
        """Remember where the weights are, and on which device they are to work.

        Raises:
            ValueError: if the sizes of the encoder cannot be read.
        """
        super().__init__()
        self.path, self.dtype, self.device = Path(path), dtype, torch.device(device)
        self.config = read_umt5_config(path)

    def read(self) -> UMT5EncoderModel:
        """Return the encoder itself."""
        return read_umt5(self.path, dtype=self.dtype, device=self.device)

    @torch.no_grad()
    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> BaseModelOutput:
        """Do what the encoder does with ids and mask `[B, M]`."""
        return self.read()(input_ids=input_ids, attention_mask=attention_mask)


@contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers from drawing its own progress bars and reports; what goes wrong is raised instead."""
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def first_line(error: Exception) -> str:
    """Shorten what a library raises to one line."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _read_folder(folder: Path, dtype: torch.dtype | None) -> UMT5EncoderModel:
    read_json(folder / "config.json")
    try:
        with quiet():
            loaded: Any = UMT5EncoderModel.from_pretrained(
                str(folder), dtype=dtype or "auto", local_files_only=True, output_loading_info=True
            )
        encoder, report = loaded
    except Exception as error:
        raise ValueError(f"{folder} holds no readable UMT5 encoder: {first_line(error)}") from error
    lost = sorted(report["missing_keys"]) + sorted(str(key[0]) for key in report["mismatched_keys"])
    if lost:
        raise ValueError(f"{folder} lacks, or has in a wrong shape, {', '.join(lost[:4])}")
    return encoder


def _read_file(file: Path, dtype: torch.dtype | None, device: torch.device | str) -> UMT5EncoderModel:
    checkpoint = open_checkpoint(file)
    with torch.device("meta"):
        encoder = UMT5EncoderModel(_infer_config(checkpoint))
    own = {_wan_name(name): name for name in encoder.state_dict() if name != _TIED}
    found = {name: entry.shape for name, entry in checkpoint.sections[""].items()}
    mismatch = compare_shapes(found, {name: encoder.get_parameter(own[name]).shape for name in own})
    if mismatch:
        raise ValueError(f"{file} is not Wan's UMT5 encoder: {mismatch}")
    state = {own[name]: tensor for name, tensor in checkpoint.read(list(found), dtype=dtype, device=device)}
    encoder.load_state_dict(state | {_TIED: state["shared.weight"]}, assign=True)
    encoder.tie_weights()
    return encoder


def _infer_config(checkpoint: Checkpoint) -> UMT5Config:
    """Read the sizes off the shapes of weights with Wan's names; the rest is the same for all of UMT5."""
    entries = checkpoint.sections.get("", {})

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
        return f"{dict(_OUTSIDE)[name.removesuffix('.weight')]}.weight"
    return f"blocks.{block[1]}.{dict(_IN_BLOCK)[block[2]]}.weight"
