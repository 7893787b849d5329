"""A layer of the transformer: self-attention, cross-attention to the text and a feed-forward layer.

Letters: B batch, F latent frames, T tokens of a frame, L = F T tokens, D width, N heads, K head dim, M text tokens.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from causvid.config import TransformerConfig
from causvid.nn.attention import attend
from causvid.nn.fused import linear_gelu
from causvid.nn.rope import Rotation, frame_shift, rotate
from causvid.nn.visibility import KeySlice, Span


def layer_norm(x: Tensor, eps: float) -> Tensor:
    """Normalise the last dimension in fp32 without weights, and stay in fp32."""
    return functional.layer_norm(x.float(), x.shape[-1:], eps=eps)


def modulate(x: Tensor, shift: Tensor, scale: Tensor, like: Tensor) -> Tensor:
    """Shift and scale fp32 tokens `[B, F, T, D]` by frame `[B, F, D]`, then take the type of `like`."""
    return torch.addcmul(shift[:, :, None], x, 1 + scale[:, :, None]).to(like.dtype)


class RMSNorm(nn.Module):
    """Root-mean-square norm over the whole width, all heads together, computed in fp32."""

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """`[..., D] -> [..., D]`."""
        return functional.rms_norm(x.float(), x.shape[-1:], self.weight.float(), self.eps).to(x.dtype)


class Attention(nn.Module):
    """Projections of multi-head attention with RMS-normed queries and keys; the caller decides who sees whom."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.query = nn.Linear(config.dim, config.dim)
        self.key = nn.Linear(config.dim, config.dim)
        self.value = nn.Linear(config.dim, config.dim)
        self.out = nn.Linear(config.dim, config.dim)
        self.query_norm = RMSNorm(config.dim, config.eps)
        self.key_norm = RMSNorm(config.dim, config.eps)

    def queries(self, x: Tensor) -> Tensor:
        """`[B, L, D] -> [B, L, N, K]`."""
        queries: Tensor = self.query_norm(self.query(x)).unflatten(-1, (self.heads, -1))
        return queries

    def keys_values(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """`[B, L, D] -> [B, L, N, K]` twice."""
        keys = self.key_norm(self.key(x)).unflatten(-1, (self.heads, -1))
        return keys, self.value(x).unflatten(-1, (self.heads, -1))

    def join(self, heads: Tensor) -> Tensor:
        """`[B, L, N, K] -> [B, L, D]`."""
        joined: Tensor = self.out(heads.flatten(-2))
        return joined


def _gather(x: Tensor, keys: KeySlice, tokens: int, *, rotated: bool) -> Tensor:
    """Cut the tokens of a key slice out of `[B, L, N, K]`, moved in time if the slice says so."""
    part = x[:, keys.start * tokens : keys.stop * tokens]
    if rotated and keys.shift:
        part = rotate(part, frame_shift(torch.full((1,), keys.shift, device=x.device), x.shape[-1]))
    return part


def _attend_spans(q: Tensor, k: Tensor, v: Tensor, spans: tuple[Span, ...], tokens: int) -> Tensor:
    """Run attention span by span over slices of rotated keys. All `[B, L, N, K]`."""
    if len(spans) == 1 and len(spans[0].keys) == 1:
        return attend(q, k, v)
    out = []
    for span in spans:
        keys = torch.cat([_gather(k, s, tokens, rotated=True) for s in span.keys], dim=1)
        values = torch.cat([_gather(v, s, tokens, rotated=False) for s in span.keys], dim=1)
        out.append(attend(q[:, span.start * tokens : span.stop * tokens], keys, values))
    return torch.cat(out, dim=1)


def _with_history(room: Tensor, new: Tensor) -> Tensor:
    """Return cached and new keys or values: `[B, L, N, K]`, whose last tokens are the tail, and the tail's content.

    The tail is written in place, and nothing else is copied unless a gradient has to reach the new ones.
    """
    stop = room.shape[1] - new.shape[1]
    room[:, stop:] = new.detach()
    return torch.cat((room[:, :stop], new), dim=1) if new.requires_grad and torch.is_grad_enabled() else room


def see(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    room_keys: Tensor | None = None,
    room_values: Tensor | None = None,
    mask: Tensor | None = None,
    *,
    spans: tuple[Span, ...],
    tokens: int,
) -> Tensor:
    """Let queries of whole frames of `tokens` see keys and values, all `[B, L, N, K]`; the rest as a block takes it."""
    if room_keys is None or room_values is None:
        return _attend_spans(q, k, v, spans, tokens)
    return attend(q, _with_history(room_keys, k), _with_history(room_values, v), mask)


class Block(nn.Module):
    """Self-attention, text cross-attention and a feed-forward layer, the first and the last modulated by sigma."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.eps = config.eps
        self.modulation = nn.Parameter(torch.empty(1, 6, config.dim).normal_(std=config.dim**-0.5))
        self.self_attention = Attention(config)
        self.cross_norm = nn.LayerNorm(config.dim, config.eps)
        self.cross_attention = Attention(config)
        self.feed_forward = nn.Sequential(
            nn.Linear(config.dim, config.ffn_dim), nn.GELU(approximate="tanh"), nn.Linear(config.ffn_dim, config.dim)
        )

    def encode_text(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Return the keys and values `[B, M, N, K]` of a prompt's tokens `[B, M, D]` for cross-attention."""
        return self.cross_attention.keys_values(tokens)

    def forward(
        self,
        x: Tensor,
        modulation: Tensor,
        text_keys: Tensor,
        text_values: Tensor,
        at: Rotation,
        room_keys: Tensor | None = None,
        room_values: Tensor | None = None,
        mask: Tensor | None = None,
        *,
        spans: tuple[Span, ...] = (),
    ) -> Tensor:
        """Transform tokens `[B, F, T, D]`.

        Args:
            modulation: fp32 `[B, F, 6, D]`. text_keys, text_values: the prompt's, `[B, M, N, K]`.
            at: the rotation of all tokens. spans: which frames see which, without a cache.
            room_keys, room_values: with a cache, its slots and behind them the tail for these tokens,
                `[B, L, N, K]`. mask: which of them each row sees, bool `[B, 1, 1, L]`.
        """
        _, _, tokens, _ = x.shape
        six = self.levels(modulation)
        heads = see(*self.look(x, six, at), room_keys, room_values, mask, spans=spans, tokens=tokens)
        return self.complete(x, six, heads, text_keys, text_values)

    def levels(self, modulation: Tensor) -> tuple[Tensor, ...]:
        """Return shift, scale and gate of self-attention, then of the feed-forward layer, each fp32 `[B, F, D]`."""
        return (self.modulation[:, None].float() + modulation).unbind(2)

    def look(self, x: Tensor, levels: tuple[Tensor, ...], at: Rotation) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries, keys and values `[B, L, N, K]` of tokens `[B, F, T, D]`, the first two rotated."""
        shift, scale = levels[:2]
        inner = modulate(layer_norm(x, self.eps), shift, scale, x).flatten(1, 2)
        keys, values = self.self_attention.keys_values(inner)
        return rotate(self.self_attention.queries(inner), at), rotate(keys, at), values

    def complete(
        self, x: Tensor, levels: tuple[Tensor, ...], heads: Tensor, text_keys: Tensor, text_values: Tensor
    ) -> Tensor:
        """Add what self-attention found, `[B, L, N, K]`, then the text and the feed-forward layer."""
        _, _, gate1, shift2, scale2, gate2 = levels
        out = self.self_attention.join(heads).unflatten(1, x.shape[1:3])
        x = torch.addcmul(x.float(), out.float(), gate1[:, :, None]).to(x.dtype)

        norm = self.cross_norm
        inner = functional.layer_norm(
            x.float(), norm.normalized_shape, norm.weight.float(), norm.bias.float(), norm.eps
        )
        cross = self.cross_attention
        heads = attend(cross.queries(inner.to(x.dtype).flatten(1, 2)), text_keys, text_values)
        x = (x.float() + cross.join(heads).unflatten(1, x.shape[1:3]).float()).to(x.dtype)

        inner = modulate(layer_norm(x, self.eps), shift2, scale2, x)
        first, _, last = self.feed_forward
        return torch.addcmul(x.float(), last(linear_gelu(first, inner)).float(), gate2[:, :, None]).to(x.dtype)
