"""What a session needs beside its state to survive a restart: what was asked for, and every change since the state.

A change is written before it takes effect, with the frame it belongs to. The state is written every few chunks; what
was changed after it is applied again at the same frames, which makes the same video.
"""

import json
import logging
import os
import time
from pathlib import Path
from typing import Any, Self

from pydantic import Field, ValidationError

from causvid.config import Settings
from causvid.engine.request import Adjustment, Change, PromptChange
from causvid.files.writing import new_file
from causvid.server.protocol import SessionRequest
from causvid.timeline import Timeline

log = logging.getLogger("causvid.server")


class Header(Settings):
    """A session on disk. files: uploads that the request names, by their names in the session's folder.

    shape: (C, h, w) of a latent frame. parent: of a fork, which has no start of its own. created: seconds since 1970.
    """

    request: SessionRequest
    client: str
    shape: tuple[int, int, int]
    files: dict[str, str] = Field(default_factory=dict)
    parent: str | None = None
    created: float = Field(default_factory=time.time)
    closed: bool = False


class Journal:
    """`session.json` and `changes.jsonl` in a session's folder, and where its state stands."""

    def __init__(self, folder: Path, header: Header) -> None:
        self.folder, self.header = folder, header

    @classmethod
    def create(cls, folder: Path, header: Header) -> Self:
        """Start a journal in a new folder."""
        journal = cls(folder, header)
        journal._write()
        return journal

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Read the journal of an earlier run.

        Raises:
            ValueError: if it is missing or damaged.
        """
        try:
            return cls(folder, Header.model_validate_json((folder / "session.json").read_bytes()))
        except (OSError, ValidationError) as error:
            raise ValueError(f"{folder} holds no session: {str(error).splitlines()[0]}") from None

    @property
    def state(self) -> Path:
        """Return the file of the newest saved state; it may not exist yet."""
        return self.folder / "state.safetensors"

    def close(self) -> None:
        """Note that the session is over; what is left is its film."""
        self.header = self.header.model_copy(update={"closed": True})
        self._write()
        self.state.unlink(missing_ok=True)

    @property
    def timeline(self) -> Path:
        """Return the file of the timeline; there is none where the session cannot be said as one."""
        return self.folder / "timeline.toml"

    def write_timeline(self, timeline: Timeline | None) -> None:
        """Write the timeline, or remove the one before; a session is kept without it where the disk is full."""
        if timeline is None:
            self.timeline.unlink(missing_ok=True)
            return
        try:
            timeline.save(self.timeline)
        except OSError as error:
            log.warning("the timeline in %s cannot be written: %s", self.folder, error)

    def add(self, position: int, change: Change) -> None:
        """Note a change that takes effect at frame `position`."""
        values = {"position": position, "change": change.model_dump(mode="json", exclude_defaults=True)}
        self._append({**values, "kind": "prompt" if isinstance(change, PromptChange) else "adjust"})

    def rewind(self, position: int) -> None:
        """Note that all changes from frame `position` on are void; the state there must have been saved before."""
        self._append({"position": position, "kind": "rewind"})

    def changes(self, position: int) -> list[tuple[int, Change]]:
        """Return the changes from frame `position` on, in order."""
        file = self.folder / "changes.jsonl"
        found: list[tuple[int, Change]] = []
        for line in file.read_bytes().splitlines() if file.exists() else []:
            try:
                values: dict[str, Any] = json.loads(line)
                at = int(values["position"])
                if values["kind"] == "rewind":
                    found = [(frame, change) for frame, change in found if frame < at]
                else:
                    kind = PromptChange if values["kind"] == "prompt" else Adjustment
                    found.append((at, kind.model_validate(values["change"])))
            except (ValueError, KeyError, TypeError):
                continue  # half-written, by a killed process or on a full disk: it was never confirmed
        return [(at, change) for at, change in found if at >= position]

    def _append(self, values: dict[str, Any]) -> None:
        with (self.folder / "changes.jsonl").open("ab+") as file:
            if file.seek(0, os.SEEK_END):
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":  # the last one was half-written
                    file.write(b"\n")
            file.write(json.dumps(values).encode() + b"\n")

    def _write(self) -> None:
        with new_file(self.folder / "session.json") as place:
            place.write_text(self.header.model_dump_json(exclude_defaults=True), encoding="utf-8")
