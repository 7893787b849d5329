"""Kill `causvid evaluate videos` at random moments; its folder must end as that of a run that was left alone.

    python studies/killed.py FOLDER --prompts 50 --seeds 5 --seconds 0.75

A moment is drawn by how many videos are there, then by a part of a second: it may come while a model loads, denoises or
writes. Every file of both folders is compared by its checksum.
"""

import hashlib
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from causvid.cli.options import ModelOption

POLL = 0.02
SOON = 1.0
"""Seconds within which a process dies after the video that was waited for."""


def make(folder: Path, options: list[str], *, until: int | None = None, wait: float = 0.0) -> bool:
    """Run the command; kill it (-9) `wait` seconds after `until` videos are there. Return whether it was killed.

    Raises:
        RuntimeError: the command failed.
    """
    command = [sys.executable, "-m", "causvid.cli", "evaluate", "videos", "-o", str(folder), *options]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        while until is not None and process.poll() is None:
            if len(list(folder.glob("*.mkv"))) >= until:
                time.sleep(wait)
                process.kill()
                process.wait()
                return process.returncode < 0
            time.sleep(POLL)
        error = process.communicate()[1].decode()
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} failed: {error}")
    return False


def checksums(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every file in a folder, hidden ones too."""
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return {file.relative_to(folder).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def compare(folder: Path, options: list[str], *, videos: int, kills: int = 2, seed: int = 0) -> dict[str, str]:
    """Make the videos once with kills, once without, into two new folders; return what both hold.

    Raises:
        RuntimeError: the command failed, ended before it was killed, or the folders differ.
    """
    draw = random.Random(seed)
    broken, whole = folder / "killed", folder / "unbroken"
    for until in sorted(draw.sample(range(1, videos), kills)):
        if not make(broken, options, until=until, wait=draw.uniform(0, SOON)):
            raise RuntimeError(f"the command ended before it was killed at {until} of {videos} videos")
        print(f"killed with {len(list(broken.glob('*.mkv')))} of {videos} videos", flush=True)
    make(broken, options)
    make(whole, options)
    found, wanted = checksums(broken), checksums(whole)
    if differing := sorted(name for name in found.keys() | wanted.keys() if found.get(name) != wanted.get(name)):
        raise RuntimeError(f"{len(differing)} files differ, {differing[0]} first")
    return found


def main(
    folder: Annotated[Path, typer.Argument(help="For both folders; new.")],
    model: ModelOption = None,
    prompts: Annotated[int, typer.Option(min=1)] = 50,
    seeds: Annotated[int, typer.Option(min=1)] = 5,
    seconds: Annotated[float, typer.Option()] = 0.75,
    kills: Annotated[int, typer.Option(min=0)] = 2,
    seed: Annotated[int, typer.Option(min=0, help="Of the moments.")] = 0,
) -> None:
    """Make videos with kills and without, and compare the folders."""
    options = ["--prompts", str(prompts), "--seeds", str(seeds), "--seconds", str(seconds), "--device", "cpu"]
    if model is not None:
        options += ["--model", model]
    found = compare(folder, options, videos=prompts * seeds, kills=kills, seed=seed)
    print(f"{len(found)} files ({prompts * seeds} videos), killed {kills} times: equal to the unbroken run's")


if __name__ == "__main__":
    typer.run(main)
