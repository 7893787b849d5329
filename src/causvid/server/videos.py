"""OpenAI's routes for videos, as a client of theirs knows them: create, retrieve, list, delete, content, and what
starts from a video that is there.
"""

from collections.abc import Callable
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import FileResponse

from causvid.pipeline import Pipeline
from causvid.server.desk import Creation, Desk, Edit, Extension, Making, Remix
from causvid.server.errors import RESPONSES
from causvid.server.jobs import Jobs
from causvid.server.previews import spritesheet, thumbnail
from causvid.server.settings import ServerSettings
from causvid.server.uploads import Uploads


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
        limit: Annotated[int, Query(ge=1, le=100)] = 20,
        after: str | None = None,
        order: Literal["asc", "desc"] = "desc",
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
    def content(identifier: str, variant: Literal["video", "thumbnail", "spritesheet"] = "video") -> FileResponse:
        """Return a finished video, or a picture of it."""
        video = jobs().file(identifier)
        if variant == "thumbnail":
            return FileResponse(thumbnail(video, video.with_suffix(".webp")), media_type="image/webp")
        if variant == "spritesheet":
            return FileResponse(spritesheet(video, video.with_suffix(".jpg")), media_type="image/jpeg")
        return FileResponse(video, media_type="video/mp4", filename=video.name)

    return routes


def _body(kind: type[Making]) -> dict[str, Any]:
    """Describe a body: JSON, or a form in which pictures and videos are files."""
    schema = kind.model_json_schema()
    parts = schema.pop("$defs", {})
    properties: dict[str, Any] = {}
    for name, value in schema["properties"].items():
        found = value if "$ref" not in str(value) else parts["Reference" if name == "video" else "Picture"]
        properties[name] = found
    schema["properties"] = properties
    files = {name: {"type": "string", "format": "binary"} for name in properties.keys() & {"input_reference", "video"}}
    form = schema | {"properties": properties | files}
    content = {"application/json": {"schema": schema}, "multipart/form-data": {"schema": form}}
    return {"requestBody": {"required": True, "content": content}}
