"""A small network that reads attributes (subject, colour, place, motion) off a clip.

Two branches: appearance looks at a few sharp frames one by one, motion looks at every frame of a window at half the
size, as pictures and as differences of neighbours. Every attribute's head sees both.

Letters: B batch, T pixel frames, H W rows and columns, D features, n values of one attribute.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from causvid.config import Settings
from causvid.files.format import check_header
from causvid.opening import read_text

MIN_FRAMES = 9
IGNORED = -1
"""The label of a clip that must not count for an attribute, such as the subject of a morph."""

_CONFIG = "config.json"
_WEIGHTS = "model.safetensors"


class _Sizes(Settings):
    """What its file states, within bounds far beyond any classifier there is."""

    vocabularies: Annotated[dict[str, Annotated[tuple[str, ...], Field(max_length=10_000)]], Field(max_length=64)]
    width: Annotated[int, Field(ge=1, le=1024)] = 24
    rows: Annotated[int, Field(ge=8, le=4096)] = 48
    frames: Annotated[int, Field(ge=MIN_FRAMES, le=4096)] = 25
    stills: Annotated[int, Field(ge=1, le=4096)] = 5


class AttributeClassifier(nn.Module):
    """Read attributes off clips of any size.

    Args:
        vocabularies: attribute → its values, in the order of the labels.
        width: channels of the first layer; every other width follows from it.
        rows: clips are resized to this many rows, aspect kept.
        frames: at most this many frames are looked at, neighbours in time; longer clips are cut.
        stills: how many of those frames the appearance branch looks at.
    """

    def __init__(
        self,
        vocabularies: dict[str, tuple[str, ...]],
        *,
        width: int = 24,
        rows: int = 48,
        frames: int = 25,
        stills: int = 5,
    ) -> None:
        super().__init__()
        if not vocabularies or any(len(values) < 2 for values in vocabularies.values()):
            raise ValueError(f"vocabularies={vocabularies!r}: expected attributes with two values or more each")
        if frames < MIN_FRAMES:
            raise ValueError(f"frames={frames}: expected {MIN_FRAMES} or more")
        self.vocabularies = {name: tuple(values) for name, values in vocabularies.items()}
        self.width, self.rows, self.frames, self.stills = width, rows, frames, stills
        w = width
        shapes = ((3, w, 2), (w, 2 * w, 2), (2 * w, 3 * w, 1), (3 * w, 4 * w, 2))
        self.appearance = nn.Sequential(*(part for shape in shapes for part in _layer2d(*shape)))
        moving = ((6, w, (1, 2, 2)), (w, 2 * w, (2, 2, 2)), (2 * w, 3 * w, (2, 2, 2)))
        self.motion = nn.Sequential(*(part for shape in moving for part in _layer3d(*shape)))
        # Means are small beside maxima; on one scale, the heads learn shapes sooner.
        self.scale = nn.BatchNorm1d(14 * w)
        self.heads = nn.ModuleDict({name: nn.Linear(14 * w, len(values)) for name, values in vocabularies.items()})

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        """Read the first `frames` frames of clips [B, T, 3, H, W] in [0, 1], T ≥ 9: attribute → logits [B, n]."""
        features = self.features(pixels)
        return {name: head(features) for name, head in self.heads.items()}

    def features(self, pixels: Tensor) -> Tensor:
        """Describe clips [B, T, 3, H, W] in [0, 1] by the vectors [B, D] that the heads read."""
        x = self.resize(pixels)[:, : self.frames]
        B, T = x.shape[:2]
        still = torch.linspace(0, T - 1, min(self.stills, T)).round().long()
        seen = self.appearance(x[:, still].flatten(0, 1) - 0.5)
        # A subject fills a small part of the frame: the mean reads the place, the maximum finds the subject.
        seen = torch.cat([seen.mean((-2, -1)), seen.amax((-2, -1))], dim=-1)
        seen = seen.view(B, len(still), -1).mean(1)
        small = F.avg_pool2d(x.flatten(0, 1), 2, ceil_mode=True)
        small = small.view(B, T, *small.shape[1:]).transpose(1, 2)
        change = small.diff(dim=2) * 4.0
        moved = self.motion(torch.cat([small[:, :, 1:] - 0.5, change], dim=1))
        moved = torch.cat([moved.mean((-3, -2, -1)), moved.mean(2).amax((-2, -1))], dim=-1)
        features: Tensor = self.scale(torch.cat([seen, moved], dim=-1))
        return features

    def resize(self, pixels: Tensor) -> Tensor:
        """Bring clips [B, T, 3, H, W] to the rows the network works at, aspect kept, antialiased."""
        if pixels.ndim != 5 or pixels.shape[2] != 3 or not pixels.is_floating_point():
            raise ValueError(f"pixels={tuple(pixels.shape)} {pixels.dtype}: expected float [B, T, 3, H, W]")
        B, T, _, H, W = pixels.shape
        if T < MIN_FRAMES:
            raise ValueError(f"frames={T}: expected {MIN_FRAMES} or more to tell a motion")
        if self.rows == H:
            return pixels
        size = (self.rows, max(round(W * self.rows / H), 8))
        x = F.interpolate(pixels.flatten(0, 1), size=size, mode="bilinear", antialias=True, align_corners=False)
        return x.view(B, T, *x.shape[1:])

    def save(self, folder: str | Path) -> None:
        """Write config.json and, in half precision, model.safetensors into a folder, which is made where missing."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        config = {name: getattr(self, name) for name in ("vocabularies", "width", "rows", "frames", "stills")}
        (folder / _CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        state = {n: (t.half() if t.is_floating_point() else t).contiguous() for n, t in self.state_dict().items()}
        save_file(state, folder / _WEIGHTS)

    @classmethod
    def load(cls, folder: str | Path, device: torch.device | str = "cpu") -> "AttributeClassifier":
        """Read a folder that `save` wrote; the model comes in evaluation mode.

        Raises:
            ValueError: a file is missing or does not fit.
        """
        folder = Path(folder)
        try:
            sizes = _Sizes.make(**json.loads(read_text(folder / _CONFIG)))
            with torch.device("meta"):
                model = cls(**sizes.model_dump())
            check_header(folder / _WEIGHTS)
            model.load_state_dict(load_file(folder / _WEIGHTS), assign=True)
        except (OSError, TypeError, KeyError, RuntimeError, ValueError, RecursionError, SafetensorError) as error:
            reason = " ".join(str(error).split())
            line = f"classifier={folder}: expected a folder with {_CONFIG} and {_WEIGHTS} ({reason})"
            raise ValueError(line) from error
        return model.float().to(device).eval()


def labels_of(
    vocabularies: Mapping[str, Sequence[str]], clips: Sequence[Mapping[str, str | None]]
) -> dict[str, Tensor]:
    """Turn the words of clips into labels: attribute → int64 [clips]; None, or a missing word, is not counted.

    Raises:
        ValueError: a word is not in the attribute's vocabulary.
    """
    result = {}
    for name, values in vocabularies.items():
        words = [clip.get(name) for clip in clips]
        unknown = sorted({word for word in words if word is not None} - set(values))
        if unknown:
            raise ValueError(f"{name}={', '.join(unknown)}: expected one of {', '.join(values)}")
        result[name] = torch.tensor([IGNORED if word is None else values.index(word) for word in words])
    return result


def _layer2d(inputs: int, outputs: int, stride: int) -> tuple[nn.Module, ...]:
    return nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()


def _layer3d(inputs: int, outputs: int, stride: tuple[int, int, int]) -> tuple[nn.Module, ...]:
    return nn.Conv3d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm3d(outputs), nn.ReLU()
