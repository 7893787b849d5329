"""A prepared set as a dataset: shards of latents and text embeddings that `causvid data prepare` wrote.

    manifest.json       settings, what the models are known by, shards with their sizes and checksums, counts
    shard_000000.tar    of each sample KEY.latents.npy fp16 [F, C, h, w], KEY.text.npy fp16 [M, D], KEY.txt, KEY.json
                        and, of videos, KEY.jpg, the middle frame

Letters: B batch, F latent frames, C channels, h w latent rows and columns, M text tokens, D width of the text.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from pydantic import Field, ValidationError
from torch import Tensor

from causvid.config import GenerationConfig, Settings, one_line
from causvid.data.dataset import Batch, number
from causvid.data.tar import Member, digest, read_index
from causvid.opening import read_text

MANIFEST = "manifest.json"
FORMAT = 1
Count = Annotated[int, Field(ge=0)]
Size = tuple[int, int, int]
"""C, h, w."""


class ShardFacts(Settings):
    """One shard: how many samples it has, its bytes and SHA-256."""

    file: str
    samples: Count
    bytes: Count
    sha256: str


class Manifest(Settings):
    """What a set holds, and what it was made with.

    models: what autoencoder and text encoder make of a fixed input, by which they are known again. settings: all that
    decided its samples. left_out: how much, by reason.
    """

    format: int
    fps: float
    frames: Count
    models: dict[str, list[float]]
    settings: dict[str, object]
    shards: tuple[ShardFacts, ...]
    left_out: dict[str, Count]

    @classmethod
    def load(cls, folder: Path) -> "Manifest":
        """Read a set's manifest; `ValueError` if it is missing, damaged or of another version."""
        path = folder / MANIFEST
        try:
            manifest = cls.model_validate_json(read_text(path, most=2**30))
        except FileNotFoundError:
            raise ValueError(f"data={folder} lacks {MANIFEST}: run `causvid data prepare` first, to its end") from None
        except ValidationError as error:
            raise ValueError(f"{path}: {one_line(error)}") from None
        except (OSError, ValueError) as error:
            raise ValueError(f"{path} cannot be read: {error}") from None
        if manifest.format != FORMAT:
            raise ValueError(f"{path}: format={manifest.format}, expected {FORMAT}: prepare the set again")
        return manifest


@dataclass(frozen=True)
class Sample:
    """One clip. latents: None where the set has prompts alone. caption: its number. crc: of both arrays."""

    latents: Member | None
    text: Member
    caption: int
    frames: int
    size: Size
    crc: tuple[int, int]


@dataclass(frozen=True)
class VideoSet:
    """Clips read from their shards as they are drawn; those of one batch are of one size."""

    folder: Path
    manifest: Manifest
    samples: Sequence[Sample]
    captions: Sequence[str]
    clip_frames: int
    chunk: int
    device: torch.device

    @classmethod
    def open(
        cls,
        folder: Path,
        generation: GenerationConfig,
        *,
        size: Size,
        device: torch.device,
        one_size: bool = False,
        real: bool = True,
    ) -> "VideoSet":
        """Read the index of a set, whose latents must have the channels of `size` (C, h, w).

        one_size: leave out clips of other sizes. real: refuse a set of prompts alone; else latents are zeros, `size`.

        Raises:
            ValueError: if the set is damaged, was made for another model, or has no clip that can be trained on.
        """
        manifest = Manifest.load(folder)
        if manifest.fps != generation.fps:
            raise ValueError(f"data={folder}: fps={manifest.fps:g}, expected the preset's fps={generation.fps:g}")
        texts, samples = list[str](), list[Sample]()
        for caption, sample in _samples(folder, manifest):
            if sample.latents is None and real:
                raise ValueError(f"data={folder} has prompts without latents, and this stage needs latents of videos")
            if sample.latents is not None and sample.size[0] != size[0]:
                raise ValueError(f"data={folder}: latents have {sample.size[0]} channels, expected {size[0]}")
            if sample.latents is not None and sample.frames < generation.clip_frames:
                least = f"shorter than clip_frames={generation.clip_frames}"
                raise ValueError(f"data={folder} has clips of {sample.frames} latent frames, {least}")
            if sample.latents is None or not one_size or sample.size == size:
                samples.append(sample if sample.latents is not None else replace(sample, size=size))
                texts.append(caption)
        if not samples:
            raise ValueError(f"data={folder} has no clip of {size[1]} x {size[2]} latent positions")
        distinct, numbers = number(texts)
        samples = [replace(one, caption=n) for one, n in zip(samples, numbers, strict=True)]
        return cls(folder, manifest, samples, distinct, generation.clip_frames, generation.chunk, device)

    def batch(self, size: int, *, frames: int, generator: torch.Generator) -> Batch:
        """Draw clips of one size, sizes as often as they have clips; return their first `frames` latent frames.

        A clip begins a multiple of the chunk after its sample does, so that its later chunks are whole chunks. The
        first latent frame of a sample stands for one pixel frame, that of a later clip for four.
        """
        drawn = torch.rand((2, size + 1), generator=generator, device=generator.device, dtype=torch.float64).tolist()
        first = self.samples[int(drawn[0][0] * len(self.samples))]
        alike = [sample for sample in self.samples if sample.size == first.size]
        clips, captions = [], []
        for which, where in list(zip(*drawn, strict=True))[1:]:
            sample = alike[int(which * len(alike))]
            offset = self.chunk * int(where * (1 + (sample.frames - self.clip_frames) // self.chunk))
            clips.append(_latents(sample)[offset : offset + frames])
            captions.append(sample.caption)
        latents = torch.from_numpy(np.stack(clips)).float().to(self.device)
        return Batch(latents, torch.tensor(captions, device=self.device))

    def embeddings(self, tokens: int) -> Tensor:
        """Return the stored embedding of every caption, fp32 `[captions, M, D]` with M = `tokens`, zeros at its end."""
        rows: dict[int, Tensor] = {}
        for sample in self.samples:
            if sample.caption not in rows:
                row = torch.from_numpy(np.array(sample.text.array(sample.crc[1]))).float()
                rows[sample.caption] = torch.nn.functional.pad(row, (0, 0, 0, tokens - len(row)))
        return torch.stack([rows[n] for n in range(len(rows))]).to(self.device)


def damaged(folder: Path, manifest: Manifest) -> Iterator[str]:
    """Name the shards of a set that are missing or whose checksum is another; all of it is read."""
    for shard in manifest.shards:
        path = folder / shard.file
        if not path.is_file() or path.stat().st_size != shard.bytes or digest(path) != shard.sha256:
            yield shard.file


def _samples(folder: Path, manifest: Manifest) -> Iterator[tuple[str, Sample]]:
    for shard in manifest.shards:
        path = folder / shard.file
        if Path(shard.file).name != shard.file or not path.is_file() or path.stat().st_size != shard.bytes:
            raise ValueError(f"{path} is missing or damaged: run `causvid data prepare` again")
        for key, members in read_index(path).items():
            try:
                facts = json.loads(members["json"].read())
                caption = members["txt"].read().decode("utf-8")
                channels, height, width = facts["size"]
                crc = (int(facts["crc"][0]), int(facts["crc"][1]))
                latents, frames = members.get("latents.npy"), int(facts["frames"])
                yield caption, Sample(latents, members["text.npy"], 0, frames, (channels, height, width), crc)
            except (KeyError, ValueError, TypeError, IndexError, RecursionError):
                raise ValueError(f"{path} is damaged at {key}: run `causvid data prepare` again") from None


def _latents(sample: Sample) -> "np.ndarray[tuple[int, ...], np.dtype[np.generic]]":
    if sample.latents is None:
        return np.zeros((sample.frames, *sample.size), np.float16)  # a set of prompts states the length of a clip
    return sample.latents.array(sample.crc[0])
