"""How fast a model makes one video at a time, decoder included."""

import statistics
import time

from causvid.config import Settings
from causvid.evaluate.videos import Maker, make_batch
from causvid.pipeline import Pipeline


class Speed(Settings):
    """How fast one clip is made, after a warm-up; medians over repeats."""

    clip_seconds: float
    """Wall time to make the clip."""
    first_frame_seconds: float
    """Wall time until the first frames can be shown."""
    frames: int
    """Pixel frames in the clip."""

    @property
    def fps(self) -> float:
        """Pixel frames made a second of wall time."""
        return self.frames / self.clip_seconds


def measure_speed(
    pipeline: Pipeline, prompt: str, *, maker: Maker, seconds: float, seed: int, repeats: int = 3
) -> Speed:
    """Time single clips after one that is not counted; the student streams, the teacher cannot."""
    if repeats < 1:
        raise ValueError(f"repeats={repeats}: expected 1 or more")
    totals: list[float] = []
    firsts: list[float] = []
    frames = 0
    for number in range(seed, seed + repeats + 1):
        first, frames, start = 0.0, 0, time.perf_counter()
        if maker == "student":
            for part in pipeline.stream(prompt, seconds=seconds, seed=number):
                first = first or time.perf_counter() - start
                frames += part.shape[0]
        else:
            frames = make_batch(pipeline, maker, [prompt], [number], seconds=seconds).shape[1]
        totals.append(time.perf_counter() - start)
        firsts.append(first or totals[-1])
    return Speed(
        clip_seconds=statistics.median(totals[1:]),
        first_frame_seconds=statistics.median(firsts[1:]),
        frames=frames,
    )
