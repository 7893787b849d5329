"""Kill a command at random moments; its folder must end as that of a run that was left alone.

    python studies/killed.py FOLDER -- evaluate videos -o OUT --prompts 50 --seeds 5 --seconds 0.75
    python studies/killed.py FOLDER --kills 10 --clips 300 -- data prepare CLIPS --out OUT

OUT stands for the command's folder, CLIPS for one of videos that are made first. Moments are drawn over the time in
which the unbroken run works, and found again by how many files are there, then by seconds: while it reads, computes or
writes. All its processes are killed (-9). What is there then must be whole, and in the end every file the same.
"""

import hashlib
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

POLL = 0.02
HIDDEN = re.compile(r"\.causvid-.*\.partial")
"""Names of folders in which files are made."""
PAGE = Path(__file__).parent.parent / "docs" / "training" / "own-videos.md"
PRINTED = re.compile(r"(?<=\$ python studies/killed\.py FOLDER )[^`]*(?=\n```)", re.DOTALL)


def make(
    command: list[str], out: Path, *, until: tuple[int, float] | None = None, start: float = 0
) -> tuple[dict[int, float], float] | None:
    """Run the command; return when each number of files was first there, and its time, in seconds; None if killed.

    until: kill it so many seconds after so many files are there. start: when to count from, if they were before.

    Raises:
        RuntimeError: the command failed.
    """
    line = [sys.executable, "-m", "causvid.cli", *(str(out) if word == "OUT" else word for word in command)]
    begin, seen, before = time.monotonic(), dict[int, float](), len(names(out))
    with subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True) as process:
        while process.poll() is None:
            now = time.monotonic() - begin
            seen.setdefault(len(names(out)), now)
            times = [start if n == before else second for n, second in seen.items() if until and n >= until[0]]
            if until and times and now >= min(times) + until[1]:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                return None
            time.sleep(POLL)
        error = process.communicate()[1].decode()
    if process.returncode:
        raise RuntimeError(f"{' '.join(line)} failed: {error}")
    return seen, time.monotonic() - begin


def names(folder: Path, *, hidden: bool = False) -> list[str]:
    """Return the files in a folder; hidden: those that are being made too."""
    found = [Path(place, name) for place, _, files in os.walk(folder) for name in files]
    return sorted(str(file.relative_to(folder)) for file in found if hidden or not HIDDEN.search(str(file)))


def check(found: Path, wanted: Path, *, end: bool) -> int:
    """Compare the files of two folders by checksum, all that the first holds or, at the end, all; return how many.

    Raises:
        RuntimeError: they differ.
    """

    def digest(folder: Path, name: str) -> str | None:
        file = folder / name
        return hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else None

    compared = sorted({*names(found, hidden=end), *(names(wanted, hidden=end) if end else ())})
    differing = [name for name in compared if digest(found, name) != digest(wanted, name)]
    if differing:
        raise RuntimeError(f"{len(differing)} of {len(compared)} files differ, {differing[0]} first")
    return len(compared)


def compare(folder: Path, command: list[str], *, kills: int = 2, seed: int = 0) -> int:
    """Run the command once without kills, once with, in two new folders; return how many files both hold.

    Raises:
        RuntimeError: the command failed, left half a file, or the folders differ.
    """
    draw = random.Random(seed)
    whole, broken = folder / "unbroken" / "out", folder / "killed" / "out"  # reports name the folder
    made = make(command, whole)
    assert made is not None
    seen, end = made
    start = min(second for n, second in seen.items() if n)
    while True:
        for moment in sorted(draw.uniform(start, end) for _ in range(kills)):
            count, second = max((n, second) for n, second in seen.items() if second <= moment)
            if make(command, broken, until=(count, moment - second), start=start) is not None:
                break  # the machine is faster than it was: what kills are left are for a new folder
            kills, there = kills - 1, check(broken, whole, end=False)
            print(f"killed {moment - start:.1f} s into {end - start:.1f} s of work, with {there} files", flush=True)
        else:
            make(command, broken)
        found = check(broken, whole, end=True)
        if not kills:
            return found
        shutil.rmtree(broken)


def main(
    folder: Annotated[Path, typer.Argument(help="For clips and both folders; new.")],
    command: Annotated[list[str], typer.Argument(help="What follows `causvid`, with OUT for its folder.")],
    kills: Annotated[int, typer.Option(min=0)] = 2,
    clips: Annotated[int, typer.Option(min=0, help="Videos to make first, in CLIPS.")] = 0,
    seed: Annotated[int, typer.Option(min=0, help="Of the moments.")] = 0,
    write: Annotated[bool, typer.Option("--write", help="Write the result into the page on your own videos.")] = False,
) -> None:
    """Run a command with kills and without, and compare the folders."""
    if clips:
        from own_videos import make_clips

        make_clips(folder / "clips", clips)
    given = [str(folder / "clips") if word == "CLIPS" else word for word in command]
    count = compare(folder, given, kills=kills, seed=seed)
    options = f"--kills {kills} --clips {clips} -- {' '.join(command)}"
    result = f"{options}\n{count} files, killed {kills} times: equal to the unbroken run's"
    print(result)
    if write:
        page = PAGE.read_text(encoding="utf-8")
        new, places = PRINTED.subn(lambda _: result, page)
        assert places == 1, f"{PAGE} has {places} places for the result"
        PAGE.write_text(new, encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
