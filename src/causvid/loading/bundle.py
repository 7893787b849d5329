"""A bundle: one folder that holds a whole model, in the layout of diffusers' pipelines.

    model_index.json    which library and class reads each part
    transformer/        the student: config.json and weights, opens in diffusers as `WanTransformer3DModel`
    teacher/            the teacher, the same way; optional, but for a bundle that has no student yet
    vae/                the tiny autoencoder, or Wan 2.1's as diffusers writes it
    text_encoder/, tokenizer/   as transformers writes them
    classifier/         optional: what reads attributes off clips, for measuring
    causvid.json        how to generate (`GenerationConfig`) and where the weights come from (provenance)
    README.md           the card; once measured, with evaluation.json and contact_sheet.png

Weights may be stored in half precision; unless another type is asked for, they load as fp32. `assemble` reads it.
"""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError

from causvid.config import GenerationConfig, one_line
from causvid.files.checkpoint import read_json
from causvid.files.writing import new_folder, write_json, write_state
from causvid.loading.autoencoders import TINY, WAN, write_autoencoder
from causvid.loading.layout import INDEX, SETTINGS
from causvid.loading.names import to_foreign
from causvid.loading.text import save_text_encoder
from causvid.loading.wan_config import to_diffusers_config
from causvid.models.text import TextEncoder
from causvid.models.tiny_autoencoder import TinyAutoencoder
from causvid.models.transformer import Transformer
from causvid.models.wan_autoencoder import WanAutoencoder

CARD = "README.md"
REPORT = "evaluation.json"
SAMPLES = "contact_sheet.png"
FORMAT = 1


@dataclass(frozen=True)
class Bundle:
    """A whole model in evaluation mode.

    classifier: the folder of the attribute classifier, where there is one. provenance: where the weights come from,
    anything JSON can hold. folder: where its card is, and what was measured of it; None for a new model. Where there is
    no student, transformer and teacher are one object.
    """

    transformer: Transformer
    autoencoder: TinyAutoencoder | WanAutoencoder
    text_encoder: TextEncoder
    generation: GenerationConfig
    provenance: Mapping[str, Any]
    teacher: Transformer | None = None
    classifier: Path | None = None
    folder: Path | None = None

    def __post_init__(self) -> None:
        channels, dim = self.autoencoder.latent_channels, self.text_encoder.dim
        for role, model in (("transformer", self.transformer), ("teacher", self.teacher)):
            if model is not None and model.config.in_channels != channels:
                has = f"in_channels={model.config.in_channels}"
                raise ValueError(f"{role} has {has}, but the autoencoder latent_channels={channels}")
            if model is not None and model.config.text_dim != dim:
                raise ValueError(f"{role} has text_dim={model.config.text_dim}, but the text encoder dim={dim}")


def save_bundle(folder: str | Path, bundle: Bundle, *, dtype: torch.dtype = torch.float32) -> None:
    """Write a bundle, replacing one that is there; the folder appears whole or not at all.

    dtype: how weights are stored.

    Raises:
        ValueError: if the folder exists and is not a bundle.
    """
    wan = isinstance(bundle.autoencoder, WanAutoencoder)
    index = {
        "_class_name": "CausVidPipeline",
        "transformer": ["diffusers", "WanTransformer3DModel"],
        "vae": ["diffusers", WAN] if wan else ["causvid", TINY],
        "text_encoder": ["transformers", "UMT5EncoderModel"],
        "tokenizer": ["transformers", "PreTrainedTokenizerFast"],
    }
    if bundle.teacher is not None:
        index["teacher"] = index["transformer"]
    if bundle.teacher is bundle.transformer:
        del index["transformer"]
    target = Path(folder)
    known = target.is_dir() and ((target / INDEX).is_file() or not any(target.iterdir()))
    if target.exists() and not known:
        raise ValueError(f"folder={target} exists and is not a bundle: choose another, or remove it")
    with new_folder(target) as place:
        write_json(place / INDEX, index)
        write_settings(place, bundle.generation, bundle.provenance)
        if bundle.transformer is not bundle.teacher:
            save_transformer(place / "transformer", bundle.transformer, dtype=dtype)
        if bundle.teacher is not None:
            save_transformer(place / "teacher", bundle.teacher, dtype=dtype)
        write_autoencoder(place / "vae", bundle.autoencoder, dtype=dtype)
        save_text_encoder(bundle.text_encoder, place / "text_encoder", place / "tokenizer", dtype=dtype)
        if bundle.classifier is not None:
            shutil.copytree(bundle.classifier, place / "classifier")
        name = bundle.provenance.get("preset", "causvid")
        (place / CARD).write_text(f"# {name}\n\nA bundle of `causvid`.\n", encoding="utf-8")
        for file in (CARD, REPORT, SAMPLES):
            if bundle.folder is not None and (bundle.folder / file).is_file():
                shutil.copyfile(bundle.folder / file, place / file)


def write_settings(folder: Path, generation: GenerationConfig, provenance: Mapping[str, Any]) -> None:
    """Write what `read_settings` reads."""
    settings = {"format": FORMAT, "generation": generation.model_dump(mode="json"), "provenance": dict(provenance)}
    write_json(folder / SETTINGS, settings)


def read_settings(folder: Path) -> tuple[GenerationConfig, Mapping[str, Any]]:
    """Read how a bundle generates and where its weights come from.

    Raises:
        ValueError: if that is missing, damaged, or of another version.
    """
    settings = read_json(folder / SETTINGS)
    if settings.get("format") != FORMAT:
        found = settings.get("format")
        raise ValueError(f"{folder / SETTINGS}: format={found!r}, expected {FORMAT}; update the package or the bundle")
    try:
        generation = GenerationConfig.model_validate(settings.get("generation"))
    except ValidationError as error:
        raise ValueError(f"{folder / SETTINGS}: generation: {one_line(error)}") from None
    return generation, settings.get("provenance") or {}


def words_command(provenance: Mapping[str, Any]) -> str:
    """Return the command that lists the words of the world a bundle was trained on."""
    world = provenance.get("world") or "nano"
    return "causvid world words" if world == "nano" else f"causvid world words --preset {world}"


def save_transformer(folder: Path, model: Transformer, *, dtype: torch.dtype = torch.float32) -> None:
    """Write a transformer as diffusers writes a `WanTransformer3DModel`."""
    state = to_foreign(model.state_dict(), model.config, "diffusers")
    write_state(folder, to_diffusers_config(model.config), state, dtype)
