"""Settings of models: frozen pydantic models that refuse unknown keys."""

import itertools
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

# Bounds far beyond any model that exists: a file may state anything, and sizes are allocated.
Width = Annotated[int, Field(ge=1, le=2**17)]
Count = Annotated[int, Field(ge=1, le=256)]
Blocks = Annotated[int, Field(ge=1, le=64, strict=True)]
Frames = Annotated[int, Field(ge=1, le=4096)]
Side = Annotated[int, Field(ge=1, le=4096)]
Channels = Annotated[int, Field(ge=1, le=4096)]
Factor = Annotated[float, Field(gt=0, le=1000, allow_inf_nan=False)]
Widths = tuple[Channels, Channels, Channels, Channels]
Stages = tuple[bool, bool, bool]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
PIXELS = 2**22
"""Most pixels of a frame that a model may be made for."""


class Settings(BaseModel):
    """A frozen group of settings."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @classmethod
    def make(cls, **values: object) -> Self:
        """Validate values; raise a `ValueError` of one line that names the place, the value and what was expected."""
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            value = error.errors()[0]["input"]
            shown = f"={value!r}: " if isinstance(value, int | float | str) and error.errors()[0]["loc"] else ": "
            raise ValueError(one_line(error).replace(": ", shown, 1)) from None


class TransformerConfig(Settings):
    """Sizes of the transformer; `patch` is the spatial patch edge in latent cells.

    predicts: what its last layer returns; of published models, the velocity. Callers get the velocity either way. A
    narrow transformer with many numbers to a token learns x0 sooner, since noise need not pass through all of its
    layers then (Li & He, 2511.13720).
    """

    dim: Width
    heads: Count
    layers: Count
    ffn_dim: Width
    text_dim: Width
    in_channels: Channels = 16
    out_channels: Channels = 16
    patch: Annotated[int, Field(ge=1, le=16)] = 2
    freq_dim: Width = 256
    eps: Annotated[float, Field(gt=0, le=1)] = 1e-6
    predicts: Literal["velocity", "x0"] = "velocity"

    @property
    def head_dim(self) -> int:
        """Channels of one attention head."""
        return self.dim // self.heads

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.dim % self.heads:
            raise ValueError(f"dim={self.dim} is not a multiple of heads={self.heads}")
        return self


class AutoencoderConfig(Settings):
    """Shape of a `TinyAutoencoder`. The defaults are those of the published `taew2_1` weights.

    encoder_widths: channels after the first convolution and in each of the three stages. decoder_widths: in each stage
    and before the last convolution. blocks: memory blocks of a stage; decoder_blocks: of each of the decoder's.
    patch: pixels square that are folded into channels. *_space, *_time: which stages halve or double sides, or rate.
    padding: which frame of 1 + 4k is repeated three times before encoding. With "first", latent i depends on no pixel
    frame after 4i; with "last", as the published weights, on those to 4i + 3: pixels cannot be encoded as a stream.
    shortcut: a linear map of 4-frame patches beside each stack of convolutions, which learns what the map misses.
    overlap, which needs the shortcut: every patch is decoded from the neighbouring latent positions too, and the
    picture is corrected across the borders of patches at the end, so that no grid shows; the stacks are those of
    `overlap.py`.
    magnify: the video has so many times the rows and columns of what is encoded and decoded. Frames are averaged down
    before, and a last network of `enlarge_width` channels draws what that took away (`enlarge.py`).
    """

    latent_channels: Channels = 16
    encoder_widths: Widths = (64, 64, 64, 64)
    decoder_widths: Widths = (256, 128, 64, 64)
    blocks: Blocks = 3
    decoder_blocks: tuple[Blocks, Blocks, Blocks] | None = None
    patch: Annotated[int, Field(ge=1, le=64)] = 1
    encoder_space: Stages = (True, True, True)
    encoder_time: Stages = (True, True, False)
    decoder_space: Stages = (True, True, True)
    decoder_time: Stages = (False, True, True)
    padding: Literal["first", "last"] = "last"
    shortcut: bool = False
    overlap: bool = False
    magnify: Annotated[int, Field(ge=1, le=4)] = 1
    enlarge_width: Channels = 32

    @property
    def coded_factor(self) -> int:
        """Return how many pixels a latent position is high and wide in frames as they are encoded."""
        return self.patch << sum(self.decoder_space)

    @property
    def spatial_factor(self) -> int:
        """Return how many pixels a latent position is high and wide in the video."""
        return self.coded_factor * self.magnify

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

    dim: Width
    layers: Count
    heads: Count
    head_dim: Width
    ffn_dim: Width
    max_tokens: Frames


class GenerationConfig(Settings):
    """How a model generates video: size, frame rate, chunk layout, visible history, noise levels.

    height, width: pixels. Chunks are [first, chunk, chunk, ...] latent frames. window, sink: latent frames of history
    that a chunk sees. carry: how many of the window's stay visible when the prompt changes, None for all.
    timesteps: the student's nominal few steps of 1000, taken through `shift`; guidance: the teacher's.
    clip_frames: latent frames of a training clip, which is also what the teacher generates.
    """

    height: Side
    width: Side
    fps: Annotated[float, Field(ge=0.01, le=1000)]
    clip_frames: Frames
    first: Frames
    chunk: Frames
    window: Annotated[int, Field(ge=0, le=4096)]
    sink: Annotated[int, Field(ge=0, le=4096)]
    carry: Frames | None = None
    shift: Factor
    timesteps: Annotated[tuple[Factor, ...], Field(max_length=1000)]
    teacher_steps: Annotated[int, Field(ge=1, le=1000)]
    guidance: Factor
    max_seconds: Annotated[float, Field(gt=0, le=604_800)] = 600.0

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.height * self.width > PIXELS:
            raise ValueError(f"height={self.height}, width={self.width} has more than {PIXELS} pixels")
        if self.window + self.sink < 1:
            raise ValueError("window=0 and sink=0: at least one latent frame of history must be visible")
        if self.clip_frames < self.first or (self.clip_frames - self.first) % self.chunk:
            raise ValueError(
                f"clip_frames={self.clip_frames} is not first={self.first} plus a multiple of chunk={self.chunk}"
            )
        falls = all(a > b for a, b in itertools.pairwise(self.timesteps))
        if not falls or self.timesteps[:1] != (1000,):
            raise ValueError(f"timesteps={self.timesteps} must start at 1000 and fall strictly")
        return self


def one_line(error: ValidationError) -> str:
    """Say what is wrong first: where, and why."""
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"])
    reason = first["msg"].removeprefix("Value error, ")
    return f"{place}: {reason}" if place else reason
