"""What one stage hands to the next: weights and tensors as safetensors files in the run's folder."""

import os
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn


def save_tensors(tensors: dict[str, Tensor], path: Path) -> None:
    """Write tensors beside the target and rename, so that no stage reads half a file."""
    partial = path.with_suffix(".partial")
    # Copies, since safetensors refuses tensors that share memory, as a text encoder's embedding does under two names.
    copies = {
        name: t.detach().to("cpu", copy=True, memory_format=torch.contiguous_format) for name, t in tensors.items()
    }
    save_file(copies, partial)
    os.replace(partial, path)


def is_whole(path: Path) -> bool:
    """Tell whether a file that `save_tensors` wrote is there and of its full length."""
    try:
        with safe_open(path, framework="pt"):
            return True
    except (OSError, SafetensorError):
        return False


def load_tensors(path: Path, *, made_by: str) -> dict[str, Tensor]:
    """Read what an earlier stage wrote; a `ValueError` names that stage if the file is missing or damaged."""
    if not path.is_file():
        raise ValueError(f"{path} is missing: run `causvid train {made_by}` first, with the same --out")
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged ({error}): run `causvid train {made_by}` again") from None


def save_weights(module: nn.Module, path: Path) -> None:
    """Write a module's weights."""
    save_tensors(module.state_dict(), path)


def load_weights(module: nn.Module, path: Path, *, made_by: str) -> None:
    """Read weights into a module of the same sizes."""
    weights = load_tensors(path, made_by=made_by)
    try:
        module.load_state_dict({name: t.to(torch.float32) for name, t in weights.items()})
    except RuntimeError as error:
        line = str(error).splitlines()[1].strip()
        raise ValueError(f"{path} does not fit the preset: {line}") from None
