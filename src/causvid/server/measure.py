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
    """batch: chunks made at once. chunk: seconds for each of them. first: seconds from a prompt to its first frame.

    session: bytes of one session's state.
    """

    batch: int
    chunk: float
    first: float
    session: int

    def places(self, chunk_frames: int, fps: float, memory: int) -> int:
        """Return how many sessions play at their native rate at once, within `memory` bytes; at least one."""
        return max(1, min(int(SHARE * chunk_frames / fps / self.chunk), memory // max(1, self.session)))


def measure(pipeline: Pipeline, *, prompt: str, rewind_bytes: int, largest: int = BATCHES[-1]) -> Speed:
    """Make some chunks, which also warms everything up, and time them."""
    began = time.perf_counter()
    next(pipeline.stream(prompt))
    first = time.perf_counter() - began
    next(pipeline.stream(prompt))
    best: tuple[int, float] | None = None
    for batch in BATCHES:
        if batch > largest:
            break
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
    return Speed(batch=best[0], chunk=best[1], first=first, session=rewind_bytes)
