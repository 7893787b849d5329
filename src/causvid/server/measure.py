"""What this machine can do with this model, measured once at the start: it decides batches and admission."""

import time
from dataclasses import dataclass

from causvid.pipeline import Pipeline
from causvid.stream import advance

BATCHES = (1, 2, 4, 8)
GAIN = 1.1
"""A larger batch must be faster by this factor, a chunk; otherwise it only makes others wait."""
SHARE = 0.8
"""Of the measured speed that is promised; the rest is for encoding, for changes of prompt, and for noise."""


@dataclass(frozen=True)
class Speed:
    """batch: chunks made at once. chunk: seconds for each of them."""

    batch: int
    chunk: float

    def places(self, pipeline: Pipeline, *, memory: int, session: int) -> int:
        """Return how many sessions, of `session` bytes each, play at their native rate at once within `memory`."""
        by_speed = int(SHARE * pipeline.chunk_frames / pipeline.fps / self.chunk)
        return max(1, min(by_speed, memory // session))


def measure(pipeline: Pipeline, *, prompt: str) -> Speed:
    """Make some chunks, which also warms everything up, and time them."""
    next(pipeline.stream(prompt))
    next(pipeline.stream(prompt))
    best: tuple[int, float] | None = None
    for batch in BATCHES:
        streams = [pipeline.stream(prompt, seed=seed) for seed in range(batch)]
        times = []
        for _ in range(4):
            began = time.perf_counter()
            advance(streams)
            times.append((time.perf_counter() - began) / batch)
        chunk = sorted(times[1:])[1]
        if best is not None and best[1] <= GAIN * chunk:
            break
        best = batch, chunk
    assert best is not None
    return Speed(*best)
