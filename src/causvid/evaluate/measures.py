"""What frames alone say about a video: flicker, motion, consistency, drift. No network is downloaded.

Names and definitions are those of VBench (arXiv:2311.17982) where it has them; where it uses a network for motion,
frames are blended or matched block by block here, so values compare only with values of the same measure.

Letters: T pixel frames, H W rows and columns, D features.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

BLOCK = 8
REACH = 4
"""Pixels that a block is looked for in each direction."""
ROWS = 64
"""Frames are matched at so many rows, so that motion is a share of the picture."""
FASTEST = 0.05
"""VBench calls a video dynamic by the mean of the fastest 5 % of its flow."""
Backbone = Callable[[Tensor], Tensor]
"""Frames, float [T, 3, H, W] in [0, 1] → features [T, D]."""


def temporal_flickering(video: Tensor) -> float:
    """Return 1 minus the mean absolute difference of successive frames, uint8 [T, H, W, 3]; 1 is no change at all."""
    steps = frame_steps(video)
    return 1.0 - float(steps.mean()) / 255.0 if len(steps) else 1.0


def motion_smoothness(video: Tensor) -> float:
    """Return 1 minus the error of every second frame interpolated from its neighbours, uint8 [T, H, W, 3].

    VBench interpolates by a network (AMT-S); here it is the mean of both neighbours.

    Raises:
        ValueError: fewer than three frames.
    """
    if len(video) < 3:
        raise ValueError(f"frames={len(video)}: expected 3 or more to interpolate one")
    x = video.float()
    odd = x[1 : len(x) - 1 : 2]
    between = (x[0 : 2 * len(odd) : 2] + x[2 : 2 * len(odd) + 1 : 2]) / 2
    return 1.0 - float((odd - between).abs().mean()) / 255.0


def optical_flow(video: Tensor) -> Tensor:
    """Match blocks of successive frames, uint8 [T, H, W, 3]: [T−1, rows, columns, 2], vertical first.

    Displacements are in pixels of a picture of `ROWS` rows. A block
    moves to where its mean absolute difference is least; it stays unless moving is better by a grey level.
    """
    size = (ROWS, max(round(video.shape[2] * ROWS / video.shape[1]), BLOCK))
    grey = F.interpolate(video.float().mean(-1)[:, None], size=size, mode="bilinear", antialias=True)
    padded = F.pad(grey, [REACH] * 4, mode="replicate")
    shifts = [(dy, dx) for dy in range(-REACH, REACH + 1) for dx in range(-REACH, REACH + 1)]
    costs = []
    for dy, dx in shifts:
        moved = padded[1:, :, REACH + dy : REACH + dy + size[0], REACH + dx : REACH + dx + size[1]]
        stay = 1.0 if (dy, dx) != (0, 0) else 0.0
        costs.append(F.avg_pool2d((moved - grey[:-1]).abs(), BLOCK)[:, 0] + stay)
    best = torch.stack(costs).argmin(0)
    return torch.tensor(shifts, dtype=torch.float32)[best]


def flow_speed(video: Tensor, *, fps: float) -> float:
    """Return the mean speed of the fastest 5 % of blocks, in picture heights a second."""
    fastest = _fastest(video)
    return float(fastest.mean()) * fps / ROWS if len(fastest) else 0.0


def is_dynamic(video: Tensor, *, fps: float, threshold: float) -> bool:
    """Tell whether a video moves: a quarter of its steps have a fastest 5 % above `threshold` heights a second."""
    fastest = _fastest(video) * fps / ROWS
    return int((fastest > threshold).sum()) >= max(round(len(fastest) / 4), 1)


def consistency(video: Tensor, backbone: Backbone) -> float:
    """Return how alike frames stay, uint8 [T, H, W, 3], by the features of a backbone.

    The mean of each frame's cosine similarity with the first and with the one before, negative ones counted as 0:
    VBench's subject consistency where the backbone is DINO, its background consistency where it is CLIP.
    """
    features = F.normalize(backbone(_unit(video)).float(), dim=-1)
    first = (features[1:] * features[:1]).sum(-1).clamp(min=0)
    before = (features[1:] * features[:-1]).sum(-1).clamp(min=0)
    return float(((first + before) / 2).mean()) if len(features) > 1 else 1.0


def colour_layout(frames: Tensor) -> Tensor:
    """Describe frames [T, 3, H, W] in [0, 1] by where colours are, on a grid of 8 × 8: a backbone without weights."""
    return F.adaptive_avg_pool2d(frames, 8).flatten(1) - 0.5


def border_flicker(video: Tensor, borders: Sequence[int]) -> float:
    """Return the mean step into the frames that begin a chunk, over the median of the other steps; 1 is no seam."""
    steps = frame_steps(video)
    at = torch.zeros(len(steps), dtype=torch.bool)
    at[[border - 1 for border in borders if 0 < border <= len(steps)]] = True
    if not at.any() or at.all():
        raise ValueError(f"borders={list(borders)}: expected some, and other frames, among {len(video)}")
    # An ordinary step is at least a tenth of a grey level, so that a still video has a finite ratio.
    return float(steps[at].mean()) / max(float(steps[~at].median()), 0.1)


def first_frame_fidelity(video: Tensor, image: Tensor) -> float:
    """Return the PSNR in dB of a video's first frame, uint8 [T, H, W, 3], against the image [H, W, 3] it began with."""
    error = float(((video[0].float() - image.float()) / 255).square().mean())
    return -10 * torch.tensor(max(error, 1e-10)).log10().item()


def drift(video: Tensor, *, edge: int, backbone: Backbone = colour_layout) -> dict[str, float]:
    """Compare the last `edge` frames with the first, uint8 [T, H, W, 3].

    Returns:
        colour (mean change of the channels' means, of 1), contrast and sharpness (last over first, less 1), features
        (1 minus the cosine similarity of the mean features).

    Raises:
        ValueError: the video is shorter than both ends.
    """
    if not 1 <= edge <= len(video) // 2:
        raise ValueError(f"edge={edge}: expected 1 to half of {len(video)} frames")
    first, last = _unit(video[:edge]), _unit(video[-edge:])
    a, b = (backbone(end).float().mean(0) for end in (first, last))
    return {
        "colour": float((last.mean((0, 2, 3)) - first.mean((0, 2, 3))).abs().mean()),
        "contrast": _change(first.std((-2, -1)), last.std((-2, -1))),
        "sharpness": _change(_edges(first), _edges(last)),
        "features": 1.0 - float(F.cosine_similarity(a, b, dim=0)),
    }


def sharpness(video: Tensor) -> float:
    """Return the mean absolute Laplacian of the grey frames of a video, uint8 [T, H, W, 3], of 1."""
    return float(_edges(_unit(video)).mean())


def frame_steps(video: Tensor) -> Tensor:
    """Return the mean absolute differences of successive frames, uint8 [T, H, W, 3], as grey levels of 255: [T−1]."""
    return torch.stack([(b.short() - a.short()).abs().float().mean() for a, b in pairwise(video)] or [torch.empty(0)])


def _fastest(video: Tensor) -> Tensor:
    """Return the mean displacement of the fastest blocks of each step: [T−1]."""
    speed = optical_flow(video).norm(dim=-1).flatten(1)
    fastest: Tensor = speed.topk(max(round(speed.shape[1] * FASTEST), 1)).values
    return fastest.mean(1)


def _unit(video: Tensor) -> Tensor:
    return video.movedim(-1, 1) / 255.0


def _edges(frames: Tensor) -> Tensor:
    """Return the mean absolute Laplacian of each frame, [T, 3, H, W] → [T]."""
    kernel = torch.tensor([[0.0, 1, 0], [1, -4, 1], [0, 1, 0]])[None, None]
    return F.conv2d(frames.mean(1, keepdim=True), kernel).abs().mean((1, 2, 3))


def _change(first: Tensor, last: Tensor) -> float:
    return float(last.mean() / first.mean().clamp(min=1e-6)) - 1.0
