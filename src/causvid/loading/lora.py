"""LoRA files of every naming, merged into a transformer.

Letters: r rank, N inputs and M outputs of a linear layer. A layer's weight W `[M, N]` becomes W + strength · scale · up
@ down, with down `[r, N]`, up `[M, r]` and scale = alpha / r.

Source: LoRA (2106.09685), section 4.1; scale = alpha / sqrt(r) where peft's settings ask for it (2312.03732).
"""

import logging
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from causvid.files.checkpoint import Checkpoint, open_checkpoint, read_json
from causvid.loading.lora_settings import LoraSettings, header_settings
from causvid.loading.names import IMAGE_CONDITIONED, Spelling, bare_name, few, foreign_name
from causvid.models.transformer import Transformer

_log = logging.getLogger(__name__)

_SETTINGS = "adapter_config.json"
_MATRIX = re.compile(r"(?P<layer>.+)\.lora[._](?P<side>A|B|down|up)(\.\w+)?\.weight")
_DIFFERENCE = re.compile(r"(?P<layer>.+)\.diff(?P<of>|_b|_m)")
_CHANGED = {"": "weight", "_b": "bias", "_m": "modulation"}
_PREFIX = re.compile(r"(base_model\.)?(pipe\.)?((dit|net|transformer)\.|(lora_unet|lora_transformer|lycoris)_)?")
_BEFORE_BLOCKS = re.compile(r"([\w.]+)\.blocks\.\d+\.")


@dataclass(frozen=True)
class Pair:
    """The two matrices of a layer, down `[r, N, ...]` and up `[M, r, ...]`, and alpha / r."""

    down: Tensor
    up: Tensor
    scale: float

    @property
    def shape(self) -> torch.Size:
        """Return the shape of the layer's weight as a product of matrices, `[M, N]`."""
        return torch.Size((len(self.up), self.down[0].numel()))

    def product(self) -> Tensor:
        """Return what the layer's weight changes by at strength 1, fp32 `[M, N]`."""
        return self.scale * self.up.flatten(1).float() @ self.down.flatten(1).float()


@dataclass(frozen=True)
class Lora:
    """A LoRA as its file has it; which layers of a model it means is decided where it is merged.

    changes: parameter, named as the file does, and the pair of its layer or, as some distilled LoRAs have it of biases,
    norms and modulations, the whole difference.
    """

    path: Path
    changes: Sequence[tuple[str, Pair | Tensor]]


def read_lora(path: Path) -> Lora:
    """Read a LoRA: peft's files and folders, those of kohya's and ComfyUI's naming, or a .pt with `generator_lora`.

    Alpha is what `.alpha` tensors, the file's header or an adapter_config.json beside it state, the first of these that
    does; else the rank of each layer.

    Raises:
        ValueError: if the file is missing or damaged, holds no LoRA or another kind of adapter.
    """
    checkpoint = open_checkpoint(path)
    section = _section(checkpoint)
    settings = _settings(path, checkpoint.header)
    tensors = dict(checkpoint.read(list(checkpoint.sections[section]), section=section))
    try:
        return Lora(path, list(_changes(tensors, settings)))
    except ValueError as error:
        raise ValueError(f"lora={path}: {error}") from None


def merge_lora(model: Transformer, lora: Lora, *, strength: float = 1.0) -> None:
    """Add one LoRA to a transformer's weights; see `merge_loras`."""
    merge_loras(model, [(lora, strength)])


@torch.no_grad()
def merge_loras(model: Transformer, loras: Sequence[tuple[Lora, float]]) -> None:
    """Add LoRAs, each at its strength, to a transformer's weights, in place, each weight rounded once.

    What an image-to-video LoRA has for the image's own attention is left, with a warning, where the model has none.

    Raises:
        ValueError: if a LoRA was made for another model, which then stays as it was.
    """
    changes: dict[str, list[tuple[Pair | Tensor, float]]] = {}
    for lora, strength in loras:
        for name, part in _match(model, lora):
            changes.setdefault(name, []).append((part, strength))
    for name, parts in changes.items():
        weight = model.get_parameter(name)
        weight.copy_(changed(weight, parts))


@torch.no_grad()
def changed(weight: Tensor, parts: Iterable[tuple[Pair | Tensor, float]]) -> Tensor:
    """Return a weight with what LoRAs change it by, each at its strength, rounded once."""
    total = weight.float()
    for part, strength in parts:
        change = part.product() if isinstance(part, Pair) else part.float()
        total = total + strength * change.to(weight.device).view_as(weight)
    return total.to(weight.dtype)


def _section(checkpoint: Checkpoint) -> str:
    """Choose the section that holds a LoRA: the generator's, or the only one."""
    found = [name for name, entries in checkpoint.sections.items() if any(map(_MATRIX.fullmatch, entries))]
    if "generator_lora" in found:
        return "generator_lora"
    if len(found) != 1:
        several = f"LoRAs in {', '.join(found)}" if found else "no LoRA"
        raise ValueError(f"lora={checkpoint.path} holds {several}, expected lora_A and lora_B or lora_down and lora_up")
    return found[0]


def _changes(tensors: Mapping[str, Tensor], settings: LoraSettings) -> Iterator[tuple[str, Pair | Tensor]]:
    """Yield what a LoRA changes, and refuse what is no part of one."""
    layers: dict[str, dict[str, str]] = {}
    alphas: dict[str, float] = {}
    unknown = []
    for name, tensor in tensors.items():
        if match := _MATRIX.fullmatch(name):
            side = "down" if match["side"] in ("A", "down") else "up"
            twin = layers.setdefault(match["layer"], {}).setdefault(side, name)
            if twin != name:
                raise ValueError(f"there are two adapters, {twin} and {name}, expected one")
        elif match := _DIFFERENCE.fullmatch(name):
            yield f"{match['layer']}.{_CHANGED[match['of']]}", tensor
        elif name.endswith(".alpha") and tensor.numel() == 1:
            alphas[name.removesuffix(".alpha")] = float(tensor)
            if not math.isfinite(float(tensor)):
                raise ValueError(f"{name}={float(tensor)} is not a finite number")
        else:
            unknown.append(name)
    unknown += [f"{layer}.alpha" for layer in alphas if layer not in layers]
    if unknown:
        expected = "lora_A and lora_B or lora_down and lora_up, alpha, diff, diff_b, diff_m"
        raise ValueError(f"{few(unknown)} is no part of a LoRA, expected {expected}")
    for layer, sides in layers.items():
        if len(sides) == 1:
            raise ValueError(f"{next(iter(sides.values()))} has no counterpart; fetch the file again")
        down, up = tensors[sides["down"]], tensors[sides["up"]]
        inner, outer = list(down.shape), list(up.shape)
        if 0 in inner or len(inner) < 2 or inner[:1] != outer[1:2]:
            raise ValueError(f"{sides['down']} is {inner} and {sides['up']} {outer}: no product")
        scale = settings.scale(_PREFIX.sub("", bare_name(layer), count=1), len(down), alpha=alphas.get(layer))
        yield f"{layer}.weight", Pair(down, up, scale)


def _settings(place: Path, header: Mapping[str, str]) -> LoraSettings:
    """Read what the header states, over what peft wrote beside its weights, if it did."""
    file = (place if place.is_dir() else place.parent) / _SETTINGS
    beside = read_json(file) if file.is_file() else {}
    try:
        return LoraSettings.read({**beside, **header_settings(header)})
    except ValueError as error:
        raise ValueError(f"lora={place}: its settings{f' ({file.name})' if beside else ''}: {error}") from None


def _match(model: Transformer, lora: Lora) -> list[tuple[str, Pair | Tensor]]:
    """Return parameters by the model's names, each with what changes it; every shape is checked."""
    own = {name: parameter.shape for name, parameter in model.named_parameters()}
    spellings: tuple[Spelling, ...] = ("ours", "diffusers", "wan")
    # Some files write underscores for dots, so names are compared in that form.
    known = {foreign_name(name, spelling).replace(".", "_"): name for name in own for spelling in spellings}
    known_start = _common_start(lora)
    matched, left = [], []
    for name, change in lora.changes:
        shown = name.removesuffix(".weight") if isinstance(change, Pair) else name
        bare = _PREFIX.sub("", bare_name(name).removeprefix(known_start), count=1).replace(".", "_")
        conditioned = IMAGE_CONDITIONED.search(bare)
        if bare not in known:
            if conditioned:
                left.append(shown)
                continue
            size = f"{model.config.layers} blocks of width {model.config.dim}"
            raise ValueError(f"lora={lora.path}: {shown} is not in the model, which has {size}")
        # The patch embedding, a convolution elsewhere, is a product here, with all inputs of a patch in one dimension.
        shape = list(change.shape if isinstance(change, Pair) or change.ndim < 5 else change.flatten(1).shape)
        expected = list(own[known[bare]])
        if shape != expected:
            raise ValueError(
                f"lora={lora.path}: {shown} changes a weight of {shape}, but the model's is {expected}: "
                "it was made for another"
            )
        matched.append((known[bare], change))
    if not matched:
        raise ValueError(f"lora={lora.path} changes only how a model sees an image, and this model sees none")
    if left:
        _log.warning(
            "lora=%s: %d parts are for an image-to-video model and were left: %s", lora.path, len(left), few(left)
        )
    return matched


def _common_start(lora: Lora) -> str:
    """Return what stands before `blocks` in all names that have it, with its dot: a module around the transformer.

    Raises:
        ValueError: if it names another part of a pipeline.
    """
    found = {match[1] for name, _ in lora.changes if (match := _BEFORE_BLOCKS.match(bare_name(name)))}
    for start in found:
        if re.search(r"transformer_\d|text_encoder|(^|\.)te\d?$", start):
            raise ValueError(f"lora={lora.path}: {start} is another part of a pipeline, expected the transformer")
    return f"{found.pop()}." if len(found) == 1 else ""
