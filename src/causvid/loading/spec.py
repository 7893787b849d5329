"""Which model, and what replaces or changes parts of it."""

from typing import Literal

from pydantic import Field

from causvid.config import Settings


class ModelSpec(Settings):
    """Names of a model's parts."""

    model: str | None = Field(None, description="A bundle.")
    student: str | None = Field(None, description="Weights.")
    tiny_autoencoder: str | None = Field(None, description="Weights.")
    lora: str | None = Field(None, description="A LoRA.")
    lora_strength: float | None = Field(None, description="How much.")
    preset: str | None = Field(None, description="How to generate.")
    dtype: Literal["fp32", "bf16", "fp16"] | None = Field(None, description="Type.")
    text_encoder: Literal["keep", "cpu", "release"] = Field("keep", description="Placement.")
    teacher: bool = Field(False, description="Load the teacher too.")
