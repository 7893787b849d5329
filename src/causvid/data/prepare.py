"""Make a set of latents and captions from videos: `causvid data prepare`.

Sources are looked through, then it is decided what the set holds, then every shard is made: each step is a function of
the ones before, and each file appears whole, so a run that was killed at any moment goes on where it was, and ends with
the same set.

Letters: F latent frames, C channels, h w latent rows and columns.
"""

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from causvid.data.captions import Captions, read_prompts
from causvid.data.lmdb_rows import DATABASE, LmdbRows, may_list
from causvid.data.looking import digest_of, has_content, look_at_all, write_json
from causvid.data.pieces import Scan, cut_into_pieces
from causvid.data.plan import Item, LeftOut, Rules, bucket_sizes, choose_pieces, count_reasons
from causvid.data.set_models import SetModels
from causvid.data.set_report import write_report
from causvid.data.set_samples import NotDecodedError, decoding, make_samples
from causvid.data.tar import digest, write_shard
from causvid.data.video_set import FORMAT, MANIFEST, Manifest, ShardFacts
from causvid.data.workers import reading_processes
from causvid.engine.latents import load_latents
from causvid.engine.request import LATENTS
from causvid.files.writing import new_file
from causvid.models.autoencoder import pixel_frames
from causvid.opening import read_text
from causvid.staging import only_process

SHARD = 64
"""Samples of a shard."""
WORK = ".work"
BESIDE = {".txt", ".json", ".csv", ".parquet", ".md"}
"""Suffixes of files in a folder of videos that are none."""
Stage = Callable[[str], Callable[[int, int], None]]
"""Takes the name of a part of the work; returns what takes how much of it is done, of how much."""


@dataclass(frozen=True)
class Prepared:
    """A finished set: its samples, what was left out, and words of captions that the text encoder does not know."""

    folder: Path
    samples: int
    left_out: Mapping[str, int]
    unknown: Sequence[str]


def find_sources(places: Sequence[Path]) -> list[Path]:
    """Return the files and databases that some places name; folders are searched, in the order of their names.

    A folder that must not be read is among them, so that it is reported.

    Raises:
        ValueError: if there are none, or a place does not exist.
    """
    found: list[Path] = []
    for place in places:
        if not place.exists():
            raise ValueError(f"{place} does not exist")
        if not place.is_dir() or (place / DATABASE).is_file():
            found.append(place)
            continue
        found += filter(_is_source, sorted(place.rglob("*")))
    if not found:
        raise ValueError(f"{', '.join(map(str, places))}: no videos in there")
    return list(dict.fromkeys(found))


def _is_source(path: Path) -> bool:
    if path.name.startswith("."):
        return False
    if os.path.isfile(path):  # pathlib's raises where the folder may be listed, but not entered
        return path.suffix.lower() not in BESIDE
    return os.path.isdir(path) and not may_list(path)


def prepare(
    places: Sequence[Path],
    out: Path,
    models: SetModels,
    *,
    captions: Captions,
    rules: Rules,
    workers: int,
    stage: Stage,
) -> Prepared:
    """Prepare a set in the folder `out`; the same call resumes, and after a change makes only what differs.

    places: videos, latents that `--latents` wrote, LMDBs of CausVid or Self Forcing, lists of prompts (.txt), folders.

    Raises:
        ValueError: if nothing is left to train on, or the folder is in use. OSError: if it cannot be written.
    """
    inside = out.resolve()
    sources = [source for source in find_sources(places) if inside not in source.resolve().parents]
    if out.exists() and not out.is_dir():
        raise ValueError(f"out={out} is a file: expected a folder")
    if out.is_dir() and any(out.iterdir()) and not (out / WORK).is_dir():
        raise ValueError(f"out={out} is not empty and no set: choose another folder")
    with only_process(out):
        (out / WORK).mkdir(exist_ok=True)
        scans = _scan(sources, out / WORK, models, rules, workers, stage)
        while True:
            items, left_out = _decide(sources, scans, models, captions, rules)
            if not items:
                reasons = ", ".join(f"{name} {count}" for name, count in count_reasons(left_out).items())
                first = f"; {left_out[0].source}: {left_out[0].detail or left_out[0].reason}" if left_out else ""
                raise ValueError(f"no clip is left to train on ({reasons}{first})")
            try:
                return _write(items, left_out, out, models, rules, workers, stage)
            except NotDecodedError as error:
                scans[error.source] = error.why  # shards before its first clip stay as they are


def _scan(
    sources: Sequence[Path], work: Path, models: SetModels, rules: Rules, workers: int, stage: Stage
) -> dict[Path, Scan | str]:
    """Return what the videos among the sources hold, in their order, or the line that says why they cannot be read."""
    g = models.generation
    videos = [source for source in sources if _kind(source) == "video"]
    identities = {video: _identity(video) for video in videos}
    seen = look_at_all(
        {video: identity for video, identity in identities.items() if identity},
        work,
        fps=g.fps,
        workers=workers,
        advance=stage("looking through videos"),
    )
    length = pixel_frames(g.clip_frames)
    scans: dict[Path, Scan | str] = {
        video: look if isinstance(look, str) else cut_into_pieces(look, fps=g.fps, frames=length, cuts=rules.cuts)
        for video, look in ((video, seen.get(video, "it is there no more")) for video in videos)
    }
    changed = [video for video, was in identities.items() if was != _identity(video)]
    return scans | dict.fromkeys(changed, "it changed while it was read")


def _decide(
    sources: Sequence[Path], scans: Mapping[Path, Scan | str], models: SetModels, captions: Captions, rules: Rules
) -> tuple[list[Item], list[LeftOut]]:
    """Return the samples of a set, in the order of the sources, and what is left out."""
    g = models.generation
    edge = models.autoencoder.spatial_factor * 2  # of patches of 2 x 2 latent positions
    sizes = bucket_sizes(g.height, g.width, edge) if rules.buckets else [(g.height, g.width)]

    def caption_of(video: Path) -> str:
        return _checked(models, captions.of(video))

    items, left_out = choose_pieces(scans, caption_of, rules, sizes)
    for source in sources:
        if _kind(source) == "video":
            continue
        try:
            for item in _other_items(source, models, captions):
                try:
                    _checked(models, item.caption)
                    items.append(item)
                except ValueError as error:
                    left_out.append(LeftOut(source, "caption", str(error), item.start))
        except (ValueError, OSError) as error:
            left_out.append(LeftOut(source, "unreadable", str(error)))
    return items, left_out


def _other_items(source: Path, models: SetModels, captions: Captions) -> Iterator[Item]:
    """Yield the samples of a source that is no video.

    Raises:
        ValueError: if it cannot be read or does not fit the model.
    """
    kind, g = _kind(source), models.generation
    if kind == "prompts":
        for n, prompt in enumerate(read_prompts(source)):
            yield Item(source, "prompts", prompt, n)
    elif kind == "latents":
        latents, fps = load_latents(source)
        if fps != g.fps:
            raise ValueError(f"{source}: fps={fps:g}, expected the model's fps={g.fps:g}")
        _check_latents(source, latents.shape[1:3], models)
        yield Item(source, "latents", captions.of(source))
    else:
        rows = LmdbRows.open(source)
        _check_latents(source, rows.shape[-4:-2], models)
        for n in range(rows.shape[0]):
            yield Item(source, "lmdb", rows.prompt(n), n)


def _write(
    items: Sequence[Item],
    left_out: Sequence[LeftOut],
    out: Path,
    models: SetModels,
    rules: Rules,
    workers: int,
    stage: Stage,
) -> Prepared:
    """Make the shards that are not there yet, then the report, then the manifest."""
    g, marks = models.generation, models.marks
    advance, facts = stage("encoding clips"), list[ShardFacts]()
    with reading_processes(workers) as readers:
        for n, first in enumerate(range(0, len(items), SHARD)):
            part = items[first : first + SHARD]
            file, record = out / f"shard_{n:06d}.tar", out / WORK / f"shard_{n:06d}.json"
            made_of = digest_of([marks, g.fps, g.clip_frames, [[_identity(i.source), asdict(i)] for i in part]])
            known = json.loads(read_text(record)) if has_content(record) else {}
            if known.get("made_of") != made_of or not file.is_file() or digest(file) != known["facts"]["sha256"]:
                decoded = readers.in_order(decoding(part, models))
                write_shard(file, make_samples(part, first, decoded, models, lambda d: advance(d, len(items))))
                size = file.stat().st_size
                known = {"facts": {"file": file.name, "samples": len(part), "bytes": size, "sha256": digest(file)}}
                write_json(record, {"made_of": made_of, **known})
            facts.append(ShardFacts.model_validate(known["facts"]))
            advance(first + len(part), len(items))
    kept = {shard.file for shard in facts}
    for stale in (file for file in out.glob("shard_*.tar") if file.name not in kept):
        stale.unlink()
    reasons = count_reasons(left_out)
    write_report(out, facts, items, left_out)
    manifest = Manifest(
        format=FORMAT,
        fps=g.fps,
        frames=g.clip_frames,
        models=marks,
        settings=rules.model_dump(mode="json"),
        shards=tuple(facts),
        left_out=reasons,
    )
    with new_file(out / MANIFEST) as place:
        place.write_text(manifest.model_dump_json(indent=2) + "\n", encoding="utf-8")
    words = " ".join(sorted({item.caption for item in items}))
    return Prepared(out, len(items), reasons, models.text.unknown_words(words))


def _kind(source: Path) -> Any:
    if source.is_dir():
        return "lmdb"
    return {LATENTS: "latents", ".txt": "prompts"}.get(source.suffix.lower(), "video")


def _checked(models: SetModels, caption: str) -> str:
    """Return a caption that fits the text encoder; `ValueError` for one that does not."""
    models.text.tokens([caption])
    return caption


def _check_latents(source: Path, shape: Sequence[int], models: SetModels) -> None:
    """Raise a `ValueError` unless latents of (F, C) are of the model's channels and as long as a clip."""
    frames, channels = shape
    expected = models.autoencoder.latent_channels
    if channels != expected:
        raise ValueError(f"{source}: latents have {channels} channels, expected {expected}")
    if frames < models.generation.clip_frames:
        least = f"shorter than clip_frames={models.generation.clip_frames}"
        raise ValueError(f"{source} has {frames} latent frames, {least}")


def _identity(source: Path) -> list[object]:
    """Return by what a source that was changed is known; nothing if it is there no more."""
    try:
        stat = (source / DATABASE if source.is_dir() else source).stat()
    except OSError:
        return []
    return [str(source.absolute()), stat.st_size, stat.st_mtime_ns]
