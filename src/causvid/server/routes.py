"""The routes beside batch jobs: what the model is and knows, and the films of live sessions."""

import asyncio
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Body, Query
from fastapi.responses import FileResponse
from starlette.datastructures import State

from causvid.files.writing import new_file
from causvid.media.credentials import Credentials
from causvid.pipeline import Pipeline
from causvid.server import protocol
from causvid.server.film import Film
from causvid.server.journal import Journal
from causvid.server.sessions import Sessions
from causvid.server.wire import mux_mp4
from causvid.timeline import provenance, versions
from causvid.worlds.storybook import World

EXAMPLES = (
    "a violet swan moving to the left over a lake",
    "a red fish hopping on a meadow",
    "a paper airplane moving to the right over a snowy tundra",
)
Export = Literal["mp4", "toml", "latents"]
MEDIA = {"mp4": "video/mp4", "toml": "application/toml", "latents": "application/octet-stream"}


def examples(pipeline: Pipeline) -> list[str]:
    """Return sentences that show what the model can do."""
    return [prompt for prompt in EXAMPLES if not pipeline.unknown_words(prompt)] or list(EXAMPLES)


def router(pipeline: Pipeline, state: State) -> APIRouter:
    """Return the routes. state: the application's, which holds the sessions."""
    routes = APIRouter(prefix="/v1")

    def sessions() -> Sessions:
        held: Sessions = state.sessions
        return held

    @routes.get("/about")
    async def about() -> dict[str, Any]:
        """Say what the model is, and what it knows where that can be said."""
        own = pipeline.generation
        return {
            "fps": own.fps,
            "height": own.height,
            "width": own.width,
            "chunk": pipeline.chunk_frames,
            "steps": len(pipeline.sigmas),
            "vocabulary": _vocabulary(pipeline),
            "examples": examples(pipeline),
            "versions": versions(),
        }

    @routes.post("/words")
    async def words(
        prompt: Annotated[str, Body(embed=True, max_length=protocol.PROMPT_LENGTH)],
    ) -> dict[str, Any]:
        """List the words of a prompt that the model has never seen, and those that it reads as others."""
        return {"unknown": pipeline.unknown_words(prompt), "replaced": pipeline.understood(prompt)[1]}

    @routes.get("/protocol")
    async def messages() -> dict[str, Any]:
        """Return the JSON schema of a live session's messages."""
        return protocol.schema()

    @routes.get("/sessions/{identifier}")
    async def session(identifier: protocol.Identifier) -> dict[str, Any]:
        """Say where a session stands."""
        opened = sessions().open.get(identifier)
        journal, film = sessions().film(identifier)
        where = "closed" if journal.header.closed else "asleep"
        return {
            "id": identifier,
            "object": "session",
            "created_at": int(journal.header.created),
            "state": where if opened is None else opened.state,
            "frames": film.position,
            "seconds": film.position / pipeline.fps,
            "parent": journal.header.parent,
        }

    @routes.delete("/sessions/{identifier}")
    async def close(identifier: protocol.Identifier) -> dict[str, Any]:
        """Close a session; its film stays until it expires."""
        await sessions().close(identifier)
        return {"id": identifier, "object": "session", "closed": True}

    @routes.get("/sessions/{identifier}/export")
    async def export(
        identifier: protocol.Identifier, form: Annotated[Export, Query(alias="format")] = "mp4"
    ) -> FileResponse:
        """Return the film so far as a video, as a timeline that makes it again, or as latents."""
        manager = sessions()
        journal, film = manager.film(identifier)
        if not film.pieces:
            raise ValueError("the session has no frames yet")
        opened = manager.open.get(identifier)
        if opened is not None and form == "toml":
            await asyncio.wrap_future(opened.shared.scheduler.call(opened.record))
        file = await asyncio.to_thread(_export, journal, film, form, pipeline, manager.shared.settings.credentials)
        return FileResponse(file, media_type=MEDIA[form], filename=f"causvid{file.suffix}")

    return routes


def _export(journal: Journal, film: Film, form: Export, pipeline: Pipeline, credentials: Credentials | None) -> Path:
    folder, header = journal.folder, journal.header
    if form == "mp4":
        file, pieces = folder / "export.mp4", tuple(film.pieces)
        if not pieces:
            raise ValueError("the session has no frames yet")
        prompts = [(p.position, p.prompt) for n, p in enumerate(pieces) if n == 0 or p.prompt != pieces[n - 1].prompt]
        metadata = provenance(pieces[-1].prompt, {"seed": header.request.seed, "prompts": prompts})
        with new_file(file) as place:  # others may be reading the one before
            mux_mp4(film.units(), str(place), fps=pipeline.fps, metadata=metadata)
            if credentials is not None:
                credentials.sign(place, metadata)
        return file
    if form == "latents":
        file = folder / "export.safetensors"
        film.save_latents(file, shape=header.shape, fps=pipeline.fps)
        return file
    file = journal.timeline
    if not file.is_file():
        raise ValueError("a timeline cannot say this session: its seed or strength changed, or it followed a camera")
    return file


def _vocabulary(pipeline: Pipeline) -> dict[str, list[str]] | None:
    """Return the words of the world the model was trained on, by kind; None for a model of no such world."""
    name = pipeline.bundle.provenance.get("world")
    if not isinstance(name, str):
        return None
    return {kind: list(words) if len(words) > 1 else [] for kind, words in World.preset(name).attributes.items()}
