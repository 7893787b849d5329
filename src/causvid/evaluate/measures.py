"""What frames alone say about a video: flicker, motion, consistency, drift. No network is downloaded.

Names and definitions are those of VBench (arXiv:2311.17982) where it has them; where it uses a network for motion,
frames are blended or matched block by block here, so values compare only with values of the same measure. The others
are made to notice one fault each and no other: docs/damage.md shows how far they do.

Letters: T pixel frames, H W rows and columns, D features.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

BLOCK = 8
REACH = 6
"""Pixels that a block is looked for in each direction."""
SHIFTS = sorted(
    ((dy, dx) for dy in range(-REACH, REACH + 1) for dx in range(-REACH, REACH + 1)),
    key=lambda d: d[0] ** 2 + d[1] ** 2,
)
"""The smallest first: of two that fit alike, it is the motion."""
ROWS = 64
"""Frames are matched at so many rows, so that motion is a share of the picture."""
FASTEST = 0.05
"""VBench calls a video dynamic by the mean of the fastest 5 % of its flow."""
CONTRAST = 50.0
"""Grey levels of standard deviation that frames are brought to before they are matched."""
NEAR = 4
"""Steps on either side of a border that it is compared with."""
GRID = 8
ORIENTATIONS = 8
Backbone = Callable[[Tensor], Tensor]
"""Frames, float [T, 3, H, W] in [0, 1] → features [T, D]."""


def temporal_flickering(video: Tensor) -> float:
    """Return 1 minus the mean absolute difference of successive frames, uint8 [T, H, W, 3]; 1 is no change at all."""
    steps = frame_steps(video)
    return 1.0 - float(steps.mean()) / 255.0 if len(steps) else 1.0


def flicker(video: Tensor) -> float:
    """Return how much brightness alternates from frame to frame, uint8 [T, H, W, 3], of 1; 0 is not at all.

    The median over frames of how far the brightness of a part of the picture is from the mean of its neighbours in
    time: unlike `temporal_flickering`, it is blind to motion, which is smooth at this size, and to a cut.

    Raises:
        ValueError: fewer than three frames.
    """
    _check_frames(video)
    x = F.adaptive_avg_pool2d(_unit(video).mean(1, keepdim=True), GRID)
    return float((x[1:-1] - (x[:-2] + x[2:]) / 2).abs().mean((1, 2, 3)).median())


def motion_smoothness(video: Tensor) -> float:
    """Return 1 minus the error of every second frame interpolated from its neighbours, uint8 [T, H, W, 3].

    VBench interpolates by a network (AMT-S); here each place is the mean of what moves through it, from the neighbour
    before to the one after, by the displacement under which both are most alike. At `ROWS` rows.

    Raises:
        ValueError: fewer than three frames.
    """
    _check_frames(video)
    x = F.interpolate(video.movedim(-1, 1).float(), size=_matched(video), mode="bilinear", antialias=True)
    H, W = x.shape[-2:]
    odd = x[1 : len(x) - 1 : 2]
    before, after = x[0 : 2 * len(odd) : 2], x[2 : 2 * len(odd) + 1 : 2]
    early, late = (F.pad(one.mean(1, keepdim=True), [REACH] * 4, mode="replicate") for one in (before, after))
    costs = []
    for dy, dx in SHIFTS:
        here = early[..., REACH - dy : REACH - dy + H, REACH - dx : REACH - dx + W]
        there = late[..., REACH + dy : REACH + dy + H, REACH + dx : REACH + dx + W]
        costs.append(F.avg_pool2d((here - there).abs(), BLOCK, ceil_mode=True)[:, 0])
    moved = torch.tensor(SHIFTS, dtype=torch.float32)[torch.stack(costs).argmin(0)]
    moved = moved.repeat_interleave(BLOCK, 1).repeat_interleave(BLOCK, 2)[:, :H, :W]
    place = torch.stack(torch.meshgrid(torch.arange(H), torch.arange(W), indexing="ij"), -1)
    size = torch.tensor([H, W])
    between = torch.zeros_like(odd)
    for one, side in ((before, -1), (after, 1)):
        grid = (2 * (place + side * moved) + 1) / size - 1
        between += F.grid_sample(one, grid.flip(-1), padding_mode="border", align_corners=False) / 2
    return 1.0 - float((odd - between).abs().mean()) / 255.0


def optical_flow(video: Tensor) -> Tensor:
    """Match blocks of successive frames, uint8 [T, H, W, 3]: [T−1, rows, columns, 2], vertical first.

    Displacements are in pixels of a picture of `ROWS` rows. Frames are first brought to one brightness and contrast:
    what flickers or fades does not move. A block moves to where its mean absolute difference is least; it stays unless
    moving is better by a grey level.
    """
    size = _matched(video)
    grey = F.interpolate(video.float().mean(-1)[:, None], size=size, mode="bilinear", antialias=True)
    spread = grey.std((-2, -1), keepdim=True).clamp(min=1.0)
    grey = (grey - grey.mean((-2, -1), keepdim=True)) / spread * CONTRAST
    padded = F.pad(grey, [REACH] * 4, mode="replicate")
    costs = []
    for dy, dx in SHIFTS:
        moved = padded[1:, :, REACH + dy : REACH + dy + size[0], REACH + dx : REACH + dx + size[1]]
        stay = 1.0 if (dy, dx) != (0, 0) else 0.0
        costs.append(F.avg_pool2d((moved - grey[:-1]).abs(), BLOCK)[:, 0] + stay)
    best = torch.stack(costs).argmin(0)
    return torch.tensor(SHIFTS, dtype=torch.float32)[best]


def motion(video: Tensor, *, fps: float) -> Tensor:
    """Return the mean speed of the fastest 5 % of blocks at each step, in picture heights a second: [T−1]."""
    speed = optical_flow(video).norm(dim=-1).flatten(1)
    fastest: Tensor = speed.topk(max(round(speed.shape[1] * FASTEST), 1)).values.mean(1) * (fps / ROWS)
    return fastest


def is_dynamic(speeds: Tensor, *, threshold: float) -> bool:
    """Tell whether a video moves, from its `motion` [T−1]: a quarter of its steps are faster than the threshold."""
    return int((speeds > threshold).sum()) >= max(round(len(speeds) / 4), 1)


def colour_layout(frames: Tensor) -> Tensor:
    """Describe frames [T, 3, H, W] in [0, 1] by where colours are, on a grid of 8 × 8: a backbone without weights."""
    return F.adaptive_avg_pool2d(frames, GRID).flatten(1) - 0.5


def outline_layout(frames: Tensor) -> Tensor:
    """Describe frames [T, 3, H, W] in [0, 1] by their outlines: a backbone without weights, blind to colour and light.

    Histograms of the gradient's orientation on a grid of 8 × 8, as in HOG (Dalal and Triggs, 2005), weighed by its
    energy, so that plain outlines count most; their direction as a vector does not change with brightness or contrast.
    """
    grey = frames.mean(1)
    across = grey[:, 1:-1, 2:] - grey[:, 1:-1, :-2]
    down = grey[:, 2:, 1:-1] - grey[:, :-2, 1:-1]
    # Twice the angle: a light edge on dark and a dark one on light run the same way.
    angle, energy = 2 * torch.atan2(down, across), across.square() + down.square()
    bins = torch.arange(ORIENTATIONS, device=frames.device) * (2 * torch.pi / ORIENTATIONS)
    near = torch.cos(angle[:, None] - bins[:, None, None]).clamp(min=0) ** 3
    return F.adaptive_avg_pool2d(near * energy[:, None], GRID).flatten(1)


def consistency(video: Tensor, backbone: Backbone = outline_layout) -> float:
    """Return how alike frames stay, uint8 [T, H, W, 3], by the features of a backbone.

    The mean of each frame's cosine similarity with the first and with the one before, negative ones counted as 0:
    VBench's subject consistency where the backbone is DINO, its background consistency where it is CLIP.
    """
    features = F.normalize(backbone(_unit(video)).float(), dim=-1)
    first = (features[1:] * features[:1]).sum(-1).clamp(min=0)
    before = (features[1:] * features[:-1]).sum(-1).clamp(min=0)
    return float(((first + before) / 2).mean()) if len(features) > 1 else 1.0


def border_flicker(video: Tensor, borders: Sequence[int]) -> float:
    """Return the mean step into the frames that begin a chunk, each over the median of its neighbours; 1 is no seam.

    Raises:
        ValueError: no border is within the video, or a step has no neighbour that is none.
    """
    steps = frame_steps(video)
    at = torch.zeros(len(steps), dtype=torch.bool)
    at[[border - 1 for border in borders if 0 < border <= len(steps)]] = True
    if not at.any() or at.all():
        raise ValueError(f"borders={list(borders)}: expected some, and other frames, among {len(video)}")
    found = []
    for border in at.nonzero().flatten().tolist():
        # Neighbours, since a video's steps may grow or shrink over time.
        near = slice(max(border - NEAR, 0), border + NEAR + 1)
        others = steps[near][~at[near]] if not at[near].all() else steps[~at]
        # An ordinary step is at least a tenth of a grey level, so that a still video has a finite ratio.
        found.append(float(steps[border]) / max(float(others.median()), 0.1))
    return sum(found) / len(found)


def first_frame_fidelity(video: Tensor, image: Tensor) -> float:
    """Return the PSNR in dB of a video's first frame, uint8 [T, H, W, 3], against the image [H, W, 3] it began with."""
    error = float(((video[0].float() - image.float()) / 255).square().mean())
    return -10 * torch.tensor(max(error, 1e-10)).log10().item()


def drift(video: Tensor, *, edge: int, backbone: Backbone = outline_layout) -> dict[str, float]:
    """Compare the last `edge` frames with the first, uint8 [T, H, W, 3].

    Colour and contrast are of an 8 × 8 grid of parts: blur leaves them as they are.

    Returns:
        colour (median over the parts of the change of their mean colour, of 1: a subject, which is in a few parts,
        hardly counts), contrast (deviation between the parts) and sharpness, both last over first, less 1, features (1
        minus the cosine similarity of each first frame with the last frame most like it, on average).

    Raises:
        ValueError: the video is shorter than both ends.
    """
    if not 1 <= edge <= len(video) // 2:
        raise ValueError(f"edge={edge}: expected 1 to half of {len(video)} frames")
    first, last = _unit(video[:edge]), _unit(video[-edge:])
    parts, changed = (F.adaptive_avg_pool2d(end, GRID) for end in (first, last))
    a, b = (F.normalize(backbone(end).float(), dim=-1) for end in (first, last))
    return {
        "colour": float((changed.mean(0) - parts.mean(0)).abs().mean(0).median()),
        "contrast": _change(parts.std((-2, -1)), changed.std((-2, -1))),
        "sharpness": _change(_edges(first), _edges(last)),
        "features": 1.0 - float((a @ b.T).amax(1).mean()),
    }


def sharpness(video: Tensor) -> float:
    """Return the mean absolute Laplacian of the grey frames of a video, uint8 [T, H, W, 3], over their contrast."""
    return float(_edges(_unit(video)).mean())


def frame_steps(video: Tensor) -> Tensor:
    """Return the mean absolute differences of successive frames, uint8 [T, H, W, 3], as grey levels of 255: [T−1]."""
    return torch.stack([(b.short() - a.short()).abs().float().mean() for a, b in pairwise(video)] or [torch.empty(0)])


def _check_frames(video: Tensor) -> None:
    if len(video) < 3:
        raise ValueError(f"frames={len(video)}: expected 3 or more to compare one with its neighbours")


def _matched(video: Tensor) -> tuple[int, int]:
    """Return the size at which frames are matched."""
    return ROWS, max(round(video.shape[2] * ROWS / video.shape[1]), BLOCK)


def _unit(video: Tensor) -> Tensor:
    return video.movedim(-1, 1) / 255.0


def _edges(frames: Tensor) -> Tensor:
    """Return the mean absolute Laplacian of each frame over its standard deviation, [T, 3, H, W] → [T]."""
    kernel = torch.tensor([[0.0, 1, 0], [1, -4, 1], [0, 1, 0]])[None, None]
    grey = frames.mean(1, keepdim=True)
    return F.conv2d(grey, kernel).abs().mean((1, 2, 3)) / grey.std((1, 2, 3)).clamp(min=1 / 255)


def _change(first: Tensor, last: Tensor) -> float:
    return float(last.mean() / first.mean().clamp(min=1e-6)) - 1.0
