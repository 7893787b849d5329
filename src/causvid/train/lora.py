"""Student and critic as LoRA over frozen weights, which teacher, student and critic share in memory; by peft.

Letters: r rank, N inputs and M outputs of a linear layer; down is `[r, N]`, up `[M, r]`.

Source: LoRA (2106.09685), section 4.1, with the starting weights of peft: up is zero, so that training begins with the
frozen weights.
"""

import copy
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from causvid.files.checkpoint import Entry
from causvid.files.writing import Read, new_folder, read_tensors, write_json
from causvid.loading.lora import Pair, changed
from causvid.loading.names import foreign_name
from causvid.models.transformer import Transformer
from causvid.recipe import LoraStage
from causvid.seeding import lend_seed

LAYERS = re.compile(r"blocks\.\d+\.(?:(?:self|cross)_attention\.(?:query|key|value|out)|.*\.[02])")
"""The linear layers of a block: of both attentions and of the feed-forward network."""
PEFT, DIFFUSERS = "adapter_model.safetensors", "pytorch_lora_weights.safetensors"
_PARAMETER = re.compile(r"(?P<layer>.+)\.lora_(?P<side>A|B)\.default\.weight")


@dataclass(frozen=True)
class Trained:
    """A transformer in training. model: what a loss runs. weights: what is optimised and averaged.

    entries: name → shape and type of what the whole transformer has. read: yields that, given the state of the weights
    or an average of it, a tensor at a time. save: writes a LoRA's files into a folder; None where all weights are
    trained.
    """

    model: Transformer
    weights: nn.Module
    entries: Mapping[str, Entry]
    read: Callable[[Mapping[str, Tensor]], Read]
    save: Callable[[Mapping[str, Tensor], Path], None] | None = None


def train_all(model: Transformer) -> Trained:
    """Train every weight of a transformer."""

    def read(state: Mapping[str, Tensor]) -> Read:
        return lambda names: ((name, state[name]) for name in names)

    return Trained(model, model, _entries(model), read)


def train_lora(
    base: Transformer, settings: LoraStage, generator: torch.Generator, *, begin: Mapping[str, Tensor] | None = None
) -> Trained:
    """Train a LoRA over a transformer, whose weights it shares and leaves as they are.

    begin: a LoRA of the same rank to train further, as `read_trained` returns it.

    Raises:
        ValueError: if peft is not installed, or `begin` is of another rank.
    """
    if find_spec("peft") is None:
        raise ValueError("training a LoRA needs peft: pip install 'causvid[train]'")
    from peft import LoraConfig, inject_adapter_in_model

    base.requires_grad_(False)
    shared: dict[int, object] = {id(tensor): tensor for tensor in (*base.parameters(), *base.buffers())}
    model = copy.deepcopy(base, shared)
    layers = [name for name, part in base.named_modules() if isinstance(part, nn.Linear) and LAYERS.fullmatch(name)]
    with lend_seed(generator):
        inject_adapter_in_model(LoraConfig(r=settings.rank, lora_alpha=settings.scale, target_modules=layers), model)
    found = {name: p for name, p in model.named_parameters() if p.requires_grad}
    # A name in a ParameterDict has no dots.
    weights = nn.ParameterDict({name.replace(".", "/"): p for name, p in found.items()})
    if begin is not None:
        _begin(weights, begin)

    def read(state: Mapping[str, Tensor]) -> Read:
        scale, own = settings.scale / settings.rank, base.state_dict()
        parts = {f"{name}.weight": [(Pair(*pair, scale), 1.0)] for name, pair in _pairs(state).items()}
        return lambda names: ((name, changed(own[name], parts.get(name, ()))) for name in names)

    def save(state: Mapping[str, Tensor], folder: Path) -> None:
        save_lora(folder, _pairs(state), settings)

    return Trained(model, weights, _entries(base), read, save)


def _entries(model: Transformer) -> dict[str, Entry]:
    return {name: Entry(tensor.shape, tensor.dtype) for name, tensor in model.state_dict().items()}


def save_lora(folder: Path, pairs: Mapping[str, tuple[Tensor, Tensor]], settings: LoraStage) -> None:
    """Write a LoRA, down and up by our names of layers, as peft and as diffusers read it; both say its layers' names as
    diffusers' `WanTransformer3DModel` does.
    """
    names = {layer: foreign_name(f"{layer}.weight", "diffusers").removesuffix(".weight") for layer in pairs}
    facts = {"r": settings.rank, "lora_alpha": settings.scale, "target_modules": sorted(names.values())}
    metadata = {"format": "pt", "lora_adapter_metadata": json.dumps({f"transformer.{k}": v for k, v in facts.items()})}
    with new_folder(folder) as place:
        for file, before, header in (
            (PEFT, "base_model.model.", {"format": "pt"}),
            (DIFFUSERS, "transformer.", metadata),
        ):
            tensors = {
                f"{before}{names[layer]}.lora_{side}.weight": tensor.detach().to("cpu", torch.float32).contiguous()
                for layer, pair in pairs.items()
                for side, tensor in zip("AB", pair, strict=True)
            }
            save_file(tensors, place / file, metadata=header)
        write_json(place / "adapter_config.json", {"peft_type": "LORA", "bias": "none", **facts})


def read_trained(folder: Path) -> dict[str, Tensor] | None:
    """Return the tensors of a LoRA that `save_lora` wrote, None if there is none."""
    file = folder / PEFT
    return read_tensors(file)[0] if file.is_file() else None


def _pairs(state: Mapping[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
    """Return down and up of every layer, by our names."""
    sides: dict[str, dict[str, Tensor]] = {}
    for name, tensor in state.items():
        match = _PARAMETER.fullmatch(name.replace("/", "."))
        assert match is not None
        sides.setdefault(match["layer"], {})[match["side"]] = tensor
    return {layer: (pair["A"], pair["B"]) for layer, pair in sides.items()}


@torch.no_grad()
def _begin(weights: nn.Module, begin: Mapping[str, Tensor]) -> None:
    for layer, pair in _pairs(weights.state_dict()).items():
        name = foreign_name(f"{layer}.weight", "diffusers").removesuffix(".weight")
        for side, tensor in zip("AB", pair, strict=True):
            stored = begin.get(f"base_model.model.{name}.lora_{side}.weight")
            if stored is None or stored.shape != tensor.shape:
                found = "nothing" if stored is None else list(stored.shape)
                raise ValueError(f"the LoRA of stage ode has {found} for {layer}: stage dmd needs the same lora.rank")
            tensor.copy_(stored)
