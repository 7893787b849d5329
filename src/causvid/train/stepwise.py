"""The backward pass of a rollout, a chunk after the other.

A chunk reaches the weights by its own pass alone, since the history it sees is detached. Differentiated together, all
chunks' gradients of a block would have to wait for the first chunk's, whole, in every process; one at a time they are
summed and sharded at once, and what a chunk kept is freed before the next.
"""

from collections.abc import Iterable

import torch
from torch import Tensor

from causvid.models.transformer import TextKeys


class Stepwise:
    """Cuts the graph of a rollout at its text and its chunks; `finish` goes on where the loss's backward pass ended."""

    def __init__(self) -> None:
        self._text: list[tuple[Tensor, Tensor]] = []
        self._chunks: list[tuple[Tensor, Tensor]] = []

    def text(self, keys: TextKeys) -> TextKeys:
        """Return a prompt's keys, cut off from what they are computed by."""
        return TextKeys(*(tuple(self._cut(one, self._text) for one in part) for part in (keys.keys, keys.values)))

    def join(self, chunks: Iterable[Tensor]) -> Tensor:
        """Return chunks `[B, c, C, H, W]` as a clip, each cut off from the pass that made it."""
        return torch.cat([self._cut(chunk, self._chunks) for chunk in chunks], dim=1)

    def finish(self) -> None:
        """Differentiate the chunks, the last one first, and then the text."""
        while self._chunks:
            _continue([self._chunks.pop()])
        if self._text:
            _continue(self._text)
        self._text.clear()

    @staticmethod
    def _cut(tensor: Tensor, kept: list[tuple[Tensor, Tensor]]) -> Tensor:
        if not tensor.requires_grad:
            return tensor
        leaf = tensor.detach().requires_grad_()
        kept.append((tensor, leaf))
        return leaf


def _continue(pairs: list[tuple[Tensor, Tensor]]) -> None:
    reached = [(made, leaf.grad) for made, leaf in pairs if leaf.grad is not None]
    torch.autograd.backward([made for made, _ in reached], [grad for _, grad in reached])
