"""Two models side by side: a page for blind votes on the same prompts and seeds, and the win rate of what was voted.

    index.html          the page; keeps votes in the browser and offers them as votes.json
    000-left.mp4, …     the pairs, in an order and on sides drawn from the seed

Which side is whose stands in the page, hidden until the votes are in; that is blind for an honest voter.
"""

import html
import json
import random
import shutil
from collections.abc import Sequence
from pathlib import Path

from causvid.config import Settings
from causvid.evaluate.adherence import Tally
from causvid.evaluate.videos import Manifest
from causvid.files.writing import new_folder
from causvid.media import VideoWriter, probe, read_video
from causvid.opening import read_text

PAGE = "index.html"
TEMPLATE = Path(__file__).parent / "compare.html"
CHOICES = ("A", "B", "tie")


class Result(Settings):
    """Votes for A and for B; ties count for neither."""

    a: int
    b: int
    ties: int

    @property
    def wins(self) -> Tally:
        """How often A won of the votes that were no ties."""
        return Tally(correct=self.a, count=self.a + self.b)


def pairs(a: Path, b: Path) -> list[tuple[str, Path, Path]]:
    """Match the videos of two folders by prompt and seed: (prompt, video of A, video of B).

    Raises:
        ValueError: they share none, or a video is missing.
    """
    first, second = Manifest.load(a), Manifest.load(b)
    others = {(video.prompt.text, video.seed): b / video.file for video in second.videos}
    found = [
        (video.prompt.text, a / video.file, others[video.prompt.text, video.seed])
        for video in first.videos
        if (video.prompt.text, video.seed) in others
    ]
    if not found:
        raise ValueError(f"{a} and {b} share no prompt with the same seed: make both with the same prompts and seeds")
    for file in (file for _, *files in found for file in files):
        if not file.is_file():
            raise ValueError(f"{file} is missing: finish the folder first")
    return found


def write_page(a: Path, b: Path, folder: Path, *, seed: int = 0) -> int:
    """Write the page into a new folder, whole or not at all; return the number of pairs.

    Raises:
        ValueError: as `pairs`, or the folder exists.
    """
    if folder.exists():
        raise ValueError(f"output={folder} exists: choose a new folder")
    matched = pairs(a, b)
    order = random.Random(seed)
    order.shuffle(matched)
    with new_folder(folder) as place:
        entries = []
        for number, (prompt, *files) in enumerate(matched):
            swapped = order.random() < 0.5
            for side, file in zip(("right", "left") if swapped else ("left", "right"), files, strict=True):
                _as_mp4(file, place / f"{number:03d}-{side}.mp4")
            entries.append({"prompt": prompt, "left": "B" if swapped else "A"})
        # In a script, only "<" could end it.
        data = json.dumps({"a": str(a.name), "b": str(b.name), "seed": seed, "pairs": entries}).replace("<", "\\u003c")
        text = TEMPLATE.read_text(encoding="utf-8").replace("{{title}}", html.escape(f"{a.name} or {b.name}"))
        (place / PAGE).write_text(text.replace("{{data}}", data), encoding="utf-8")
    return len(matched)


def read_votes(files: Sequence[Path]) -> Result:
    """Count the votes of files that the page wrote, of several voters together.

    Raises:
        ValueError: one is no such file, or they compare other models.
    """
    models, votes = set(), list[str]()
    for file in files:
        try:
            found = json.loads(read_text(file))
            models.add((found["a"], found["b"], found["seed"]))
            chosen = list(found["votes"].values())
        except (ValueError, KeyError, TypeError, AttributeError):
            chosen = [""]
        if any(vote not in CHOICES for vote in chosen):
            raise ValueError(f"votes={file}: expected a file that a page of `causvid compare` wrote")
        votes += chosen
    if len(models) > 1:
        raise ValueError("votes: the files are of different comparisons")
    return Result(a=votes.count("A"), b=votes.count("B"), ties=votes.count("tie"))


def _as_mp4(source: Path, target: Path) -> None:
    if source.suffix == ".mp4":
        shutil.copyfile(source, target)
        return
    seen = probe(source)
    fps = seen.fps or 24.0
    with VideoWriter(target, fps=fps, height=seen.height, width=seen.width) as writer:
        for frame in read_video(source, height=seen.height, width=seen.width, fps=fps):
            writer.write(frame[None])
