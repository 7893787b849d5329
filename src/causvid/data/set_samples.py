"""The samples of a shard: videos decoded beside the encoder, latents and text embeddings as files of a tar.

Letters: F latent frames, C channels, h w latent rows and columns.
"""

import json
import zlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import groupby
from pathlib import Path
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

RUN_BYTES = 2**26
"""Most bytes of clips that a process decodes in one pass, one clip at least; some passes wait in memory."""
Decoded = list[Any] | str
"""Clips, or the line that says why they cannot be decoded."""


class NotDecodedError(Exception):
    """A video that could be looked through cannot be decoded; `why` is a line."""

    def __init__(self, source: Path, why: str) -> None:
        """Name the video."""
        super().__init__(source, why)
        self.source, self.why = source, why


def _runs(part: Sequence[Item], frames: int) -> Iterator[list[Item]]:
    """Yield items of a shard in runs that are decoded in one pass; frames: of a clip."""
    for _, group in groupby(part, key=lambda item: (item.source, item.kind)):
        same = list(group)
        height, width = same[0].size
        run = max(1, RUN_BYTES // max(1, frames * height * width * 3))
        yield from (same[n : n + run] for n in range(0, len(same), run))


def decoding(part: Sequence[Item], models: SetModels) -> Iterator["partial[Decoded]"]:
    """Yield the calls that decode the videos of a shard, in order."""
    frames = pixel_frames(models.generation.clip_frames)
    for run in _runs(part, frames):
        first, starts = run[0], [item.start for item in run]
        if first.kind == "video":
            call = partial(decode, first.source, starts, height=first.size[0], width=first.size[1])
            yield partial(_decode, partial(call, fps=models.generation.fps, frames=frames, steady=first.steady))


def _decode(call: "partial[list[Any]]") -> Decoded:
    try:
        return call()
    except OSError:  # a drive that is gone is no fault of this video
        raise
    except Exception as error:  # what a codec raises for a file that is damaged is of any kind
        return " ".join(str(error).split()) or type(error).__name__


def make_samples(
    part: Sequence[Item],
    first: int,
    decoded: Iterator[Decoded],
    models: SetModels,
    advance: Callable[[int], None],
) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Yield the samples of a shard, whose first is sample number `first` of the set.

    Raises:
        NotDecodedError: if a video cannot be decoded.
    """
    number = first
    for run in _runs(part, pixel_frames(models.generation.clip_frames)):
        clips = next(decoded) if run[0].kind == "video" else [None] * len(run)
        if isinstance(clips, str):
            raise NotDecodedError(run[0].source, clips)
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
