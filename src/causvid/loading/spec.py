"""What to load: the one statement of every loading option, for the command line, timelines and Python alike."""

from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from causvid.config import Settings

Precision = Literal["fp32", "bf16", "fp16"]
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


Name = Annotated[str, BeforeValidator(_as_text)]


class ModelSpec(Settings):
    """A model by the names of its parts. Nothing is opened until `assemble` loads it."""

    model: Name | None = Field(
        default=None, description=f"A bundle, or a folder of Wan 2.1: {PLACE}. Default: the built-in model."
    )
    student: Name | None = Field(default=None, description=f"Weights that replace the model's transformer: {PLACE}.")
    tiny_autoencoder: Name | None = Field(
        default=None, description=f"Weights of taew2_1, which decode faster: {PLACE}."
    )
    lora: Name | None = Field(default=None, description=f"A LoRA, merged into the transformer: {PLACE}.")
    lora_strength: float | None = Field(
        default=None, allow_inf_nan=False, description="How much of the LoRA is added. Default: 1."
    )
    preset: Name | None = Field(
        default=None,
        description="How to generate: a preset's name or .toml file. Default: by the model's name or size.",
    )
    dtype: Annotated[Precision, BeforeValidator(_as_text)] | None = Field(
        default=None,
        description="Precision of the weights. Default: fp32 for a bundle; else bf16 on CUDA, or the files' own.",
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
        return self
