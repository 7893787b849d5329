"""The encoder of UMT5, of any size: T5 with a table of relative positions in every layer.

Legend: B batch, M tokens, D width, N heads, K channels of a head.

Modules are named as in transformers' `UMT5EncoderModel`, so that published weights load as they are.
"""

import math
from typing import Annotated, Any, Literal, Self

import torch
from pydantic import ConfigDict, Field, model_validator
from torch import Tensor, nn
from torch.nn import functional

from causvid.config import Count, Settings, Width

MOST_TOKENS = 2**22
"""Of a vocabulary: far more than the largest there is."""


class UMT5Config(Settings):
    """Sizes of an encoder, named as in a published `config.json`, whose other entries change nothing here."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    vocab_size: Annotated[int, Field(ge=1, le=MOST_TOKENS)]
    d_model: Width
    d_kv: Width
    d_ff: Width
    num_layers: Count
    num_heads: Count
    relative_attention_num_buckets: Annotated[int, Field(ge=4, le=4096)] = 32
    relative_attention_max_distance: Annotated[int, Field(ge=2, le=2**20)] = 128
    layer_norm_epsilon: Annotated[float, Field(gt=0, le=1)] = 1e-6
    feed_forward_proj: Literal["gated-gelu"] = "gated-gelu"
    pad_token_id: Annotated[int, Field(ge=-1, le=MOST_TOKENS)] | None = 0
    eos_token_id: Annotated[int, Field(ge=-1, le=MOST_TOKENS)] | None = 1

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.relative_attention_max_distance <= self.relative_attention_num_buckets // 4:
            raise ValueError(
                f"relative_attention_max_distance={self.relative_attention_max_distance} is too short for "
                f"relative_attention_num_buckets={self.relative_attention_num_buckets}"
            )
        return self


class UMT5Encoder(nn.Module):
    """Embed tokens: ids and mask of real tokens, `[B, M]` -> `[B, M, D]`.

    Source: T5 (1910.10683); UMT5 (2304.09151), whose layers do not share their tables of positions.
    """

    def __init__(self, config: UMT5Config) -> None:
        super().__init__()
        self.config = config
        self.shared = nn.Embedding(config.vocab_size, config.d_model)
        self.encoder = _Stack(config)

    @property
    def device(self) -> torch.device:
        """Return where its weights are."""
        return self.shared.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """Return the type of what it returns."""
        return self.shared.weight.dtype

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Apply the encoder to ids, int64 `[B, M]`, and mask, bool `[B, M]`; masked tokens come out as anything."""
        hidden: Tensor = self.encoder(self.shared(ids), mask, _buckets(ids.shape[1], self.config, ids.device))
        return hidden

    @torch.no_grad()
    def initialise(self, generator: torch.Generator) -> None:
        """Draw starting weights: T5's, under which dot products need no scaling."""
        config = self.config
        inner = config.num_heads * config.d_kv
        scales = {"shared": 1.0, "q": (config.d_model * config.d_kv) ** -0.5, "o": inner**-0.5, "wo": config.d_ff**-0.5}
        for name, parameter in self.named_parameters():
            if "layer_norm" in name:
                parameter.fill_(1.0)
            else:
                scale = scales.get(name.split(".")[-2], config.d_model**-0.5)
                parameter.normal_(std=scale, generator=generator)


class _Stack(nn.Module):
    def __init__(self, config: UMT5Config) -> None:
        super().__init__()
        self.block = nn.ModuleList(_Block(config) for _ in range(config.num_layers))
        self.final_layer_norm = _Norm(config)

    def forward(self, x: Tensor, mask: Tensor, buckets: Tensor) -> Tensor:
        layers: list[Any] = [module.layer for module in self.block]
        for attention, feed_forward in layers:
            x = x + attention.SelfAttention(attention.layer_norm(x), mask, buckets)
            x = x + feed_forward.DenseReluDense(feed_forward.layer_norm(x))
        normed: Tensor = self.final_layer_norm(x)
        return normed


class _Block(nn.Module):
    """The weights of a layer, under the names they have in files."""

    def __init__(self, config: UMT5Config) -> None:
        super().__init__()
        attention, feed_forward = nn.Module(), nn.Module()
        attention.SelfAttention, attention.layer_norm = _Attention(config), _Norm(config)
        feed_forward.DenseReluDense, feed_forward.layer_norm = _FeedForward(config), _Norm(config)
        self.layer = nn.ModuleList([attention, feed_forward])


class _Norm(nn.Module):
    """RMS norm, its statistics in fp32; what comes out has the type of the weights."""

    def __init__(self, config: UMT5Config) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(config.d_model))
        self.eps = config.layer_norm_epsilon

    def forward(self, x: Tensor) -> Tensor:
        normed = x * torch.rsqrt(x.float().square().mean(-1, keepdim=True) + self.eps)
        return self.weight * normed.to(self.weight.dtype)


class _Attention(nn.Module):
    """Attention without scaling, with a learned bias for each head and distance."""

    def __init__(self, config: UMT5Config) -> None:
        super().__init__()
        self.heads, inner = config.num_heads, config.num_heads * config.d_kv
        self.q, self.k, self.v = (nn.Linear(config.d_model, inner, bias=False) for _ in range(3))
        self.o = nn.Linear(inner, config.d_model, bias=False)
        self.relative_attention_bias = nn.Embedding(config.relative_attention_num_buckets, self.heads)

    def forward(self, x: Tensor, mask: Tensor, buckets: Tensor) -> Tensor:
        query, key, value = (
            part(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (self.q, self.k, self.v)
        )
        bias = self.relative_attention_bias(buckets).permute(2, 0, 1)[None]  # [1, N, M, M]
        # Finite, so that a row without any token does not become NaN.
        bias = bias.masked_fill(~mask[:, None, None], torch.finfo(bias.dtype).min)
        seen = functional.scaled_dot_product_attention(query, key, value, attn_mask=bias, scale=1.0)
        out: Tensor = self.o(seen.transpose(1, 2).flatten(2))
        return out


class _FeedForward(nn.Module):
    def __init__(self, config: UMT5Config) -> None:
        super().__init__()
        self.wi_0, self.wi_1 = (nn.Linear(config.d_model, config.d_ff, bias=False) for _ in range(2))
        self.wo = nn.Linear(config.d_ff, config.d_model, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate = self.wi_0(x)
        # The formula of transformers, whose embeddings torch's own GELU misses by a rounding.
        gate = 0.5 * gate * (1 + torch.tanh(math.sqrt(2 / math.pi) * (gate + 0.044715 * gate**3)))
        out: Tensor = self.wo((gate * self.wi_1(x)).to(self.wo.weight.dtype))  # fp32 in an encoder of fp16
        return out


def _buckets(length: int, config: UMT5Config, device: torch.device) -> Tensor:
    """Return the row of the table for each query and key, int64 `[M, M]`: exact when near, logarithmic when far."""
    half = config.relative_attention_num_buckets // 2
    exact = half // 2
    place = torch.arange(length, device=device)
    offset = place - place[:, None]
    distance = offset.abs()
    ratio = torch.log(distance.float() / exact) / math.log(config.relative_attention_max_distance / exact)
    far = (exact + (ratio * (half - exact)).long()).clamp(max=half - 1)
    return half * (offset > 0) + torch.where(distance < exact, distance, far)
