"""Settings of models and of their training: frozen pydantic models that refuse unknown keys."""

import itertools
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt, ValidationError, model_validator

Widths = tuple[PositiveInt, PositiveInt, PositiveInt, PositiveInt]
Stages = tuple[bool, bool, bool]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]


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
    those in each stage and before the last convolution. Every stage has `blocks` memory blocks; `decoder_blocks`, if
    given, are those of each of the decoder's. `*_space` and `*_time` say which stages halve or double the frame's sides
    or the frame rate. `patch` pixels square are folded into channels at the pixel end.

    `padding` is where a clip of 1 + 4k frames is lengthened by three copies of a frame before encoding. "first" repeats
    the first frame, so that latent i depends on no pixel frame after 4i. "last" repeats the last one, as the published
    weights were trained: latent i then looks ahead as far as pixel frame 4i + 3, and pixels cannot be encoded as a
    stream.

    `shortcut` adds a linear map of 4-frame patches beside each stack of convolutions, which then only has to learn what
    the linear map misses: a small autoencoder trains in minutes instead of hours. The published weights have none.

    `overlap`, which needs it, makes every patch from the neighbouring latent positions too, and corrects the picture
    across the borders of patches at the end, so that no grid shows. Its stacks are of another build (`overlap.py`),
    cheaper for their size; blocks, widths and stages mean the same.
    """

    latent_channels: PositiveInt = 16
    encoder_widths: Widths = (64, 64, 64, 64)
    decoder_widths: Widths = (256, 128, 64, 64)
    blocks: PositiveInt = 3
    decoder_blocks: tuple[PositiveInt, PositiveInt, PositiveInt] | None = None
    patch: PositiveInt = 1
    encoder_space: Stages = (True, True, True)
    encoder_time: Stages = (True, True, False)
    decoder_space: Stages = (True, True, True)
    decoder_time: Stages = (False, True, True)
    padding: Literal["first", "last"] = "last"
    shortcut: bool = False
    overlap: bool = False

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
        if self.overlap and not self.shortcut:
            raise ValueError("overlap=true needs shortcut=true")
        return self


class TextConfig(Settings):
    """Sizes of the UMT5 text encoder; a prompt has at most `max_tokens` tokens."""

    dim: PositiveInt
    layers: PositiveInt
    heads: PositiveInt
    head_dim: PositiveInt
    ffn_dim: PositiveInt
    max_tokens: PositiveInt


class GenerationConfig(Settings):
    """How a model makes video: size, frame rate, chunk layout, what it remembers, noise levels.

    height, width: pixels. chunks are [first, chunk, chunk, ...] latent frames. window, sink: past latent frames kept.
    carry: how many of the window's stay in sight when the prompt changes, None for all.
    timesteps: the student's nominal few steps of 1000, taken through `shift`; guidance: the teacher's.
    clip_frames: latent frames of a training clip, which is also what the teacher makes.
    """

    height: PositiveInt
    width: PositiveInt
    fps: Positive
    clip_frames: PositiveInt
    first: PositiveInt
    chunk: PositiveInt
    window: NonNegativeInt
    sink: NonNegativeInt
    carry: PositiveInt | None = None
    shift: Positive
    timesteps: tuple[Positive, ...]
    teacher_steps: PositiveInt
    guidance: Positive
    max_seconds: Positive = 600.0

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.window + self.sink < 1:
            raise ValueError("window=0 and sink=0: at least one past latent frame must be kept")
        if self.clip_frames < self.first or (self.clip_frames - self.first) % self.chunk:
            raise ValueError(
                f"clip_frames={self.clip_frames} is not first={self.first} plus a multiple of chunk={self.chunk}"
            )
        falls = all(a > b for a, b in itertools.pairwise(self.timesteps))
        if not falls or self.timesteps[:1] != (1000,):
            raise ValueError(f"timesteps={self.timesteps} must start at 1000 and fall strictly")
        return self


class Phase(Settings):
    """One part of the teacher's curriculum: clips of `frames` latent frames until `until` of the stage is done."""

    frames: int
    batch: int
    until: float


class StageConfig(Settings):
    """Settings every training stage has; `cooldown` is the last part of the steps, over which the rate falls to 0."""

    steps: int
    learning_rate: float
    warmup: int = 100
    cooldown: float = 0.2
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 0.0
    clip: float = 1.0

    def lasting(self) -> dict[str, Any]:
        """Return, as plain values, what a stage must keep from its first step to its last: all but its length."""
        return self.model_dump(mode="json", exclude={"steps"})


class AutoencoderStage(StageConfig):
    """Training of the autoencoder on clips of `frames` pixel frames; `noise` perturbs latents before decoding.

    edges: weight of the error of differences; 0 until colours and shapes are there. motion: weight of the squared error
    of differences in time. ema: how much of the average of the weights is kept at a step, also below. pool: clips
    rendered once to draw every batch from; 0 renders new ones for every batch. crop: side, in pixels, of the square
    that is cut out of every clip, elsewhere at every step; 0 takes whole frames. borders: weight of the error of
    differences across the borders of patches, which must fit into a square more than once.
    """

    batch: int
    ema: float = 0.0
    frames: int
    crop: NonNegativeInt = 0
    noise: float = 0.2
    edges: float = Field(default=0.0, ge=0)
    motion: float = Field(default=0.0, ge=0)
    borders: float = Field(default=0.0, ge=0)
    pool: int = Field(default=0, ge=0)


class ClassifierStage(StageConfig):
    """Training of the attribute classifier, which looks at up to `frames` pixel frames; `pool` as above."""

    batch: int
    frames: int
    pool: int = Field(default=0, ge=0)


class DataStage(Settings):
    """The store of rendered and encoded clips."""

    clips: int
    batch: int = 16

    def lasting(self) -> dict[str, Any]:
        """Return what the stage must keep: all, since the last shard may be a short one."""
        return self.model_dump(mode="json")


class TeacherStage(StageConfig):
    """Training of teacher and text encoder by flow matching, in batches and clips of the phases' sizes.

    causal: the teacher sees no more than the student does, with a noise level for each chunk. image: share of the clips
    whose first chunk is given clean, so that the teacher can go on from an image.
    """

    causal: bool = False
    image: Share = 0.0
    ema: float = 0.0
    drop_prompt: float = 0.1
    phases: tuple[Phase, ...]

    def lasting(self) -> dict[str, Any]:
        """Return what the stage must keep: all but its length and when its phases end."""
        return self.model_dump(mode="json", exclude={"steps": True, "phases": {"__all__": {"until"}}})


class DecoderStage(StageConfig):
    """Training of the decoder on clips of `frames` pixel frames that the teacher brought back in `euler_steps` steps.

    strength: up to which noise level they were lost. edges, motion, pool: as for the autoencoder. energy:
    weight of the error of how much moves.
    """

    batch: int
    ema: float = 0.0
    frames: int
    strength: float = Field(default=0.5, gt=0, le=1)
    euler_steps: PositiveInt = 3
    edges: float = Field(default=1.0, ge=0)
    motion: float = Field(default=0.0, ge=0)
    energy: float = Field(default=0.0, ge=0)
    pool: int = Field(default=0, ge=0)


class PairsStage(Settings):
    """Teacher trajectories for ODE initialisation; `steps` of the teacher's sampler.

    image: share of the trajectories that go on from the first chunk of a clip of the store.
    """

    clips: int
    batch: int
    steps: int
    image: Share = 0.0

    def lasting(self) -> dict[str, Any]:
        """Return what the stage must keep: all but how many trajectories it makes."""
        return self.model_dump(mode="json", exclude={"clips"})


class OdeStage(StageConfig):
    """ODE initialisation of the student.

    clean_past: share of the clips in which the chunks before a drawn one are clean, as they are in a rollout; in the
    others every chunk has a noise level of its own.
    """

    batch: int
    ema: float = 0.0
    clean_past: Share = 0.0


class DmdStage(StageConfig):
    """Distribution matching distillation.

    start: whose weights the student begins with, those of ODE initialisation or the teacher's. image: share of the
    rollouts that go on from the first chunk of a clip of the store.
    """

    start: Literal["ode", "teacher"] = "ode"
    batch: int
    ema: float = 0.0
    student_input: Literal["data", "rollout"]
    critic_learning_rate: float
    critic_updates: int = 5
    guidance: float
    image: Share = 0.0


class Ablations(Settings):
    """How far the variants of the recipe are trained that it is compared with.

    causal_steps: of the causal teacher, which begins with the teacher's weights. dmd_steps: at most so many of stage
    `dmd` in every variant, if given; if they are fewer than the recipe's, the recipe is run that short as well.
    """

    causal_steps: PositiveInt = 1000
    dmd_steps: PositiveInt | None = None


class TrainConfig(Settings):
    """The whole recipe."""

    autoencoder: AutoencoderStage
    classifier: ClassifierStage
    data: DataStage
    teacher: TeacherStage
    decoder: DecoderStage | None = None
    pairs: PairsStage
    ode: OdeStage
    dmd: DmdStage
    ablations: Ablations = Ablations()


def one_line(error: ValidationError) -> str:
    """Say what is wrong first: where, and why."""
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"])
    reason = first["msg"].removeprefix("Value error, ")
    return f"{place}: {reason}" if place else reason
