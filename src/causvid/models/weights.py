"""Names of the transformer's weights in other formats, both ways, as one table.

Three spellings of one model: ours, diffusers' `WanTransformer3DModel`, and Wan 2.1's original. Values are the same in
all three; only the patch embedding differs in shape, being a 3-D convolution elsewhere and a product of flattened
patches here. Wan's original calls the norm before cross-attention `norm3`, diffusers calls it `norm2`.
"""

import difflib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from causvid.config import TransformerConfig
from causvid.models.transformer import Transformer

Format = Literal["diffusers", "wan"]
State = dict[str, Tensor]

# ours, diffusers, Wan original
_OUTSIDE = (
    ("patch_in", "patch_embedding", "patch_embedding"),
    ("text_in.0", "condition_embedder.text_embedder.linear_1", "text_embedding.0"),
    ("text_in.2", "condition_embedder.text_embedder.linear_2", "text_embedding.2"),
    ("time_in.0", "condition_embedder.time_embedder.linear_1", "time_embedding.0"),
    ("time_in.2", "condition_embedder.time_embedder.linear_2", "time_embedding.2"),
    ("time_modulation.1", "condition_embedder.time_proj", "time_projection.1"),
    ("head_modulation", "scale_shift_table", "head.modulation"),
    ("head", "proj_out", "head.head"),
)
_IN_BLOCK = (
    ("modulation", "scale_shift_table", "modulation"),
    ("cross_norm", "norm2", "norm3"),
    ("feed_forward.0", "ffn.net.0.proj", "ffn.0"),
    ("feed_forward.2", "ffn.net.2", "ffn.2"),
    *(
        (f"{ours}.{part}", f"{diffusers}.{to}", f"{wan}.{original}")
        for ours, diffusers, wan in (
            ("self_attention", "attn1", "self_attn"),
            ("cross_attention", "attn2", "cross_attn"),
        )
        for part, to, original in (
            ("query", "to_q", "q"),
            ("key", "to_k", "k"),
            ("value", "to_v", "v"),
            ("out", "to_out.0", "o"),
            ("query_norm", "norm_q", "norm_q"),
            ("key_norm", "norm_k", "norm_k"),
        )
    ),
)
_COLUMN: dict[Format, int] = {"diffusers": 1, "wan": 2}
_CONVOLUTION = "patch_in.weight"


def foreign_name(name: str, to: Format) -> str:
    """Translate one of our parameter names, such as `blocks.3.self_attention.query.weight`."""
    block = re.match(r"blocks\.\d+\.", name)
    prefix = block[0] if block else ""
    rest = name[len(prefix) :]
    for row in _IN_BLOCK if block else _OUTSIDE:
        if rest == row[0] or rest.startswith(f"{row[0]}."):
            return prefix + row[_COLUMN[to]] + rest[len(row[0]) :]
    raise KeyError(name)


def shapes(config: TransformerConfig) -> dict[str, torch.Size]:
    """Return name → shape of all parameters of our transformer, without making them."""
    with torch.device("meta"):
        return {name: tensor.shape for name, tensor in Transformer(config).state_dict().items()}


def foreign_shapes(config: TransformerConfig, to: Format) -> dict[str, torch.Size]:
    """Return name → shape of all parameters as the other format has them."""
    return {foreign_name(name, to): _foreign_shape(name, shape, config) for name, shape in shapes(config).items()}


def to_diffusers(state: Mapping[str, Tensor], config: TransformerConfig) -> State:
    """Rename our weights to those of diffusers' `WanTransformer3DModel`.

    Raises:
        ValueError: if `state` is not exactly the weights of a transformer of `config`.
    """
    return _export(state, config, "diffusers")


def from_diffusers(state: Mapping[str, Tensor], config: TransformerConfig) -> State:
    """Rename the weights of diffusers' `WanTransformer3DModel` to ours.

    Raises:
        ValueError: if `state` is not exactly the weights of a transformer of `config`.
    """
    return _import(state, config, "diffusers")


def to_wan(state: Mapping[str, Tensor], config: TransformerConfig) -> State:
    """Rename our weights to those of Wan 2.1's original code.

    Raises:
        ValueError: if `state` is not exactly the weights of a transformer of `config`.
    """
    return _export(state, config, "wan")


def from_wan(state: Mapping[str, Tensor], config: TransformerConfig) -> State:
    """Rename the weights of Wan 2.1's original code to ours.

    Raises:
        ValueError: if `state` is not exactly the weights of a transformer of `config`.
    """
    return _import(state, config, "wan")


def to_diffusers_config(config: TransformerConfig) -> dict[str, Any]:
    """Return what diffusers' `WanTransformer3DModel` has in its `config.json`."""
    return {
        "_class_name": "WanTransformer3DModel",
        "added_kv_proj_dim": None,
        "attention_head_dim": config.head_dim,
        "cross_attn_norm": True,
        "eps": config.eps,
        "ffn_dim": config.ffn_dim,
        "freq_dim": config.freq_dim,
        "image_dim": None,
        "in_channels": config.in_channels,
        "num_attention_heads": config.heads,
        "num_layers": config.layers,
        "out_channels": config.out_channels,
        "patch_size": [1, config.patch, config.patch],
        "pos_embed_seq_len": None,
        "qk_norm": "rms_norm_across_heads",
        "rope_max_seq_len": 1024,
        "text_dim": config.text_dim,
    }


def from_diffusers_config(settings: Mapping[str, Any]) -> TransformerConfig:
    """Read the `config.json` of a `WanTransformer3DModel`.

    Raises:
        ValueError: if a size is missing, or it is another class, or a variant that this transformer is not.
    """
    fixed = {
        "_class_name": "WanTransformer3DModel",
        "cross_attn_norm": True,
        "qk_norm": "rms_norm_across_heads",
        "image_dim": None,
        "added_kv_proj_dim": None,
    }
    sizes = (
        "attention_head_dim",
        "num_attention_heads",
        "num_layers",
        "ffn_dim",
        "text_dim",
        "in_channels",
        "freq_dim",
    )
    for name, value in fixed.items():
        if settings.get(name, value) != value:
            raise ValueError(f"{name}={settings[name]!r} is not supported, expected {value!r}")
    for name in (*sizes, "patch_size"):
        if name not in settings:
            raise ValueError(f"{name} is missing")
    patch = settings["patch_size"]
    if not isinstance(patch, list | tuple) or len(patch) != 3 or patch[0] != 1 or patch[1] != patch[2]:
        raise ValueError(f"patch_size={patch} is not supported, expected [1, p, p]")
    for name in sizes:
        if not isinstance(settings[name], int) or settings[name] < 1:
            raise ValueError(f"{name}={settings[name]!r} is not a positive whole number")
    return TransformerConfig(
        dim=settings["num_attention_heads"] * settings["attention_head_dim"],
        heads=settings["num_attention_heads"],
        layers=settings["num_layers"],
        ffn_dim=settings["ffn_dim"],
        text_dim=settings["text_dim"],
        in_channels=settings["in_channels"],
        out_channels=settings.get("out_channels") or settings["in_channels"],
        patch=patch[1],
        freq_dim=settings["freq_dim"],
        eps=settings.get("eps", 1e-6),
    )


def check_state(state: Mapping[str, Tensor], expected: Mapping[str, torch.Size]) -> None:
    """Raise one `ValueError` that names what is missing, unknown or of another shape, unless `state` fits exactly."""
    missing = [name for name in expected if name not in state]
    unknown = [name for name in state if name not in expected]
    problems = []
    if missing:
        problems.append(f"missing {_few(missing)}")
    if unknown:
        guess = difflib.get_close_matches(unknown[0], missing, n=1)
        problems.append(f"unknown {_few(unknown)}" + (f" (is {unknown[0]} meant to be {guess[0]}?)" if guess else ""))
    wrong = [
        f"{name} is {list(state[name].shape)}, expected {list(shape)}"
        for name, shape in expected.items()
        if name in state and state[name].shape != shape
    ]
    if wrong:
        problems.append(_few(wrong))
    if problems:
        raise ValueError(f"the weights do not fit: {'; '.join(problems)}")


def read_json(file: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        ValueError: if the file is missing, damaged or not an object.
    """
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{file} is missing") from None
    except (OSError, ValueError) as error:
        raise ValueError(f"{file} is not readable JSON: {error}") from None
    if not isinstance(value, dict):
        raise ValueError(f"{file} is not a JSON object")
    return value


def read_safetensors(file: Path, dtype: torch.dtype | None = None) -> State:
    """Read all tensors of a safetensors file, as `dtype` if given.

    Raises:
        ValueError: if the file is missing or damaged.
    """
    if not file.is_file():
        raise ValueError(f"{file} is missing")
    try:
        state = load_file(file)
    except (SafetensorError, OSError) as error:
        raise ValueError(
            f"{file} ({file.stat().st_size} bytes) is not a whole safetensors file: {error}; fetch or write it again"
        ) from None
    # A copy, because tensors mapped from the file lie at odd addresses, and products round differently there.
    return {name: tensor.to(dtype or tensor.dtype, copy=True) for name, tensor in state.items()}


def _few(names: list[str], count: int = 4) -> str:
    more = f" and {len(names) - count} more" if len(names) > count else ""
    return ", ".join(names[:count]) + more


def _foreign_shape(name: str, shape: torch.Size, config: TransformerConfig) -> torch.Size:
    if name == _CONVOLUTION:
        return torch.Size((config.dim, config.in_channels, 1, config.patch, config.patch))
    return shape


def _export(state: Mapping[str, Tensor], config: TransformerConfig, to: Format) -> State:
    own = shapes(config)
    check_state(state, own)
    return {
        foreign_name(name, to): state[name].reshape(_foreign_shape(name, shape, config)) for name, shape in own.items()
    }


def _import(state: Mapping[str, Tensor], config: TransformerConfig, source: Format) -> State:
    check_state(state, foreign_shapes(config, source))
    return {name: state[foreign_name(name, source)].reshape(shape) for name, shape in shapes(config).items()}
