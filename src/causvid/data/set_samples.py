"""The samples of a shard: videos decoded beside the encoder, latents and text embeddings as files of a tar.

Letters: F latent frames, C channels, h w latent rows and columns.
"""

import json
import zlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import groupby
from typing import Any

import numpy as np

from causvid.data.lmdb_rows import LmdbRows
from causvid.data.plan import Item
from causvid.data.scan import decode
from causvid.data.set_models import SetModels
from causvid.data.set_report import thumbnail
from causvid.data.tar import Array, to_npy
from causvid.engine.latents import load_latents
from causvid.models.autoencoder import pixel_frames

RUN = 8
"""Clips of one video that a process decodes in one pass."""


def _runs(part: Sequence[Item]) -> Iterator[list[Item]]:
    """Yield items of a shard in runs that are decoded in one pass."""
    for _, group in groupby(part, key=lambda item: (item.source, item.kind)):
        same = list(group)
        yield from (same[n : n + RUN] for n in range(0, len(same), RUN))


def decoding(part: Sequence[Item], models: SetModels) -> Iterator["partial[list[Any]]"]:
    """Yield the calls that decode the videos of a shard, in order."""
    g = models.generation
    for run in _runs(part):
        if run[0].kind == "video":
            (height, width), starts = run[0].size, [item.start for item in run]
            frames = pixel_frames(g.clip_frames)
            yield partial(decode, run[0].source, starts, fps=g.fps, frames=frames, height=height, width=width)


def make_samples(
    part: Sequence[Item],
    first: int,
    decoded: Iterator[list[Any]],
    models: SetModels,
    advance: Callable[[int], None],
) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Yield the samples of a shard, whose first is sample number `first` of the set."""
    number = first
    for run in _runs(part):
        clips = next(decoded) if run[0].kind == "video" else [None] * len(run)
        for item, frames in zip(run, clips, strict=True):
            yield f"{number:08d}", _members(item, frames, models)
            number += 1
            advance(number)


def _members(item: Item, frames: Array | None, models: SetModels) -> dict[str, bytes]:
    """Return the members of a sample by extension."""
    latents = models.encode(frames) if frames is not None else _stored_latents(item)
    if latents is not None and not np.isfinite(latents).all():
        raise ValueError(f"{item.source}: latents are not finite numbers that fp16 can hold")
    text = to_npy(models.embed(item.caption))
    data = b"" if latents is None else to_npy(latents)
    length, size = (
        (models.generation.clip_frames, (models.autoencoder.latent_channels, 0, 0))
        if latents is None
        else (len(latents), latents.shape[1:])
    )
    facts = {
        "source": item.source.name,
        "start": item.start,
        "frames": length,
        "size": list(size),
        "crc": [zlib.crc32(data), zlib.crc32(text)],
    }
    members = {"latents.npy": data} if data else {}
    members |= {"text.npy": text, "txt": item.caption.encode(), "json": json.dumps(facts).encode()}
    return members if frames is None else members | {"jpg": thumbnail(frames)}


def _stored_latents(item: Item) -> Array | None:
    if item.kind == "latents":
        half: Array = load_latents(item.source)[0][0].half().numpy()
        return half
    return LmdbRows.open(item.source).latents(item.start) if item.kind == "lmdb" else None
