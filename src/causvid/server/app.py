"""The application: everything a server has, put together."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from fastapi import FastAPI, WebSocket
from fastapi.responses import JSONResponse
from fastapi.staticfiles import StaticFiles

from causvid.pipeline import Pipeline
from causvid.server import connection, routes
from causvid.server.connection import Readers
from causvid.server.live import LiveSession, Studio
from causvid.server.measure import measure
from causvid.server.protocol import Timings
from causvid.server.scheduler import Scheduler
from causvid.server.sessions import Sessions
from causvid.server.settings import ServerSettings

log = logging.getLogger("causvid.server")
STATIC = Path(__file__).parent / "static"
SWEEP = 5.0
"""Seconds between two looks for what is idle or has expired."""


def create_app(pipeline: Pipeline, settings: ServerSettings) -> FastAPI:
    """Return the server of one model. Its threads start and end with the application's lifespan."""
    readers = Readers()
    scheduler = Scheduler()

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        loop = asyncio.get_running_loop()
        encoder = ThreadPoolExecutor(1, "encoder")

        def announce(session: LiveSession) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is gone when the server stops
                loop.call_soon_threadsafe(readers.wake, session)

        def delivered(session: LiveSession, timings: Timings) -> None: ...

        settings.folder.mkdir(parents=True, exist_ok=True)
        studio = Studio(pipeline, scheduler, encoder, settings, announce, delivered)
        sessions = Sessions(studio, settings.folder / "sessions", find=_find)
        sessions.folder.mkdir(exist_ok=True)
        app.state.sessions, app.state.ready = sessions, False
        scheduler.start()

        async def warm_up() -> None:
            speed = await asyncio.wrap_future(
                scheduler.call(
                    lambda: measure(pipeline, prompt=routes.example(pipeline), rewind_bytes=settings.rewind_bytes)
                )
            )
            scheduler.largest = speed.batch
            chunk = 4 * pipeline.generation.chunk
            sessions.places = settings.sessions or speed.places(chunk, pipeline.fps, _free_memory() // 2)
            app.state.speed, app.state.ready = speed, True
            log.info(
                "ready: %.0f ms a chunk, batches of %d, %d places", 1000 * speed.chunk, speed.batch, sessions.places
            )

        async def sweep() -> None:
            while True:
                await asyncio.sleep(SWEEP)
                await sessions.sweep()

        tasks = [asyncio.create_task(warm_up()), asyncio.create_task(sweep())]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await sessions.shut_down()
            await asyncio.to_thread(scheduler.stop)
            encoder.shutdown()

    app = FastAPI(title="CausVid", lifespan=lifespan)
    app.include_router(routes.router(pipeline, app.state))

    @app.websocket("/v1/live")
    async def live(socket: WebSocket) -> None:
        await connection.serve(socket, app.state.sessions, readers)

    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/readyz")
    async def readyz() -> JSONResponse:
        ready = bool(app.state.ready)
        return JSONResponse({"status": "ready" if ready else "warming up"}, 200 if ready else 503)

    if (STATIC / "index.html").is_file():
        app.mount("/", StaticFiles(directory=STATIC, html=True))
    return app


def _find(identifier: str, kind: str) -> Path:
    raise ValueError(f"there is no {kind} {identifier}")


def _free_memory() -> int:
    """Return the bytes of memory that are free."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 2**33
