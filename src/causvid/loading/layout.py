"""Where a model keeps its parts: our bundles, diffusers' folders of Wan 2.1, Wan 2.1's own; and how it generates."""

import json
import re
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Literal

from causvid.config import GenerationConfig, TransformerConfig
from causvid.files.hub import find
from causvid.loading.spec import ModelSpec
from causvid.opening import read_text
from causvid.preset import load_preset, preset_names

BUILT_IN = "nano"
SETTINGS = "causvid.json"
INDEX = "model_index.json"
WAN_AUTOENCODER = "Wan2.1_VAE.pth"
WAN_TEXT_ENCODER = "models_t5_umt5-xxl-enc-bf16.pth"
WAN_TOKENIZER = "google/umt5-xxl"
COMFY_AUTOENCODER = "wan_2.1_vae.safetensors"
COMFY_TEXT_ENCODER = "umt5_xxl_fp16.safetensors"
WAN_TRANSFORMER = "diffusion_pytorch_model"

# Parts of the names of published students, without punctuation, and the preset that each was trained for.
_FAMILIES = {
    "selfforcing": "self-forcing",
    "longlive": "longlive",
    "krea": "krea-14b",
    "causvid": "causvid",
    "autoregressivecheckpoint": "causvid",
}
_SIZES = ("wan-1.3b", "wan-14b")


@dataclass(frozen=True)
class Layout:
    """A model's folder, and the path of each part in it; they may be missing.

    A Wan folder's transformer is the teacher's kind: it sees the whole clip. teacher: a bundle's own, if it has one;
    where its index names no student, the transformer too.
    """

    kind: Literal["bundle", "diffusers", "wan"]
    folder: Path
    transformer: Path
    autoencoder: Path
    text_encoder: Path
    tokenizer: Path
    teacher: Path | None = None


def find_layout(
    name: str | Path | None, *, transformer: bool = True, autoencoder: bool = True, fetch: bool = True
) -> Layout:
    """Find a model by path or by its name on the Hub, from where only what is needed is fetched.

    Args:
        name: None is the built-in model.
        transformer, autoencoder: whether their weights are needed. fetch: whether the Hub may be asked for them.

    Raises:
        ValueError: if there is nothing, or it is not a model's folder.
    """
    files = [
        SETTINGS,
        "*.json",
        "text_encoder/*",
        "tokenizer/*",
        WAN_TEXT_ENCODER,
        COMFY_TEXT_ENCODER,
        f"{WAN_TOKENIZER}/*",
    ]
    if transformer:
        files += ["transformer/*", "teacher/*", f"{WAN_TRANSFORMER}*"]
    if autoencoder:
        files += ["vae/*", WAN_AUTOENCODER, COMFY_AUTOENCODER]
    if name is None or (str(name) == BUILT_IN and not Path(BUILT_IN).exists()):
        name = Path(str(resources.files("causvid") / "bundles" / BUILT_IN))
    folder = find(name, what="model", files=files, fetch=fetch)
    if not folder.is_dir():
        raise ValueError(f"model={name} is a file, expected a folder; a transformer alone is student={name}")
    if (folder / SETTINGS).is_file() or (folder / "text_encoder").is_dir():
        own = (folder / SETTINGS).is_file()
        student, teacher = folder / "transformer", folder / "teacher" if own and (folder / "teacher").is_dir() else None
        return Layout(
            kind="bundle" if own else "diffusers",
            folder=folder,
            transformer=student if teacher is None or _has_student(folder) else teacher,
            autoencoder=folder / "vae",
            text_encoder=folder / "text_encoder",
            tokenizer=folder / "tokenizer",
            teacher=teacher,
        )
    text, video = (
        _either(folder, WAN_TEXT_ENCODER, COMFY_TEXT_ENCODER),
        _either(folder, WAN_AUTOENCODER, COMFY_AUTOENCODER),
    )
    if text.is_file() or (folder / WAN_TOKENIZER).is_dir():
        # Beside parts of ComfyUI's, the transformer is found by diffusers' usual name, or given as student=.
        return Layout("wan", folder, folder, video, text, folder / WAN_TOKENIZER)
    raise ValueError(
        f"model={name} is not a model: expected a bundle ({SETTINGS}), a folder of diffusers (text_encoder/, vae/), "
        f"or one of Wan ({WAN_TEXT_ENCODER}, {WAN_AUTOENCODER})"
    )


def find_parts(spec: ModelSpec, *, transformer: bool = True, autoencoder: bool = True, fetch: bool = True) -> Layout:
    """Find a model as `find_layout` does, and the parts that come from elsewhere.

    Raises:
        ValueError: if the model or a part is not there.
    """
    autoencoder = autoencoder and spec.tiny_autoencoder is None and spec.autoencoder is None
    layout = find_layout(spec.model, transformer=transformer, autoencoder=autoencoder, fetch=fetch)
    if spec.autoencoder is not None:
        layout = replace(layout, autoencoder=find(spec.autoencoder, what="autoencoder", fetch=fetch))
    if spec.umt5 is not None:
        layout = replace(layout, text_encoder=find(spec.umt5, what="umt5", fetch=fetch))
    return layout


def _has_student(bundle: Path) -> bool:
    """Tell whether a bundle's index names one; where it cannot be read, what is missing shows later."""
    try:
        return "transformer" in json.loads(read_text(bundle / INDEX))
    except (OSError, ValueError, TypeError, RecursionError):
        return True


def _either(folder: Path, name: str, other: str) -> Path:
    """Return the file of one name, or of the other if only that is there: ComfyUI distributes the same weights."""
    return folder / (other if (folder / other).is_file() and not (folder / name).is_file() else name)


def choose_generation(
    preset: str | None, *, name: str | Path, config: TransformerConfig, own: GenerationConfig | None = None
) -> tuple[str | None, GenerationConfig]:
    """Choose a preset and its settings: the one asked for, of the family, of the size; or the base's own settings.

    Args:
        name: of the file or folder that the transformer comes from. own: the settings of its base, if it has any.

    Raises:
        ValueError: if nothing decides.
    """
    known = preset or _family(name)
    if known is None and own is not None:
        return None, own
    known = known or next((size for size in _SIZES if load_preset(size).transformer == config), None)
    if known is None:
        raise ValueError(
            f"{name}: a transformer of {config.layers} blocks of width {config.dim} is of no size that has a preset: "
            f"choose one with preset=, {', '.join(preset_names())} or a .toml file"
        )
    return known, load_preset(known).generation


def _family(name: str | Path) -> str | None:
    """Return the preset of the family that a name belongs to, read from its end.

    Of a path that exists only the last two parts count, since a folder further up may be called anything.
    """
    path = Path(name)
    for part in reversed(path.parts[-2:] if path.exists() else path.parts):
        plain = re.sub(r"[^a-z0-9]", "", part.lower())
        for family, preset in _FAMILIES.items():
            if family in plain:
                return preset
    return None
