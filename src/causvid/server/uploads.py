"""Pictures and videos that clients sent: checked by content, kept for a while, found by identifier alone."""

import os
import re
import secrets
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal, get_args

from fastapi import APIRouter, Request
from fastapi.concurrency import run_in_threadpool
from PIL import Image, UnidentifiedImageError
from starlette.datastructures import UploadFile

from causvid.media.clip import Clip
from causvid.media.image import identify, open_image
from causvid.media.reader import probe
from causvid.server.bodies import read_form
from causvid.server.errors import RESPONSES, TooLarge
from causvid.server.settings import ServerSettings

Kind = Literal["image", "video"]
PIECE = 2**20
"""Bytes copied at a time."""
FASTEST = 240
"""Frames a second of a video: each is decoded, also those that are not used."""
MOVING = 2
"""Pictures of a file, from which on it is a video: an animated GIF is one."""


@dataclass(frozen=True)
class Upload:
    """A file a client sent. height, width: pixels. seconds: of a video."""

    id: str
    kind: Kind
    bytes: int
    width: int
    height: int
    seconds: float | None


class Uploads:
    """A folder of uploads, `ID.image` and `ID.video`; no other path is ever opened for a request."""

    def __init__(self, folder: Path, settings: ServerSettings) -> None:
        """Keep uploads in `folder`, within the limits of `settings`."""
        self._folder, self._settings = folder, settings
        folder.mkdir(parents=True, exist_ok=True)
        for left in folder.glob("*.partial"):  # by a server that was killed
            if left.is_file():
                left.unlink()

    def add(self, name: str, content: BinaryIO) -> Upload:
        """Store a picture or a video; `name` stands for it in errors.

        Raises:
            ValueError: if it is neither, or beyond a limit.
        """
        identifier = f"file_{secrets.token_urlsafe(18)}"
        place = self._folder / f"{identifier}.partial"
        try:
            size = self._copy(name, content, place)
            try:
                kind, width, height, seconds = self._look(place)
            except ValueError as error:
                raise ValueError(f"{name}: it {str(error).removeprefix(str(place)).strip()}") from None
            place.rename(self._folder / f"{identifier}.{kind}")
        finally:
            place.unlink(missing_ok=True)
        return Upload(identifier, kind, size, width, height, seconds)

    def path(self, identifier: str, kind: Kind) -> Path:
        """Return the file of an upload.

        Raises:
            LookupError: if there is none. ValueError: if it is of the other kind.
        """
        found = self._find(identifier)
        if found.suffix != f".{kind}":
            raise ValueError(f"upload {identifier} is {_a(found.suffix[1:])}, expected {_a(kind)}")
        return found

    def remove(self, identifier: str) -> None:
        """Delete an upload; what was started from it keeps its copy.

        Raises:
            LookupError: if there is none.
        """
        self._find(identifier).unlink(missing_ok=True)

    def sweep(self) -> None:
        """Delete what has expired."""
        oldest = time.time() - self._settings.keep_seconds
        for file in self._folder.iterdir():
            with suppress(FileNotFoundError):  # deleted by its client in this moment
                if file.is_file() and file.stat().st_mtime < oldest:
                    file.unlink()

    def _find(self, identifier: str) -> Path:
        if re.fullmatch(r"[A-Za-z0-9_-]{1,64}", identifier):
            for kind in get_args(Kind):
                path = self._folder / f"{identifier}.{kind}"
                if path.is_file():
                    return path
        raise LookupError(f"there is no upload {identifier!r}")

    def _copy(self, name: str, content: BinaryIO, place: Path) -> int:
        most, size = self._settings.upload_bytes, 0
        with place.open("wb") as file:
            while piece := content.read(PIECE):
                size += len(piece)
                if size > most:
                    raise TooLarge(f"{name}: larger than {most} bytes")
                file.write(piece)
        return size

    def _look(self, place: Path) -> tuple[Kind, int, int, float | None]:
        """Return kind, width, height and seconds; decode only what is within the limits."""
        settings = self._settings
        still = _still_size(place)
        if still is not None:
            self._check_pixels(*still)
            image = open_image(place)
            return "image", image.width, image.height, None
        with Clip.open(place) as clip:
            self._check_pixels(clip.stream.width, clip.stream.height)
        found = probe(place)
        self._check_pixels(found.width, found.height)
        if found.fps is not None and found.fps > FASTEST:
            raise ValueError(f"has {found.fps:g} frames a second: expected at most {FASTEST}")
        seconds = found.seconds
        if seconds is None and found.frames and found.fps:
            seconds = found.frames / found.fps
        if seconds is None:
            raise ValueError("does not say how long it is: expected a video whose header has its duration")
        if seconds > settings.upload_seconds:
            raise ValueError(f"has {seconds:g} seconds: expected at most {settings.upload_seconds:g}")
        return "video", found.width, found.height, seconds

    def _check_pixels(self, width: int, height: int) -> None:
        if width * height > self._settings.upload_pixels:
            raise ValueError(f"has {width} × {height} pixels: expected at most {self._settings.upload_pixels} in all")


def _still_size(place: Path) -> tuple[int, int] | None:
    """Return width and height of a picture; None if it is something else, or moves."""
    try:
        with place.open("rb") as file, identify(file) as image:
            return None if getattr(image, "n_frames", 1) >= MOVING else image.size
    except (UnidentifiedImageError, Image.DecompressionBombError):
        return None
    except Exception as error:  # a damaged file makes Pillow's readers raise nearly anything
        raise ValueError(f"cannot be read as an image: {error or type(error).__name__}") from None


def _a(kind: str) -> str:
    return "a picture" if kind == "image" else "a video"


def router(uploads: Callable[[], Uploads], settings: ServerSettings) -> APIRouter:
    """Return the routes of uploads. uploads: returns them, once the server runs."""
    routes = APIRouter(prefix="/v1/files", tags=["files"], responses=RESPONSES)
    part = {"type": "string", "format": "binary"}
    form = {"schema": {"type": "object", "required": ["file"], "properties": {"file": part}}}
    body = {"required": True, "content": {"multipart/form-data": form}}

    @routes.post("", openapi_extra={"requestBody": body})
    async def upload(request: Request) -> dict[str, Any]:
        """Send a picture or a video, to start videos and sessions from."""
        async with read_form(request, settings.upload_bytes) as fields:
            file = fields.get("file")
            if not isinstance(file, UploadFile):
                raise ValueError("file: expected a picture or a video, in a form")
            found = await run_in_threadpool(uploads().add, "file", file.file)
        return {"object": "file", **asdict(found)}

    @routes.delete("/{identifier}")
    async def delete(identifier: str) -> dict[str, Any]:
        """Delete a picture or a video that was sent."""
        await run_in_threadpool(uploads().remove, identifier)
        return {"id": identifier, "object": "file.deleted", "deleted": True}

    return routes


def keep(file: Path, copy: Path) -> None:
    """Keep a file under another name, whatever happens to the first."""
    try:
        os.link(file, copy)
    except OSError:
        shutil.copyfile(file, copy)
