"""Follow docs/training/own-videos.md on 50 clips of moving squares, and write what its commands print into it.

python studies/own_videos.py FOLDER        a new folder for clips, set and run
"""

import re
import shlex
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from causvid.media import VideoWriter

PAGE = Path(__file__).parent.parent / "docs" / "training" / "own-videos.md"
SIZES = ((64, 96), (90, 120), (120, 90), (72, 128), (100, 100))
RATES = (8, 12, 24, 25, 30)
COLOURS = {"red": (210, 40, 40), "green": (40, 170, 60), "blue": (50, 70, 210), "yellow": (220, 200, 40)}
CLIPS = 50
PRINTED = re.compile(r"printed(?: in \d+ minutes)?\n\n```\n.*?```", re.DOTALL)


def make_clips(folder: Path, count: int = CLIPS) -> None:
    """Write squares that cross a grey pattern, with captions beside them; two do not move, and one is there twice."""
    folder.mkdir(parents=True)
    draw = np.random.default_rng(0)
    for n in range(count):
        (height, width), fps = SIZES[n % 5], RATES[n // 5 % 5]
        name = list(COLOURS)[n % 4]
        side, top = int(height * draw.uniform(0.3, 0.5)), int(height * draw.uniform(0.1, 0.4))
        ground = draw.integers(90, 180, (4, 4, 1)).repeat(-(-height // 4), 0).repeat(-(-width // 4), 1)
        frames = np.broadcast_to(ground[:height, :width], (4 * fps, height, width, 3)).astype(np.uint8)
        for t, frame in enumerate(frames):
            left = 0 if n in (7, 31) else int((width - side) * t / len(frames))
            frame[top : top + side, left : left + side] = COLOURS[name]
        with VideoWriter(folder / f"{n:02d}.mp4", fps=fps, height=height, width=width) as writer:
            writer.write(frames)
        (folder / f"{n:02d}.txt").write_text(f"a {name} square that moves to the right\n")
    for suffix in (".mp4", ".txt"):
        (folder / f"49{suffix}").write_bytes((folder / f"00{suffix}").read_bytes())


def main(place: Path) -> None:
    """Run the commands of the page in a new folder."""
    make_clips(place / "clips")
    page = PAGE.read_text(encoding="utf-8")
    sections = page[page.index("## Prepare") : page.index("## Several processes")]
    (settings,) = re.findall(r"```toml\n(.*?)```", sections, re.DOTALL)
    (place / "mine.toml").write_text(settings, encoding="utf-8")
    commands = [line for block in re.findall(r"```sh\n(.*?)```", sections, re.DOTALL) for line in block.splitlines()]
    begin, printed = time.monotonic(), list[str]()
    for command in commands:
        program, *arguments = shlex.split(command, comments=True)
        assert program == "causvid", command
        print("$", shlex.join([program, *arguments]), flush=True)
        done = subprocess.run([sys.executable, "-m", "causvid.cli", *arguments], cwd=place, stdout=-1, text=True)
        print(done.stdout, f"{time.monotonic() - begin:.0f} s", flush=True)
        if done.returncode:
            raise SystemExit(done.returncode)
        printed += [line for line in done.stdout.splitlines() if line.startswith("set: ")]
    minutes = max(1, round((time.monotonic() - begin) / 60))
    lines = "".join(f"{line}\n" for line in printed)
    new, count = PRINTED.subn(lambda _: f"printed in {minutes} minutes\n\n```\n{lines}```", page)
    assert count == 1, f"{PAGE} has {count} places for what the commands print"
    PAGE.write_text(new, encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
