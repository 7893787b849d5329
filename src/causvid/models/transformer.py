"""The video diffusion transformer of Wan 2.1: one class for teacher, student and critic; attention mode is data.

Letters: B batch, F latent frames, C channels, H W latent rows and columns, T tokens of a frame, L = F T tokens,
D width, N heads, K head dim, M text tokens.

Kept in fp32 whatever the type of the weights: sigma and its sinusoid, RoPE angles and rotation, norms, modulation and
the residual sums. Matrix products run in the type of the weights, or in autocast's, the time embedding's excepted.

Source: Wan (2503.20314). Modulation is per latent frame, since chunks differ in noise while training (CausVid,
2412.07772, section 4.1).
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from causvid.config import TransformerConfig
from causvid.flow import velocity_from_x0
from causvid.models.block import Block, layer_norm, modulate
from causvid.nn.autocast import without_autocast
from causvid.nn.cache import KVCache, Room
from causvid.nn.rope import Rotation, precise, rotation
from causvid.nn.visibility import FULL, Visibility


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


LEAST_SIGMA = 0.05
"""Where x0 is predicted, a velocity is divided by no lower sigma: that of a clean frame has no bound."""
CachedRun = Callable[[Tensor, Tensor, TextKeys, Rotation, Room], Tensor | None]
"""Does what a pass with a full cache does: latents, sigma, text, rotation and room to what `leave` returns.

The tail is written. It returns None for sizes that it does not serve, having written nothing."""


def timestep_embedding(sigma: Tensor, dim: int) -> Tensor:
    """Embed sigma in [0, 1] as cosines and sines of 1000 sigma, in float64: `[...]` -> fp32 `[..., dim]`.

    The product rounds in the type of sigma, as everyone's does: 1000 times the fp32 neighbour of 0.9 is then 900.
    """
    half, dtype = dim // 2, precise(sigma.device)
    rates = torch.exp(-math.log(10_000) * torch.arange(half, dtype=dtype, device=sigma.device) / half)
    angles = (1000 * sigma).to(dtype)[..., None] * rates
    return torch.cat((angles.cos(), angles.sin()), dim=-1).float()


def _patches(x: Tensor, p: int) -> Tensor:
    """Cut latents into tokens of p x p cells: `[B, F, C, H, W]` -> `[B, F, T, C p p]`."""
    cells: Tensor = x.unflatten(4, (-1, p)).unflatten(3, (-1, p))  # B F C H p W p
    return cells.permute(0, 1, 3, 5, 2, 4, 6).flatten(4).flatten(2, 3)


def _unpatched(tokens: Tensor, rows: int, p: int) -> Tensor:
    """Put tokens of p x p cells back together: `[B, F, T, p p C]` -> `[B, F, C, H, W]`."""
    cells: Tensor = tokens.unflatten(3, (p, p, -1)).unflatten(2, (rows, -1))  # B F H W p p C
    return cells.permute(0, 1, 6, 2, 4, 3, 5).flatten(5, 6).flatten(3, 4)


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
        self.accelerated: CachedRun | None = None

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
        """Make an empty cache for latents of `height` x `width`, on this model's device and in its type, or autocast's.

        chunk: latent frames of the largest chunk it will serve; without it, the first pass makes room.
        """
        cells = self.config.patch
        weight, kind = self.patch_in.weight, self.patch_in.weight.device.type
        half = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
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
            dtype=torch.get_autocast_dtype(kind) if half else weight.dtype,
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

        if self.accelerated is not None and cache is not None and room is not None and not torch.is_grad_enabled():
            made = self.accelerated(x, sigma, text, at, room) if cache.is_full else None
            if made is not None:
                if commit:
                    cache.commit(frames)
                return self._velocity(made, x, sigma)

        tokens = self.enter(x)
        with without_autocast(x.device):
            time, modulation = self.condition(timestep_embedding(sigma, self.config.freq_dim))
        for index, block in enumerate(self.blocks):
            history = () if room is None else (room.keys[index], room.values[index], room.mask)
            tokens = block(tokens, modulation, text.keys[index], text.values[index], at, *history, spans=spans)
        if commit and cache is not None:
            cache.commit(frames)
        return self._velocity(self.leave(tokens, time, height // p), x, sigma).to(x.dtype)

    def enter(self, x: Tensor) -> Tensor:
        """Return the tokens `[B, F, T, D]` of latents `[B, F, C, H, W]`."""
        dtype = self.patch_in.weight.dtype
        tokens: Tensor = self.patch_in(_patches(x, self.config.patch).to(dtype))
        return tokens.to(dtype)

    def condition(self, embedding: Tensor) -> tuple[Tensor, Tensor]:
        """Return sigma's embedding `[B, F, D]` from its sinusoid, and the blocks' modulation, fp32 `[B, F, 6, D]`."""
        time = self.time_in(embedding.to(self.head_modulation.dtype))
        return time, self.time_modulation(time).float().unflatten(-1, (6, -1))

    def leave(self, tokens: Tensor, time: Tensor, rows: int) -> Tensor:
        """Return the prediction of tokens `[B, F, T, D]` in so many rows, velocity or x0: `[B, F, C, H, W]`."""
        shift, scale = (self.head_modulation[:, None].float() + time.float()[:, :, None]).unbind(2)
        out: Tensor = self.head(modulate(layer_norm(tokens, self.config.eps), shift, scale, tokens))
        return _unpatched(out, rows, self.config.patch)

    def _velocity(self, output: Tensor, x: Tensor, sigma: Tensor) -> Tensor:
        """Return the velocity `[B, F, C, H, W]` of the last layer's output, which is it or x0."""
        if self.config.predicts == "velocity":
            return output
        return velocity_from_x0(x, output, sigma.clamp_min(LEAST_SIGMA))
