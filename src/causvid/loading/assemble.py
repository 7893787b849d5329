"""From a `ModelSpec` to a running model: a base, and what replaces or changes parts of it.

A base is one of our bundles, a folder of diffusers with Wan 2.1, or Wan 2.1's own folder; a student, a tiny autoencoder
and LoRAs are files or folders of their own. Each is a path, or a name on the Hugging Face Hub.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from causvid.config import GenerationConfig, TransformerConfig
from causvid.files.hub import find
from causvid.loading.accelerate import accelerate
from causvid.loading.autoencoders import read_autoencoder, read_tiny_autoencoder
from causvid.loading.bundle import Bundle, read_settings
from causvid.loading.layout import SETTINGS, Layout, choose_generation, find_parts
from causvid.loading.lora import merge_loras, read_lora
from causvid.loading.spec import ModelSpec, Precision
from causvid.loading.text import load_text_encoder
from causvid.loading.weights import load_transformer
from causvid.models.tiny_autoencoder import TinyAutoencoder
from causvid.models.transformer import Transformer
from causvid.models.wan_autoencoder import WanAutoencoder

DTYPES: dict[Precision, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_CHANGES = {"student", "autoencoder", "umt5", "tiny_autoencoder", "lora", "preset"}
"""Options that make a model another than its base."""


def assemble(spec: ModelSpec, *, device: torch.device | str = "cpu") -> Bundle:
    """Load a whole model.

    A base of Wan's has no causal student, and a bundle may have none: without `spec.student`, the transformer is both
    the `transformer` and the `teacher` of the result, one object, with which `Pipeline` makes whole clips only.

    Raises:
        ValueError: if a part is missing, damaged, or does not fit the others.
    """
    device = torch.device(device)
    alone = spec.student is None
    layout = find_parts(spec, transformer=alone or spec.teacher)
    dtype = _choose_dtype(spec, layout, device)

    # Small parts first: what is missing or does not fit shows before minutes of reading.
    loras = [(read_lora(find(place, what="lora")), strength) for place, strength in spec.loras]
    autoencoder = _load_autoencoder(spec, layout, dtype, device)
    text = load_text_encoder(
        layout.text_encoder, layout.tokenizer, dtype=dtype, device=device, placement=spec.text_encoder
    )
    place = layout.transformer if spec.student is None else find(spec.student, what="student")
    transformer = load_transformer(place, dtype=dtype, device=device)
    merge_loras(transformer, loras)
    teacher_place = layout.teacher if layout.kind == "bundle" else layout.transformer
    teacher: Transformer | None = transformer if alone and teacher_place == layout.transformer else None
    if teacher is None and teacher_place is not None and (alone or spec.teacher):
        teacher = load_transformer(teacher_place, dtype=dtype, device=device)

    generation, provenance = find_generation(spec, layout, transformer.config)
    changed = spec.model_dump(include=_CHANGES, exclude_none=True)
    classifier = layout.folder / "classifier"
    accelerate(spec.accelerate, transformer, autoencoder)
    try:
        return Bundle(
            transformer=transformer,
            autoencoder=autoencoder,
            text_encoder=text,
            generation=generation,
            provenance=provenance,
            teacher=teacher,
            classifier=classifier if classifier.is_dir() else None,
            folder=None if changed or layout.kind != "bundle" else layout.folder,
        )
    except ValueError as error:
        raise ValueError(f"{error}: the parts are not of one family, which {layout.folder} is the base of") from None


def find_generation(
    spec: ModelSpec, layout: Layout, config: TransformerConfig
) -> tuple[GenerationConfig, Mapping[str, Any]]:
    """Return how a model with a transformer of `config` generates, and its provenance.

    Raises:
        ValueError: if nothing decides how it generates, or a bundle's settings are damaged.
    """
    own, provenance = read_settings(layout.folder) if layout.kind == "bundle" else (None, {})
    changes: dict[str, Any] = spec.model_dump(include=_CHANGES, exclude_none=True)
    if own is not None and not changes:
        return own, provenance
    generation = own
    if generation is None or spec.student is not None or spec.preset is not None:
        name = spec.student or spec.model or layout.folder
        # The base's preset is not that of its new student, even where no other is known.
        changes["preset"], generation = choose_generation(spec.preset, name=name, config=config, own=own)
    if spec.model is not None:
        changes["base"] = spec.model
    return generation, {key: value for key, value in {**provenance, **changes}.items() if value is not None}


def load_bundle(folder: str | Path, *, device: torch.device | str = "cpu") -> Bundle:
    """Read a bundle in fp32, as it is, and nothing else.

    Raises:
        ValueError: if the folder is none, or a part is missing, damaged, or does not fit the others.
    """
    if not (Path(folder) / SETTINGS).is_file():
        raise ValueError(f"bundle={folder} lacks {SETTINGS}: train one with `causvid train all`, or choose another")
    return assemble(ModelSpec(model=str(folder), accelerate="none"), device=device)


def load_autoencoder(spec: ModelSpec, *, device: torch.device | str = "cpu") -> TinyAutoencoder | WanAutoencoder:
    """Load the autoencoder of a model alone.

    Raises:
        ValueError: if it is missing or damaged.
    """
    layout = None if spec.tiny_autoencoder is not None else find_parts(spec, transformer=False)
    device = torch.device(device)
    return _load_autoencoder(spec, layout, _choose_dtype(spec, layout, device), device)


def _choose_dtype(spec: ModelSpec, layout: Layout | None, device: torch.device) -> torch.dtype | None:
    """Return the type to load weights in, None for that of the files."""
    if spec.dtype is not None:
        return DTYPES[spec.dtype]
    if layout is not None and layout.kind == "bundle":
        return torch.float32
    return torch.bfloat16 if device.type == "cuda" else None


def _load_autoencoder(
    spec: ModelSpec, layout: Layout | None, dtype: torch.dtype | None, device: torch.device
) -> TinyAutoencoder | WanAutoencoder:
    if spec.tiny_autoencoder is not None:
        place = find(spec.tiny_autoencoder, what="tiny_autoencoder")
        return read_tiny_autoencoder(place, dtype=dtype, device=device)
    assert layout is not None
    return read_autoencoder(layout.autoencoder, dtype=dtype, device=device)
