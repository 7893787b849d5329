"""Write a transformer in another published format, one shard in memory at a time."""

import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from causvid.config import GenerationConfig, TransformerConfig
from causvid.files.checkpoint import Checkpoint, Entry, open_checkpoint, read_json
from causvid.files.writing import new_file, new_folder, write_json, write_weights
from causvid.loading.bundle import CARD, FORMAT, INDEX, REPORT, SAMPLES, read_settings
from causvid.loading.families import choose_generation
from causvid.loading.layout import SETTINGS, find_layout
from causvid.loading.names import Spelling, foreign_name, foreign_shape, shapes
from causvid.loading.wan_config import to_diffusers_config, to_wan_config
from causvid.loading.weights import (
    HEAD_DIM,
    Sniffed,
    check_fit,
    read_parameters,
    sniff,
    transformer_place,
    working_dtype,
)

Target = Literal["diffusers", "wan", "causvid", "bundle"]


def convert(
    source: Path,
    target: Path,
    *,
    to: Target,
    section: str | None = None,
    dtype: torch.dtype | None = None,
    base: Path | None = None,
    preset: str | None = None,
) -> None:
    """Write a transformer in another format; the target appears whole or not at all. Memory holds one shard.

    Args:
        source: a file or folder of any published format.
        to: "diffusers" and "wan" are folders of `config.json` and safetensors, "causvid" is a .pt file as training
            code saves it, "bundle" is a folder that generates: a copy of `base` with this transformer.
        section: which state dict of several, as `load_transformer` chooses.
        dtype: how weights are stored; by default as they are.
        preset: how a bundle generates, where neither its base nor the names of the files decide.

    Raises:
        ValueError: if the source is no whole transformer, the target exists, or options do not fit each other.
    """
    if to not in get_args(Target):
        raise ValueError(f"to={to} is not one of {', '.join(get_args(Target))}")
    if (base is None) == (to == "bundle"):
        raise ValueError("base= is missing: a bundle needs one" if base is None else f"base={base} is for to=bundle")
    if preset is not None and to != "bundle":
        raise ValueError(f"preset={preset} is for to=bundle")
    if (target.suffix == ".pt") != (to == "causvid"):
        raise ValueError(f"target={target} is not {'a .pt file' if to == 'causvid' else 'a folder'}, as to={to} makes")
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise ValueError(f"target={target} exists: choose another, or remove it")
    checkpoint = open_checkpoint(transformer_place(source))
    found = sniff(checkpoint, section=section)
    check_fit(checkpoint, found)
    if to == "causvid":
        _write_training_file(target, _Renamed(checkpoint, found, "wan", dtype))
    elif base is not None:
        _write_bundle(target, source, base, _Renamed(checkpoint, found, "diffusers", dtype), preset)
    else:
        spelling: Spelling = "wan" if to == "wan" else "diffusers"
        with new_folder(target) as place:
            _Renamed(checkpoint, found, spelling, dtype).write(place)


class _Renamed:
    """A transformer in a checkpoint as another format would have it."""

    def __init__(self, checkpoint: Checkpoint, found: Sniffed, spelling: Spelling, dtype: torch.dtype | None) -> None:
        self.checkpoint, self.found, self.spelling, self.dtype = checkpoint, found, spelling, dtype
        self.own = {foreign_name(name, spelling): name for name in found.names}

    @property
    def config(self) -> TransformerConfig:
        return self.found.config

    @property
    def entries(self) -> dict[str, Entry]:
        """Return name → shape and type of what `read` yields."""
        found, own = self.found, shapes(self.config)
        stored = self.checkpoint.sections[found.section]
        types = {name: stored[raw].dtype for name, raw in found.names.items()}
        types |= {name: working_dtype(types[name]) for name in found.scales}
        return {
            theirs: Entry(foreign_shape(name, own[name], self.config, self.spelling), self.dtype or types[name])
            for theirs, name in self.own.items()
        }

    def read(self, names: Iterable[str]) -> Iterator[tuple[str, Tensor]]:
        """Yield tensors by their names in the other format."""
        own = [self.own[name] for name in names]
        for name, tensor in read_parameters(self.checkpoint, self.found, own, dtype=self.dtype):
            shape = foreign_shape(name, tensor.shape, self.config, self.spelling)
            yield foreign_name(name, self.spelling), tensor.reshape(shape)

    def write(self, folder: Path) -> None:
        """Write a new folder of `config.json` and weights."""
        settings = to_wan_config(self.config) if self.spelling == "wan" else to_diffusers_config(self.config)
        write_weights(folder, settings, self.entries, self.read)


def _write_training_file(target: Path, model: _Renamed) -> None:
    if model.config.head_dim != HEAD_DIM:
        raise ValueError(
            f"to=causvid has no place for head_dim={model.config.head_dim}: its readers assume "
            f"{HEAD_DIM}; use to=diffusers or to=wan"
        )
    with new_file(target) as place:
        torch.save({"generator": {f"model.{name}": tensor for name, tensor in model.read(model.own)}}, place)


def _write_bundle(target: Path, source: Path, base: Path, model: _Renamed, preset: str | None) -> None:
    layout = find_layout(base)
    if layout.kind == "wan":
        raise ValueError(f"base={base} is in Wan's own layout, expected a bundle or a folder of diffusers")
    generation: GenerationConfig
    provenance: Mapping[str, Any] = {}
    if layout.kind == "bundle" and preset is None:
        generation, provenance = read_settings(layout.folder)
    else:
        name, generation = choose_generation(preset, name=source, config=model.config)
        provenance = {"preset": name}
    _check_base(layout.folder, model.config)
    left_out = {"transformer", "scheduler", CARD, REPORT, SAMPLES, ".git", ".cache", ".gitattributes"}

    def ignore(folder: str, names: Sequence[str]) -> set[str]:
        return left_out.intersection(names) if Path(folder) == layout.folder else set()

    with new_folder(target) as place:
        shutil.copytree(layout.folder, place, ignore=ignore, dirs_exist_ok=True)
        model.write(place / "transformer")
        index = {name: value for name, value in read_json(place / INDEX).items() if name != "scheduler"}
        write_json(place / INDEX, {**index, "_class_name": "CausVidPipeline"})
        described = {**provenance, "transformer": source.name, "base": layout.folder.name}
        settings = {"format": FORMAT, "generation": generation.model_dump(mode="json"), "provenance": described}
        write_json(place / SETTINGS, settings)
        card = (
            f"# {target.name}\n\nA bundle of `causvid`: {source.name} with the other parts of {layout.folder.name}.\n"
        )
        (place / CARD).write_text(card, encoding="utf-8")


def _check_base(base: Path, config: TransformerConfig) -> None:
    """Check that a base's other parts are for a transformer of `config`, by their `config.json`."""
    for part, names, needed in (
        ("vae", ("latent_channels", "z_dim"), config.in_channels),
        ("text_encoder", ("d_model",), config.text_dim),
    ):
        settings = read_json(base / part / "config.json")
        has = next((settings[name] for name in names if name in settings), None)
        if has != needed:
            raise ValueError(f"base={base}: {part} has {has} channels, expected the transformer's {needed}")
