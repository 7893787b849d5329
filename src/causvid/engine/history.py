"""The clean latents behind a stream's cache, and how the cache is recomputed from them.

Letters: B batch, H visible latent frames, C h w a latent frame.

Keys and values depend on the prompt they were computed under and on all that came before them; clean latents depend on
nothing. A cache rebuilt from latents therefore follows a new prompt (LongLive's recache, 2509.22622), and one rebuilt
before every chunk forgets what drifted out of the window (Krea's recompute).
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor

from causvid.engine.rollout import commit_chunk
from causvid.models.transformer import TextKeys, Transformer
from causvid.nn.cache import KVCache


@dataclass(frozen=True)
class History:
    """What a stream can see of what it generated: all frames while `window + sink` hold them, then first and last ones.

    latents: `[B, H, C, h, w]`. frames: how many were generated in all. first, chunk: how they were grouped.
    """

    latents: Tensor
    frames: int
    window: int
    sink: int
    first: int
    chunk: int

    def append(self, latents: Tensor) -> "History":
        """Return the history with a newer chunk `[B, c, C, h, w]`."""
        every = torch.cat((self.latents, latents), dim=1)
        if every.shape[1] > self.window + self.sink:
            every = torch.cat((every[:, : self.sink], every[:, every.shape[1] - self.window :]), dim=1)
        return replace(self, latents=every, frames=self.frames + latents.shape[1])

    def without_sink(self, recent: int) -> "History":
        """Return the history of the latest `recent` frames of the window alone, whose oldest become the sink."""
        recent = min(recent, self.window)
        latents = self.latents[:, max(0, self.latents.shape[1] - recent) :]
        lost = self.frames - latents.shape[1]
        first = self.first - lost if lost < self.first else self.chunk - (lost - self.first) % self.chunk
        return replace(self, latents=latents, frames=latents.shape[1], first=first)

    def evicted(self, recent: int) -> "History":
        """Return the history of the sink and the latest `recent` frames of the window."""
        start = max(self.sink, self.latents.shape[1] - recent)
        return replace(self, latents=torch.cat((self.latents[:, : self.sink], self.latents[:, start:]), dim=1))

    def parts(self) -> Iterator[tuple[int, Tensor]]:
        """Yield position and latents of every visible chunk, or piece of one."""
        visible = self.latents.shape[1]
        lost = self.frames - visible
        places = [index if index < self.sink else index + lost for index in range(visible)]
        bounds = {*range(self.first, self.frames, self.chunk), *([self.sink + lost] if lost else [])}
        starts = [index for index, place in enumerate(places) if index == 0 or place in bounds]
        for start, stop in pairwise((*starts, visible)):
            yield places[start], self.latents[:, start:stop]


@torch.no_grad()
def prefill(model: Transformer, text: TextKeys, cache: KVCache, history: History) -> None:
    """Fill `cache` with the history as `text` sees it: one clean pass for each visible chunk."""
    cache.clear()
    for position, latents in history.parts():
        if position != cache.frames:
            cache.jump(position)
        commit_chunk(model, latents, text, cache)
    if cache.frames != history.frames:  # only the sink is visible
        cache.jump(history.frames)
