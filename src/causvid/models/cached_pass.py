"""A pass with a cache as a function of tensors alone, for backends that take a graph: nothing is written in place.

Letters: D depth (blocks), B batch, F latent frames of the chunk, C channels, H W latent rows and columns, S tokens of
the history, L tokens of the chunk, M text tokens, N heads, K head dim.
"""

from collections.abc import Iterable
from typing import cast

import torch
from torch import Tensor, nn

from causvid.models.block import Block
from causvid.models.transformer import Transformer
from causvid.nn.attention import attend
from causvid.nn.rope import Rotation


class CachedPass(nn.Module):
    """What a transformer does with a full cache, whose history it is given and whose tail it returns."""

    def __init__(self, model: Transformer) -> None:
        super().__init__()
        self.model = model

    def forward(
        self,
        x: Tensor,
        embedding: Tensor,
        text_keys: Tensor,
        text_values: Tensor,
        cos: Tensor,
        sin: Tensor,
        past_keys: Tensor,
        past_values: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return what `leave` returns `[B, F, C, H, W]`, and keys and values of the chunk, `[D, B, L, N, K]` each.

        Args:
            x: latents `[B, F, C, H, W]`. embedding: sigma's sinusoid, `[B, F, E]`.
            text_keys, text_values: `[D, B, M, N, K]`. cos, sin: the chunk's rotation, `[B or 1, L, K/2]`.
            past_keys, past_values: the history, `[D, B, S, N, K]`.
        """
        at = Rotation(cos, sin)
        tokens = self.model.enter(x)
        time, modulation = self.model.condition(embedding)
        keys, values = [], []
        for index, block in enumerate(cast(Iterable[Block], self.model.blocks)):
            levels = block.levels(modulation)
            q, k, v = block.look(tokens, levels, at)
            heads = attend(q, torch.cat((past_keys[index], k), dim=1), torch.cat((past_values[index], v), dim=1))
            tokens = block.complete(tokens, levels, heads, text_keys[index], text_values[index])
            keys.append(k)
            values.append(v)
        output = self.model.leave(tokens, time, x.shape[3] // self.model.config.patch)
        return output, torch.stack(keys), torch.stack(values)
