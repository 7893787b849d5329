"""Autoencoders from and to files: tiny ones with TAEHV's names, Wan 2.1's in both published spellings."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError

from causvid.config import AutoencoderConfig, one_line
from causvid.files.checkpoint import open_checkpoint, read_json
from causvid.files.writing import write_state
from causvid.loading.names import check_shapes
from causvid.models.tiny_autoencoder import TinyAutoencoder
from causvid.models.wan_autoencoder import WanAutoencoder

TINY = "TinyAutoencoder"
WAN = "AutoencoderKLWan"


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
    config = _read_tiny_config(place / "config.json") if place.is_dir() else AutoencoderConfig()
    checkpoint = open_checkpoint(place)
    with torch.device("meta"):
        model = TinyAutoencoder(config)
    found = {name: entry.shape for name, entry in checkpoint.sections.get("", {}).items()}
    try:
        check_shapes(found, {name: tensor.shape for name, tensor in model.state_dict().items()})
    except ValueError as error:
        meant = "its config.json" if place.is_dir() else "taew2_1"
        raise ValueError(f"{checkpoint.path} is not the autoencoder of {meant}: {error}") from None
    model.load_state_dict(dict(checkpoint.read(list(found), dtype=dtype, device=device)), assign=True)
    return model.eval()


def read_wan_autoencoder(
    place: Path, *, dtype: torch.dtype | None = None, device: torch.device | str = "cpu"
) -> WanAutoencoder:
    """Read a `vae/` folder of diffusers, or a file with Wan's original names such as `Wan2.1_VAE.pth`.

    Raises:
        ValueError: if a file is missing or damaged, or the weights are not those of Wan 2.1's autoencoder.
    """
    from diffusers import AutoencoderKLWan
    from diffusers.loaders.single_file_utils import convert_wan_vae_to_diffusers

    checkpoint = open_checkpoint(place)
    settings: Mapping[str, Any] = {}
    if place.is_dir():
        settings = read_json(place / "config.json")
        name = settings.get("_class_name")
        if name != WAN:
            raise ValueError(f"{place / 'config.json'}: _class_name={name!r}, expected {WAN!r}")
    state = dict(checkpoint.read(list(checkpoint.sections.get("", ())), dtype=dtype, device=device))
    if "encoder.conv1.weight" in state:
        state = convert_wan_vae_to_diffusers(state)
    if not place.is_dir() and "encoder.conv_in.weight" in state:
        settings = {"base_dim": len(state["encoder.conv_in.weight"])}
    try:
        with torch.device("meta"):
            vae = AutoencoderKLWan.from_config({**settings})
        check_shapes(
            {name: tensor.shape for name, tensor in state.items()},
            {name: tensor.shape for name, tensor in vae.state_dict().items()},
        )
        vae.load_state_dict(state, assign=True)
        return WanAutoencoder(vae.eval()).to(device)
    except Exception as error:  # a config.json that is not Wan's makes diffusers raise anything
        raise ValueError(f"{place}: {' '.join(str(error).split())}") from error


def write_autoencoder(folder: Path, model: TinyAutoencoder | WanAutoencoder, *, dtype: torch.dtype) -> None:
    """Write a new folder of `config.json` and weights stored as `dtype`; Wan's opens in diffusers."""
    if isinstance(model, WanAutoencoder):
        write_state(folder, json.loads(model.vae.to_json_string()), model.vae.state_dict(), dtype)
    else:
        write_state(folder, {"_class_name": TINY, **model.config.model_dump(mode="json")}, model.state_dict(), dtype)


def _read_tiny_config(file: Path) -> AutoencoderConfig:
    settings = read_json(file)
    name = settings.pop("_class_name", None)
    if name != TINY:
        raise ValueError(f"{file}: _class_name={name!r} is not supported, expected {TINY!r}")
    try:
        return AutoencoderConfig.model_validate(settings)
    except ValidationError as error:
        raise ValueError(f"{file}: {one_line(error)}") from None
