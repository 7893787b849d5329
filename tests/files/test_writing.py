"""Safetensors files written a tensor at a time: the bytes of safetensors' own writer, and no second copy in memory."""

from pathlib import Path

import torch
from safetensors.torch import save_file

from causvid.engine.memory import peak_with_gradients
from causvid.files.checkpoint import TYPES, Entry
from causvid.files.writing import CHECKSUM, checksum, read_tensors, stream_tensors, write_tensors


def test_bytes_are_those_of_safetensors_own_writer(tmp_path: Path) -> None:
    tensors = {"scalar": torch.tensor(2.0), "empty": torch.zeros(0, 3), "å": torch.ones(3, 5).T}
    for number, dtype in enumerate(TYPES.values()):
        tensors |= {f"b{number}": torch.ones(3, number + 1).to(dtype), f"a{number}": torch.zeros(2).to(dtype)}
    write_tensors(tmp_path / "ours", tensors, {})
    whole = {name: tensor.contiguous() for name, tensor in tensors.items()}
    save_file(whole, tmp_path / "theirs", metadata={CHECKSUM: checksum(tensors, {})})
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()
    assert read_tensors(tmp_path / "ours")[0].keys() == tensors.keys()


def test_one_tensor_is_in_memory_at_a_time(tmp_path: Path) -> None:
    entries = {str(n): Entry(torch.Size((1000,)), torch.float32) for n in range(20)}

    def write() -> None:
        made = lambda names: ((name, torch.full((1000,), float(name))) for name in names)  # noqa: E731
        stream_tensors(tmp_path / "a", entries, made, {"about": "numbers"})

    assert peak_with_gradients(write) <= 2 * 4000  # the next is made before the one before it is dropped
    tensors, about = read_tensors(tmp_path / "a")
    assert about == {"about": "numbers"} and all(float(values[0]) == int(name) for name, values in tensors.items())
