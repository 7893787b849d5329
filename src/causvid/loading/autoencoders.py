"""Autoencoders from and to files: tiny ones with TAEHV's names, Wan 2.1's in both published spellings."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from pydantic import ValidationError
from torch import Tensor, nn

from causvid.config import AutoencoderConfig, one_line
from causvid.files.checkpoint import open_checkpoint, read_json
from causvid.files.writing import write_state
from causvid.loading.names import check_shapes
from causvid.models.tiny_autoencoder import TinyAutoencoder
from causvid.models.wan_autoencoder import WanAutoencoder
from causvid.seeding import without_contents

TINY = "TinyAutoencoder"
WAN = "AutoencoderKLWan"

M = TypeVar("M", bound=nn.Module)


def read_autoencoder(
    place: Path, *, dtype: torch.dtype | None = None, device: torch.device | str = "cpu"
) -> TinyAutoencoder | WanAutoencoder:
    """Read a model's autoencoder: a folder, of the class its `config.json` names, or Wan's in a file.

    dtype: of the weights; by default that of the file.

    Raises:
        ValueError: if a file is missing or damaged, or its weights are not those of its class.
    """
    if place.is_dir() and read_json(place / "config.json").get("_class_name") == TINY:
        return read_tiny_autoencoder(place, dtype=dtype, device=device)
    return read_wan_autoencoder(place, dtype=dtype, device=device)


def read_tiny_autoencoder(
    place: Path, *, dtype: torch.dtype | None = None, device: torch.device | str = "cpu"
) -> TinyAutoencoder:
    """Read a bundle's `vae/` folder, or a file of TAEHV's for Wan 2.1: `taew2_1.pth` or `.safetensors`.

    Raises:
        ValueError: if a file is missing or damaged, or names and shapes are not exactly those of its sizes.
    """
    config = AutoencoderConfig()
    if place.is_dir():
        try:
            config = AutoencoderConfig.model_validate(_settings(place, TINY))
        except ValidationError as error:
            raise ValueError(f"{place / 'config.json'}: {one_line(error)}") from None
    state = _read(place, dtype, device)
    with without_contents():
        model = TinyAutoencoder(config)
    try:
        return _fill(model, state)
    except ValueError as error:
        meant = "its config.json" if place.is_dir() else "taew2_1"
        raise ValueError(f"{place} is not the autoencoder of {meant}: {error}") from None


def read_wan_autoencoder(
    place: Path, *, dtype: torch.dtype | None = None, device: torch.device | str = "cpu"
) -> WanAutoencoder:
    """Read a `vae/` folder of diffusers, or a file with Wan's original names such as `Wan2.1_VAE.pth`.

    Raises:
        ValueError: if a file is missing or damaged, or the weights are not those of Wan 2.1's autoencoder.
    """
    settings = _settings(place, WAN) if place.is_dir() else {}
    _check_sizes(place, settings)
    state = _read(place, dtype, device)
    from diffusers import AutoencoderKLWan  # here, because importing it takes seconds
    from diffusers.loaders.single_file_utils import convert_wan_vae_to_diffusers

    if "encoder.conv1.weight" in state:
        state = convert_wan_vae_to_diffusers(state)
    if not place.is_dir() and "encoder.conv_in.weight" in state:
        settings = {"base_dim": len(state["encoder.conv_in.weight"])}
    try:
        with without_contents():
            vae = AutoencoderKLWan.from_config(settings)
        return WanAutoencoder(_fill(vae, state)).to(device)
    except Exception as error:  # a config.json that is not Wan's makes diffusers raise anything
        raise ValueError(f"{place}: {' '.join(str(error).split())}") from error


def write_autoencoder(folder: Path, model: TinyAutoencoder | WanAutoencoder, *, dtype: torch.dtype) -> None:
    """Write a new folder of `config.json` and weights stored as `dtype`; Wan's opens in diffusers."""
    if isinstance(model, WanAutoencoder):
        write_state(folder, json.loads(model.vae.to_json_string()), model.vae.state_dict(), dtype)
    else:
        write_state(folder, {"_class_name": TINY, **model.config.model_dump(mode="json")}, model.state_dict(), dtype)


def _settings(folder: Path, name: str) -> dict[str, Any]:
    """Read the sizes in a folder's `config.json`, which must be of the class `name`."""
    settings = read_json(folder / "config.json")
    found = settings.pop("_class_name", None)
    if found != name:
        raise ValueError(f"{folder / 'config.json'}: _class_name={found!r}, expected {name!r}")
    return settings


def _check_sizes(place: Path, settings: Mapping[str, Any]) -> None:
    """Refuse numbers and lists that no autoencoder has: diffusers allocates what they say."""
    for name, value in settings.items():
        parts = value if isinstance(value, list) else [value]
        most = 64 if name in ("num_res_blocks", "dim_mult") else 4096
        if len(parts) > 4096 or any(isinstance(part, int | float) and not abs(part) <= most for part in parts):
            raise ValueError(f"{place / 'config.json'}: {name}={str(value)[:60]} is not at most {most}")


def _read(place: Path, dtype: torch.dtype | None, device: torch.device | str) -> dict[str, Tensor]:
    checkpoint = open_checkpoint(place)
    return dict(checkpoint.read(list(checkpoint.sections.get("", ())), dtype=dtype, device=device))


def _fill(model: M, state: dict[str, Tensor]) -> M:
    """Let a model use these tensors, if they are exactly its weights."""
    check_shapes(state, {name: tensor.shape for name, tensor in model.state_dict().items()})
    model.load_state_dict(state, assign=True)
    return model.eval()
