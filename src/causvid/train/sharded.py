"""Checkpoints of processes that train together, each of which writes and reads its share (DCP), beside the training.

A checkpoint is a folder of safetensors files; its list, with their checksums, is written last. So one without a list is
not whole, and nothing in it is code. It resumes on any number of processes.

Source: torch.distributed.checkpoint, with the storage that it has for safetensors.
"""

import hashlib
import json
import shutil
import warnings
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import async_save
from torch.distributed.tensor import DTensor, distribute_tensor

from causvid.data.tar import digest
from causvid.files.checkpoint import read_json
from causvid.files.writing import new_file, write_json
from causvid.train.distributed import Ranks

FOLDER, LIST = "checkpoints", "list.json"


def newest(folder: Path) -> Path | None:
    """Return the newest whole checkpoint in a stage's folder."""
    whole = [path.parent for path in (folder / FOLDER).glob(f"*/{LIST}")]
    return max(whole, key=lambda place: place.name, default=None)


class Writer:
    """Writes checkpoints in the background, one at a time; the one before is removed when the next is whole."""

    def __init__(self, folder: Path, ranks: Ranks) -> None:
        self.folder = folder / FOLDER
        self.ranks = ranks
        self.group = dist.new_group(backend="gloo")  # so that the background's messages do not mix with training's
        self.worker = ThreadPoolExecutor(1)
        self.pending: Future[None] | None = None

    def save(self, state: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
        """Copy the state, and begin to write it; `facts` are plain values that go into the list."""
        self.wait()
        place = self.folder / f"{facts['step']:010d}"
        if self.ranks.is_main:
            self.folder.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(place, ignore_errors=True)  # what a killed run left
            place.mkdir()
        self.ranks.wait()
        leaves = dict(walk(state))
        tensors = {path: value for path, value in leaves.items() if isinstance(value, Tensor)}
        plain = {path: value for path, value in leaves.items() if isinstance(value, int | float)}
        storage = HuggingFaceStorageWriter(str(place), save_distributed=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            written = async_save(tensors, storage_writer=storage, process_group=self.group)
        self.pending = self.worker.submit(self._publish, place, written, {**facts, "plain": plain})

    def wait(self) -> bool:
        """Wait until the checkpoint in work, if any, is whole; tell whether there was one. Raise what went wrong."""
        if self.pending is None:
            return False
        pending, self.pending = self.pending, None
        pending.result()
        return True

    def _publish(self, place: Path, written: Any, facts: Mapping[str, Any]) -> None:
        written.result()
        own = {file.name: digest(file) for file in place.glob(f"shard-{self.ranks.rank + 1:05d}-*")}
        all_files: list[Any] = [None] * self.ranks.size
        dist.all_gather_object(all_files, own, group=self.group)
        if self.ranks.is_main:
            files = {name: sha for part in all_files for name, sha in part.items()}
            whole = {**facts, "files": files}
            with new_file(place / LIST) as partial:
                write_json(partial, {**whole, "sha256": _sum(whole)})
            for other in self.folder.iterdir():
                if other != place:
                    shutil.rmtree(other, ignore_errors=True)


def read_list(place: Path) -> dict[str, Any]:
    """Return the list of a checkpoint, whose files are as they were written.

    Raises:
        ValueError: if they are not.
    """
    try:
        facts = read_json(place / LIST)
        if facts.pop("sha256", None) != _sum(facts):
            raise ValueError
        found = {file.name for file in place.glob("*.safetensors")}
        if found != set(facts["files"]) or any(digest(place / name) != sha for name, sha in facts["files"].items()):
            raise ValueError
    except (ValueError, KeyError):
        raise ValueError(f"{place} is damaged: delete it, and the stage starts again") from None
    return facts


def _sum(facts: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def read(place: Path, state: Mapping[str, Any], plain: Mapping[str, Any]) -> Any:
    """Read a checkpoint into a state of the same structure, whose tensors are overwritten; return that state.

    Raises:
        ValueError: naming what does not fit.
    """
    tensors = {path: value for path, value in walk(state) if isinstance(value, Tensor)}
    reader = HuggingFaceStorageReader(str(place))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        stored = reader.read_metadata().state_dict_metadata
        for path, tensor in tensors.items():
            size = list(getattr(stored.get(path), "size", "?"))
            if size != list(tensor.shape):
                raise ValueError(f"{path} is {size if path in stored else 'missing'}, expected {list(tensor.shape)}")
        load(tensors, storage_reader=reader, no_dist=not dist.is_initialized())
    return rebuild(state, {**plain, **tensors})


def spread(saved: Mapping[str, Any], state: Mapping[str, Any]) -> Any:
    """Turn a state that one process wrote into one whose tensors are sharded as those of `state` are."""
    own = dict(walk(state))

    def place(path: str, value: Any) -> Any:
        like = own.get(path)
        if isinstance(like, DTensor) and isinstance(value, Tensor):
            return distribute_tensor(value.to(like.device), like.device_mesh, like.placements, src_data_rank=None)
        return value

    return rebuild(saved, {path: place(path, value) for path, value in walk(saved)})


def fill(optimizer: torch.optim.Optimizer) -> None:
    """Give an optimizer the state that it has after a step, so that a stored one can be read into it."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def walk(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every leaf of nested mappings and sequences with its path."""
    if not isinstance(value, Mapping | list | tuple):
        yield path, value
        return
    for key, part in value.items() if isinstance(value, Mapping) else enumerate(value):
        yield from walk(part, f"{path}/{key}" if path else str(key))


def rebuild(value: Any, leaves: Mapping[str, Any], path: str = "") -> Any:
    """Return nested mappings and sequences with other leaves, where `leaves` has one for a path."""
    if isinstance(value, Mapping):
        return {key: rebuild(part, leaves, f"{path}/{key}" if path else str(key)) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(rebuild(part, leaves, f"{path}/{n}" if path else str(n)) for n, part in enumerate(value))
    return leaves.get(path, value)
