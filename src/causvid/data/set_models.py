"""The parts of a model that a set is prepared with: its autoencoder and text encoder, and how they are known again.

Letters: F latent frames, C channels, h w latent rows and columns, M text tokens, D width of the text.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from causvid.config import GenerationConfig
from causvid.data.tar import Array
from causvid.engine.source import to_pixels
from causvid.loading.assemble import load_autoencoder
from causvid.loading.bundle import read_settings
from causvid.loading.layout import find_parts
from causvid.loading.spec import ModelSpec
from causvid.loading.text import load_text_encoder
from causvid.models.autoencoder import Autoencoder
from causvid.models.text import TextEncoder
from causvid.preset import load_preset
from causvid.seeding import step_generator

MARKS = 8
"""Numbers by which a model is known again."""
TOLERANCE = 0.05
"""By how much they differ between precisions and machines; other models' differ by more."""


@dataclass(frozen=True)
class SetModels:
    """An autoencoder and a text encoder on a device, and how the model generates."""

    autoencoder: Autoencoder
    text: TextEncoder
    generation: GenerationConfig
    device: torch.device

    @classmethod
    def load(cls, spec: ModelSpec, device: torch.device) -> "SetModels":
        """Load the two parts alone.

        Raises:
            ValueError: if one is missing or damaged, or nothing says at what size and rate the model generates.
        """
        layout = find_parts(spec, transformer=False)
        if spec.preset is not None:
            generation = load_preset(spec.preset).generation
        elif layout.kind == "bundle":
            generation = read_settings(layout.folder)[0]
        else:
            raise ValueError(f"model={spec.model} does not say its size and rate: add --preset, such as wan-1.3b")
        dtype = torch.float32 if layout.kind == "bundle" else None
        text = load_text_encoder(layout.text_encoder, layout.tokenizer, dtype=dtype, device=device)
        return cls(load_autoencoder(spec, device=device), text, generation, device)

    @property
    def marks(self) -> dict[str, list[float]]:
        """Return what the two parts are known by."""
        return {"autoencoder": autoencoder_marks(self.autoencoder, self.device), "text_encoder": text_marks(self.text)}

    @torch.inference_mode()
    def encode(self, frames: Array) -> Array:
        """Encode a clip, uint8 `[1 + 4 (F - 1), H, W, 3]`, as fp16 `[F, C, h, w]`."""
        return _half(self.autoencoder.encode(to_pixels(list(frames), self.device))[0])

    @torch.inference_mode()
    def embed(self, caption: str) -> Array:
        """Embed a caption as fp16 `[M, D]`, without the zeros after its end.

        Raises:
            ValueError: if it has more tokens than fit.
        """
        embedding = self.text.embed([caption])[0]
        used = embedding.ne(0).any(dim=1).nonzero()
        return _half(embedding[: int(used[-1]) + 1 if len(used) else 1])


@torch.inference_mode()
def autoencoder_marks(autoencoder: Autoencoder, device: torch.device) -> list[float]:
    """Return some of the latents of a fixed picture."""
    side = 4 * autoencoder.spatial_factor
    picture = torch.rand((1, 1, 3, side, side), generator=step_generator(0, "marks", 0)).to(device)
    return _spread(autoencoder.encode(picture))


@torch.inference_mode()
def text_marks(text: TextEncoder) -> list[float]:
    """Return some of the embedding of the null text and of a letter."""
    return _spread(torch.cat([text.embed([prompt])[:, :1] for prompt in ("", "a")]))


def same_marks(found: Sequence[float] | None, expected: Sequence[float]) -> bool:
    """Tell whether they are those of one model."""
    return found is not None and len(found) == len(expected) and np.allclose(found, expected, 0, TOLERANCE)


def _spread(values: Tensor) -> list[float]:
    flat = values.flatten().float().cpu()
    return [round(float(flat[n]), 4) for n in torch.linspace(0, len(flat) - 1, MARKS).round().long()]


def _half(values: Tensor) -> Array:
    array: Array = values.half().cpu().numpy()
    return array
