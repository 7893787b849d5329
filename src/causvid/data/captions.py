"""Captions of videos: from a table, a file beside the video, or a template; and lists of prompts."""

import csv
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from string import Formatter

from causvid.opening import read_text

FILE_COLUMNS = ("file", "file_name", "video", "path", "name")
CAPTION_COLUMNS = ("caption", "text", "prompt")
FIELDS = {"name", "folder"}
TABLE_BYTES = 2**30


@dataclass(frozen=True)
class Captions:
    """Where captions come from, the first that has one: `table`, by file name or the end of a path; NAME.txt or
    NAME.json beside the video; `template`, in which {name} and {folder} are the video's, with spaces for _ and -.
    """

    table: Mapping[str, str] = field(default_factory=dict)
    template: str | None = None

    def __post_init__(self) -> None:
        if self.template is None:
            return
        try:
            names = {name for _, name, _, _ in Formatter().parse(self.template) if name is not None}
        except ValueError as error:
            raise ValueError(f"caption={self.template!r}: {error}") from None
        if names - FIELDS or not self.template.strip():
            raise ValueError(f"caption={self.template!r}: expected words, with {{name}} or {{folder}} or neither")

    def of(self, video: Path) -> str:
        """Return a video's caption, white space joined.

        Raises:
            ValueError: if it has none, or two beside it, or what should hold it cannot be read.
        """
        ends = ("/".join(video.parts[n:]) for n in range(len(video.parts)))  # from the longest to the name alone
        keys = (str(video), *ends, video.stem)
        found = next((self.table[key] for key in keys if key in self.table), None)
        if found is None:
            found = _beside(video)
        if found is None and self.template is not None:
            words = {"name": video.stem, "folder": video.absolute().parent.name}
            words = {key: " ".join(word.replace("_", " ").replace("-", " ").split()) for key, word in words.items()}
            found = self.template.format(**words)
        caption = " ".join((found or "").split())
        if not caption:
            raise ValueError("it has no caption: expected NAME.txt or NAME.json beside it, --captions or --caption")
        if not caption.isascii() and caption != caption.encode("utf-8", "replace").decode():
            raise ValueError(f"its caption {caption!r} is not text in UTF-8, as its name may be: rename it")
        return caption


def read_table(path: Path) -> dict[str, str]:
    """Read captions by file name from a CSV or Parquet file with a column for the file and one for the caption.

    Raises:
        ValueError: if it cannot be read, lacks a column, or has two captions for one file.
    """
    if path.suffix.lower() == ".parquet":
        columns = _read_parquet(path)
    elif path.suffix.lower() == ".csv":
        rows = list(csv.DictReader(read_text(path, most=TABLE_BYTES).splitlines(), strict=True))
        columns = {name: [str(row[name] or "") for row in rows] for name in (rows[0] if rows else ()) if name}
    else:
        raise ValueError(f"captions={path}: expected a .csv or .parquet file")
    file = next((columns[name] for name in FILE_COLUMNS if name in columns), None)
    caption = next((columns[name] for name in CAPTION_COLUMNS if name in columns), None)
    if file is None or caption is None:
        expected = f"one of {', '.join(FILE_COLUMNS)} and one of {', '.join(CAPTION_COLUMNS)}"
        raise ValueError(f"captions={path} has columns {', '.join(columns) or 'none'}: expected {expected}")
    table: dict[str, str] = {}
    for name, text in zip(file, caption, strict=True):
        if table.setdefault(name, text) != text:
            raise ValueError(f"captions={path} has two captions for {name}: expected one")
    return table


def read_prompts(path: Path) -> list[str]:
    """Read a list of prompts, one a line, as Self Forcing and CausVid have them; empty lines are left out.

    Raises:
        ValueError: if there are none.
    """
    lines = (" ".join(line.split()) for line in read_text(path, most=TABLE_BYTES).splitlines())
    prompts = [line for line in lines if line]
    if not prompts:
        raise ValueError(f"{path} has no prompts: expected one a line")
    return prompts


def _beside(video: Path) -> str | None:
    """Return the caption in NAME.txt or NAME.json; `ValueError` if it cannot be read, or they say different things."""
    texts: list[str] = []
    for suffix, read in ((".txt", read_text), (".json", _read_json)):
        file = video.with_suffix(suffix)
        if file.is_file():
            try:
                texts.append(" ".join(read(file).split()))
            except (OSError, ValueError) as error:
                raise ValueError(f"its caption cannot be read: {error}") from None
    if len(set(texts)) > 1:
        raise ValueError(f"it has two captions, in {video.stem}.txt and {video.stem}.json: expected one, or both alike")
    return texts[0] if texts else None


def _read_json(path: Path) -> str:
    try:
        value = json.loads(read_text(path))
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from None
    texts = [value.get(name) for name in CAPTION_COLUMNS] if isinstance(value, dict) else [value]
    found = next((text for text in texts if isinstance(text, str)), None)
    if found is None:
        raise ValueError(f"{path} has no caption: expected one of {', '.join(CAPTION_COLUMNS)}")
    return found


def _read_parquet(path: Path) -> dict[str, list[str]]:
    try:
        import pyarrow.parquet as parquet
    except ImportError:
        raise ValueError(f"captions={path} needs pyarrow: pip install pyarrow") from None
    try:
        table = parquet.read_table(path)
    except (OSError, ValueError) as error:  # pyarrow's own errors are both
        raise ValueError(f"captions={path} cannot be read: {' '.join(str(error).split())}") from None
    return {name: [str(value or "") for value in table[name].to_pylist()] for name in table.column_names}
