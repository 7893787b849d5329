"""From names to a running model: a base, and what replaces or changes parts of it.

A base is one of our bundles, a folder of diffusers with Wan 2.1, or Wan 2.1's own folder; a student, a tiny autoencoder
and a LoRA are files or folders of their own. Each is a path, or a name on the Hugging Face Hub.
"""

from pathlib import Path
from typing import Any

import torch

from causvid.loading.bundle import Bundle, check_parts, read_settings
from causvid.files.checkpoint import read_json
from causvid.loading.families import choose_generation
from causvid.files.hub import find
from causvid.loading.layout import SETTINGS, Layout, find_layout
from causvid.loading.lora import apply_lora, read_lora
from causvid.models.text import Placement, TextEncoder
from causvid.models.tiny_autoencoder import TinyAutoencoder, load_tiny_autoencoder
from causvid.models.transformer import Transformer
from causvid.models.wan_autoencoder import WanAutoencoder
from causvid.loading.weights import load_transformer


def assemble(
    base: str | Path | None = None,
    *,
    student: str | Path | None = None,
    tiny_autoencoder: str | Path | None = None,
    lora: str | Path | None = None,
    lora_strength: float = 1.0,
    preset: str | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
    text_encoder: Placement = "keep",
    teacher: bool = False,
) -> Bundle:
    """Load a whole model.

    A base of Wan's has no causal student: without `student`, its transformer is both the `transformer` and the
    `teacher` of the bundle, one object, with which `Pipeline` makes whole clips only.

    Args:
        base: the model's folder, or its name on the Hub; by default the built-in model.
        student: weights in any layout, which replace the base's transformer. That one is then not read, except with
            `teacher`, which keeps it, or a bundle's own teacher, for comparison.
        tiny_autoencoder: weights of a TAEHV for Wan 2.1's latents, which replace the autoencoder.
        lora, lora_strength: merged into the student, or into the base's transformer if there is none.
        preset: how to generate; by default as a bundle says, else by `families.choose_preset`.
        dtype: of all weights. By default fp32 for bundles; for others bf16 on CUDA, elsewhere what is in the files.
        text_encoder: whether it is kept beside the transformer, on the CPU, or read anew for every prompt.

    Raises:
        ValueError: if a part is missing, damaged, or does not fit the others.
    """
    device = torch.device(device)
    layout = find_layout(base, transformer=student is None or teacher, autoencoder=tiny_autoencoder is None)
    if dtype is None and layout.kind == "bundle":
        dtype = torch.float32
    elif dtype is None and device.type == "cuda":
        dtype = torch.bfloat16
    where: dict[str, Any] = {"dtype": dtype, "device": device}

    # Small parts first: what is missing or does not fit shows before minutes of reading.
    added = None if lora is None else read_lora(find(lora, what="lora"))
    if tiny_autoencoder is None:
        autoencoder = _load_autoencoder(layout.autoencoder, **where)
    else:
        autoencoder = load_tiny_autoencoder(find(tiny_autoencoder, what="tiny_autoencoder"), **where)
    text = TextEncoder.load(layout.text_encoder, layout.tokenizer, placement=text_encoder, **where)
    transformer = load_transformer(layout.transformer if student is None else find(student, what="student"), **where)
    if added is not None:
        apply_lora(transformer, added, strength=lora_strength)

    given = {"base": base, "student": student, "tiny_autoencoder": tiny_autoencoder, "lora": lora, "preset": preset}
    changes: dict[str, str | None] = {name: str(value) for name, value in given.items() if value is not None}
    whole = layout.kind == "bundle" and not changes.keys() - {"base"}
    own, origin = read_settings(layout.folder) if layout.kind == "bundle" else (None, {})
    if own is not None and student is None and preset is None:
        generation = own
    else:
        name = student or base or layout.folder
        changes["preset"], generation = choose_generation(preset, name=name, config=transformer.config, own=own)
    classifier = layout.folder / "classifier"
    bundle = Bundle(
        transformer=transformer,
        autoencoder=autoencoder,
        text_encoder=text.eval(),
        generation=generation,
        provenance=origin if whole else {key: told for key, told in {**origin, **changes}.items() if told is not None},
        teacher=_load_teacher(layout, transformer, alone=student is None, wanted=teacher, **where),
        classifier=classifier if classifier.is_dir() else None,
        folder=layout.folder if whole else None,
    )
    try:
        check_parts(bundle.transformer, bundle.autoencoder, bundle.text_encoder, bundle.teacher)
    except ValueError as error:
        raise ValueError(f"{error}: the parts are not of one family, which {layout.folder} is the base of") from None
    return bundle


def load_bundle(folder: str | Path, *, device: torch.device | str = "cpu", dtype: torch.dtype | None = None) -> Bundle:
    """Read a bundle as it is, and nothing else, its weights as `dtype` (fp32 by default).

    Raises:
        ValueError: if the folder is none, or a part is missing, damaged, or does not fit the others.
    """
    if not (Path(folder) / SETTINGS).is_file():
        raise ValueError(f"bundle={folder} lacks {SETTINGS}: train one with `causvid train all`, or give another")
    return assemble(folder, device=device, dtype=dtype)


def load_autoencoder(
    base: str | Path | None,
    *,
    tiny_autoencoder: str | Path | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
) -> TinyAutoencoder | WanAutoencoder:
    """Load the autoencoder of a model alone, or the one that is to replace it; arguments are those of `assemble`.

    Raises:
        ValueError: if it is missing or damaged.
    """
    where: dict[str, Any] = {"dtype": dtype, "device": torch.device(device)}
    if tiny_autoencoder is not None:
        return load_tiny_autoencoder(find(tiny_autoencoder, what="tiny_autoencoder"), **where)
    layout = find_layout(base, transformer=False)
    if dtype is None and layout.kind == "bundle":
        where["dtype"] = torch.float32
    return _load_autoencoder(layout.autoencoder, **where)


def _load_teacher(
    layout: Layout,
    transformer: Transformer,
    *,
    alone: bool,
    wanted: bool,
    dtype: torch.dtype | None,
    device: torch.device,
) -> Transformer | None:
    """Return the teacher: a bundle's own, or Wan's transformer, which is `transformer` if there is no student."""
    if layout.kind != "bundle" and alone:
        return transformer
    place = layout.teacher if layout.kind == "bundle" else layout.transformer
    return load_transformer(place, dtype=dtype, device=device) if place is not None and (alone or wanted) else None


def _load_autoencoder(
    place: Path, *, dtype: torch.dtype | None, device: torch.device
) -> TinyAutoencoder | WanAutoencoder:
    """Read a folder's own autoencoder, whichever kind its config.json names; a file is Wan's."""
    tiny = place.is_dir() and read_json(place / "config.json").get("_class_name") == "TinyAutoencoder"
    return (load_tiny_autoencoder if tiny else WanAutoencoder.load)(place, dtype=dtype, device=device)
