"""The `config.json` of other formats: diffusers' `WanTransformer3DModel` and Wan 2.1's original `WanModel`."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from causvid.config import TransformerConfig, one_line
from causvid.files.checkpoint import read_json

CONFIG = "config.json"
PREDICTION = "prediction_type"
_PREDICTION_TYPES: Mapping[Literal["velocity", "x0"], str] = {"velocity": "flow_prediction", "x0": "sample"}


@dataclass(frozen=True)
class _Format:
    """How a class writes its sizes.

    names: ours → its. fixed: the other values it has to have. implied: the values of what it may leave out.
    """

    names: Mapping[str, str]
    fixed: Mapping[str, Any]
    implied: Mapping[str, Any]


_SHARED = {"layers": "num_layers", "ffn_dim": "ffn_dim", "text_dim": "text_dim", "freq_dim": "freq_dim"}
_FORMATS = {
    "WanTransformer3DModel": _Format(
        names={
            **_SHARED,
            "heads": "num_attention_heads",
            "head_dim": "attention_head_dim",
            "in_channels": "in_channels",
            "out_channels": "out_channels",
        },
        fixed={
            "cross_attn_norm": True,
            "qk_norm": "rms_norm_across_heads",
            "image_dim": None,
            "added_kv_proj_dim": None,
            "pos_embed_seq_len": None,
        },
        implied={},
    ),
    "WanModel": _Format(
        names={**_SHARED, "heads": "num_heads", "dim": "dim", "in_channels": "in_dim", "out_channels": "out_dim"},
        fixed={"model_type": "t2v", "qk_norm": True, "cross_attn_norm": True},
        implied={"patch_size": [1, 2, 2], "text_dim": 4096, "qk_norm": True, "cross_attn_norm": True},
    ),
}


def to_diffusers_config(config: TransformerConfig) -> dict[str, Any]:
    """Return what diffusers' `WanTransformer3DModel` has in its `config.json`.

    That a model predicts x0 stands there as `prediction_type`, which diffusers' schedulers have to be given.
    """
    written = _write(config, "WanTransformer3DModel", rope_max_seq_len=1024)
    return written if config.predicts == "velocity" else written | {PREDICTION: _PREDICTION_TYPES[config.predicts]}


def to_wan_config(config: TransformerConfig) -> dict[str, Any]:
    """Return what Wan 2.1's original `WanModel` has in its `config.json`, and what it leaves out if that is unusual.

    Raises:
        ValueError: if the model predicts something else than `WanModel` does.
    """
    check_predicts_velocity(config, "wan")
    return _write(config, "WanModel", text_len=512)


def check_predicts_velocity(config: TransformerConfig, to: str) -> None:
    """Raise `ValueError` if a format cannot say what a model predicts."""
    if config.predicts != "velocity":
        raise ValueError(f"to={to} cannot say that a model predicts {config.predicts}: use to=diffusers")


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
    format = _FORMATS.get(str(settings.get("_class_name")).removeprefix("Causal"))
    if format is None:
        return None
    try:
        return _parse({**format.implied, **settings}, format)
    except ValueError as error:
        reason = one_line(error) if isinstance(error, ValidationError) else error
        raise ValueError(f"{file}: {reason}") from None


def _write(config: TransformerConfig, name: str, **unread: int) -> dict[str, Any]:
    """Return a `config.json`; `unread` is what it holds besides, which reading does not look at."""
    format = _FORMATS[name]
    sizes = {theirs: getattr(config, ours) for ours, theirs in format.names.items()}
    sizes |= {"eps": config.eps, "patch_size": [1, config.patch, config.patch], **unread}
    stated = {"_class_name": name, **format.fixed, **sizes}
    implied = {key for key, value in format.implied.items() if stated[key] == value}
    return {key: stated[key] for key in sorted(stated) if key not in implied}


def _parse(settings: Mapping[str, Any], format: _Format) -> TransformerConfig:
    for name, value in format.fixed.items():
        if settings.get(name, value) != value:
            raise ValueError(f"{name}={settings[name]!r} is not supported, expected {value!r}")
    inside, outside = format.names["in_channels"], format.names["out_channels"]
    # As many channels come out as go in, where the file says nothing else.
    settings = {**settings, outside: settings.get(outside) or settings.get(inside)}
    for name in (*format.names.values(), "patch_size"):
        if name not in settings:
            raise ValueError(f"{name} is missing")
    sizes = {ours: settings[theirs] for ours, theirs in format.names.items()}
    for ours, value in sizes.items():
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"{format.names[ours]}={value!r} is not a positive whole number")
    if "head_dim" in sizes:
        sizes["dim"] = sizes["heads"] * sizes.pop("head_dim")
    match settings["patch_size"]:
        case [1, int(height), int(width)] if height == width:
            eps, stated = settings.get("eps", 1e-6), settings.get(PREDICTION, _PREDICTION_TYPES["velocity"])
            predicts = next((ours for ours, theirs in _PREDICTION_TYPES.items() if theirs == stated), None)
            if predicts is None:
                raise ValueError(
                    f"{PREDICTION}={stated!r} is not supported, expected one of {', '.join(_PREDICTION_TYPES.values())}"
                )
            return TransformerConfig(**sizes, patch=height, eps=eps, predicts=predicts)
    raise ValueError(f"patch_size={settings['patch_size']} is not supported, expected [1, p, p]")
