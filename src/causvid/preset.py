"""Presets: every setting of one model and of its training, from the smallest to Wan 2.1 14B, read from TOML."""

import tomllib
from importlib import resources
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import ValidationError, model_validator

from causvid.config import AutoencoderConfig, GenerationConfig, Settings, TextConfig, TransformerConfig, one_line
from causvid.opening import read_text
from causvid.recipe import TrainConfig

StartAt = Literal["autoencoder", "teacher", "decoder", "pairs"]


class Preset(Settings):
    """Everything about one model.

    world, data: what it is trained on, renders of a procedural world or a set that `causvid data prepare` made.
    start: a model, by path or name, that training begins with. Stages before `start_at`, and those the recipe leaves
    out, are skipped, and what they would have trained is this model's; later ones train its weights further.
    start_autoencoder: a tiny autoencoder, a folder or a file, that its training begins with; all else is as without it.
    """

    name: str
    transformer: TransformerConfig
    autoencoder: AutoencoderConfig | None = None
    text: TextConfig
    generation: GenerationConfig
    world: str | None = None
    data: str | None = None
    start: str | None = None
    start_at: StartAt = "teacher"
    start_autoencoder: str | None = None
    train: TrainConfig | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.text.dim != self.transformer.text_dim:
            raise ValueError(f"text.dim={self.text.dim} is not transformer.text_dim={self.transformer.text_dim}")
        edge = (self.autoencoder.spatial_factor if self.autoencoder else 8) * self.transformer.patch
        for name, side in (("height", self.generation.height), ("width", self.generation.width)):
            if side % edge:
                raise ValueError(f"generation.{name}={side} is not a multiple of {edge}")
        if self.world is not None and self.data is not None:
            raise ValueError(f"world={self.world} and data={self.data}: set one of them")
        clip = self.generation.clip_frames
        for phase in self.train.teacher.phases if self.train and self.train.teacher else ():
            if phase.frames > clip:
                raise ValueError(f"train.teacher.phases: frames={phase.frames} is not from 1 to clip_frames={clip}")
        if self.train and self.train.reader and self.train.reader.frames > clip:
            raise ValueError(f"train.reader: frames={self.train.reader.frames} is not from 1 to clip_frames={clip}")
        return self

    @property
    def recipe(self) -> TrainConfig:
        """The training settings; `ValueError` if this preset is only for published weights."""
        if self.train is None:
            raise ValueError(f"preset={self.name} has no training settings: it is for published weights")
        return self.train

    @property
    def autoencoder_sizes(self) -> AutoencoderConfig:
        """The tiny autoencoder's sizes; `ValueError` if this preset uses a published autoencoder."""
        if self.autoencoder is None:
            raise ValueError(f"preset={self.name} has no tiny autoencoder: it is for published weights")
        return self.autoencoder


def preset_names() -> list[str]:
    """List the presets that come with the package."""
    folder = resources.files("causvid") / "presets"
    return sorted(p.name.removesuffix(".toml") for p in folder.iterdir() if p.name.endswith(".toml"))


def load_preset(name: str) -> Preset:
    """Load a preset by name, or from a path that ends in `.toml`.

    A preset may say `extends = "another"`: it then only holds what differs, table by table; one that names `data`
    trains on that alone, whatever the other trains on. Paths in a preset are relative to its file.

    Raises `ValueError` for an unknown name, an unreadable file, a circle of presets, or settings that do not fit.
    """
    try:
        return Preset.model_validate(_read_settings(name, ()))
    except ValidationError as error:
        raise ValueError(f"preset={name}: {one_line(error)}") from None


def _read_settings(name: str, heirs: tuple[str, ...]) -> dict[str, Any]:
    """Read a preset's settings over those it extends; `heirs` are the presets that led here, in order."""
    if name in heirs:
        raise ValueError(f"preset={heirs[0]} extends itself: {' extends '.join((*heirs, name))}")
    by = f" (named by extends in {heirs[-1]})" if heirs else ""
    if name.endswith(".toml") and not Path(name).is_file():
        raise ValueError(f"preset={name}: no such file{by}")
    if not name.endswith(".toml") and name not in preset_names():
        known = ", ".join(preset_names())
        raise ValueError(f"preset={name} is not known{by}; choose from {known} or give a .toml file")
    source = Path(name) if name.endswith(".toml") else resources.files("causvid") / "presets" / f"{name}.toml"
    try:
        text = read_text(source) if isinstance(source, Path) else source.read_text(encoding="utf-8")
        settings = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"preset={name} is not valid TOML: {error}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"preset={name} cannot be read: {error}") from None
    for key in ("data", "start", "start_autoencoder"):
        path = Path(name).parent / str(settings.get(key))
        if key in settings and path.exists():  # what is not there may be a name on the Hub, and stays as it is
            settings[key] = str(path)
    if "extends" not in settings:
        return settings
    base = settings.pop("extends")
    if not isinstance(base, str):
        raise ValueError(f"preset={name}: extends={base!r} is not the name of a preset")
    if base.endswith(".toml"):
        base = str(Path(name).parent / base)
    inherited = _read_settings(base, (*heirs, name))
    inherited.pop("name", None)  # what differs is another model, and says what it is called
    if settings.keys() & {"world", "data"}:
        inherited = {key: value for key, value in inherited.items() if key not in ("world", "data")}
    return _merge(inherited, settings)


def _merge(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Override `below` with `above`, table by table."""
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        merged[key] = _merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged
