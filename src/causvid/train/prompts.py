"""Captions as training uses them: token ids or embeddings of all of them, computed once ahead of the steps.

Letters: U distinct captions, M text tokens, D width of an embedding.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from causvid.data.renders import held_out_prompts
from causvid.models.text import TextEncoder
from causvid.preset import Preset

EMBEDDED_TOGETHER = 512
SAMPLES = 12
"""Prompts that samples are made for."""


def token_mask(ids: Tensor) -> Tensor:
    """Return which ids `[B, M]` are real tokens; 0 is padding."""
    return ids != 0


@torch.no_grad()
def embed_captions(text: TextEncoder, captions: Sequence[str], device: torch.device) -> Tensor:
    """Embed captions in batches: fp32 `[U, M, D]`."""
    ids = text.tokens(captions)[0]
    embeddings = torch.empty(*ids.shape, text.dim, device=device)
    for start in range(0, len(ids), EMBEDDED_TOGETHER):
        part = ids[start : start + EMBEDDED_TOGETHER].to(device)
        embeddings[start : start + EMBEDDED_TOGETHER] = text(part, token_mask(part))
    return embeddings


def sample_prompts(preset: Preset, captions: Sequence[str]) -> list[str]:
    """Return the prompts that samples are made for: ones the world never shows in training, or else the data's."""
    return list(captions[:SAMPLES]) if preset.world is None else held_out_prompts(preset, SAMPLES)
