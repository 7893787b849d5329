"""What a user asks for: the one request that command line, timeline and Python share.

It knows no model: `engine.limits` turns it into what a given model needs.
"""

from collections.abc import Iterable, Sized
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, StrictBool, model_validator

from causvid.config import Settings

PromptMode = Literal["cut", "recache", "blend"]
Policy = Literal["window", "recompute"]
Fit = Literal["cover", "contain", "stretch"]
Seed = Annotated[int, Field(ge=0, lt=2**63, strict=True)]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False, strict=True)]
Frames = Annotated[int, Field(ge=0, strict=True)]
Level = Annotated[float, Field(gt=0, le=1, strict=True)]
Pixels = Annotated[int, Field(ge=1, le=2**14, strict=True)]
LATENTS = ".safetensors"
"""Suffix of a file of latents, as which a run is kept and continued."""
STRENGTH = 0.9
"""How much of its source video-to-video changes by default: what measured best on the built-in model."""


def check_prompt(prompt: str) -> None:
    """Raise a `ValueError` for a prompt that says nothing, to any model."""
    if not any(character.isalnum() for character in prompt):
        raise ValueError(f"prompt={prompt!r} is empty: say in a few words what to show")
    if any("\ud800" <= character <= "\udfff" for character in prompt):
        raise ValueError(f"prompt={prompt!r} is not valid Unicode")


class GenerationOptions(Settings):
    """What holds for a whole video, whatever its prompts; what is None is the model's own."""

    seconds: Seconds | None = Field(default=None, description="Length. Default: that of the clips it was trained on.")
    seed: Seed = Field(default=0, description="The same seed gives the same video.")
    steps: Annotated[int, Field(ge=1, strict=True)] | None = Field(default=None, description="Denoising steps a chunk.")
    sigmas: tuple[Level, ...] | None = Field(default=None, description="Noise levels instead, from 1 down, without 0.")
    height: Pixels | None = Field(default=None, description="Pixels, where the model allows it.")
    width: Pixels | None = Field(default=None, description="Pixels, where the model allows it.")
    window: Frames | None = Field(default=None, description="Latent frames of history it sees.")
    sink: Frames | None = Field(default=None, description="First latent frames that are never evicted.")
    policy: Policy = Field(default="window", description="Keep the history's keys, or recompute them every chunk.")
    after: Any = Field(default=None, description="Extension: a video, or latents, that the new video continues.")
    source: Any = Field(default=None, description="Video-to-video: a video, or webcam, that every chunk starts from.")
    strength: Annotated[float, Field(gt=0, le=1, strict=True)] = Field(
        default=STRENGTH, description="How much of the source may change: 1 keeps nothing of it."
    )
    adapt: bool = Field(default=False, strict=True, description="Change less of what moves more.")
    fit: Fit = Field(default="cover", description="How a picture of another shape is brought to size.")

    @model_validator(mode="after")
    def _check_start(self) -> Self:
        for name, value in (("after", self.after), ("source", self.source)):
            if not (value is None or isinstance(value, str | Path | Iterable)):
                raise ValueError(f"{name} is of type {type(value).__name__}: expected a video, a file or frames")
            if isinstance(value, Sized) and len(value) == 0:
                raise ValueError(f"{name} is empty: expected a video, a file or frames")
        if self.after is not None and self.source is not None:
            raise ValueError("after and source: give one, a video starts in one way")
        return self


class GenerationRequest(GenerationOptions):
    """One video: its prompt, how it starts, and everything else that decides it.

    seconds: None is without end. image: a file or uint8 `[H, W, 3]`. after: a video, from whose end the stream
    continues, or latents `[1, F, C, h, w]` or the file that holds them; only new frames are returned. As much of a
    video is seen as a training clip holds; of latents, all. source: a video every chunk of which is regenerated under
    the prompt. A video is a file, `webcam`, or an iterable of frames, uint8 `[H, W, 3]`, at the model's own rate.
    """

    prompt: str = Field(strict=True, description="What to show, in a sentence.")
    image: Any = Field(default=None, description="Start with this picture as the first frame.")
    rewind_seconds: Annotated[float, Field(ge=0, le=86_400, allow_inf_nan=False, strict=True)] = Field(
        default=0.0, description="How far back the stream can be rewound; each chunk of it costs a copy of the cache."
    )

    @model_validator(mode="after")
    def _check_image(self) -> Self:
        if not (self.image is None or isinstance(self.image, str | Path) or hasattr(self.image, "__array__")):
            raise ValueError(f"image is of type {type(self.image).__name__}: expected a file or uint8 [H, W, 3]")
        if self.image is not None and (self.after is not None or self.source is not None):
            raise ValueError("image, after and source: give one, a video starts in one way")
        return self


class Transition(Settings):
    """A prompt and how the video comes to show it.

    mode: "cut" changes the text alone, "recache" also recomputes the keys of the visible history under it (LongLive,
        2509.22622), "blend" moves the text's embedding there over several chunks. Where the sink is dropped, the
        history is recomputed in every mode, and at every step of a blend.
    carry: how many of the window's latent frames stay visible; by default what the model's settings say, which may be
        all. The fewer, the sooner what they show gives way to what the prompt says.
    keep_sink: whether the first frames stay visible for ever; by default unless `carry` is given, here or by the model.
        Otherwise the oldest of what is visible take their place.
    dissolve: unless it is a cut, crossfade from the frames that were to come into those of the next chunk, over all of
        it, or that share of it; each step of a blend, over a part as small as the square of its share of the way. It
        takes the time of as many more chunks. Nothing dissolves before the first frame, or in video-to-video, where the
        source holds the frames together.
    """

    prompt: Annotated[str, Field(strict=True)]
    mode: PromptMode = "recache"
    keep_sink: StrictBool | None = None
    carry: Annotated[int, Field(ge=1, strict=True)] | None = None
    dissolve: StrictBool | Annotated[float, Field(gt=0, le=1, strict=True)] = True


class PromptChange(Transition):
    """A prompt that takes effect at the next chunk; `chunks` is how many a blend takes."""

    chunks: Annotated[int, Field(ge=1, le=10_000, strict=True)] = 3

    @property
    def steps(self) -> int:
        """Return over how many chunks the text changes."""
        return self.chunks if self.mode == "blend" else 1


class Adjustment(Settings):
    """Other values that take effect at the next chunk: a new seed, another strength of video-to-video."""

    seed: Seed | None = None
    strength: Annotated[float, Field(gt=0, le=1, strict=True)] | None = None


Change = PromptChange | Adjustment
