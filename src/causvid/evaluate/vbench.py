"""VBench's sixteen dimensions: what each needs, their weighted total, and those that need no downloaded network.

Ranges and weights are the published ones of VBench's scripts/constant.py; total = (4 quality + semantic) / 5.

Letters: T pixel frames, H W rows and columns.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from causvid.evaluate import measures
from causvid.evaluate.diversity import difference
from causvid.evaluate.videos import MANIFEST, Manifest
from causvid.media import probe, read_video
from causvid.models.autoencoder import pixel_frames
from causvid.opening import read_text

CLIP_SECONDS = 2.0
"""VBench-Long cuts long videos into clips of two seconds."""
DYNAMIC = 0.05
"""Picture heights a second above which a video is called dynamic here."""
ROWS = 256
"""Larger videos are judged at so many rows."""


@dataclass(frozen=True)
class Dimension:
    """A dimension: its published range in [0, 1], weight and half of the total.

    weights: the network that vbench loads, and `files` of it in vbench's cache.
    """

    low: float = 0.0
    high: float = 1.0
    weight: float = 1.0
    quality: bool = False
    weights: str = ""
    files: tuple[str, ...] = ()


_DINO = ("DINO ViT-B/16", ("dino_model/facebookresearch_dino_main", "dino_model/dino_vitbase16_pretrain.pth"))
_CLIP = ("CLIP ViT-B/32", ("clip_model/ViT-B-32.pt",))
_HEAD = ("clip_model/ViT-L-14.pt", "aesthetic_model/emb_reader/sa_0_4_vit_l_14_linear.pth")
_GRIT = ("GRiT", ("grit_model/grit_b_densecap_objectdet.pth",))
_VICLIP = ("ViCLIP", ("ViCLIP/ViClip-InternVid-10M-FLT.pth", "ViCLIP/bpe_simple_vocab_16e6.txt.gz"))
_UMT = ("UMT-L/16", ("umt_model/l16_ptk710_ftk710_ftk400_f16_res224.pth",))
DIMENSIONS: Mapping[str, Dimension] = {
    "subject_consistency": Dimension(0.1462, 1.0, 1.0, True, *_DINO),
    "background_consistency": Dimension(0.2615, 1.0, 1.0, True, *_CLIP),
    "temporal_flickering": Dimension(0.6293, quality=True),
    "motion_smoothness": Dimension(0.706, 0.9975, 1.0, True, "AMT-S", ("amt_model/amt-s.pth",)),
    "dynamic_degree": Dimension(0.0, 1.0, 0.5, True, "RAFT", ("raft_model/models/raft-things.pth",)),
    "aesthetic_quality": Dimension(0.0, 1.0, 1.0, True, "CLIP ViT-L/14 and LAION's head", _HEAD),
    "imaging_quality": Dimension(0.0, 1.0, 1.0, True, "MUSIQ-SPAQ", ("pyiqa_model/musiq_spaq_ckpt-358bb6af.pth",)),
    "object_class": Dimension(0.0, 1.0, 1.0, False, *_GRIT),
    "multiple_objects": Dimension(0.0, 1.0, 1.0, False, *_GRIT),
    "human_action": Dimension(0.0, 1.0, 1.0, False, *_UMT),
    "color": Dimension(0.0, 1.0, 1.0, False, *_GRIT),
    "spatial_relationship": Dimension(0.0, 1.0, 1.0, False, *_GRIT),
    "scene": Dimension(0.0, 0.8222, 1.0, False, "Tag2Text", ("caption_model/tag2text_swin_14m.pth",)),
    "appearance_style": Dimension(0.0009, 0.2855, 1.0, False, *_CLIP),
    "temporal_style": Dimension(0.0, 0.364, 1.0, False, *_VICLIP),
    "overall_consistency": Dimension(0.0, 0.364, 1.0, False, *_VICLIP),
}


@dataclass(frozen=True)
class Totals:
    """Quality, semantic and total score, in [0, 1]."""

    quality: float
    semantic: float
    total: float

    @property
    def text(self) -> str:
        """All three in a line."""
        return f"quality {self.quality:.2%}  semantic {self.semantic:.2%}  total {self.total:.2%}"


def totals(scores: Mapping[str, float]) -> Totals:
    """Weigh the scores of all sixteen dimensions, each in [0, 1], as VBench publishes.

    Raises:
        ValueError: a dimension is missing or unknown, or a score is no share of 1.
    """
    if wrong := sorted(set(scores) ^ set(DIMENSIONS)):
        raise ValueError(f"scores: expected those of VBench's {len(DIMENSIONS)} dimensions; not so {', '.join(wrong)}")
    for name, score in scores.items():
        if not 0 <= score <= 1:
            raise ValueError(f"{name}={score:g}: expected 0 to 1")

    def part(quality: bool) -> float:
        chosen = {name: one for name, one in DIMENSIONS.items() if one.quality is quality}
        parts = [one.weight * (scores[name] - one.low) / (one.high - one.low) for name, one in chosen.items()]
        return sum(parts) / sum(one.weight for one in chosen.values())

    quality, semantic = part(True), part(False)
    return Totals(quality, semantic, (4 * quality + semantic) / 5)


def read_scores(file: Path) -> dict[str, float]:
    """Read the scores that the vbench package wrote, {dimension: [score, …]} or {dimension: score}.

    Raises:
        ValueError: it is no such file.
    """
    try:
        found = json.loads(read_text(file))
        return {str(name): float(one[0] if isinstance(one, list) else one) for name, one in found.items()}
    except (ValueError, TypeError, AttributeError, IndexError):
        raise ValueError(f"scores={file}: expected JSON of a score for each dimension, as vbench writes") from None


def split(video: Tensor, *, fps: float, seconds: float = CLIP_SECONDS) -> Iterator[Tensor]:
    """Cut a video, uint8 [T, H, W, 3], into clips; a last one shorter than half of `seconds` joins the one before."""
    size = max(round(seconds * fps), 1)
    count = max((len(video) + size // 2) // size, 1)
    for number in range(count):
        yield video[number * size : len(video) if number == count - 1 else (number + 1) * size]


def score_video(
    video: Tensor, *, fps: float, backbone: measures.Backbone = measures.outline_layout, long: bool = False
) -> dict[str, float]:
    """Score what needs no downloaded network of a video, uint8 [T, H, W, 3], T at least 3.

    `long` takes the mean of its clips. The consistency of subject and background is one number without two backbones.
    """
    clips = list(split(video, fps=fps)) if long else [video]
    rows = list[dict[str, float]]()
    for clip in clips:
        speeds = measures.motion(clip, fps=fps)
        row = {
            "consistency": measures.consistency(clip, backbone),
            "temporal_flickering": measures.temporal_flickering(clip),
            "motion_smoothness": measures.motion_smoothness(clip),
            "dynamic_degree": float(measures.is_dynamic(speeds, threshold=DYNAMIC)),
            "speed": float(speeds.mean()),
        }
        rows.append(row)
    return {name: sum(row[name] for row in rows) / len(rows) for name in rows[0]}


def score_folder(folder: Path, *, long: bool = False) -> dict[str, dict[str, float]]:
    """Score every video of a folder: name of the file → measure → value, drift where it is four seconds or longer.

    Where the folder's manifest says how the model groups frames, also the flicker at the borders of its chunks.

    Raises:
        ValueError: there is none, or one cannot be read or is shorter than three frames.
    """
    found: dict[str, dict[str, float]] = {}
    manifest = Manifest.load(folder) if (folder / MANIFEST).is_file() else None
    for file in video_files(folder):
        video, fps = read_clip(file)
        if len(video) < 3:
            raise ValueError(f"{file} has {len(video)} frames: expected 3 or more")
        scores = score_video(video, fps=fps, long=long)
        scores["flicker"] = measures.flicker(video)
        scores["sharpness"] = measures.sharpness(video)
        if len(video) >= 4 * fps:
            ends = measures.drift(video, edge=round(fps))
            scores |= {f"drift_{name}": value for name, value in ends.items()}
        if manifest is not None and manifest.maker == "student":
            own = manifest.generation
            borders = chunk_borders(len(video), first=own.first, chunk=own.chunk)
            if borders:
                scores["border_flicker"] = measures.border_flicker(video, borders)
        found[file.name] = scores
    return found


def chunk_borders(frames: int, *, first: int, chunk: int) -> list[int]:
    """Return the pixel frames that begin a chunk but the first, of a video of latent frames [first, chunk, …]."""
    return [at for n in range(first, frames, chunk) if (at := pixel_frames(n)) < frames]


def diversity(folder: Path) -> float | None:
    """Return how far videos of one prompt with two seeds are apart, in mean pixel distance of 1, over all prompts.

    None where no prompt has two seeds.

    Raises:
        ValueError: the folder has no manifest, or a video is missing.
    """
    manifest = Manifest.load(folder)
    takes: dict[str, list[Path]] = {}
    for video in manifest.videos:
        takes.setdefault(video.prompt.text, []).append(folder / video.file)
    found = []
    for files in (files for files in takes.values() if len(files) > 1):
        found.append(difference(torch.stack([read_clip(file)[0] for file in files]), None)[0])
    return sum(found) / len(found) if found else None


def means(scores: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Average each measure over the videos that have it."""
    names = dict.fromkeys(name for one in scores.values() for name in one)
    columns = {name: [one[name] for one in scores.values() if name in one] for name in names}
    return {name: sum(values) / len(values) for name, values in columns.items()}


def video_files(folder: Path) -> list[Path]:
    """List the videos of a folder, by name.

    Raises:
        ValueError: there is none.
    """
    files = sorted(
        file for file in folder.glob("*") if file.suffix in (".mp4", ".mkv", ".webm") and file.name[0] != "."
    )
    if not files:
        raise ValueError(f"folder={folder} holds no videos: expected .mp4, .mkv or .webm")
    return files


def read_clip(file: Path, *, rows: int | None = ROWS) -> tuple[Tensor, float]:
    """Read a video at its own rate, uint8 [T, H, W, 3] of at most so many rows, and its frames a second."""
    seen = probe(file)
    fps = seen.fps or 24.0
    height = min(seen.height, rows or seen.height)
    width = max(round(seen.width * height / seen.height), 1)
    frames = list(read_video(file, height=height, width=width, fps=fps))
    return torch.from_numpy(np.stack(frames)), fps
