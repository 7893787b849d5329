"""Settings of training: one frozen group for each stage of the recipe, with its bounds."""

import itertools
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar

from pydantic import Field, field_validator, model_validator

from causvid.config import Settings

Count = Annotated[int, Field(ge=1, le=10**9, strict=True)]
Some = Annotated[int, Field(ge=0, le=10**9, strict=True)]
"""A count that may be 0."""
Clips = Annotated[int, Field(ge=1, le=2**16, strict=True)]
"""Clips that are in memory together."""
Frames = Annotated[int, Field(ge=1, le=2**16, strict=True)]
Share = Annotated[float, Field(ge=0, le=1, strict=True)]
Decay = Annotated[float, Field(ge=0, lt=1, strict=True)]
"""Of an exponential average: how much of it is kept at an update; 0 keeps the latest value only."""
Rate = Annotated[float, Field(ge=0, le=10**6, strict=True)]
Weight = Annotated[float, Field(gt=0, le=10**12, strict=True)]
S = TypeVar("S", bound=Settings)


class StageSettings(Settings):
    """Settings of any stage."""

    changeable: ClassVar[Any] = set()
    """What may be changed when a stage resumes, as pydantic's `exclude`."""

    def lasting(self) -> dict[str, Any]:
        """Return, as plain values, what a stage must keep from its first step to its last."""
        return self.model_dump(mode="json", exclude=self.changeable)


class StageConfig(StageSettings):
    """Settings of every stage that trains.

    batch: clips of a micro-batch; a step's gradient is the mean over `accumulate` of them. cooldown: last part of the
    steps, over which the learning rate falls to 0. max_norm: gradients are clipped to this norm. ema: decay of the
    average of the weights, which is the stage's result.
    """

    changeable: ClassVar[Any] = {"steps"}

    steps: Count
    accumulate: Count = 1
    learning_rate: Rate
    warmup: Some = 100
    cooldown: Share = 0.2
    betas: tuple[Decay, Decay] = (0.9, 0.99)
    weight_decay: Rate = 0.0
    max_norm: Weight = 1.0
    ema: Decay = 0.0

    def clips_of(self, step: int) -> int:
        """Return how many clips a step trains on, 0 if the settings do not say."""
        return self.accumulate * int(getattr(self, "batch", 0))


class TransformerStage(StageConfig):
    """A stage that trains transformers.

    recompute: compute blocks again in the backward pass instead of keeping what they computed (activation
    checkpointing): a third more work for a fraction of the memory. optimizer: what moves the matrices of blocks.
    """

    changeable: ClassVar[Any] = {"steps", "recompute"}

    recompute: bool = False
    optimizer: Literal["adamw", "muon"] = "adamw"

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.optimizer == "muon" and getattr(self, "lora", None) is not None:
            raise ValueError("optimizer=muon is for whole matrices: leave it out where a lora is trained")
        return self


class PixelStage(StageConfig):
    """A stage that trains on rendered clips of `frames` pixel frames, 1 + 4k of them.

    pool: clips rendered once to draw every batch from; 0 renders new ones for every batch.
    """

    batch: Clips
    frames: Frames
    pool: Some = 0

    @field_validator("frames")
    @classmethod
    def _whole_latents(cls, frames: int) -> int:
        if frames % 4 != 1:
            raise ValueError(f"frames={frames} is not 1 plus a multiple of 4")
        return frames


class AutoencoderStage(PixelStage):
    """Training of the autoencoder; `noise` perturbs latents before decoding.

    crop: side, in pixels, of the square that is cut out of every clip, at another place in every step; 0 keeps whole
    frames. borders: weight of the error of differences across the borders of patches; a square holds several of them.
    edges: weight of the error of differences; 0 until colours and shapes are there. motion: weight of the squared error
    of differences in time.
    """

    noise: Rate = 0.2
    edges: Rate = 0.0
    motion: Rate = 0.0
    borders: Rate = 0.0
    crop: Some = 0


class ClassifierStage(PixelStage):
    """Training of the attribute classifier.

    frames: how many pixel frames it sees at most, enough to tell a motion. rows: the height it resizes them to.
    """

    frames: Annotated[int, Field(ge=9, le=2**16, strict=True)]
    rows: Annotated[int, Field(ge=8, le=4096, strict=True)] = 48


class DataStage(StageSettings):
    """The store of rendered and encoded clips; `batch` of them are rendered together."""

    clips: Count
    batch: Clips = 16


class ReaderStage(StageConfig):
    """Training of the network that reads attributes off latents.

    batch: clips. frames: so many of a clip are seen, from its first on. width: channels of its first layer.
    """

    batch: Clips
    frames: Frames = 1
    width: Count = 128


class Phase(Settings):
    """One part of the teacher's curriculum: clips of `frames` latent frames until `until` of the stage is done."""

    frames: Frames
    batch: Clips
    until: Share


def phase_at(phases: tuple[Phase, ...], progress: float) -> Phase:
    """Return the curriculum's phase at `progress` in [0, 1)."""
    return next((phase for phase in phases if progress < phase.until), phases[-1])


class TeacherStage(TransformerStage):
    """Training of teacher and text encoder by flow matching, in batches and clips of the phases' sizes.

    causal: the teacher sees no more than the student does, with a noise level for each chunk. image: share of the clips
    whose first chunk is clean, so that the teacher can continue an image. drop_prompt: share of the prompts that are
    replaced by the null text, for guidance. perceptual: weight of how far predicted and true latents are apart to the
    reader, and reward: of how far it misses in the predicted ones what the caption says, at noise levels below
    `near_below`; nothing of either without a world, whose scenes say what frames show.
    """

    changeable: ClassVar[Any] = {"steps": True, "recompute": True, "phases": {"__all__": {"until"}}}

    causal: bool = False
    image: Share = 0.0
    drop_prompt: Share = 0.1
    perceptual: Rate = 0.0
    reward: Rate = 0.0
    near_below: Share = 0.93
    phases: Annotated[tuple[Phase, ...], Field(max_length=100)]

    @model_validator(mode="after")
    def _check_phases(self) -> Self:
        ends = tuple(phase.until for phase in self.phases)
        if ends[-1:] != (1.0,) or any(a >= b for a, b in itertools.pairwise((0.0, *ends))):
            raise ValueError(f"phases: until={ends} must rise from above 0 to 1")
        return self

    def clips_of(self, step: int) -> int:
        """Return how many clips a step trains on."""
        return self.accumulate * phase_at(self.phases, step / self.steps).batch


class DecoderStage(PixelStage):
    """Training of the decoder on clips that the teacher denoised in `euler_steps` steps.

    strength: the highest noise level that a clip is denoised from. edges, motion: as for the autoencoder. energy:
    weight of the error of how much moves. enlarge_only: the layer that magnifies is trained, and nothing else, on
    squares of `crop` pixels of the video; 0 takes whole frames.
    """

    strength: float = Field(default=0.5, gt=0, le=1, strict=True)
    euler_steps: Count = 3
    edges: Rate = 1.0
    motion: Rate = 0.0
    energy: Rate = 0.0
    enlarge_only: bool = False
    crop: Some = 0


class PairsStage(StageSettings):
    """Teacher trajectories for ODE initialisation, `batch` of them in a shard; `steps` of the teacher's sampler.

    image: share of the trajectories that continue the first chunk of a clip of the data.
    """

    changeable: ClassVar[Any] = {"clips"}

    clips: Count
    batch: Clips
    steps: Count
    image: Share = 0.0


class LoraStage(Settings):
    """Training of a LoRA of `rank` over frozen weights; what it adds counts alpha / rank. Unset, alpha is the rank."""

    rank: Annotated[int, Field(ge=1, le=4096, strict=True)] = 16
    alpha: Count | None = None

    @property
    def scale(self) -> int:
        """Return alpha."""
        return self.rank if self.alpha is None else self.alpha


class OdeStage(TransformerStage):
    """ODE initialisation of the student.

    clean_past: share of the clips in which the chunks before a drawn one are clean, as they are in a rollout; in the
    others every chunk has another noise level. lora: train a LoRA over the teacher's weights, not all of them.
    """

    batch: Clips
    lora: LoraStage | None = None
    clean_past: Share = 0.0


class DmdStage(TransformerStage):
    """Distribution matching distillation.

    start: whose weights the student begins with, those of ODE initialisation or the teacher's. student_input: whether
    the student denoises noised clips of the data (CausVid) or its rollout (Self Forcing). critic_updates: to one of the
    student. image: share of the micro-batches that continue the first chunk of a clip of the data. lora: train student
    and critic as LoRA, over the frozen teacher; the student's continues that of ODE initialisation, if it was one.
    reward: weight of how far the reader misses, in what the student makes, what the prompt says (DMDR, 2511.13649);
    nothing of it without a world, whose scenes say what prompts ask for.
    """

    start: Literal["ode", "teacher"] = "ode"
    batch: Clips
    lora: LoraStage | None = None
    student_input: Literal["data", "rollout"]
    critic_learning_rate: Rate
    critic_updates: Count = 5
    guidance: Weight
    image: Share = 0.0
    reward: Rate = 0.0


class TrainConfig(Settings):
    """A recipe: the stages that have settings, which run in this order.

    A stage that is left out is not run; where a later one needs its result, the preset's `start` has it.
    """

    autoencoder: AutoencoderStage | None = None
    classifier: ClassifierStage | None = None
    data: DataStage | None = None
    reader: ReaderStage | None = None
    teacher: TeacherStage | None = None
    decoder: DecoderStage | None = None
    pairs: PairsStage | None = None
    ode: OdeStage | None = None
    dmd: DmdStage | None = None

    @model_validator(mode="after")
    def _readable(self) -> Self:
        for stage, weight in (("teacher", "perceptual"), ("teacher", "reward"), ("dmd", "reward")):
            value = getattr(getattr(self, stage), weight, 0.0)
            if value and self.reader is None:
                raise ValueError(f"{stage}.{weight}={value} needs the settings of stage reader")
        return self


def cut(recipe: TrainConfig, count: int) -> TrainConfig:
    """Return a recipe whose stages cut the clips of a step into `count` micro-batches: the same in less memory.

    Raises:
        ValueError: if the clips of a stage cannot be cut so.
    """
    changes: dict[str, Any] = {}
    for name in TrainConfig.model_fields:
        stage = getattr(recipe, name)
        if not isinstance(stage, StageConfig):
            continue
        parts: tuple[Any, ...] = stage.phases if isinstance(stage, TeacherStage) else (stage,)
        clips = [part.batch * stage.accumulate for part in parts]
        if any(number % count for number in clips):
            uneven = " or ".join(map(str, dict.fromkeys(clips)))
            raise ValueError(f"micro-batches={count} do not cut the {uneven} clips of a step of stage {name} evenly")
        few = [number // count for number in clips]
        size: dict[str, Any] = {"batch": few[0]}
        if isinstance(stage, TeacherStage):
            phases = zip(stage.phases, few, strict=True)
            size = {"phases": tuple(phase.model_copy(update={"batch": batch}) for phase, batch in phases)}
        changes[name] = stage.model_copy(update={"accumulate": count, **size})
    return recipe.model_copy(update=changes)


def required(settings: S | None, stage: str) -> S:
    """Return a stage's settings; `ValueError` if the recipe has none."""
    if settings is None:
        raise ValueError(f"stage={stage} has no settings: add [train.{stage}] to the preset")
    return settings
