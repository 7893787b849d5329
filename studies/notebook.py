"""What a study notes down as it measures: tables, targets and pictures, written as Markdown and JSON."""

import platform
import shlex
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

from PIL.Image import Image
from pydantic import BaseModel, Field

from causvid.config import Settings
from causvid.engine.memory import describe_machine
from causvid.evaluate.adherence import Tally
from causvid.evaluate.card import share, table, target_section
from causvid.evaluate.report import POINTS, Target, points
from causvid.pipeline import Pipeline


class Row(Settings):
    """A row of a table. readings: column → clips read as asked; numbers: column → a number, None where unknown."""

    name: str
    readings: Mapping[str, Tally] = Field(default_factory=dict)
    numbers: Mapping[str, float | None] = Field(default_factory=dict)

    def cell(self, column: str) -> str:
        """Write what the row has in a column."""
        if column in self.readings:
            return share_within(self.readings[column])
        number = self.numbers.get(column)
        return "–" if number is None else f"{number:.4g}"


class Section(Settings):
    """A heading, what was done, what came out, and the name of a picture of it."""

    title: str
    about: str
    rows: tuple[Row, ...]
    picture: str | None

    def render(self) -> str:
        """Write it as Markdown."""
        columns = list(dict.fromkeys(name for row in self.rows for name in (*row.readings, *row.numbers)))
        rows = [[row.name, *map(row.cell, columns)] for row in self.rows]
        parts = [f"## {self.title}", self.about, table(["", *columns], rows)]
        return "\n\n".join([*parts, *([f"![{self.title}]({self.picture}.webp)"] if self.picture else [])])


class Notebook(BaseModel):
    """Sections and targets in the order in which they were measured."""

    targets: list[Target] = []
    sections: list[Section] = []

    def section(self, title: str, about: str, rows: Sequence[Row], picture: str | None = None) -> None:
        """Note a section."""
        self.sections.append(Section(title=title, about=about, rows=tuple(rows), picture=picture))

    def limit(self, wanted: str, value: float, limit: float, measured: str) -> None:
        """Note a target that is reached by a value of at most `limit`."""
        self.targets.append(Target(wanted=wanted, measured=measured, reached=value <= limit))

    def close(self, wanted: str, tally: Tally, reference: Tally, than: str) -> None:
        """Note the target that a fraction is at most `POINTS` below a reference; better counts as reached."""
        if tally.count and reference.count:
            gap = tally.points_below(reference)
            text = f"{share_within(tally)} to {share_within(reference)}: {points(gap)}"
            self.limit(f"{wanted}: at most {POINTS:g} points below {than}", gap, POINTS, text)

    def write(
        self, folder: Path, title: str, about: str, pipeline: Pipeline, pictures: Mapping[str, Image] | None = None
    ) -> None:
        """Write pictures, the numbers as JSON, and the report into a folder."""
        folder.mkdir(parents=True, exist_ok=True)
        for name, picture in (pictures or {}).items():
            picture.save(folder / f"{name}.webp", quality=85)
        made, device = pipeline.bundle.provenance, pipeline.bundle.transformer.patch_in.weight.device
        source = (
            f"Model: {made.get('preset')}, finished {made.get('finished')}. Machine: {describe_machine(device)}. "
            f"Versions: causvid {version('causvid')}, python {platform.python_version()}."
        )
        head = [f"# {title}", source, f"```sh\n{shlex.join(['python', *sys.argv])}\n```", about]
        if self.targets:
            head.append(target_section(self.targets))
        text = "\n\n".join([*head, *(section.render() for section in self.sections)]) + "\n"
        (folder / f"{folder.resolve().name}.json").write_text(self.model_dump_json(indent=2) + "\n", encoding="utf-8")
        (folder / "README.md").write_text(text, encoding="utf-8")
        print(f"wrote {folder / 'README.md'}")


def share_within(tally: Tally | None) -> str:
    """Write a fraction with its counts and its 95 % interval; a dash where nothing was counted."""
    if tally is None or not tally.count:
        return "–"
    low, high = tally.interval
    return f"{share(tally)}, {100 * low:.0f}–{100 * high:.0f}"
