"""Where a model keeps its parts: our bundles, diffusers' folders of Wan 2.1, and Wan 2.1's own."""

from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Literal

from causvid.files.hub import find

BUILT_IN = "nano"
SETTINGS = "causvid.json"
WAN_AUTOENCODER = "Wan2.1_VAE.pth"
WAN_TEXT_ENCODER = "models_t5_umt5-xxl-enc-bf16.pth"
WAN_TOKENIZER = "google/umt5-xxl"
WAN_TRANSFORMER = "diffusion_pytorch_model"


@dataclass(frozen=True)
class Layout:
    """A model's folder, and the path of each part in it; they may be missing.

    A Wan folder's transformer is the teacher's kind: it sees the whole clip. teacher: a bundle's own, if it has one.
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
    files = [SETTINGS, "*.json", "text_encoder/*", "tokenizer/*", WAN_TEXT_ENCODER, f"{WAN_TOKENIZER}/*"]
    if transformer:
        files += ["transformer/*", "teacher/*", f"{WAN_TRANSFORMER}*"]
    if autoencoder:
        files += ["vae/*", WAN_AUTOENCODER]
    if name is None:
        name = Path(str(resources.files("causvid") / "bundles" / BUILT_IN))
    folder = find(name, what="model", files=files, fetch=fetch)
    if not folder.is_dir():
        raise ValueError(f"model={name} is a file, expected a folder; a transformer alone is student={name}")
    if (folder / SETTINGS).is_file() or (folder / "text_encoder").is_dir():
        own = (folder / SETTINGS).is_file()
        teacher = folder / "teacher"
        return Layout(
            kind="bundle" if own else "diffusers",
            folder=folder,
            transformer=folder / "transformer",
            autoencoder=folder / "vae",
            text_encoder=folder / "text_encoder",
            tokenizer=folder / "tokenizer",
            teacher=teacher if own and teacher.is_dir() else None,
        )
    if (folder / WAN_TEXT_ENCODER).is_file():
        return Layout(
            kind="wan",
            folder=folder,
            transformer=folder,
            autoencoder=folder / WAN_AUTOENCODER,
            text_encoder=folder / WAN_TEXT_ENCODER,
            tokenizer=folder / WAN_TOKENIZER,
        )
    raise ValueError(
        f"model={name} is not a model: expected a bundle ({SETTINGS}), a folder of diffusers (text_encoder/, vae/), "
        f"or one of Wan ({WAN_TEXT_ENCODER}, {WAN_AUTOENCODER})"
    )
