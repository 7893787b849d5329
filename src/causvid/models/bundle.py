"""A bundle: one folder that holds a whole model, in the layout of diffusers' pipelines.

    model_index.json    which library and class reads each part
    transformer/        the student: config.json and weights, opens in diffusers as `WanTransformer3DModel`
    teacher/            optional: the teacher, the same way
    vae/                the tiny autoencoder
    text_encoder/, tokenizer/   as transformers writes them
    classifier/         optional: what reads attributes off clips, for measuring
    causvid.json        how to generate (`GenerationConfig`) and where the weights come from (provenance)
    README.md           the card; once measured, with evaluation.json and contact_sheet.png

Weights may be stored in half precision; they load as fp32.
"""

import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors.torch import save_file
from torch import Tensor

from causvid.config import AutoencoderConfig, GenerationConfig, TransformerConfig, one_line
from causvid.models.autoencoder import Autoencoder
from causvid.models.text import TextEncoder
from causvid.models.tiny_autoencoder import TinyAutoencoder
from causvid.models.transformer import Transformer
from causvid.models.weights import (
    check_state,
    from_diffusers,
    from_diffusers_config,
    read_json,
    read_safetensors,
    to_diffusers,
    to_diffusers_config,
)

SETTINGS = "causvid.json"
INDEX = "model_index.json"
WEIGHTS = "diffusion_pytorch_model.safetensors"
CARD = "README.md"
REPORT = "evaluation.json"
SAMPLES = "contact_sheet.png"
FORMAT = 1


@dataclass(frozen=True)
class Bundle:
    """A whole model in evaluation mode.

    classifier: the folder of the attribute classifier, where there is one. provenance: where the weights come from.
    folder: where it was loaded from.
    """

    transformer: Transformer
    autoencoder: TinyAutoencoder
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
    autoencoder: TinyAutoencoder,
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
    _check_parts(transformer, autoencoder, text_encoder, teacher)
    settings = {"format": FORMAT, "generation": generation.model_dump(mode="json"), "provenance": dict(provenance)}
    index = {
        "_class_name": "CausVidPipeline",
        "transformer": ["diffusers", "WanTransformer3DModel"],
        "vae": ["causvid", "TinyAutoencoder"],
        "text_encoder": ["transformers", "UMT5EncoderModel"],
        "tokenizer": ["transformers", "PreTrainedTokenizerFast"],
        **({"teacher": ["diffusers", "WanTransformer3DModel"]} if teacher is not None else {}),
    }
    with _appear_whole(Path(folder)) as place:
        _write_json(place / INDEX, index)
        _write_json(place / SETTINGS, settings)
        save_transformer(place / "transformer", transformer, dtype=dtype)
        if teacher is not None:
            save_transformer(place / "teacher", teacher, dtype=dtype)
        shape = {"_class_name": "TinyAutoencoder", **autoencoder.config.model_dump(mode="json")}
        _write_weights(place / "vae", shape, autoencoder.state_dict(), dtype)
        text_encoder.save(place / "text_encoder", place / "tokenizer", dtype=dtype)
        if classifier is not None:
            shutil.copytree(classifier, place / "classifier")
        name = provenance.get("preset", "causvid")
        readme = place / CARD
        readme.write_text(f"# {name}\n\nA bundle of `causvid`.\n", encoding="utf-8")
        for file in (CARD, REPORT, SAMPLES):
            if card_from is not None and (card_from / file).is_file():
                shutil.copyfile(card_from / file, place / file)
        for weights in place.rglob("*.safetensors"):  # safetensors lets nobody else read what it writes
            shutil.copymode(readme, weights)


def load_bundle(folder: str | Path, *, device: torch.device | str = "cpu") -> Bundle:
    """Read a bundle; nothing in it is executed.

    Raises:
        ValueError: if a file is missing or damaged, or parts do not fit, naming the file and what was expected.
    """
    place = Path(folder)
    if not place.is_dir():
        raise ValueError(f"bundle={place} is not a folder; train one with `causvid train all`, or give another")
    for name in (SETTINGS, INDEX, "transformer", "vae", "text_encoder", "tokenizer"):
        if not (place / name).exists():
            raise ValueError(f"bundle={place} lacks {name}: it is not a bundle, or not a whole one; fetch it again")
    settings = read_json(place / SETTINGS)
    if settings.get("format") != FORMAT:
        found = settings.get("format")
        raise ValueError(f"{place / SETTINGS}: format={found!r}, expected {FORMAT}; update the package or the bundle")
    try:
        generation = GenerationConfig.model_validate(settings.get("generation"))
    except ValidationError as error:
        raise ValueError(f"{place / SETTINGS}: generation: {one_line(error)}") from None
    transformer = load_transformer(place / "transformer").to(device)
    teacher = load_transformer(place / "teacher").to(device) if (place / "teacher").is_dir() else None
    autoencoder = _load_autoencoder(place / "vae").to(device)
    text_encoder = TextEncoder.load(place / "text_encoder", place / "tokenizer").to(device)
    try:
        _check_parts(transformer, autoencoder, text_encoder, teacher)
    except ValueError as error:
        raise ValueError(f"bundle={place}: {error}") from None
    classifier = place / "classifier"
    return Bundle(
        transformer=transformer,
        autoencoder=autoencoder,
        text_encoder=text_encoder.eval(),
        generation=generation,
        provenance=settings.get("provenance") or {},
        teacher=teacher,
        classifier=classifier if classifier.is_dir() else None,
        folder=place,
    )


def words_command(provenance: Mapping[str, Any]) -> str:
    """Return the command that lists the words of the world a bundle was trained on."""
    world = provenance.get("world") or "nano"
    return "causvid world words" if world == "nano" else f"causvid world words --preset {world}"


def save_transformer(folder: Path, model: Transformer, *, dtype: torch.dtype = torch.float32) -> None:
    """Write a transformer as diffusers writes a `WanTransformer3DModel`."""
    state = to_diffusers(model.state_dict(), model.config)
    _write_weights(folder, to_diffusers_config(model.config), state, dtype)


def load_transformer(folder: Path) -> Transformer:
    """Read a transformer in diffusers' layout, in evaluation mode.

    Raises:
        ValueError: if a file is missing or damaged, or the weights do not fit the configuration.
    """
    settings, state = read_json(folder / "config.json"), read_safetensors(folder / WEIGHTS, torch.float32)
    try:
        config = from_diffusers_config(settings)
    except ValueError as error:
        reason = one_line(error) if isinstance(error, ValidationError) else error
        raise ValueError(f"{folder / 'config.json'}: {reason}") from None
    try:
        return build_transformer(config, from_diffusers(state, config))
    except ValueError as error:
        raise ValueError(f"{folder / WEIGHTS}: {error}") from None


def build_transformer(config: TransformerConfig, state: Mapping[str, Tensor]) -> Transformer:
    """Make a transformer that uses the tensors of `state`, without allocating others, in evaluation mode."""
    with torch.device("meta"):
        model = Transformer(config)
    model.load_state_dict(state, assign=True)
    return model.eval()


def _load_autoencoder(folder: Path) -> TinyAutoencoder:
    settings, state = read_json(folder / "config.json"), read_safetensors(folder / WEIGHTS, torch.float32)
    name = settings.pop("_class_name", None)
    if name != "TinyAutoencoder":
        raise ValueError(f"{folder / 'config.json'}: _class_name={name!r} is not supported, expected 'TinyAutoencoder'")
    try:
        config = AutoencoderConfig.model_validate(settings)
    except ValidationError as error:
        raise ValueError(f"{folder / 'config.json'}: {one_line(error)}") from None
    with torch.device("meta"):
        model = TinyAutoencoder(config)
    try:
        check_state(state, {key: tensor.shape for key, tensor in model.state_dict().items()})
    except ValueError as error:
        raise ValueError(f"{folder / WEIGHTS}: {error}") from None
    model.load_state_dict(state, assign=True)
    return model.eval()


def _check_parts(
    transformer: Transformer, autoencoder: Autoencoder, text_encoder: TextEncoder, teacher: Transformer | None
) -> None:
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


@contextmanager
def _appear_whole(folder: Path) -> Iterator[Path]:
    """Lend a temporary folder beside `folder`, and give it that name once it is filled."""
    known = folder.is_dir() and ((folder / INDEX).is_file() or not any(folder.iterdir()))
    if folder.exists() and not known:
        raise ValueError(f"folder={folder} exists and is not a bundle: choose another, or remove it")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as name:
        place = Path(name) / "new"
        place.mkdir()
        yield place
        old = Path(name) / "old"
        if folder.exists():
            folder.rename(old)
        try:
            place.rename(folder)
        except OSError:
            if old.exists():
                old.rename(folder)
            raise


def _write_weights(folder: Path, settings: Mapping[str, Any], state: Mapping[str, Tensor], dtype: torch.dtype) -> None:
    folder.mkdir()
    _write_json(folder / "config.json", settings)
    tensors = {name: tensor.detach().to("cpu", dtype).contiguous() for name, tensor in state.items()}
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})


def _write_json(file: Path, value: Mapping[str, Any]) -> None:
    file.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
