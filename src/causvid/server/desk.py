"""What clients ask of batch jobs: their fields checked, their pictures and videos stored, turned into jobs.

Beside OpenAI's fields, those of `GenerationRequest` can be given.
"""

import base64
import binascii
import io
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Annotated, Any, TypeVar

from fastapi import Request
from fastapi.concurrency import run_in_threadpool
from pydantic import Field
from starlette.datastructures import UploadFile

from causvid.config import Settings
from causvid.engine.request import Fit, Frames, GenerationRequest, Pixels, Policy, Seconds, Seed
from causvid.media import probe
from causvid.pipeline import Pipeline
from causvid.server.bodies import OVERHEAD, Values, is_form, nested, read_form, read_json, typed
from causvid.server.jobs import Jobs, Order
from causvid.server.protocol import Identifier, Prompt
from causvid.server.settings import ServerSettings
from causvid.server.store import Job
from causvid.server.uploads import Uploads

TEXTS = frozenset({"prompt", "model", "size", "policy", "fit", "input_reference", "video"})
OF_JOBS = frozenset({"model", "size", "input_reference", "video"})
"""Fields that are not the engine's."""


class Picture(Settings):
    """A picture, by the identifier of an upload or as a data URL."""

    file_id: Identifier | None = None
    image_url: str | None = Field(default=None, description="data:image/png;base64,…")


class Reference(Settings):
    """A video, by the identifier of a finished job or of an upload."""

    id: Identifier


class Making(Settings):
    """What every video can be asked for with."""

    prompt: Prompt
    model: str | None = Field(default=None, description="The one that is served.")
    size: Annotated[str, Field(pattern=r"^[0-9]{1,5}x[0-9]{1,5}$")] | None = Field(
        default=None, description="Width and height in pixels, 96x64."
    )
    seed: Seed | None = None
    steps: Annotated[int, Field(ge=1, strict=True)] | None = None
    sigmas: tuple[float, ...] | None = None
    height: Pixels | None = None
    width: Pixels | None = None
    window: Frames | None = None
    sink: Frames | None = None
    policy: Policy | None = None
    fit: Fit | None = None


class Creation(Making):
    """A new video, from a picture if one is given."""

    seconds: Seconds | None = None
    input_reference: Picture | None = None


class Remix(Making):
    """A video made anew from another: video-to-video."""

    strength: Annotated[float, Field(gt=0, le=1, strict=True)] | None = None
    adapt: bool | None = None


class Edit(Remix):
    """Video-to-video of a video that is named or sent."""

    seconds: Seconds | None = None
    video: Reference


class Extension(Making):
    """A video that is continued. seconds: of what is new."""

    seconds: Seconds
    video: Reference


M = TypeVar("M", bound=Making)


class Desk:
    """Turns what clients send into jobs, and jobs into what they are shown."""

    def __init__(
        self, pipeline: Pipeline, jobs: Callable[[], Jobs], uploads: Callable[[], Uploads], settings: ServerSettings
    ) -> None:
        self._pipeline, self._jobs, self._uploads, self._settings = pipeline, jobs, uploads, settings

    @asynccontextmanager
    async def read(self, request: Request, kind: type[M]) -> AsyncIterator[M]:
        """Read a body; pictures and videos in it are uploads until the block ends.

        Raises:
            ValueError: if a value cannot be used; LookupError: if it asks for another model.
        """
        sent: list[str] = []
        try:
            if is_form(request):
                async with read_form(request, self._settings.upload_bytes) as form:
                    values = nested(form)
                    for name in values.keys() & {"input_reference", "video"}:
                        if isinstance(values[name], UploadFile):
                            found = await run_in_threadpool(self._uploads().add, name, values[name].file)
                            sent.append(found.id)
                            values[name] = {"id" if name == "video" else "file_id": found.id}
            else:
                values = await read_json(request, 4 * self._settings.upload_bytes // 3 + OVERHEAD)
            await self._take_data_url(values, sent)
            asked = kind.make(**typed(values, TEXTS))
            if asked.model not in (None, self._jobs().model):
                raise LookupError(f"model={asked.model} is not served here: expected {self._jobs().model}")
            yield asked
        finally:
            for identifier in sent:
                with suppress(LookupError):
                    self._uploads().remove(identifier)

    async def _take_data_url(self, values: Values, sent: list[str]) -> None:
        """Store a picture that is given as a data URL."""
        given = values.get("input_reference")
        if not isinstance(given, dict) or not isinstance(url := given.get("image_url"), str):
            return
        name = "input_reference.image_url"
        if given.get("file_id") is not None:
            raise ValueError(f"{name}: give file_id or image_url, not both")
        head, comma, data = url.partition(",")
        if not (comma and head.startswith("data:") and head.endswith(";base64")):
            raise ValueError(f"{name}: expected data:image/png;base64,…; other addresses are not fetched")
        try:
            content = io.BytesIO(base64.b64decode(data, validate=True))
        except (binascii.Error, ValueError) as error:
            raise ValueError(f"{name}: not base64: {error}") from None
        found = await run_in_threadpool(self._uploads().add, name, content)
        sent.append(found.id)
        values["input_reference"] = {"file_id": found.id}

    def create(self, asked: Creation) -> Job:
        """Start a video from a prompt, and a picture if there is one."""
        seconds = self._pipeline.clip_seconds if asked.seconds is None else asked.seconds
        self._check_seconds(seconds)
        request = self._request(asked, seconds)
        reference = asked.input_reference
        if reference is None:
            if asked.fit is not None:
                raise ValueError(f"fit={asked.fit}: there is no input_reference to fit")
            return self._jobs().submit(request, seconds=self._rounded(seconds))
        if reference.file_id is None:
            raise ValueError("input_reference: expected a picture, its file_id, or its image_url")
        file = self._uploads().path(reference.file_id, "image")
        return self._jobs().submit(request, seconds=self._rounded(seconds), use="image", file=file)

    def edit(self, asked: Remix, identifier: str, seconds: float | None = None) -> Job:
        """Start video-to-video."""
        video, origin = self._video(identifier)
        length = self._length(video)
        seconds = length if seconds is None else min(seconds, length)
        self._check_seconds(seconds)
        request = self._request(asked, seconds)
        return self._jobs().submit(request, seconds=self._rounded(seconds), use="source", file=video, origin=origin)

    def remix(self, asked: Remix, identifier: str) -> Job:
        """Start video-to-video of a finished job, with its seed and size unless others are given."""
        before = Order.model_validate_json(self._jobs().store.get(identifier).request).request
        own: dict[str, int | None] = {"seed": before.seed}
        if asked.size is None and asked.height is None and asked.width is None:
            own |= {"height": before.height, "width": before.width}
        fields = {name: value for name, value in own.items() if name not in asked.model_fields_set}
        return self.edit(asked.model_copy(update=fields), identifier)

    def extend(self, asked: Extension) -> Job:
        """Start a video that begins with another."""
        video, origin = self._video(asked.video.id)
        length = self._length(video)
        if length > self._settings.upload_seconds:
            raise ValueError(f"video: has {length:g} seconds, expected at most {self._settings.upload_seconds:g}")
        self._check_seconds(asked.seconds)
        request = self._request(asked, asked.seconds)
        seconds = length + self._rounded(asked.seconds)
        return self._jobs().submit(request, seconds=seconds, use="after", file=video, origin=origin)

    def shown(self, job: Job) -> dict[str, Any]:
        """Return a job as clients see it."""
        error = None if job.error is None else {"code": "failed", "message": job.error}
        return {
            "id": job.id,
            "object": "video",
            "model": job.model,
            "status": job.status,
            "progress": self._jobs().progress(job),
            "created_at": job.created_at,
            "completed_at": job.completed_at,
            "expires_at": job.expires_at,
            "size": job.size,
            "seconds": job.seconds,
            "prompt": job.prompt,
            "remixed_from_video_id": job.origin,
            "error": error,
        }

    def _request(self, asked: Making, seconds: float) -> GenerationRequest:
        """Return the engine's request, with no file yet."""
        values = asked.model_dump(exclude=set(OF_JOBS), exclude_none=True) | {"seconds": float(seconds)}
        if asked.size is not None:
            if asked.height is not None or asked.width is not None:
                raise ValueError(f"size={asked.size}: give size, or height and width")
            width, height = map(int, asked.size.split("x"))
            values |= {"height": height, "width": width}
        return GenerationRequest.make(**values)

    def _video(self, identifier: str) -> tuple[Path, str | None]:
        """Return a finished job's video, or an upload; and the job."""
        try:
            return self._uploads().path(identifier, "video"), None
        except LookupError:
            return self._jobs().file(identifier), identifier

    def _length(self, video: Path) -> float:
        """Return the seconds of a video, in whole frames of the model's."""
        seconds = probe(video).seconds
        assert seconds is not None, "an upload without a duration was refused"
        return self._rounded(seconds)

    def _rounded(self, seconds: float) -> float:
        return max(1, round(seconds * self._pipeline.fps)) / self._pipeline.fps

    def _check_seconds(self, seconds: float) -> None:
        if seconds > self._settings.seconds:
            raise ValueError(
                f"seconds={seconds:g} is more than a video may have: expected at most {self._settings.seconds:g}"
            )
