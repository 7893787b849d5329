"""Write a transformer in another published format, one shard in memory at a time."""

import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor

from causvid.config import TransformerConfig
from causvid.files.checkpoint import Entry, read_json
from causvid.files.writing import new_file, new_folder, write_json, write_weights
from causvid.loading.assemble import find_generation
from causvid.loading.bundle import CARD, REPORT, SAMPLES, write_settings
from causvid.loading.layout import INDEX, find_layout
from causvid.loading.names import Spelling, foreign_name, foreign_shape, shapes
from causvid.loading.spec import ModelSpec
from causvid.loading.wan_config import check_predicts_velocity, to_diffusers_config, to_wan_config
from causvid.loading.weights import HEAD_DIM, Sniffed, sniff, working_dtype

Target = Literal["diffusers", "wan", "causvid", "bundle"]
_FACTORS = "_scale"
"""What the factors of `X.weight` are called behind it."""


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
        dtype: how weights are stored; by default as they are. int8 is for linear layers, with a factor for every row.
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
    if dtype is torch.int8 and to == "causvid":
        raise ValueError(
            "dtype=int8 is not for to=causvid, whose readers know no factors: use another, or to=diffusers"
        )
    found = sniff(source, section=section)
    found.check()
    if base is not None:
        _write_bundle(target, source, base, found, dtype, preset)
    elif to == "causvid":
        _write_training_file(target, found, dtype)
    else:
        with new_folder(target) as place:
            _write_folder(place, found, "wan" if to == "wan" else "diffusers", dtype)


def _read(
    found: Sniffed, names: Iterable[str], to: Spelling, dtype: torch.dtype | None
) -> Iterator[tuple[str, Tensor]]:
    """Yield parameters of ours by their names and in their shapes of another format."""
    for name, tensor in found.read(list(names), dtype=dtype):
        yield foreign_name(name, to), tensor.reshape(foreign_shape(name, tensor.shape, found.config, to))


def _write_folder(folder: Path, found: Sniffed, to: Spelling, dtype: torch.dtype | None) -> None:
    """Write a new folder of `config.json` and weights."""
    config, stored = found.config, found.checkpoint.sections[found.section]
    own = {foreign_name(name, to): name for name in found.names}
    eight = dtype is torch.int8
    rest = None if eight else dtype
    entries = {}
    for name, shape in shapes(config).items():
        kept = stored[found.names[name]].dtype
        kept = working_dtype(kept) if name in found.scales else kept
        theirs, size = foreign_name(name, to), foreign_shape(name, shape, config, to)
        entries[theirs] = Entry(size, rest or kept)
        if eight and len(size) == 2:
            entries |= {
                theirs: Entry(size, torch.int8),
                f"{theirs}{_FACTORS}": Entry(torch.Size(size[:1]), torch.float32),
            }

    def read(names: Sequence[str]) -> Iterator[tuple[str, Tensor]]:
        if not eight:
            yield from _read(found, [own[name] for name in names], to, rest)
            return
        for name in names:
            ((bare, tensor),) = _read(found, [own[name.removesuffix(_FACTORS)]], to, rest)
            if entries[bare].dtype is torch.int8:
                whole, factors = in_eight_bits(tensor)
                yield name, whole if name == bare else factors
            else:
                yield name, tensor

    write_weights(folder, to_wan_config(config) if to == "wan" else to_diffusers_config(config), entries, read)


def in_eight_bits(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return a matrix `[rows, columns]` as int8 and the fp32 factors `[rows]` by which its rows are multiplied."""
    rows = weight.float()
    factors = rows.abs().amax(dim=1).clamp_min(torch.finfo(torch.float32).tiny) / 127
    return (rows / factors[:, None]).round().clamp(-127, 127).to(torch.int8), factors


def _write_training_file(target: Path, found: Sniffed, dtype: torch.dtype | None) -> None:
    check_predicts_velocity(found.config, "causvid")
    if found.config.head_dim != HEAD_DIM:
        raise ValueError(
            f"to=causvid has no place for head_dim={found.config.head_dim}: its readers assume "
            f"{HEAD_DIM}; use to=diffusers or to=wan"
        )
    with new_file(target) as place:
        weights = {f"model.{name}": tensor for name, tensor in _read(found, found.names, "wan", dtype)}
        torch.save({"generator": weights}, place)


def _write_bundle(
    target: Path, source: Path, base: Path, found: Sniffed, dtype: torch.dtype | None, preset: str | None
) -> None:
    layout = find_layout(base)
    if layout.kind == "wan":
        raise ValueError(f"base={base} is in Wan's own layout, expected a bundle or a folder of diffusers")
    # A bundle generates as its base does; another base says nothing, but the name of the weights may.
    spec = ModelSpec(student=None if layout.kind == "bundle" else str(source), preset=preset)
    generation, provenance = find_generation(spec, layout, found.config)
    described = {name: value for name, value in provenance.items() if name != "student"}
    described |= {"transformer": source.name, "base": layout.folder.name}
    _check_base(layout.folder, found.config)
    left_out = {"transformer", "scheduler", CARD, REPORT, SAMPLES, ".git", ".cache", ".gitattributes"}

    def ignore(folder: str, names: Sequence[str]) -> set[str]:
        return left_out.intersection(names) if Path(folder) == layout.folder else set()

    with new_folder(target) as place:
        shutil.copytree(layout.folder, place, ignore=ignore, dirs_exist_ok=True)
        _write_folder(place / "transformer", found, "diffusers", dtype)
        index = {name: value for name, value in read_json(place / INDEX).items() if name != "scheduler"}
        transformer = ["diffusers", "WanTransformer3DModel"]
        write_json(place / INDEX, {**index, "_class_name": "CausVidPipeline", "transformer": transformer})
        write_settings(place, generation, described)
        card = f"A bundle of `causvid`: {source.name} with the other parts of {layout.folder.name}."
        (place / CARD).write_text(f"# {target.name}\n\n{card}\n", encoding="utf-8")


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
