"""Prompt-switch latency: how long a stream takes to show a new prompt. Works on any model, without a classifier.

Letters: T pixel frames, H W rows and columns, D features.
"""

from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor

from causvid.evaluate.measures import Backbone, colour_layout
from causvid.pipeline import Pipeline


@dataclass(frozen=True)
class Switch:
    """A changed prompt. share: of the new prompt in each frame since; seconds: the latency, None for never."""

    share: Tensor
    seconds: float | None


def switch_latency(
    pipeline: Pipeline,
    first: str,
    then: str,
    *,
    mode: str = "recache",
    before: int = 3,
    after: int = 4,
    seed: int = 0,
    backbone: Backbone = colour_layout,
) -> Switch:
    """Change the prompt of a stream after `before` chunks and watch `after` more.

    The changed stream is compared with the one that was not changed, and with a new stream of the new prompt: see
    `new_share`. The latency ends with the first frame from which on the share of the new prompt is at least a half.

    Raises:
        ValueError: if a prompt or the mode cannot be used.
    """
    stream, fresh = pipeline.stream(first, seed=seed), pipeline.stream(then, seed=seed)
    for _ in range(before):
        next(stream), next(fresh)
    changed = stream.fork()
    changed.set_prompt(then, mode)
    old, new, seen = (torch.cat(list(islice(one, after))) for one in (stream, fresh, changed))
    share = new_share(seen, old, new, backbone)
    behind = (share < 0.5).nonzero()
    at = int(behind[-1]) + 1 if len(behind) else 0
    return Switch(share, None if at == len(share) else at / pipeline.fps)


def new_share(seen: Tensor, old: Tensor, new: Tensor, backbone: Backbone = colour_layout) -> Tensor:
    """Return how far each frame has come from the old video to the new, all uint8 `[T, H, W, 3]`: `[T]`.

    Features are projected on the line from the old video's mean to the new one's: 0 is the one, 1 the other.
    """
    points, a, b = (backbone(video.movedim(-1, 1) / 255.0).float() for video in (seen, old, new))
    line = b.mean(0) - a.mean(0)
    share: Tensor = (points - a.mean(0)) @ line / line.square().sum().clamp(min=1e-12)
    return share
