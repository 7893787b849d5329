"""LoRA files of every naming, merged into a transformer or kept beside its weights at a strength that can change.

Letters: r rank, N inputs and M outputs of a linear layer. A layer's weight W `[M, N]` becomes W + strength · scale · up
@ down, with down `[r, N]`, up `[M, r]` and scale = alpha / r. Reading and naming is done here, the layers are peft's.

Source: LoRA (2106.09685), section 4.1.
"""

import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from causvid.files.checkpoint import Checkpoint, Entry, open_checkpoint, read_json
from causvid.loading.names import Spelling, bare_name, few, foreign_name
from causvid.models.transformer import Transformer

if TYPE_CHECKING:
    from peft.tuners.lora import Linear

_ADAPTER = "default"
_SETTINGS = "adapter_config.json"
_MATRIX = re.compile(r"(?P<layer>.+)\.lora[._](?P<side>A|B|down|up)(\.\w+)?\.weight")
_CHANGE = re.compile(r"(?P<layer>.+)\.diff(?P<of>|_b|_m)")
_CHANGED = {"": "weight", "_b": "bias", "_m": "modulation"}
_PREFIX = re.compile(r"(base_model\.)?(transformer\.|lora_unet_|lora_transformer_)?")


@dataclass(frozen=True)
class Pair:
    """The two matrices of a layer, down `[r, N, ...]` and up `[M, r, ...]`, and alpha / r."""

    down: Tensor
    up: Tensor
    scale: float


@dataclass(frozen=True)
class Lora:
    """A LoRA as its file has it; which layers of a model it means is decided where it is applied.

    pairs: by layer. changes: whole differences that some distilled LoRAs hold of biases, norms and modulations, by
    parameter. Both are named as the file does.
    """

    path: Path
    pairs: Mapping[str, Pair]
    changes: Mapping[str, Tensor]


def read_lora(path: str | Path, *, alpha: float | None = None) -> Lora:
    """Read a LoRA: peft's files and folders, those of kohya's and ComfyUI's naming, or a .pt with `generator_lora`.

    Args:
        alpha: of all layers; by default what `.alpha` tensors or an adapter_config.json beside the file say, and the
            rank of each layer if nothing does.

    Raises:
        ValueError: if the file is missing or damaged, holds no LoRA or another kind of adapter.
    """
    place = Path(path)
    checkpoint = open_checkpoint(place)
    section = _section(checkpoint)
    entries = checkpoint.sections[section]
    try:
        names = _sort(entries)
    except ValueError as error:
        raise ValueError(f"lora={place}: {error}") from None
    tensors = dict(checkpoint.read(list(entries), section=section))
    settings = _settings(place)
    pairs = {}
    for layer, sides in names.matrices.items():
        down, up = tensors[sides["down"]], tensors[sides["up"]]
        rank = len(down)
        own = float(tensors[names.alphas[layer]]) if layer in names.alphas else _alpha(settings, layer, rank=rank)
        scale = (own if alpha is None else alpha) / (math.sqrt(rank) if settings.get("use_rslora") else rank)
        pairs[layer] = Pair(down, up, scale)
    return Lora(place, pairs, {name: tensors[raw] for raw, name in names.changes.items()})


def apply_lora(model: Transformer, lora: Lora, *, strength: float = 1.0, merge: bool = True) -> None:
    """Add a LoRA to a transformer, in place.

    Merged, the weights themselves change, each rounded once, and the model stays plain: it costs and saves as before.
    Otherwise peft's layers stand around the linear ones, and `set_lora_strength` changes how much they add.

    Raises:
        ValueError: if the LoRA was made for another model, or cannot be kept beside the weights; the model is then as
            it was.
    """
    if _live(model):
        raise ValueError(f"lora={lora.path}: the model has a live LoRA already; merge one of the two")
    if lora.changes and not merge:
        raise ValueError(f"lora={lora.path} changes {few(list(lora.changes))} as a whole, which needs merge=True")
    pairs, changes = _fit(model, lora)
    with _frozen_as_before(model), torch.no_grad():
        _inject(model, pairs, dtype=torch.float32 if merge else None)
        set_lora_strength(model, strength)
        if merge:
            for name, layer in _live(model).items():
                layer.merge()
                model.set_submodule(name, layer.get_base_layer())
        for name, change in changes.items():
            model.get_parameter(name).add_(change.to(model.get_parameter(name).device), alpha=strength)


def set_lora_strength(model: Transformer, strength: float) -> None:
    """Change how much a live LoRA adds: 0 nothing, 1 what it was trained to.

    Raises:
        ValueError: if the model has none.
    """
    layers = _live(model)
    if not layers:
        raise ValueError(f"strength={strength}: the model has no live LoRA; apply one with merge=False")
    for layer in layers.values():
        layer.set_scale(_ADAPTER, strength)


def _section(checkpoint: Checkpoint) -> str:
    """Choose the section that holds a LoRA: the generator's, or the only one."""
    found = [name for name, entries in checkpoint.sections.items() if any(map(_MATRIX.fullmatch, entries))]
    if "generator_lora" in found:
        return "generator_lora"
    if len(found) != 1:
        several = f"LoRAs in {', '.join(found)}" if found else "no LoRA"
        raise ValueError(f"lora={checkpoint.path} holds {several}, expected lora_A and lora_B or lora_down and lora_up")
    return found[0]


@dataclass
class _Names:
    """What a file's tensors are: layer → side → name, layer → name of its alpha, name → parameter that it changes."""

    matrices: dict[str, dict[str, str]] = field(default_factory=dict)
    alphas: dict[str, str] = field(default_factory=dict)
    changes: dict[str, str] = field(default_factory=dict)


def _sort(entries: Mapping[str, Entry]) -> _Names:
    """Sort tensors by what they are for, and refuse what is no part of a LoRA."""
    names, unknown = _Names(), []
    for name, entry in entries.items():
        if match := _MATRIX.fullmatch(name):
            side = "down" if match["side"] in ("A", "down") else "up"
            twin = names.matrices.setdefault(match["layer"], {}).setdefault(side, name)
            if twin != name:
                raise ValueError(f"there are two adapters, {twin} and {name}, expected one")
        elif match := _CHANGE.fullmatch(name):
            names.changes[name] = f"{match['layer']}.{_CHANGED[match['of']]}"
        elif name.endswith(".alpha") and entry.shape.numel() == 1:
            names.alphas[name.removesuffix(".alpha")] = name
        else:
            unknown.append(name)
    unknown += [name for layer, name in names.alphas.items() if layer not in names.matrices]
    if unknown:
        expected = "lora_A and lora_B or lora_down and lora_up, alpha, diff, diff_b, diff_m"
        raise ValueError(f"{few(unknown)} is no part of a LoRA, expected {expected}")
    for sides in names.matrices.values():
        if len(sides) == 1:
            raise ValueError(f"{next(iter(sides.values()))} has no counterpart; fetch the file again")
        inner, outer = (list(entries[sides[side]].shape) for side in ("down", "up"))
        if 0 in inner or len(inner) < 2 or inner[:1] != outer[1:2]:
            raise ValueError(f"{sides['down']} is {inner} and {sides['up']} {outer}: no product")
    return names


def _settings(place: Path) -> dict[str, Any]:
    """Read what peft wrote beside its weights, if it did."""
    file = (place if place.is_dir() else place.parent) / _SETTINGS
    settings = read_json(file) if file.is_file() else {}
    kind = settings.get("peft_type", "LORA")
    if kind != "LORA" or settings.get("use_dora"):
        raise ValueError(f"{file}: {'use_dora' if kind == 'LORA' else f'peft_type={kind}'}, expected a plain LoRA")
    patterns = settings.setdefault("alpha_pattern", {})
    alphas = [settings.get("lora_alpha", 1), *(patterns.values() if isinstance(patterns, dict) else [patterns])]
    if not all(isinstance(alpha, int | float) for alpha in alphas):
        raise ValueError(f"{file}: lora_alpha or alpha_pattern is not made of numbers")
    return settings


def _alpha(settings: Mapping[str, Any], layer: str, *, rank: int) -> float:
    patterns: Mapping[str, float] = settings.get("alpha_pattern", {})
    special = [value for name, value in patterns.items() if f".{layer}".endswith(f".{name}")]
    return float(special[0] if special else settings.get("lora_alpha", rank))


def _fit(model: Transformer, lora: Lora) -> tuple[dict[str, Pair], dict[str, Tensor]]:
    """Name a LoRA's layers and parameters as the model does, after a look at every shape."""
    own = dict(model.named_parameters())
    spellings: tuple[Spelling, ...] = ("ours", "diffusers", "wan")
    # Some files write underscores for dots, so that names are compared in that form.
    known = {foreign_name(name, spelling).replace(".", "_"): name for name in own for spelling in spellings}

    def find(name: str, shape: tuple[int, ...], part: str) -> str:
        bare = _PREFIX.sub("", bare_name(name), count=1).replace(".", "_")
        if bare not in known:
            size = f"{model.config.layers} blocks of width {model.config.dim}"
            raise ValueError(f"lora={lora.path}: {part} is not in the model, which has {size}")
        expected = list(own[known[bare]].shape)
        if list(shape) != expected:
            raise ValueError(
                f"lora={lora.path}: {part} changes a weight of {list(shape)}, but the model's is {expected}: "
                "it was made for another"
            )
        return known[bare]

    pairs = {}
    for layer, pair in lora.pairs.items():
        # The patch embedding, a convolution elsewhere, is a product here, with all inputs of a patch in one dimension.
        flat = Pair(pair.down.flatten(1), pair.up.flatten(1), pair.scale)
        name = find(f"{layer}.weight", (len(flat.up), flat.down.shape[1]), layer)
        pairs[name.removesuffix(".weight")] = flat
    changes = {}
    for name, change in lora.changes.items():
        flat_change = change.flatten(1) if change.ndim == 5 else change
        changes[find(name, tuple(flat_change.shape), name)] = flat_change
    return pairs, changes


def _inject(model: Transformer, pairs: Mapping[str, Pair], *, dtype: torch.dtype | None) -> None:
    """Put peft's layers around the linear ones, with matrices of `dtype` or of the type of each weight."""
    from peft import LoraConfig, inject_adapter_in_model

    config = LoraConfig(
        target_modules=list(pairs),
        rank_pattern={re.escape(name): len(pair.down) for name, pair in pairs.items()},
        alpha_pattern={re.escape(name): pair.scale * len(pair.down) for name, pair in pairs.items()},
    )
    # In a holder, because peft leaves a mark on what it is given, and takes its `config` for one of transformers.
    inject_adapter_in_model(config, nn.ModuleDict({"model": model}), _ADAPTER, low_cpu_mem_usage=True)
    for name, layer in _live(model).items():
        weight = layer.weight
        for side, matrix in ((layer.lora_A, pairs[name].down), (layer.lora_B, pairs[name].up)):
            value = matrix.to(weight.device, dtype or weight.dtype)
            cast(nn.Linear, side[_ADAPTER]).weight = nn.Parameter(value, requires_grad=False)


def _live(model: Transformer) -> "dict[str, Linear]":
    from peft.tuners.lora import Linear

    return {name: module for name, module in model.named_modules() if isinstance(module, Linear)}


@contextmanager
def _frozen_as_before(model: Transformer) -> Iterator[None]:
    """Undo that peft freezes every weight it does not train."""
    before = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    yield
    for parameter, trained in before:
        parameter.requires_grad_(trained)
