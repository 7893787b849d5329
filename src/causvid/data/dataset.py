"""What training asks of data: batches of latents, each with its caption.

Letters: B batch, F latent frames, C channels, h w latent rows and columns.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """Clips with captions, on the dataset's device.

    latents: fp32 `[B, F, C, h, w]`. captions: int64 `[B]`, each clip's place in `Dataset.captions`.
    """

    latents: Tensor
    captions: Tensor


class Dataset(Protocol):
    """A source of clips, all of one latent size."""

    @property
    def captions(self) -> Sequence[str]:
        """Return every caption that a batch can have, each once: what a text encoder embeds ahead of training."""

    def batch(self, size: int, *, frames: int, generator: torch.Generator) -> Batch:
        """Draw `size` clips, cut to `frames` latent frames; all randomness is the generator's.

        Processes that train together draw different clips from generators of different seeds.
        """


def number(captions: Sequence[str]) -> tuple[list[str], list[int]]:
    """Return the distinct captions in order, and for each of `captions` its place among them."""
    places = {caption: place for place, caption in enumerate(dict.fromkeys(captions))}
    return list(places), [places[caption] for caption in captions]
