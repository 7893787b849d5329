"""Sequence parallelism: neighbouring processes share every clip, each with its part of every frame's tokens (Ulysses).

All but self-attention treats tokens one by one. Around it, processes exchange tokens for heads: each then has all
tokens of its share of the heads, and what an attention pattern or a cache does with them stays as it is. The
transformer is the same; its entry, exit and blocks are wrapped.

What a process computes from its tokens reaches the weights as the gradient of all processes' loss, so averaging over
processes, as for clips of their own, gives the gradient of a whole clip.

Source: DeepSpeed Ulysses (2309.14509).

Letters: P processes that share a clip, B batch, F latent frames, T tokens of a frame, t = T / P, D width, N heads,
n = N / P, K head dim.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor
from torch import distributed as dist

from causvid.models.block import Block, see
from causvid.models.transformer import Transformer
from causvid.nn.cache import KVCache
from causvid.nn.rope import Rotation
from causvid.nn.visibility import Span
from causvid.train.distributed import Ranks


@dataclass(frozen=True)
class Part:
    """A process's part of every clip: which of how many, and how it exchanges with the others.

    exchange: sends the n-th of P slices of a tensor to the n-th process, and returns what those have sent. gather:
    returns the tokens of all, `[B, F, t, D] -> [B, F, T, D]`.
    """

    index: int
    count: int
    exchange: Callable[[Tensor], Tensor]
    gather: Callable[[Tensor], Tensor]

    def of(self, x: Tensor) -> Tensor:
        """Return this process's tokens: `[B, F, T, D] -> [B, F, t, D]`.

        Raises:
            ValueError: unless all processes get as many.
        """
        self.check(x.shape[2], "tokens of a frame")
        return x.tensor_split(self.count, dim=2)[self.index]

    def check(self, number: int, what: str) -> None:
        """Raise `ValueError` unless so many heads or tokens can be shared out evenly."""
        if number % self.count:
            raise ValueError(f"sequence_parallel={self.count} does not divide the {number} {what}")

    def to_heads(self, x: Tensor, frames: int) -> Tensor:
        """Exchange tokens for heads: `[B, F t, N, K] -> [B, F T, n, K]`."""
        parts = x.unflatten(2, (self.count, -1)).unflatten(1, (frames, -1))  # B F t P n K
        taken = self.exchange(parts.permute(3, 0, 1, 2, 4, 5))  # P B F t n K
        return taken.permute(1, 2, 0, 3, 4, 5).flatten(1, 3)

    def to_tokens(self, x: Tensor, frames: int) -> Tensor:
        """Exchange heads for tokens: `[B, F T, n, K] -> [B, F t, N, K]`."""
        parts = x.unflatten(1, (frames, self.count, -1))  # B F P t n K
        taken = self.exchange(parts.permute(2, 0, 1, 3, 4, 5))  # P B F t n K
        return taken.permute(1, 2, 3, 0, 4, 5).flatten(3, 4).flatten(1, 2)


def part_of(ranks: Ranks, *, sharded: bool = True) -> Part | None:
    """Join the neighbours that share this process's clips; None where every process has clips of its own.

    Raises:
        ValueError: if they would share them and what is trained is not `sharded`, as a LoRA.
    """
    if ranks.together == 1:
        return None
    if not sharded:
        raise ValueError(f"sequence_parallel={ranks.together} does not go with lora, which is not sharded")
    groups = [range(first, first + ranks.together) for first in range(0, ranks.size, ranks.together)]
    group, _ = dist.new_subgroups_by_enumeration([list(group) for group in groups])
    index = ranks.rank % ranks.together
    return Part(
        index,
        ranks.together,
        exchange=lambda x: _Exchange.apply(x, group),  # type: ignore[no-untyped-call]
        gather=lambda x: _Gather.apply(x, index, ranks.together, group),  # type: ignore[no-untyped-call]
    )


def split_tokens(model: Transformer, part: Part | None, *, tokens: int) -> None:
    """Let a transformer compute a process's part of the `tokens` of every frame; its inputs and outputs are whole.

    Raises:
        ValueError: unless heads and tokens can be shared out evenly.
    """
    if part is None:
        return
    part.check(model.config.heads, "heads of the transformer")
    part.check(tokens, "tokens of a frame")
    enter, leave = model.enter, model.leave
    replaced: dict[str, Any] = {
        "enter": lambda x: part.of(enter(x)),
        "leave": lambda tokens, time, rows: leave(part.gather(tokens), time, rows),
        "new_cache": partial(_new_cache, model, part),
    }
    vars(model).update(replaced)
    for block in cast(Iterable[Block], model.blocks):
        block.forward = partial(_pass_block, block, part)  # type: ignore[method-assign]


def _pass_block(
    block: Block,
    part: Part,
    x: Tensor,
    modulation: Tensor,
    text_keys: Tensor,
    text_values: Tensor,
    at: Rotation,
    *room: Tensor,
    spans: tuple[Span, ...] = (),
) -> Tensor:
    """Do what a block does, to the tokens `[B, F, t, D]` of a process; cache and attention have all tokens."""
    _, frames, tokens, _ = x.shape
    six = block.levels(modulation)
    own = Rotation(*(part.of(angles.unflatten(1, (frames, -1))).flatten(1, 2) for angles in at))
    q, k, v = (part.to_heads(each, frames) for each in block.look(x, six, own))
    heads = see(q, k, v, *room, spans=spans, tokens=tokens * part.count)
    return block.complete(x, six, part.to_tokens(heads, frames), text_keys, text_values)


def _new_cache(
    model: Transformer, part: Part, *, batch: int, height: int, width: int, window: int, sink: int, chunk: int = 0
) -> KVCache:
    """Make a cache of a process's heads, as `Transformer.new_cache` makes one of all."""
    whole = Transformer.new_cache(model, batch=0, height=height, width=width, window=window, sink=sink, chunk=chunk)
    return KVCache.allocate(
        depth=len(model.blocks),
        batch=batch,
        tokens_per_frame=whole.tokens_per_frame,
        heads=model.config.heads // part.count,
        head_dim=model.config.head_dim,
        window=window,
        sink=sink,
        chunk=chunk,
        device=whole.keys.device,
        dtype=whole.keys.dtype,
    )


class _Exchange(torch.autograd.Function):
    """Send a slice of the first dimension to every process; so do the gradients, on their way back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: dist.ProcessGroup) -> Tensor:
        """Return the slices that the processes have sent."""
        ctx.group = group
        taken = torch.empty_like(x, memory_format=torch.contiguous_format)
        dist.all_to_all_single(taken, x.contiguous(), group=group)
        return taken

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        """Return the gradients of what this process has sent."""
        return _Exchange.apply(grads[0], ctx.group), None  # type: ignore[no-untyped-call]


class _Gather(torch.autograd.Function):
    """Gather tokens. All processes go on with the same, so that their gradients, summed, are this one's times P."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, index: int, count: int, group: dist.ProcessGroup) -> Tensor:
        """Return the tokens of all processes."""
        ctx.index, ctx.count = index, count
        parts = [torch.empty_like(x, memory_format=torch.contiguous_format) for _ in range(count)]
        dist.all_gather(parts, x.contiguous(), group=group)
        return torch.cat(parts, dim=2)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        """Return the gradient of this process's tokens."""
        return grads[0].tensor_split(ctx.count, dim=2)[ctx.index] * ctx.count, None, None, None
