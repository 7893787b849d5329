"""The `config.json` of other formats: diffusers' `WanTransformer3DModel` and Wan 2.1's original `WanModel`."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from causvid.config import TransformerConfig, one_line
from causvid.files.checkpoint import read_json

CONFIG = "config.json"
_UNSAID = {"patch_size": [1, 2, 2], "text_dim": 4096}
"""What Wan's original takes for granted."""


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
    _check_fixed(
        settings,
        {
            "_class_name": "WanTransformer3DModel",
            "cross_attn_norm": True,
            "qk_norm": "rms_norm_across_heads",
            "image_dim": None,
            "added_kv_proj_dim": None,
        },
    )
    heads, head_dim = _size(settings, "num_attention_heads"), _size(settings, "attention_head_dim")
    channels = _size(settings, "in_channels")
    if "patch_size" not in settings:
        raise ValueError("patch_size is missing")
    return TransformerConfig(
        dim=heads * head_dim,
        heads=heads,
        layers=_size(settings, "num_layers"),
        ffn_dim=_size(settings, "ffn_dim"),
        text_dim=_size(settings, "text_dim"),
        in_channels=channels,
        out_channels=settings.get("out_channels") or channels,
        patch=_patch(settings),
        freq_dim=_size(settings, "freq_dim"),
        eps=settings.get("eps", 1e-6),
    )


def to_wan_config(config: TransformerConfig) -> dict[str, Any]:
    """Return what Wan 2.1's original `WanModel` has in its `config.json`, and what it leaves out if that is unusual."""
    settings = {
        "_class_name": "WanModel",
        "dim": config.dim,
        "eps": config.eps,
        "ffn_dim": config.ffn_dim,
        "freq_dim": config.freq_dim,
        "in_dim": config.in_channels,
        "model_type": "t2v",
        "num_heads": config.heads,
        "num_layers": config.layers,
        "out_dim": config.out_channels,
        "text_len": 512,
    }
    unsaid = {"patch_size": [1, config.patch, config.patch], "text_dim": config.text_dim}
    return settings | {name: value for name, value in unsaid.items() if value != _UNSAID[name]}


def from_wan_config(settings: dict[str, Any]) -> TransformerConfig:
    """Read the `config.json` of Wan 2.1's original `WanModel`, which may leave the text's width and patches out.

    Raises:
        ValueError: if a size is missing, or it is another class, or a variant that this transformer is not.
    """
    _check_fixed(settings, {"_class_name": "WanModel", "model_type": "t2v", "qk_norm": True, "cross_attn_norm": True})
    return TransformerConfig(
        dim=_size(settings, "dim"),
        heads=_size(settings, "num_heads"),
        layers=_size(settings, "num_layers"),
        ffn_dim=_size(settings, "ffn_dim"),
        text_dim=_size(_UNSAID | settings, "text_dim"),
        in_channels=_size(settings, "in_dim"),
        out_channels=_size(settings, "out_dim"),
        patch=_patch(_UNSAID | settings),
        freq_dim=_size(settings, "freq_dim"),
        eps=settings.get("eps", 1e-6),
    )


_READERS: dict[str, Callable[[dict[str, Any]], TransformerConfig]] = {
    "WanTransformer3DModel": from_diffusers_config,
    "WanModel": from_wan_config,
}


def read_config(folder: Path) -> TransformerConfig | None:
    """Read the sizes of a transformer from a folder's `config.json`; None if it has none, or that of something else.

    Raises:
        ValueError: if the file is damaged, or describes a variant that this transformer is not.
    """
    file = folder / CONFIG
    if not file.is_file():
        return None
    settings = read_json(file)
    # A causal Wan is the same weights under another name, as in `CausalWanModel`.
    name = str(settings.get("_class_name")).removeprefix("Causal")
    if name not in _READERS:
        return None
    try:
        return _READERS[name](settings | {"_class_name": name})
    except ValueError as error:
        reason = one_line(error) if isinstance(error, ValidationError) else error
        raise ValueError(f"{file}: {reason}") from None


def _check_fixed(settings: Mapping[str, Any], fixed: Mapping[str, Any]) -> None:
    for name, value in fixed.items():
        if settings.get(name, value) != value:
            raise ValueError(f"{name}={settings[name]!r} is not supported, expected {value!r}")


def _size(settings: Mapping[str, Any], name: str) -> int:
    if name not in settings:
        raise ValueError(f"{name} is missing")
    value = settings[name]
    if not isinstance(value, int) or value < 1:
        raise ValueError(f"{name}={value!r} is not a positive whole number")
    return value


def _patch(settings: Mapping[str, Any]) -> int:
    patch = settings["patch_size"]
    if not isinstance(patch, list | tuple) or len(patch) != 3 or patch[0] != 1 or patch[1] != patch[2]:
        raise ValueError(f"patch_size={patch} is not supported, expected [1, p, p]")
    return int(patch[1])
