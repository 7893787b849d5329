"""What a user asks for, checked and turned into what a model needs: frames, levels, memory, sizes."""

import math
from collections.abc import Sequence

from causvid.config import GenerationConfig
from causvid.flow import check_few_steps, schedule, spread_steps, warped_steps
from causvid.models.autoencoder import TIME_FACTOR


def pixel_length(own: GenerationConfig, seconds: float) -> int:
    """Turn seconds into pixel frames; `ValueError` beyond the model's longest video."""
    if not (math.isfinite(seconds) and 0 < seconds <= own.max_seconds):
        raise ValueError(f"seconds={seconds:g} is not above 0 and at most {own.max_seconds:g}")
    return max(1, round(seconds * own.fps))


def memory(own: GenerationConfig, window: int | None, sink: int | None) -> dict[str, int]:
    """Return how many past latent frames are seen, as `window` and `sink`; the model's own where None."""
    kept = {"window": own.window if window is None else window, "sink": own.sink if sink is None else sink}
    most = math.ceil(own.max_seconds * own.fps / TIME_FACTOR)
    for name, value in kept.items():
        if not 0 <= value <= most:
            raise ValueError(f"{name}={value} is not from 0 to {most} latent frames")
    return kept


def latent_size(own: GenerationConfig, height: int | None, width: int | None, *, factor: int, patch: int) -> list[int]:
    """Turn a size in pixels into rows and columns of a latent frame; the model's own where None.

    Raises:
        ValueError: unless both sides are whole patches, and from half to twice what the model was made for.
    """
    unit = factor * patch
    sides = []
    for name, asked, native in (("height", height, own.height), ("width", width, own.width)):
        side = native if asked is None else asked
        low, high = -(-native // (2 * unit)) * unit, 2 * native // unit * unit
        if side % unit or not low <= side <= high:
            raise ValueError(f"{name}={side} is not a multiple of {unit} from {low} to {high} (made for {native})")
        sides.append(side // factor)
    return sides


def own_sigmas(own: GenerationConfig) -> tuple[float, ...]:
    """Return the student's own few noise levels."""
    return warped_steps(own.timesteps, own.shift)


def student_sigmas(own: GenerationConfig, steps: int | None, sigmas: Sequence[float] | None) -> tuple[float, ...]:
    """Return the student's levels: those given, or so many steps. Fewer than its own are chosen from them."""
    levels = own_sigmas(own)
    if sigmas is not None:
        if steps is not None:
            raise ValueError("give steps or sigmas, not both")
        check_few_steps(tuple(sigmas))
        return tuple(sigmas)
    if steps is None or steps == len(levels):
        return levels
    _check_steps(own, steps)
    if steps < len(levels):
        return tuple(levels[index * len(levels) // steps] for index in range(steps))
    return spread_steps(steps, own.shift)


def teacher_sigmas(own: GenerationConfig, steps: int | None) -> list[float]:
    """Return the teacher's schedule, from 1 to 0."""
    if steps is not None:
        _check_steps(own, steps)
    return schedule(own.teacher_steps if steps is None else steps, own.shift).tolist()


def _check_steps(own: GenerationConfig, steps: int) -> None:
    most = max(100, own.teacher_steps)
    if not 1 <= steps <= most:
        raise ValueError(f"steps={steps} is not from 1 to {most}")
