"""Folders and files of weights that appear whole or not at all."""

import errno
import json
import os
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from causvid.files.checkpoint import INDEX, TYPES, Entry
from causvid.files.format import check_header
from causvid.staging import NEW, OLD, staging

WEIGHTS = "diffusion_pytorch_model.safetensors"
SHARD_BYTES = 5 * 10**9
CHECKSUM = "crc32"
_CODES = {dtype: code for code, dtype in TYPES.items()}
_ORDER = ("I64", "F64", "C64", "F32", "I32", "BF16", "F16", "I16", "F8_E4M3", "F8_E5M2", "I8", "U8", "BOOL")
"""Of tensors in a file by type, as safetensors writes them: large ones first, so that each is aligned."""
Read = Callable[[Sequence[str]], Iterable[tuple[str, Tensor]]]


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `folder`, which it replaces once the block ends without an error.

    Raises:
        OSError: if it cannot be written.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _naming(folder), staging(folder.parent) as hidden:
        place = hidden / NEW
        place.mkdir()
        yield place
        for weights in place.rglob("*.safetensors"):  # safetensors lets nobody else read what it writes
            weights.chmod(place.stat().st_mode & 0o666)
        old = hidden / OLD
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
        OSError: if it cannot be written, or `file` is a folder, a device or another thing that must not be replaced.
    """
    file = file.resolve()
    if file.exists() and not file.is_file():
        raise OSError(f"{file} is not a regular file: choose another name")
    file.parent.mkdir(parents=True, exist_ok=True)
    with _naming(file), staging(file.parent) as hidden:
        place = hidden / file.name
        yield place
        os.replace(place, file)


@contextmanager
def _naming(target: Path) -> Iterator[None]:
    """Turn what libraries raise for a full disk into an error that names the target."""
    try:
        yield
    except SafetensorError as error:
        raise OSError(f"{target} cannot be written: {error}") from None
    except RuntimeError as error:
        if "PytorchStreamWriter" not in str(error) and "inline_container" not in str(error):
            raise
        raise OSError(errno.ENOSPC, f"{target} cannot be written: no space left, or a limit is reached") from None
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        raise OSError(error.errno, f"{target} cannot be written: no space left") from None


def write_tensors(file: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file as `stream_tensors` does; tensors may share memory and be on any device.

    Raises:
        OSError: if it cannot be written.
    """
    entries = {name: Entry(tensor.shape, tensor.dtype) for name, tensor in tensors.items()}
    stream_tensors(file, entries, lambda names: ((name, tensors[name]) for name in names), metadata)


def stream_tensors(file: Path, entries: Mapping[str, Entry], read: Read, metadata: Mapping[str, str]) -> None:
    """Write a safetensors file that appears whole or not at all, one tensor in memory at a time.

    Its metadata carry a checksum of everything else in it.

    Args:
        entries: name → shape and type of all tensors. read: yields them, in the order of the names it gets.

    Raises:
        OSError: if it cannot be written.
    """
    with new_file(file) as place:
        _write(place, entries, read, metadata, with_checksum=True)
        place.chmod(0o644)


def _write(
    place: Path, entries: Mapping[str, Entry], read: Read, metadata: Mapping[str, str], *, with_checksum: bool = False
) -> None:
    stored = {**metadata, **({CHECKSUM: "0" * 8} if with_checksum else {})}
    header: dict[str, Any] = {"__metadata__": stored}
    end = 0
    for name in sorted(entries, key=lambda name: (_ORDER.index(_CODES[entries[name].dtype]), name)):
        begin, end = end, end + entries[name].bytes
        shape = list(entries[name].shape)
        header[name] = {"dtype": _CODES[entries[name].dtype], "shape": shape, "data_offsets": [begin, end]}
    with place.open("wb") as file:
        data = _write_header(file, header)
        crc = _begin_checksum(metadata)
        for name, tensor in read(sorted(entries)):
            tensor = tensor.detach().to("cpu", memory_format=torch.contiguous_format)
            assert Entry(tensor.shape, tensor.dtype) == entries[name]
            file.seek(data + header[name]["data_offsets"][0])
            file.write(_bytes(tensor))
            crc = _add_to_checksum(crc, name, tensor) if with_checksum else crc
        if with_checksum:  # known only now, and as long as what stands in its place
            stored[CHECKSUM] = f"{crc:08x}"
            file.seek(0)
            _write_header(file, header)


def _write_header(file: IO[bytes], header: Mapping[str, Any]) -> int:
    """Write the header of a safetensors file; return where its data begin."""
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text = text.ljust(-(-len(text) // 8) * 8)
    return file.write(len(text).to_bytes(8, "little") + text)


def read_tensors(file: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read all tensors and the metadata of a safetensors file; compare the checksum, if it has one.

    Raises:
        ValueError: if the file is damaged.
    """
    try:
        check_header(file)
        with safe_open(file, framework="pt") as opened:
            metadata = dict(opened.metadata() or {})
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, TypeError) as error:
        raise ValueError(f"{file} is damaged ({error})") from None
    expected = metadata.pop(CHECKSUM, None)
    if expected is not None and expected != checksum(tensors, metadata):
        raise ValueError(f"{file} is damaged (its checksum is another)")
    return tensors, metadata


def checksum(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """Return a CRC-32 of metadata, names, types, shapes and values."""
    crc = _begin_checksum(metadata)
    for name in sorted(tensors):
        crc = _add_to_checksum(crc, name, tensors[name])
    return f"{crc:08x}"


def _begin_checksum(metadata: Mapping[str, str]) -> int:
    return zlib.crc32(json.dumps(dict(metadata), sort_keys=True).encode())


def _add_to_checksum(crc: int, name: str, tensor: Tensor) -> int:
    return zlib.crc32(_bytes(tensor), zlib.crc32(f"{name} {tensor.dtype} {list(tensor.shape)}".encode(), crc))


def _bytes(tensor: Tensor) -> memoryview:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data


def write_weights(
    folder: Path, settings: Mapping[str, Any], entries: Mapping[str, Entry], read: Read, *, file: str = WEIGHTS
) -> None:
    """Fill a folder with `config.json` and weights as diffusers does, in shards if they are large.

    Args:
        file: the name of the weights, where they are one file; transformers has another than diffusers.
        entries: name → shape and type of all weights. read: yields those of some names; memory holds one at a time.
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
        _write(folder / shard, {name: entries[name] for name in names}, read, {"format": "pt"})
    if plan.is_sharded:
        index = {"metadata": plan.metadata, "weight_map": plan.tensor_to_filename}
        write_json(folder / f"{file}{INDEX}", index)


def write_state(
    folder: Path, settings: Mapping[str, Any], state: Mapping[str, Tensor], dtype: torch.dtype, *, file: str = WEIGHTS
) -> None:
    """Write a new folder of `config.json` and a state dict, stored as `dtype`."""
    entries = {name: Entry(tensor.shape, dtype) for name, tensor in state.items()}

    def read(names: Sequence[str]) -> Iterator[tuple[str, Tensor]]:
        return ((name, state[name].to(dtype)) for name in names)

    write_weights(folder, settings, entries, read, file=file)


def write_json(file: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON object."""
    file.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
