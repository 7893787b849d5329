"""Look through many videos in several processes, long ones in parts; what was seen is kept, so that it is seen once."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

from causvid.data.scan import Look, look_at_part, look_at_start, look_through
from causvid.data.workers import Readers, reading_processes
from causvid.files.writing import new_file
from causvid.opening import read_text

Call = partial[Look]
Seen = Look | str
"""What a video looks like, or the line that says why it cannot be read."""
Advance = Callable[[int, int], None]


def look_at_all(
    identities: Mapping[Path, object], work: Path, *, fps: float, workers: int, advance: Advance
) -> dict[Path, Seen]:
    """Look through videos that were not before.

    identities: by what each video is known again when it has changed. work: the folder in which results are kept.
    """
    with reading_processes(workers) as readers:

        def run(calls: Sequence[Call], before: int, total: int) -> list[Seen]:
            files = [work / f"scan_{_key(identities[call.args[0]], call)}.json" for call in calls]
            return _run(readers, calls, files, lambda done: advance(before + done, total))

        videos = list(identities)
        starts = run([partial(look_at_start, video, fps=fps) for video in videos], 0, len(videos))
        seen = dict(zip(videos, starts, strict=True))
        parts = [
            partial(look_at_part, video, part, fps=fps, last=part == look.rest)
            for video, look in seen.items()
            if isinstance(look, Look)
            for part in range(1, look.rest + 1)
        ]
        later: dict[Path, list[Seen]] = {}
        for call, look in zip(parts, run(parts, len(videos), len(videos) + len(parts)), strict=True):
            later.setdefault(call.args[0], []).append(look)
        unsteady = [video for video, looks in later.items() if any(isinstance(look, str) for look in looks)]
        count = len(videos) + len(parts)
        whole = run([partial(look_through, video, fps=fps) for video in unsteady], count, count + len(unsteady))
        seen |= {video: _joined([seen[video], *looks]) for video, looks in later.items() if video not in unsteady}
        return seen | dict(zip(unsteady, whole, strict=True))


def _run(readers: Readers, calls: Sequence[Call], files: Sequence[Path], advance: Callable[[int], None]) -> list[Seen]:
    """Return the results of calls, of which those that have a file are read from there."""
    missing = [n for n, file in enumerate(files) if not has_content(file)]
    done, errors = len(calls) - len(missing), dict[int, str]()
    looks = readers.in_order(partial(_safely, calls[n]) for n in missing)
    for n, found in zip(missing, looks, strict=True):
        if isinstance(found, str):
            errors[n] = found  # not kept: what cannot be read today may be mended by tomorrow
        else:
            write_json(files[n], asdict(found))
        done += 1
        advance(done)
    return [
        errors[n] if n in errors else Look(**json.loads(read_text(file, most=2**30))) for n, file in enumerate(files)
    ]


def _safely(call: Call) -> Seen:
    try:
        return call()
    except Exception as error:  # what a codec raises for a file that is damaged is of any kind
        return " ".join(str(error).split()) or type(error).__name__


def _joined(parts: Sequence[Seen]) -> Look:
    looks = [part for part in parts if isinstance(part, Look)]
    light, motion, change, mark = (
        [value for look in looks for value in getattr(look, name)] for name in ("light", "motion", "change", "mark")
    )
    return replace(looks[0], rest=0, light=light, motion=motion, change=change, mark=mark)


def _key(identity: object, call: Call) -> str:
    return digest_of([identity, call.func.__name__, call.args[1:], call.keywords])


def digest_of(value: object) -> str:
    """Return a short digest of what JSON can hold."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:24]


def has_content(file: Path) -> bool:
    """Tell whether a file is there and not empty."""
    return file.is_file() and file.stat().st_size > 0


def write_json(file: Path, value: object) -> None:
    """Write a file of JSON, which appears whole or not at all."""
    with new_file(file) as place:
        place.write_text(json.dumps(value), encoding="utf-8")
