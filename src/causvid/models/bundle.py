"""A bundle: one folder that holds a whole model, in the layout of diffusers' pipelines.

    model_index.json    which library and class reads each part
    transformer/        the student: config.json and weights, opens in diffusers as `WanTransformer3DModel`
    teacher/            optional: the teacher, the same way
    vae/                the tiny autoencoder, or Wan 2.1's as diffusers writes it
    text_encoder/, tokenizer/   as transformers writes them
    classifier/         optional: what reads attributes off clips, for measuring
    causvid.json        how to generate (`GenerationConfig`) and where the weights come from (provenance)
    README.md           the card; once measured, with evaluation.json and contact_sheet.png

Weights may be stored in half precision; unless another type is asked for, they load as fp32.
"""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError

from causvid.config import GenerationConfig, one_line
from causvid.models.autoencoder import Autoencoder
from causvid.models.checkpoint import read_json
from causvid.models.layout import SETTINGS
from causvid.models.names import to_foreign
from causvid.models.text import TextEncoder
from causvid.models.tiny_autoencoder import TinyAutoencoder, load_tiny_autoencoder
from causvid.models.transformer import Transformer
from causvid.models.wan_autoencoder import WanAutoencoder
from causvid.models.wan_config import CONFIG, read_config, to_diffusers_config
from causvid.models.weights import load_transformer
from causvid.models.writing import new_folder, write_json, write_state

INDEX = "model_index.json"
CARD = "README.md"
REPORT = "evaluation.json"
SAMPLES = "contact_sheet.png"
FORMAT = 1
AUTOENCODERS: dict[type[TinyAutoencoder] | type[WanAutoencoder], list[str]] = {
    TinyAutoencoder: ["causvid", "TinyAutoencoder"],
    WanAutoencoder: ["diffusers", "AutoencoderKLWan"],
}
"""What `model_index.json` says of an autoencoder: which library and class reads it."""


@dataclass(frozen=True)
class Bundle:
    """A whole model in evaluation mode.

    classifier: the folder of the attribute classifier, where there is one. provenance: where the weights come from.
    folder: where it was loaded from.
    """

    transformer: Transformer
    autoencoder: TinyAutoencoder | WanAutoencoder
    text_encoder: TextEncoder
    generation: GenerationConfig
    provenance: Mapping[str, Any]
    teacher: Transformer | None = None
    classifier: Path | None = None
    folder: Path | None = None


def save_bundle(
    folder: str | Path,
    *,
    transformer: Transformer,
    autoencoder: TinyAutoencoder | WanAutoencoder,
    text_encoder: TextEncoder,
    generation: GenerationConfig,
    provenance: Mapping[str, Any],
    teacher: Transformer | None = None,
    classifier: str | Path | None = None,
    card_from: Path | None = None,
    dtype: torch.dtype = torch.float32,
) -> None:
    """Write a bundle, replacing one that is there; the folder appears whole or not at all.

    Args:
        provenance: anything JSON can hold. classifier: a folder to copy.
        card_from: a bundle of the same model, whose card is copied with what belongs to it.
        dtype: how weights are stored.

    Raises:
        ValueError: if the folder exists and is not a bundle, or the parts do not fit each other.
    """
    check_parts(transformer, autoencoder, text_encoder, teacher)
    settings = {"format": FORMAT, "generation": generation.model_dump(mode="json"), "provenance": dict(provenance)}
    index = {
        "_class_name": "CausVidPipeline",
        "transformer": ["diffusers", "WanTransformer3DModel"],
        "vae": AUTOENCODERS[type(autoencoder)],
        "text_encoder": ["transformers", "UMT5EncoderModel"],
        "tokenizer": ["transformers", "PreTrainedTokenizerFast"],
        **({"teacher": ["diffusers", "WanTransformer3DModel"]} if teacher is not None else {}),
    }
    target = Path(folder)
    known = target.is_dir() and ((target / INDEX).is_file() or not any(target.iterdir()))
    if target.exists() and not known:
        raise ValueError(f"folder={target} exists and is not a bundle: choose another, or remove it")
    with new_folder(target) as place:
        write_json(place / INDEX, index)
        write_json(place / SETTINGS, settings)
        save_transformer(place / "transformer", transformer, dtype=dtype)
        if teacher is not None:
            save_transformer(place / "teacher", teacher, dtype=dtype)
        _save_autoencoder(place / "vae", autoencoder, dtype)
        text_encoder.save(place / "text_encoder", place / "tokenizer", dtype=dtype)
        if classifier is not None:
            shutil.copytree(classifier, place / "classifier")
        name = provenance.get("preset", "causvid")
        (place / CARD).write_text(f"# {name}\n\nA bundle of `causvid`.\n", encoding="utf-8")
        for file in (CARD, REPORT, SAMPLES):
            if card_from is not None and (card_from / file).is_file():
                shutil.copyfile(card_from / file, place / file)


def load_bundle(folder: str | Path, *, device: torch.device | str = "cpu", dtype: torch.dtype | None = None) -> Bundle:
    """Read a bundle, its weights as `dtype` (fp32 by default); nothing in it is executed.

    Raises:
        ValueError: if a file is missing or damaged, or parts do not fit, naming the file and what was expected.
    """
    place = Path(folder)
    if not place.is_dir():
        raise ValueError(f"bundle={place} is not a folder; train one with `causvid train all`, or give another")
    for name in (SETTINGS, INDEX, "transformer", "vae", "text_encoder", "tokenizer"):
        if not (place / name).exists():
            raise ValueError(f"bundle={place} lacks {name}: it is not a bundle, or not a whole one; fetch it again")
    generation, provenance = read_settings(place)
    where: Any = {"device": device, "dtype": dtype or torch.float32}
    transformer = _load_transformer(place / "transformer", **where)
    teacher = _load_transformer(place / "teacher", **where) if (place / "teacher").is_dir() else None
    autoencoder = _load_autoencoder(place, **where)
    text_encoder = TextEncoder.load(place / "text_encoder", place / "tokenizer", dtype=where["dtype"]).to(device)
    try:
        check_parts(transformer, autoencoder, text_encoder, teacher)
    except ValueError as error:
        raise ValueError(f"bundle={place}: {error}") from None
    classifier = place / "classifier"
    return Bundle(
        transformer=transformer,
        autoencoder=autoencoder,
        text_encoder=text_encoder.eval(),
        generation=generation,
        provenance=provenance,
        teacher=teacher,
        classifier=classifier if classifier.is_dir() else None,
        folder=place,
    )


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


def _load_transformer(folder: Path, *, device: torch.device | str, dtype: torch.dtype) -> Transformer:
    if read_config(folder) is None:
        raise ValueError(f"{folder / CONFIG} is missing, or not that of a WanTransformer3DModel; fetch it again")
    return load_transformer(folder, device=device, dtype=dtype)


def _save_autoencoder(folder: Path, model: TinyAutoencoder | WanAutoencoder, dtype: torch.dtype) -> None:
    if isinstance(model, WanAutoencoder):
        model.save(folder, dtype=dtype)
    else:
        settings = {"_class_name": "TinyAutoencoder", **model.config.model_dump(mode="json")}
        write_state(folder, settings, model.state_dict(), dtype)


def _load_autoencoder(
    place: Path, *, device: torch.device | str, dtype: torch.dtype
) -> TinyAutoencoder | WanAutoencoder:
    named = read_json(place / INDEX).get("vae")
    if named == AUTOENCODERS[TinyAutoencoder]:
        return load_tiny_autoencoder(place / "vae", device=device, dtype=dtype)
    if named == AUTOENCODERS[WanAutoencoder]:
        return WanAutoencoder.load(place / "vae", device=device, dtype=dtype)
    known = " or ".join(str(value) for value in AUTOENCODERS.values())
    raise ValueError(f"{place / INDEX}: vae={named} is not supported, expected {known}")


def check_parts(
    transformer: Transformer, autoencoder: Autoencoder, text_encoder: TextEncoder, teacher: Transformer | None
) -> None:
    """Raise a `ValueError` unless latents and text embeddings are of the size that the transformers take."""
    for role, model in (("transformer", transformer), ("teacher", teacher)):
        if model is None:
            continue
        channels, text_dim = model.config.in_channels, model.config.text_dim
        if channels != autoencoder.latent_channels:
            raise ValueError(
                f"{role} has in_channels={channels}, but the autoencoder latent_channels={autoencoder.latent_channels}"
            )
        if text_dim != text_encoder.dim:
            raise ValueError(f"{role} has text_dim={text_dim}, but the text encoder dim={text_encoder.dim}")
