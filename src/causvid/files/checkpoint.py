"""Files of weights in every published format, behind one interface: names, shapes and types first, data on demand.

Safetensors, PyTorch's zip files, its older pickles and GGUF, alone or as the shards of an index. Nothing in a file is
executed; all but the older pickles are mapped, so that only what is asked for is read.
"""

import json
import re
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from causvid.files.format import Format, recognise, whole
from causvid.files.gguf import Gguf
from causvid.opening import read_text

SUFFIXES = (".safetensors", ".gguf", ".pt", ".pth", ".ckpt", ".bin")
INDEX = ".index.json"
PICKLE = 64 * 2**20
"""Most bytes of the pickle in a PyTorch file, which describes its tensors."""

_USUAL = ("diffusion_pytorch_model.safetensors", "model.safetensors", "pytorch_lora_weights.safetensors")
_SHARD = re.compile(r"-\d{5}-of-\d{5}\.")
TYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
    "C64": torch.complex64,
}


@dataclass(frozen=True)
class Entry:
    """Shape and type of a tensor, as a file's header has them."""

    shape: torch.Size
    dtype: torch.dtype

    @property
    def bytes(self) -> int:
        """Return how much memory its values take."""
        return self.shape.numel() * self.dtype.itemsize


@dataclass(frozen=True)
class Checkpoint:
    """A file, or the shards of an index.

    path: the file, or the index. sections: name → entry by section; a flat state dict is the section "", nested ones
    are named as the file does ("generator", "critic", "state_dict", …). shards: name → file, where there is an index.
    header: what a safetensors file states in words beside its tensors.
    """

    path: Path
    format: Format
    sections: Mapping[str, Mapping[str, Entry]]
    shards: Mapping[str, Path] = field(default_factory=dict)
    header: Mapping[str, str] = field(default_factory=dict)

    @property
    def files(self) -> list[Path]:
        """Return the files that hold the data."""
        return sorted(set(self.shards.values())) or [self.path]

    def read(
        self,
        names: Sequence[str],
        *,
        section: str = "",
        dtype: torch.dtype | None = None,
        device: torch.device | str = "cpu",
    ) -> Iterator[tuple[str, Tensor]]:
        """Yield name and tensor, file by file, as `dtype` if given: copies, one at a time.

        Raises:
            ValueError: if there is no such tensor, or a file has become unreadable.
        """
        places: dict[Path, list[str]] = {}
        for name in names:
            if name not in self.sections.get(section, {}):
                raise ValueError(f"{self.path}: there is no tensor {name}" + (f" in {section}" if section else ""))
            places.setdefault(self.shards.get(name, self.path), []).append(name)
        for file, wanted in places.items():
            format = recognise(file)
            fetch: Callable[[str], Tensor]
            if format == "safetensors":
                with whole(file, format):
                    fetch = safe_open(file, framework="pt").get_tensor
            elif format == "GGUF":
                with whole(file, format):
                    fetch = Gguf(file).tensor
            else:
                fetch = _load_pickle(file, format)[section].__getitem__
            for name in wanted:
                with whole(file, format):
                    stored = fetch(name)
                # A copy, because mapped tensors lie at odd addresses, and products round differently there.
                yield name, torch.empty(stored.shape, dtype=dtype or stored.dtype, device=device).copy_(stored)


def open_checkpoint(path: Path) -> Checkpoint:
    """Open a file of weights, an index of shards, or a folder that holds one or the other.

    Raises:
        ValueError: if it is missing, damaged, empty or ambiguous, or holds anything but tensors; naming what to do.
    """
    if path.is_dir():
        path = choose_weights(path)
    if path.name.endswith(INDEX):
        return _open_index(path)
    format = recognise(path)
    sections = _sections(path, format)
    header: Mapping[str, str] = {}
    if format == "safetensors":
        with whole(path, format):
            header = safe_open(path, framework="pt").metadata() or {}
    return Checkpoint(path, format, sections, header=header)


def weight_files(folder: Path) -> list[Path]:
    """List what a folder holds that can be opened: indexes of shards, and files of weights that are no shards."""
    files = sorted(file for file in folder.iterdir() if file.is_file())
    single = [file for file in files if file.suffix in SUFFIXES and not _SHARD.search(file.name)]
    return [file for file in files if file.name.endswith(INDEX)] + single


def choose_weights(folder: Path) -> Path:
    """Return the one index or file of weights in a folder; the usual names of diffusers and transformers win.

    Raises:
        ValueError: if there is none, or more than one.
    """
    found = weight_files(folder)
    found = [file for file in found if file.name.startswith(_USUAL)] or found
    if len(found) == 1:
        return found[0]
    if found:
        raise ValueError(f"{folder} holds {' and '.join(it.name for it in found)}: give the path of the one you mean")
    shard = next((file for file in sorted(folder.iterdir()) if _SHARD.search(file.name)), None)
    if shard is not None:
        raise ValueError(f"{folder} holds shards such as {shard.name} without their {INDEX[1:]}; fetch it too")
    raise ValueError(f"{folder} holds no weights, expected an {INDEX[1:]} or a file {', '.join(SUFFIXES)}")


def read_json(file: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        ValueError: if the file is missing, damaged or not an object.
    """
    try:
        value = json.loads(read_text(file))
    except FileNotFoundError:
        raise ValueError(f"{file} is missing") from None
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{file} is not readable JSON: {error}") from None
    if not isinstance(value, dict):
        raise ValueError(f"{file} is not a JSON object")
    return value


def _open_index(file: Path) -> Checkpoint:
    where = read_json(file).get("weight_map")
    if not isinstance(where, dict) or not where or not all(isinstance(name, str) for name in where.values()):
        raise ValueError(f"{file}: weight_map is not a table from tensors to files; fetch it again")
    found: dict[str, Mapping[str, Entry]] = {}
    for shard in sorted(set(where.values())):
        place = file.parent / shard
        if Path(shard).name != shard:
            raise ValueError(f"{file}: shard {shard!r} is not a file beside it")
        if not place.is_file():
            raise ValueError(f"{file}: shard {shard} is missing; fetch it too")
        format = recognise(place)
        found[shard] = _sections(place, format).get("", {})
    for name, shard in where.items():
        if name not in found[shard]:
            raise ValueError(f"{file}: shard {shard} lacks {name}, which the index places there; fetch both again")
    entries = {name: found[shard][name] for name, shard in where.items()}
    return Checkpoint(file, format, {"": entries}, {name: file.parent / shard for name, shard in where.items()})


def _check_zip(file: Path) -> None:
    """Refuse what would be inflated: PyTorch stores its tensors as they are, and its pickle is small."""
    with zipfile.ZipFile(file) as opened:
        entries = opened.infolist()
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise ValueError("it is compressed, which PyTorch does not do")
    if sum(entry.file_size for entry in entries) > file.stat().st_size:
        raise ValueError("its parts overlap")
    if any(entry.filename.endswith("data.pkl") and entry.file_size > PICKLE for entry in entries):
        raise ValueError(f"its pickle has more than {PICKLE} bytes")


def _sections(file: Path, format: Format) -> dict[str, dict[str, Entry]]:
    """List the tensors of a file by sections; a name that would spoil a line of text is refused."""
    found = _tensors(file, format)
    for name in (*found, *(name for entries in found.values() for name in entries)):
        if not name.isprintable():
            raise ValueError(f"{file}: the name {name[:80]!r} is not one of a weight; fetch it again")
    return found


def _tensors(file: Path, format: Format) -> dict[str, dict[str, Entry]]:
    if format == "GGUF":
        with whole(file, format):
            opened = Gguf(file)
            found = {name: Entry(opened.shape(name), opened.dtype(name)) for name in opened.names()}
        if not found:
            raise ValueError(f"{file} holds no tensors")
        return {"": found}
    if format != "safetensors":
        sections = _load_pickle(file, format)
        return {
            section: {name: Entry(tensor.shape, tensor.dtype) for name, tensor in tensors.items()}
            for section, tensors in sections.items()
        }
    entries = {}
    with whole(file, format):
        handle = safe_open(file, framework="pt")
        slices = {name: handle.get_slice(name) for name in handle.offset_keys()}
    if not slices:
        raise ValueError(f"{file} holds no tensors")
    for name, stored in slices.items():
        dtype = stored.get_dtype()
        if dtype not in TYPES:
            raise ValueError(f"{file}: {name} is of type {dtype}, expected one of {', '.join(TYPES)}")
        entries[name] = Entry(torch.Size(stored.get_shape()), TYPES[dtype])
    return {"": entries}


def _load_pickle(file: Path, format: Format) -> dict[str, dict[str, Tensor]]:
    """Read a PyTorch file by sections; a zip file's tensors stay on disk until they are touched."""
    with whole(file, format), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if format == "PyTorch":
            _check_zip(file)
        content = torch.load(file, map_location="cpu", weights_only=True, mmap=format == "PyTorch")
    if not isinstance(content, Mapping):
        raise ValueError(f"{file} holds a {type(content).__name__}, expected a dict of tensors")
    parts = {"": content, **{name: part for name, part in content.items() if isinstance(part, Mapping)}}
    sections: dict[str, dict[str, Tensor]] = {}
    for section, part in parts.items():
        for name, tensor in part.items():
            if not isinstance(tensor, Tensor):
                continue
            if not isinstance(name, str):
                raise ValueError(f"{file}: tensor {name!r} has no name, expected a dict from names to tensors")
            plain = tensor.layout is torch.strided and not tensor.is_quantized and tensor.device.type == "cpu"
            # A view that repeats its storage would make a small file into as large a model as it likes.
            if not plain or tensor.untyped_storage().nbytes() < tensor.nbytes:
                kind = str(tensor.layout).removeprefix("torch.")
                raise ValueError(f"{file}: {name} is no plain tensor ({kind}, {tensor.device}, {list(tensor.shape)})")
            sections.setdefault(str(section), {})[name] = tensor.detach()
    if not sections:
        raise ValueError(f"{file} holds no tensors, expected a dict of them or dicts of such dicts")
    return sections
