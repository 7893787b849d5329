"""Settings: frozen pydantic models that refuse unknown keys; TOML in, JSON out.

A preset holds every setting of one model and of its training, from the smallest to Wan 2.1 14B.
"""

import tomllib
from importlib import resources
from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError, model_validator

Widths = tuple[PositiveInt, PositiveInt, PositiveInt, PositiveInt]
Stages = tuple[bool, bool, bool]


class Settings(BaseModel):
    """A frozen group of settings."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class TransformerConfig(Settings):
    """Sizes of the transformer; `patch` is the spatial patch edge in latent cells."""

    dim: PositiveInt
    heads: PositiveInt
    layers: PositiveInt
    ffn_dim: PositiveInt
    text_dim: PositiveInt
    in_channels: PositiveInt = 16
    out_channels: PositiveInt = 16
    patch: PositiveInt = 2
    freq_dim: PositiveInt = 256
    eps: float = 1e-6

    @property
    def head_dim(self) -> int:
        """Channels of one attention head."""
        return self.dim // self.heads

    @model_validator(mode="after")
    def _check(self) -> "TransformerConfig":
        if self.dim % self.heads:
            raise ValueError(f"dim={self.dim} is not a multiple of heads={self.heads}")
        return self


class AutoencoderConfig(Settings):
    """Shape of a `TinyAutoencoder`. The defaults are those of the published `taew2_1` weights.

    `encoder_widths` are the channels after the first convolution and in each of the three stages; `decoder_widths`
    those in each stage and before the last convolution. `*_space` and `*_time` say which stages halve or double the
    frame's sides or the frame rate. `patch` pixels square are folded into channels at the pixel end.

    `padding` is where a clip of 1 + 4k frames is lengthened by three copies of a frame before encoding. "first" repeats
    the first frame, so that latent i depends on no pixel frame after 4i. "last" repeats the last one, as the published
    weights were trained: latent i then looks ahead as far as pixel frame 4i + 3, and pixels cannot be encoded as a
    stream.

    `shortcut` adds a linear map of 4-frame patches beside each stack of convolutions, which then only has to learn what
    the linear map misses: a small autoencoder trains in minutes instead of hours. The published weights have none.
    """

    latent_channels: PositiveInt = 16
    encoder_widths: Widths = (64, 64, 64, 64)
    decoder_widths: Widths = (256, 128, 64, 64)
    blocks: int = Field(default=3, ge=1)
    patch: PositiveInt = 1
    encoder_space: Stages = (True, True, True)
    encoder_time: Stages = (True, True, False)
    decoder_space: Stages = (True, True, True)
    decoder_time: Stages = (False, True, True)
    padding: Literal["first", "last"] = "last"
    shortcut: bool = False

    @property
    def spatial_factor(self) -> int:
        """Return how many pixels a latent position is high and wide."""
        return self.patch * 2 ** sum(self.decoder_space)

    @model_validator(mode="after")
    def _check_factors(self) -> Self:
        if sum(self.encoder_space) != sum(self.decoder_space):
            raise ValueError(
                f"encoder_space={self.encoder_space} and decoder_space={self.decoder_space} scale by different factors"
            )
        for name, stages in (("encoder_time", self.encoder_time), ("decoder_time", self.decoder_time)):
            if 2 ** sum(stages) != 4:
                raise ValueError(f"{name}={stages} scales time by {2 ** sum(stages)}, expected 4")
        return self


class TextConfig(Settings):
    """Sizes of the UMT5 text encoder; a prompt has at most `max_tokens` tokens."""

    dim: int
    layers: int
    heads: int
    head_dim: int
    ffn_dim: int
    max_tokens: int


class GenerationConfig(Settings):
    """How a model makes video: size, frame rate, chunk layout, what it remembers, noise levels.

    height, width: pixels. chunks are [first, chunk, chunk, ...] latent frames. window, sink: past latent frames kept.
    timesteps: the student's nominal few steps of 1000, taken through `shift`; guidance: the teacher's.
    clip_frames: latent frames of a training clip, which is also what the teacher makes.
    """

    height: int
    width: int
    fps: float
    clip_frames: int
    first: int
    chunk: int
    window: int
    sink: int
    shift: float
    timesteps: tuple[float, ...]
    teacher_steps: int
    guidance: float
    max_seconds: float = 600.0


class Phase(Settings):
    """One part of the teacher's curriculum: clips of `frames` latent frames until `until` of the stage is done."""

    frames: int
    batch: int
    until: float


class StageConfig(Settings):
    """Settings every training stage has; `cooldown` is the last part of the steps, over which the rate falls to 0."""

    steps: int
    batch: int
    learning_rate: float
    warmup: int = 100
    cooldown: float = 0.2
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 0.0
    clip: float = 1.0
    ema: float = 0.0


class AutoencoderStage(StageConfig):
    """Training of the autoencoder; `noise` perturbs latents before decoding."""

    frames: int
    noise: float = 0.2


class ClassifierStage(StageConfig):
    """Training of the attribute classifier."""

    frames: int


class DataStage(Settings):
    """The store of rendered and encoded clips."""

    clips: int
    batch: int = 16


class TeacherStage(StageConfig):
    """Training of teacher and text encoder by flow matching."""

    drop_prompt: float = 0.1
    phases: tuple[Phase, ...]


class PairsStage(Settings):
    """Teacher trajectories for ODE initialisation; `steps` of the teacher's sampler."""

    clips: int
    batch: int
    steps: int


class OdeStage(StageConfig):
    """ODE initialisation of the student."""


class DmdStage(StageConfig):
    """Distribution matching distillation."""

    student_input: Literal["data", "rollout"]
    critic_learning_rate: float
    critic_updates: int = 5
    guidance: float


class TrainConfig(Settings):
    """The whole recipe."""

    autoencoder: AutoencoderStage
    classifier: ClassifierStage
    data: DataStage
    teacher: TeacherStage
    pairs: PairsStage
    ode: OdeStage
    dmd: DmdStage


class Preset(Settings):
    """Everything about one model."""

    name: str
    transformer: TransformerConfig
    autoencoder: AutoencoderConfig | None = None
    text: TextConfig
    generation: GenerationConfig
    world: str | None = None
    train: TrainConfig | None = None

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

    Raises `ValueError` for an unknown name, an unreadable file, or settings that do not fit.
    """
    if name.endswith(".toml"):
        source = Path(name)
        if not source.is_file():
            raise ValueError(f"preset={name}: no such file")
        try:
            text = source.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"preset={name} cannot be read: {error}") from None
    elif name in preset_names():
        text = (resources.files("causvid") / "presets" / f"{name}.toml").read_text(encoding="utf-8")
    else:
        raise ValueError(f"preset={name} is not known; choose from {', '.join(preset_names())} or give a .toml file")
    try:
        return Preset.model_validate(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"preset={name} is not valid TOML: {error}") from None
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise ValueError(f"preset={name}: {place}: {first['msg']}") from None
