"""Prompt-switch latency: how long a stream takes to show a new prompt, on any model; and until a classifier reads it.

Letters: T pixel frames, H W rows and columns, D features.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor

from causvid.evaluate.classifier import MIN_FRAMES, AttributeClassifier
from causvid.evaluate.measures import Backbone, colour_layout
from causvid.pipeline import Pipeline


@dataclass(frozen=True)
class Switch:
    """A changed prompt.

    share: of the new prompt in each frame since, [T]; seconds: the latency, None for never; video: those frames, after
    as many before them as a classifier reads at once, less one.
    """

    share: Tensor
    seconds: float | None
    video: Tensor


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
    earlier = torch.cat([(next(stream), next(fresh))[0] for _ in range(before)])[1 - MIN_FRAMES :]
    changed = stream.fork()
    changed.set_prompt(then, mode)
    old, new, seen = (torch.cat(list(islice(one, after))) for one in (stream, fresh, changed))
    share = new_share(seen, old, new, backbone)
    return Switch(share, _latency(share, pipeline.fps), torch.cat((earlier, seen)))


def new_share(seen: Tensor, old: Tensor, new: Tensor, backbone: Backbone = colour_layout) -> Tensor:
    """Return how far each frame has come from the old video to the new, all uint8 `[T, H, W, 3]`: `[T]`.

    Features are projected on the line from the old video's mean to the new one's: 0 is the one, 1 the other.
    """
    points, a, b = (backbone(video.movedim(-1, 1) / 255.0).float() for video in (seen, old, new))
    line = b.mean(0) - a.mean(0)
    share: Tensor = (points - a.mean(0)) @ line / line.square().sum().clamp(min=1e-12)
    return share


@torch.no_grad()
def read_switch(
    classifier: AttributeClassifier,
    switch: Switch,
    first: Mapping[str, str | None],
    then: Mapping[str, str | None],
    *,
    fps: float,
) -> Switch | None:
    """Let a classifier read a changed prompt: the same switch with its share and latency, None if no label changed.

    The share of a frame is the probability of the new word, of the new and the old one, that is read off the last
    frames up to it, on average over the attributes that the two prompts' labels tell apart.
    """
    changed = {name: (old, then[name]) for name, old in first.items() if None not in (old, then.get(name))}
    pairs = {
        name: torch.tensor([classifier.vocabularies[name].index(word) for word in words if word is not None])
        for name, words in changed.items()
        if words[0] != words[1] and name in classifier.vocabularies
    }
    if not pairs:
        return None
    count = len(switch.share)
    video = switch.video.movedim(-1, 1) / 255.0
    missing = max(count + MIN_FRAMES - 1 - len(video), 0)
    video = torch.cat((video[:1].expand(missing, -1, -1, -1), video))
    windows = torch.stack([video[at : at + MIN_FRAMES] for at in range(count)])
    logits = classifier(windows)
    shares = [logits[name][:, pair].softmax(-1)[:, 1] for name, pair in pairs.items()]
    share = torch.stack(shares).mean(0)
    return Switch(share, _latency(share, fps), switch.video)


def _latency(share: Tensor, fps: float) -> float | None:
    """Return the seconds until the share stays at a half or more."""
    behind = (share < 0.5).nonzero()
    at = int(behind[-1]) + 1 if len(behind) else 0
    return None if at == len(share) else at / fps
