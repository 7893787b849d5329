"""The video diffusion transformer of Wan 2.1: one class for teacher, student and critic; attention mode is data.

Letters: B batch, F latent frames, C channels, H W latent rows and columns, T tokens of a frame, L = F T tokens,
D width, N heads, K head dim, M text tokens.

Kept in fp32 whatever the type of the weights: sigma and its sinusoid, RoPE angles and rotation, norms, modulation and
the residual sums. Matrix products run in the type of the weights, or in autocast's, the time embedding's excepted.

Source: Wan (2503.20314). Modulation is per latent frame, since chunks differ in noise while training (CausVid,
2412.07772, section 4.1).
"""

import math
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from causvid.config import TransformerConfig
from causvid.nn.attention import attend
from causvid.nn.cache import KVCache
from causvid.nn.fused import linear_gelu
from causvid.nn.rope import Rotation, frame_shift, precise, rotate, rotation
from causvid.nn.visibility import FULL, KeySlice, Span, Visibility


@dataclass(frozen=True)
class TextKeys:
    """A prompt as the blocks see it: cross-attention keys and values `[B, M, N, K]`, one pair a block.

    They depend on the prompt alone, so they are computed once and serve every step, chunk and frame.
    """

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]

    @classmethod
    def join(cls, texts: "Sequence[TextKeys]") -> "TextKeys":
        """Return one prompt a row of a batch."""
        if len(texts) == 1:
            return texts[0]
        keys = zip(*(text.keys for text in texts), strict=True)
        values = zip(*(text.values for text in texts), strict=True)
        return cls(tuple(torch.cat(k) for k in keys), tuple(torch.cat(v) for v in values))


def timestep_embedding(sigma: Tensor, dim: int) -> Tensor:
    """Embed sigma in [0, 1] as cosines and sines of 1000 sigma, in float64: `[...]` -> fp32 `[..., dim]`."""
    half, dtype = dim // 2, precise(sigma.device)
    rates = torch.exp(-math.log(10_000) * torch.arange(half, dtype=dtype, device=sigma.device) / half)
    angles = 1000 * sigma.to(dtype)[..., None] * rates
    return torch.cat((angles.cos(), angles.sin()), dim=-1).float()


def _layer_norm(x: Tensor, eps: float) -> Tensor:
    """Normalise the last dimension in fp32 without weights, and stay in fp32."""
    return functional.layer_norm(x.float(), x.shape[-1:], eps=eps)


def _modulate(x: Tensor, shift: Tensor, scale: Tensor, like: Tensor) -> Tensor:
    """Shift and scale fp32 tokens `[B, F, T, D]` by frame `[B, F, D]`, then take the type of `like`."""
    return torch.addcmul(shift[:, :, None], x, 1 + scale[:, :, None]).to(like.dtype)


def _without_autocast(device: torch.device) -> AbstractContextManager[object]:
    """Keep what runs inside in the type of its weights."""
    if torch.amp.is_autocast_available(device.type):
        return torch.autocast(device.type, enabled=False)
    return nullcontext()


def _patches(x: Tensor, p: int) -> Tensor:
    """Cut latents into tokens of p x p cells: `[B, F, C, H, W]` -> `[B, F, T, C p p]`."""
    cells: Tensor = x.unflatten(4, (-1, p)).unflatten(3, (-1, p))  # B F C H p W p
    return cells.permute(0, 1, 3, 5, 2, 4, 6).flatten(4).flatten(2, 3)


def _unpatched(tokens: Tensor, rows: int, p: int) -> Tensor:
    """Put tokens of p x p cells back together: `[B, F, T, p p C]` -> `[B, F, C, H, W]`."""
    cells: Tensor = tokens.unflatten(3, (p, p, -1)).unflatten(2, (rows, -1))  # B F H W p p C
    return cells.permute(0, 1, 6, 2, 4, 3, 5).flatten(5, 6).flatten(3, 4)


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
        _, frames, tokens, _ = x.shape
        shift1, scale1, gate1, shift2, scale2, gate2 = (self.modulation[:, None].float() + modulation).unbind(2)

        inner = _modulate(_layer_norm(x, self.eps), shift1, scale1, x).flatten(1, 2)
        attention = self.self_attention
        q = rotate(attention.queries(inner), at)
        k, v = attention.keys_values(inner)
        k = rotate(k, at)
        if room_keys is None or room_values is None:
            heads = _attend_spans(q, k, v, spans, tokens)
        else:
            heads = attend(q, _with_history(room_keys, k), _with_history(room_values, v), mask)
        out = attention.join(heads).unflatten(1, (frames, tokens))
        x = torch.addcmul(x.float(), out.float(), gate1[:, :, None]).to(x.dtype)

        norm = self.cross_norm
        inner = functional.layer_norm(
            x.float(), norm.normalized_shape, norm.weight.float(), norm.bias.float(), norm.eps
        )
        cross = self.cross_attention
        heads = attend(cross.queries(inner.to(x.dtype).flatten(1, 2)), text_keys, text_values)
        x = (x.float() + cross.join(heads).unflatten(1, (frames, tokens)).float()).to(x.dtype)

        inner = _modulate(_layer_norm(x, self.eps), shift2, scale2, x)
        first, _, last = self.feed_forward
        return torch.addcmul(x.float(), last(linear_gelu(first, inner)).float(), gate2[:, :, None]).to(x.dtype)


class Transformer(nn.Module):
    """Predict the velocity of noisy latents under a prompt.

    Blocks take and return tensors alone, so each can be compiled (`block.compile`) or sharded (`fully_shard`) by
    itself. `encode_text` is entered beside `forward`: a sharded model needs
    `register_fsdp_forward_method(module, "encode_text")` for itself and for every block.
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        dim = config.dim
        cells = config.patch**2
        self.patch_in = nn.Linear(config.in_channels * cells, dim)
        self.text_in = nn.Sequential(nn.Linear(config.text_dim, dim), nn.GELU(approximate="tanh"), nn.Linear(dim, dim))
        self.time_in = nn.Sequential(nn.Linear(config.freq_dim, dim), nn.SiLU(), nn.Linear(dim, dim))
        self.time_modulation = nn.Sequential(nn.SiLU(), nn.Linear(dim, 6 * dim))
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.head_modulation = nn.Parameter(torch.empty(1, 2, dim).normal_(std=dim**-0.5))
        self.head = nn.Linear(dim, config.out_channels * cells)

    def initialise(self, generator: torch.Generator) -> None:
        """Set starting weights from an explicit generator: Xavier products, zero biases, a silent output layer."""
        for name, p in self.named_parameters():
            with torch.no_grad():
                if name.endswith("modulation"):
                    p.copy_(torch.randn(p.shape, generator=generator) / self.config.dim**0.5)
                elif p.ndim >= 2:
                    bound = (6 / (p.shape[0] + p.shape[1])) ** 0.5
                    p.copy_((2 * torch.rand(p.shape, generator=generator) - 1) * bound)
                elif name.endswith("bias"):
                    p.zero_()
                else:
                    p.fill_(1)
        nn.init.zeros_(self.head.weight)

    def encode_text(self, embedding: Tensor) -> TextKeys:
        """Turn text embeddings `[B, M, text_dim]` into the keys and values of every block."""
        tokens = self.text_in(embedding)
        pairs = [block.encode_text(tokens) for block in cast(Iterable[Block], self.blocks)]
        return TextKeys(tuple(k for k, _ in pairs), tuple(v for _, v in pairs))

    def new_cache(self, *, batch: int, height: int, width: int, window: int, sink: int, chunk: int = 0) -> KVCache:
        """Make an empty cache for latents of `height` x `width`, on this model's device and in its type.

        chunk: latent frames of the largest chunk it will serve; without it, the first pass makes room.
        """
        cells = self.config.patch
        weight = self.patch_in.weight
        return KVCache.allocate(
            depth=len(self.blocks),
            batch=batch,
            tokens_per_frame=(height // cells) * (width // cells),
            heads=self.config.heads,
            head_dim=self.config.head_dim,
            window=window,
            sink=sink,
            chunk=chunk,
            device=weight.device,
            dtype=weight.dtype,
        )

    def forward(
        self,
        x: Tensor,
        sigma: Tensor,
        text: TextKeys,
        *,
        visibility: Visibility = FULL,
        cache: KVCache | None = None,
        commit: bool = False,
    ) -> Tensor:
        """Return the velocity `[B, F, C, H, W]` of `x` `[B, F, C, H, W]` at noise levels `sigma` `[B, F]`.

        Without a cache the whole sequence is given and `visibility` says who sees whom. With one, `x` is the next
        chunk: it sees itself and all that the cache holds, and `commit` stores its keys and values as the new past.
        """
        batch, frames, _, height, width = x.shape
        p = self.config.patch
        if height % p or width % p:
            raise ValueError(f"latent size {height}x{width} is not a multiple of patch={p}")
        if sigma.shape != (batch, frames):
            raise ValueError(f"sigma has shape {tuple(sigma.shape)}, expected one level a frame: {(batch, frames)}")
        if cache is not None and visibility != FULL:
            raise ValueError("give a visibility or a cache, not both: a cache knows what its stream sees")
        if commit and cache is None:
            raise ValueError("commit=True needs a cache to write to")
        cells = (height // p) * (width // p)
        if cache is not None and (cache.batch, cache.tokens_per_frame) != (batch, cells):
            raise ValueError(
                f"cache is for batch={cache.batch} and {cache.tokens_per_frame} tokens a frame, "
                f"expected batch={batch} and {cells} tokens"
            )
        if len(text.keys[0]) not in (1, batch):
            raise ValueError(f"text holds {len(text.keys[0])} prompts, expected 1 or batch={batch}")

        if cache is None:
            positions = torch.tensor([visibility.positions(frames)], dtype=precise(x.device))
            at = rotation(positions.to(x.device, non_blocking=True), height // p, width // p, self.config.head_dim)
        else:
            at = cache.rotation(frames, height // p, width // p)
        spans = visibility.spans(frames) if cache is None else ()
        room = None if cache is None else cache.room(frames)

        weight = self.patch_in.weight
        tokens = self.patch_in(_patches(x, p).to(weight.dtype))
        tokens = tokens.to(weight.dtype)
        with _without_autocast(x.device):
            time = self.time_in(timestep_embedding(sigma, self.config.freq_dim).to(self.head_modulation.dtype))
            modulation = self.time_modulation(time).float().unflatten(-1, (6, -1))
        for index, block in enumerate(self.blocks):
            history = () if room is None else (room.keys[index], room.values[index], room.mask)
            tokens = block(tokens, modulation, text.keys[index], text.values[index], at, *history, spans=spans)
        if commit and cache is not None:
            cache.commit(frames)

        shift, scale = (self.head_modulation[:, None].float() + time.float()[:, :, None]).unbind(2)
        out: Tensor = self.head(_modulate(_layer_norm(tokens, self.config.eps), shift, scale, tokens))
        return _unpatched(out, height // p, p).to(x.dtype)
