"""OpenAI's routes for videos, as a client of theirs knows them: create, retrieve, list, delete, content, and what
starts from a video that is there.

Beside OpenAI's fields, those of `GenerationRequest` can be given.
"""

import base64
import binascii
import io
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from fastapi import APIRouter, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import FileResponse
from pydantic import Field
from starlette.datastructures import UploadFile

from causvid.config import Settings
from causvid.engine.request import Fit, Frames, GenerationRequest, Pixels, Policy, Seconds, Seed
from causvid.media import probe
from causvid.pipeline import Pipeline
from causvid.server.bodies import Values, is_form, nested, read_form, read_json, typed
from causvid.server.errors import RESPONSES
from causvid.server.jobs import Jobs
from causvid.server.previews import spritesheet, thumbnail
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


def router(
    pipeline: Pipeline, jobs: Callable[[], Jobs], uploads: Callable[[], Uploads], settings: ServerSettings
) -> APIRouter:
    """Return the routes. jobs, uploads: return them, once the server runs."""
    routes = APIRouter(prefix="/v1", tags=["videos"], responses=RESPONSES)
    desk = Desk(pipeline, jobs, uploads, settings)

    @routes.get("/models")
    async def models() -> dict[str, Any]:
        """List the model."""
        model = {"id": jobs().model, "object": "model", "created": 0, "owned_by": "causvid"}
        return {"object": "list", "data": [model]}

    @routes.post("/videos", openapi_extra=_body(Creation))
    async def create(request: Request) -> dict[str, Any]:
        """Ask for a video."""
        async with desk.read(request, Creation) as asked:
            return desk.shown(await run_in_threadpool(desk.create, asked))

    @routes.post("/videos/edits", openapi_extra=_body(Edit))
    async def edit(request: Request) -> dict[str, Any]:
        """Ask for a video that is made from another, chunk by chunk, under a prompt of its own."""
        async with desk.read(request, Edit) as asked:
            return desk.shown(await run_in_threadpool(desk.edit, asked, asked.video.id, asked.seconds))

    @routes.post("/videos/extensions", openapi_extra=_body(Extension))
    async def extend(request: Request) -> dict[str, Any]:
        """Ask for a video that continues another: the file holds both."""
        async with desk.read(request, Extension) as asked:
            return desk.shown(await run_in_threadpool(desk.extend, asked))

    @routes.post("/videos/{identifier}/remix", openapi_extra=_body(Remix))
    async def remix(identifier: str, request: Request) -> dict[str, Any]:
        """Ask for a finished video again, under another prompt."""
        async with desk.read(request, Remix) as asked:
            return desk.shown(await run_in_threadpool(desk.remix, asked, identifier))

    @routes.get("/videos")
    def listed(
        limit: Annotated[int, Query(ge=1, le=100)] = 20, after: str | None = None, order: Literal["asc", "desc"] = "desc"
    ) -> dict[str, Any]:
        """List videos by age, those that follow `after`."""
        found, more = jobs().store.page(limit=limit, after=after, order=order)
        data = [desk.shown(job) for job in found]
        ends = {"first_id": found[0].id, "last_id": found[-1].id} if found else {"first_id": None, "last_id": None}
        return {"object": "list", "data": data, "has_more": more, **ends}

    @routes.get("/videos/{identifier}")
    def retrieve(identifier: str, response: Response) -> dict[str, Any]:
        """Say how far a video is."""
        job = jobs().store.get(identifier)
        response.headers["openai-poll-after-ms"] = str(jobs().poll_after(job))
        return desk.shown(job)

    @routes.delete("/videos/{identifier}")
    def delete(identifier: str) -> dict[str, Any]:
        """Delete a video, finished or not."""
        jobs().delete(identifier)
        return {"id": identifier, "object": "video.deleted", "deleted": True}

    @routes.get("/videos/{identifier}/content", response_class=FileResponse)
    def content(
        identifier: str, variant: Literal["video", "thumbnail", "spritesheet"] = "video"
    ) -> FileResponse:
        """Return a finished video, or a picture of it."""
        video = jobs().file(identifier)
        if variant == "thumbnail":
            return FileResponse(thumbnail(video, video.with_suffix(".webp")), media_type="image/webp")
        if variant == "spritesheet":
            return FileResponse(spritesheet(video, video.with_suffix(".jpg")), media_type="image/jpeg")
        return FileResponse(video, media_type="video/mp4", filename=video.name)

    return routes


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
                values = await read_json(request, 2 * self._settings.upload_bytes)
                await self._take_data_url(values, sent)
            asked = kind.make(**typed(values, TEXTS))
            if asked.model not in (None, self._jobs().model):
                raise LookupError(f"model={asked.model} is not served here: expected {self._jobs().model}")
            yield asked
        finally:
            for identifier in sent:
                with suppress(LookupError):
                    self._uploads().remove(identifier)
