"""Folders and files of weights that appear whole or not at all."""

import json
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from causvid.files.checkpoint import INDEX, Entry

WEIGHTS = "diffusion_pytorch_model.safetensors"
SHARD_BYTES = 5 * 10**9
Read = Callable[[Sequence[str]], Iterable[tuple[str, Tensor]]]


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `folder`, which it replaces once the block ends without an error."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as name:
        place = Path(name) / "new"
        place.mkdir()
        yield place
        for weights in place.rglob("*.safetensors"):  # safetensors lets nobody else read what it writes
            weights.chmod(place.stat().st_mode & 0o666)
        old = Path(name) / "old"
        if folder.exists():
            folder.rename(old)
        try:
            place.rename(folder)
        except OSError:
            if old.exists():
                old.rename(folder)
            raise


@contextmanager
def new_file(file: Path) -> Iterator[Path]:
    """Yield a temporary path beside `file`, which it replaces once the block ends without an error.

    Raises:
        OSError: if `file` is a folder, a device or another thing that a file must not replace.
    """
    file = file.resolve()
    if file.exists() and not file.is_file():
        raise OSError(f"{file} is not a regular file: choose another name")
    file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{file.name}.", dir=file.parent) as name:
        place = Path(name) / file.name
        yield place
        os.replace(place, file)


def write_tensors(file: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file that appears whole or not at all; tensors may share memory and be on any device.

    Raises:
        OSError: if it cannot be written.
    """
    whole = {name: part.cpu().clone(memory_format=torch.contiguous_format) for name, part in tensors.items()}
    try:
        with new_file(file) as place:
            save_file(whole, place, metadata=dict(metadata))
            place.chmod(0o644)
    except SafetensorError as error:
        raise OSError(f"{file} cannot be written: {error}") from None


def write_weights(
    folder: Path, settings: Mapping[str, Any], entries: Mapping[str, Entry], read: Read, *, file: str = WEIGHTS
) -> None:
    """Fill a folder with `config.json` and weights as diffusers does, in shards if they are large.

    Args:
        file: the name of the weights, where they are one file; transformers has another than diffusers.
        entries: name → shape and type of all weights. read: yields those of some names; memory holds one shard.
    """
    from huggingface_hub import split_torch_state_dict_into_shards

    folder.mkdir(exist_ok=True)
    write_json(folder / "config.json", settings)
    stem, suffix = file.split(".")
    plan = split_torch_state_dict_into_shards(
        {name: torch.empty(entry.shape, dtype=entry.dtype, device="meta") for name, entry in entries.items()},
        filename_pattern=f"{stem}{{suffix}}.{suffix}",
        max_shard_size=SHARD_BYTES,
    )
    for shard, names in plan.filename_to_tensors.items():
        save_file(dict(read(names)), folder / shard, metadata={"format": "pt"})
    if plan.is_sharded:
        index = {"metadata": plan.metadata, "weight_map": plan.tensor_to_filename}
        write_json(folder / f"{file}{INDEX}", index)


def write_state(
    folder: Path, settings: Mapping[str, Any], state: Mapping[str, Tensor], dtype: torch.dtype, *, file: str = WEIGHTS
) -> None:
    """Write a new folder of `config.json` and a state dict, stored as `dtype`."""
    entries = {name: Entry(tensor.shape, dtype) for name, tensor in state.items()}

    def read(names: Sequence[str]) -> Iterator[tuple[str, Tensor]]:
        return ((name, state[name].detach().to("cpu", dtype).contiguous()) for name in names)

    write_weights(folder, settings, entries, read, file=file)


def write_json(file: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON object."""
    file.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
