"""Drive the vbench package, in whichever environment has it, and take its scores.

It loads networks that it would otherwise download; a dimension whose weights are not in its cache is not run, and says
what is missing.
"""

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from causvid.evaluate import drive_vbench
from causvid.evaluate.vbench import DIMENSIONS, read_clip, split, video_files
from causvid.evaluate.videos import MANIFEST, Manifest
from causvid.media import VideoWriter

CACHE = Path("~/.cache/vbench")
CACHE_VARIABLE = "VBENCH_CACHE_DIR"
REQUEST = "request.json"


@dataclass(frozen=True)
class Verdict:
    """What vbench says in one dimension. score: None where it could not be run, for the reason `missing`.

    videos: of each file, by the name it has in the folder.
    """

    dimension: str
    score: float | None = None
    missing: str = ""
    videos: Mapping[str, float] = field(default_factory=dict)


def cache_folder() -> Path:
    """Return where vbench keeps weights."""
    return Path(os.environ.get(CACHE_VARIABLE) or CACHE).expanduser()


def find_python(python: Path | None) -> Path | None:
    """Return the interpreter that has vbench: the one that is named, else this one, else None.

    Raises:
        ValueError: the one that is named has no vbench.
    """
    if python is None:
        return Path(sys.executable) if importlib.util.find_spec("vbench") is not None else None
    probe = "import importlib.util, sys; sys.exit(importlib.util.find_spec('vbench') is None)"
    try:
        found = subprocess.run([python, "-c", probe], capture_output=True, check=False).returncode
    except OSError as error:
        raise ValueError(f"python={python} cannot be run: {error.strerror}") from None
    if found:
        raise ValueError(f"python={python} has no vbench: expected an interpreter with `pip install vbench`")
    return python


def missing_weights(dimension: str) -> str:
    """Say which weights of a dimension are not in vbench's cache; "" where all are there."""
    wanted, cache = DIMENSIONS[dimension], cache_folder()
    absent = [file for file in wanted.files if not (cache / file).exists()]
    return f"needs {wanted.weights}: {', '.join(str(cache / file) for file in absent)}" if absent else ""


def judge_folder(
    folder: Path,
    *,
    python: Path,
    dimensions: Sequence[str] = tuple(DIMENSIONS),
    device: str = "cpu",
    long: bool = False,
) -> Iterator[Verdict]:
    """Let vbench judge the videos of a folder, dimension by dimension.

    A dimension is judged by VBench's own list of prompts where the folder holds a video of it (PROMPT-0.mp4, …), else
    by the prompts of the manifest or the names of the files. `long` cuts videos into clips of two seconds, as
    VBench-Long does, judges those by the prompts of their videos, and takes the mean of each video's.

    Raises:
        ValueError: the folder has no videos, or two of one name, or vbench stops before its first dimension.
    """
    files = video_files(folder)
    if twice := sorted(one.name for one in files if sum(one.stem == other.stem for other in files) > 1):
        raise ValueError(f"folder={folder} holds {twice[0]} and {twice[1]}: vbench tells videos by their names alone")
    runnable = list[str]()
    for name in dimensions:
        if lack := missing_weights(name):
            yield Verdict(name, missing=lack)
        else:
            runnable.append(name)
    with TemporaryDirectory() as temporary:
        place = Path(temporary)
        shown, output = place / "videos", place / "output"
        shown.mkdir()
        own = _cut(files, shown) if long else _link(files, shown)
        request = {
            "videos": str(shown),
            "output": str(output),
            "device": device,
            "prompts": _prompts(folder, own),
            "dimensions": runnable,
        }
        (place / REQUEST).write_text(json.dumps(request), encoding="utf-8")
        command = [str(python), drive_vbench.__file__, str(place / REQUEST)]
        yield from _read(command, own, runnable)


def _link(files: Sequence[Path], shown: Path) -> dict[str, Path]:
    """Show videos to vbench: name → file. It takes .mp4 only, and trips over anything else in the folder."""
    own = {f"{file.stem}.mp4": file for file in files}
    for name, file in own.items():
        (shown / name).symlink_to(file.resolve())
    return own


def _cut(files: Sequence[Path], shown: Path) -> dict[str, Path]:
    """Write clips of videos where vbench finds them, without loss: name → file that it is cut from."""
    own = dict[str, Path]()
    for file in files:
        video, fps = read_clip(file, rows=None)
        for number, clip in enumerate(split(video, fps=fps)):
            name = f"{file.stem} {number:04d}.mp4"
            size = {"height": clip.shape[1], "width": clip.shape[2]}
            lossless = shown / f"{name}.mkv"
            with VideoWriter(lossless, fps=fps, **size) as writer:
                writer.write(clip.numpy())
            lossless.rename(shown / name)  # which vbench goes by; what is inside is read by its content
            own[name] = file
    return own


def _prompts(folder: Path, own: Mapping[str, Path]) -> dict[str, str]:
    """Return the prompt of each video: of the manifest, else its name less the number of its seed."""
    known = dict[str, str]()
    if (folder / MANIFEST).is_file():
        known = {video.file: video.prompt.text for video in Manifest.load(folder).videos}
    return {name: known.get(file.name, file.stem.rsplit("-", 1)[0]) for name, file in own.items()}


def _verdict(found: Mapping[str, Any], own: Mapping[str, Path]) -> Verdict:
    """Read a line of the driver; of a video that was cut, the mean of its clips counts."""
    clips = dict[str, list[float]]()
    for name, value in found.get("videos", {}).items():
        clips.setdefault(own[name].name, []).append(value)
    videos = {name: sum(values) / len(values) for name, values in clips.items()}
    score = found.get("score")
    if score is not None and len(set(own.values())) < len(own):
        score = sum(videos.values()) / len(videos)
    return Verdict(found["dimension"], score, found.get("error", ""), videos)


def _read(command: Sequence[str], own: Mapping[str, Path], runnable: Sequence[str]) -> Iterator[Verdict]:
    """Run the driver and read a line for each dimension."""
    left = list(runnable)
    with TemporaryDirectory() as temporary:
        log = Path(temporary) / "log"
        with log.open("wb") as errors, subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors) as process:
            assert process.stdout is not None
            for line in process.stdout:
                found = json.loads(line)
                left.remove(found["dimension"])
                yield _verdict(found, own)
        said = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    reason = said[-1] if said else f"exit status {process.returncode}"
    if left and left == list(runnable):
        raise ValueError(f"vbench cannot be run: {reason}")
    yield from (Verdict(name, missing=f"vbench stopped: {reason}") for name in left)
