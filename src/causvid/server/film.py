"""The film of a live session on disk: every chunk as it was encoded, so that readers can lag, return, and export it.

One thread appends; any thread reads what is there.
"""

import json
import os
import shutil
import threading
from bisect import bisect_right
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

import numpy as np
import torch
from torch import Tensor

from causvid.engine.latents import save_latents


@dataclass(frozen=True)
class Piece:
    """A chunk of the film: its first frame, the prompt it was made under, its access units, its latents' bytes."""

    position: int
    prompt: str
    sizes: tuple[int, ...]
    latents: int

    @property
    def end(self) -> int:
        """Return the frame that follows."""
        return self.position + len(self.sizes)


class Film:
    """A folder with `film.h264`, `film.latents` (float16), and `film.jsonl`, which says where each chunk of them is."""

    def __init__(self, folder: Path, *, only_read: bool = False) -> None:
        """Open a film, or start one; what a killed process left half-written is dropped, or passed over."""
        self.folder = folder
        self.pieces: list[Piece] = []
        self._starts: list[tuple[int, int]] = []
        self._end = (0, 0)
        self._lock = threading.Lock()
        video, latents = self._sizes()
        for piece in _read_index(folder / "film.jsonl"):
            after = self._end[0] + sum(piece.sizes), self._end[1] + piece.latents
            if piece.position != self.position or after[0] > video or after[1] > latents:
                break
            self._note(piece)
        if not only_read:
            self.truncate(self.position)

    @property
    def position(self) -> int:
        """Return how many frames there are."""
        return self.pieces[-1].end if self.pieces else 0

    def append(self, units: list[bytes], latents: Tensor, *, prompt: str) -> Piece:
        """Add a chunk: its access units, and its latents `[1, F, C, h, w]`."""
        data = latents.detach().to("cpu", torch.float16).numpy().tobytes()
        piece = Piece(self.position, prompt, tuple(map(len, units)), len(data))
        try:
            for name, content in (
                ("film.h264", b"".join(units)),
                ("film.latents", data),
                ("film.jsonl", _line(piece).encode()),
            ):
                with (self.folder / name).open("ab") as file:
                    file.write(content)
        except OSError:
            with suppress(OSError):
                self.truncate(self.position)  # what was half-written
            raise
        with self._lock:
            self._note(piece)
        return piece

    def _number(self, position: int) -> int | None:
        """Return the number of the chunk that holds a frame; None where there is none yet."""
        number = bisect_right(self.pieces, position, key=lambda piece: piece.position) - 1
        return number if number >= 0 and position < self.pieces[number].end else None

    def read(self, position: int) -> tuple[Piece, list[bytes]] | None:
        """Read the chunk that holds a frame, with its access units; None where there is none yet."""
        with self._lock:
            number = self._number(position)
            if number is None:
                return None
            piece, start = self.pieces[number], self._starts[number][0]
            with (self.folder / "film.h264").open("rb") as file:
                file.seek(start)
                return piece, [file.read(size) for size in piece.sizes]

    def units(self) -> Iterator[bytes]:
        """Read the access units of the whole film."""
        position = 0
        while (found := self.read(position)) is not None:
            yield from found[1]
            position = found[0].end

    def save_latents(self, path: Path, *, shape: tuple[int, int, int], fps: float) -> None:
        """Write the latents, (C, h, w) a frame, as `causvid decode` and `after` read them."""
        with self._lock:
            data = (self.folder / "film.latents").read_bytes()[: self._end[1]]
        if not data:
            raise ValueError("the session has no frames yet")
        latents = np.frombuffer(data, np.float16).reshape(1, -1, *shape).astype(np.float32)
        save_latents(path, torch.from_numpy(latents), fps=fps)

    def truncate(self, position: int) -> None:
        """Drop the chunks that end after frame `position`."""
        with self._lock:
            self._truncate(position)

    def _truncate(self, position: int) -> None:
        while self.pieces and self.position > position:
            self.pieces.pop()
            self._end = self._starts.pop()
        for name, size in (("film.h264", self._end[0]), ("film.latents", self._end[1])):
            if (self.folder / name).exists():
                os.truncate(self.folder / name, size)
        index = self.folder / "film.jsonl"
        lines = "".join(map(_line, self.pieces)).encode()
        if index.exists() and index.read_bytes().startswith(lines):
            os.truncate(index, len(lines))  # which a full disk allows
        else:
            partial = self.folder / "film.jsonl.partial"
            partial.write_bytes(lines)
            partial.replace(index)

    def fork(self, folder: Path, position: int) -> Self:
        """Copy the film up to a frame into another folder."""
        for name in ("film.h264", "film.latents", "film.jsonl"):
            if (self.folder / name).exists():
                shutil.copyfile(self.folder / name, folder / name)
        film = type(self)(folder)
        film.truncate(position)
        return film

    def _note(self, piece: Piece) -> None:
        self._starts.append(self._end)
        self._end = self._end[0] + sum(piece.sizes), self._end[1] + piece.latents
        self.pieces.append(piece)

    def _sizes(self) -> list[int]:
        files = [self.folder / "film.h264", self.folder / "film.latents"]
        return [file.stat().st_size if file.exists() else 0 for file in files]


def _line(piece: Piece) -> str:
    return json.dumps(asdict(piece)) + "\n"


def _read_index(file: Path) -> Iterator[Piece]:
    if not file.exists():
        return
    for line in file.read_bytes().splitlines():
        try:
            values = json.loads(line)
            yield Piece(**{**values, "sizes": tuple(values["sizes"])})
        except (ValueError, KeyError, TypeError):
            return
