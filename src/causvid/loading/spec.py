"""What to load: the one statement of every loading option, for the command line, timelines and Python alike."""

import math
import os
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from causvid.config import Settings

Precision = Literal["fp32", "bf16", "fp16"]
Acceleration = Literal["auto", "none", "inductor", "openvino"]
Placement = Literal["keep", "cpu", "release"]

PLACE = "a path, or owner/name or owner/name/file on the Hugging Face Hub"
_TORCH_NAMES = {"torch.float32": "fp32", "torch.bfloat16": "bf16", "torch.float16": "fp16"}


def _as_text(value: object) -> object:
    """Accept a path, and torch's type for the name of a precision, without importing torch."""
    if value is None or isinstance(value, str):
        return value
    if hasattr(value, "__fspath__"):
        return str(value)
    return _TORCH_NAMES.get(str(value), value)


def _as_names(value: object) -> object:
    """Accept one name for several."""
    if isinstance(value, str) or hasattr(value, "__fspath__"):
        return (value,)
    return None if isinstance(value, list | tuple) and not value else value


Name = Annotated[str, BeforeValidator(_as_text)]
Names = Annotated[tuple[Name, ...], Field(max_length=64)]


def split_strength(name: str) -> tuple[str, float | None]:
    """Split `place:strength`; None where no strength is given, as in the name of a file that has a colon itself."""
    place, colon, number = name.rpartition(":")
    try:
        strength = float(number)
    except ValueError:
        return name, None
    return (name, None) if not colon or not place or os.path.exists(name) else (place, strength)


class ModelSpec(Settings):
    """A model by the names of its parts. Nothing is opened until `assemble` loads it."""

    model: Name | None = Field(
        default=None, description=f"A bundle, or a folder of Wan 2.1: {PLACE}. Default: the built-in model."
    )
    student: Name | None = Field(default=None, description=f"Weights that replace the model's transformer: {PLACE}.")
    autoencoder: Name | None = Field(
        default=None, description=f"Weights of Wan's autoencoder, from elsewhere than the model: {PLACE}."
    )
    umt5: Name | None = Field(
        default=None, description=f"Weights of Wan's text encoder, from elsewhere than the model: {PLACE}."
    )
    tiny_autoencoder: Name | None = Field(
        default=None, description=f"Weights of taew2_1, which decode faster: {PLACE}."
    )
    lora: Annotated[Names | None, BeforeValidator(_as_names)] = Field(
        default=None,
        description=f"LoRAs, merged into the transformer: {PLACE}, each with :strength behind it or none.",
    )
    lora_strength: float | None = Field(
        default=None, ge=-100, le=100, description="How much is added of a LoRA that has no strength. Default: 1."
    )
    preset: Name | None = Field(
        default=None,
        description="How to generate: a preset's name or .toml file. Default: by the model's name or size.",
    )
    dtype: Annotated[Precision, BeforeValidator(_as_text)] | None = Field(
        default=None,
        description="Precision of the weights. Default: fp32 for a bundle; else bf16 on CUDA, or the files' own.",
    )
    accelerate: Acceleration = Field(
        default="auto",
        description="On a CPU: decode in bf16 where it is fast (auto); also compile long streams (inductor, openvino).",
    )
    text_encoder: Placement = Field(
        default="keep",
        description="Keep it beside the transformer, keep it on the CPU, or read it again for every prompt.",
    )
    teacher: bool = Field(
        default=False,
        description="Also load the teacher, or the model's transformer beside a student, for comparison.",
    )

    @model_validator(mode="after")
    def _check_lora(self) -> Self:
        if self.lora_strength is not None and self.lora is None:
            raise ValueError(f"lora_strength={self.lora_strength:g} needs a LoRA: give lora")
        for name in self.lora or ():
            _, strength = split_strength(name)
            if strength is not None and not (math.isfinite(strength) and abs(strength) <= 100):
                raise ValueError(f"lora={name}: its strength is not from -100 to 100")
        return self

    @model_validator(mode="after")
    def _check_autoencoder(self) -> Self:
        if self.autoencoder is not None and self.tiny_autoencoder is not None:
            raise ValueError("give autoencoder or tiny_autoencoder, not both")
        return self

    @property
    def loras(self) -> list[tuple[str, float]]:
        """Return the place and the strength of every LoRA."""
        default = 1.0 if self.lora_strength is None else self.lora_strength
        split = [split_strength(name) for name in self.lora or ()]
        return [(place, default if strength is None else strength) for place, strength in split]
