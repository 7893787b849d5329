"""How large the step between two frames is, such as at the border of a chunk, beside a video's ordinary steps.

Letters: T pixel frames, H W rows and columns.
"""

import torch
from torch import Tensor

_STILL = 0.1
"""An ordinary step is at least so many grey levels of 255, so that a still video has a finite seam."""


def seam(video: Tensor, at: int, stop: int | None = None) -> float:
    """Return the mean absolute step into frame `at` of a video, uint8 [T, H, W, 3], over its ordinary step.

    With `stop`, the largest of the steps into the frames [at, stop).
    """
    steps = frame_steps(video[1:], video[:-1])
    return float(steps[at - 1 : (stop or at + 1) - 1].max()) / ordinary_step(video, at, stop)


def ordinary_step(video: Tensor, at: int, stop: int | None = None) -> float:
    """Return the median mean absolute step of a video, uint8 [T, H, W, 3], without those into frames [at, stop)."""
    steps = frame_steps(video[1:], video[:-1])
    return max(float(torch.cat((steps[: at - 1], steps[(stop or at + 1) - 1 :])).median()), _STILL)


def frame_steps(a: Tensor, b: Tensor) -> Tensor:
    """Return the mean absolute differences of frames, uint8 [T, H, W, 3], as grey levels of 255: [T]."""
    return (a.short() - b.short()).abs().float().mean((1, 2, 3))
