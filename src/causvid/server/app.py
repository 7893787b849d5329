"""The application: everything a server has, put together."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from fastapi import FastAPI, Response, WebSocket
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import JSONResponse
from fastapi.staticfiles import StaticFiles
from starlette.middleware.body_limit import RequestBodyLimitMiddleware

from causvid.engine.memory import release
from causvid.pipeline import Pipeline
from causvid.server import batch, connection, errors, relay, routes
from causvid.server.batch import Batch
from causvid.server.connection import Readers
from causvid.server.jobs import SERVERS
from causvid.server.live import LiveSession, Shared
from causvid.server.logs import RequestLog
from causvid.server.measure import measure
from causvid.server.memory import settle
from causvid.server.metrics import CONTENT_TYPE, Metrics
from causvid.server.scheduler import Scheduler
from causvid.server.security import Guard, check_settings
from causvid.server.sessions import Sessions
from causvid.server.settings import ServerSettings
from causvid.server.takeover import Takeover

log = logging.getLogger("causvid.server")
STATIC = Path(__file__).parent / "static"
BESIDE = 2**20
"""Bytes that a request may have beside the upload in it."""
SWEEP = 5.0
"""Seconds between two looks for what is idle or has expired."""


def create_app(pipeline: Pipeline, settings: ServerSettings, *, address: str = "") -> FastAPI:
    """Return the server of one model. Its threads start and end with the application's lifespan.

    address: where it answers other servers that share its folder, `http://10.0.0.7:41234`; empty where none does.

    Raises:
        ValueError: if the settings would open it to strangers.
    """
    check_settings(settings)
    metrics = Metrics()
    readers = Readers()
    scheduler = Scheduler()

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        loop = asyncio.get_running_loop()
        encoder = ThreadPoolExecutor(1, "encoder")

        def announce(session: LiveSession) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is gone when the server stops
                loop.call_soon_threadsafe(readers.wake, session)

        settings.folder.mkdir(parents=True, exist_ok=True)
        shared = Shared(pipeline, scheduler, encoder, settings, announce, metrics.delivered)
        app.state.batch = Batch(pipeline, scheduler, settings, address=address)
        sessions = Sessions(shared, settings.folder / "sessions", find=app.state.batch.find, address=address)
        sessions.folder.mkdir(exist_ok=True)
        app.state.sessions, app.state.ready = sessions, False
        jobs = app.state.batch.jobs
        metrics.jobs = lambda: {"queued": jobs.waiting, "in_progress": jobs.running}
        metrics.watch(sessions)
        scheduler.start()

        async def warm_up() -> None:
            log.info("warming up: some chunks are made to measure this machine")
            prompt = routes.examples(pipeline)[0]
            speed = await asyncio.wrap_future(scheduler.call(lambda: measure(pipeline, prompt=prompt)))
            scheduler.largest = min(speed.batch, settings.batch or speed.batch)
            sessions.places = settings.sessions or speed.places(
                pipeline, memory=_free_memory() // 2, session=settings.rewind_bytes
            )
            settle()
            app.state.ready = True
            app.state.batch.jobs.start()
            log.info(
                "ready, the studio is open: %.0f ms a chunk, batches of %d, %d places",
                1000 * speed.chunk,
                scheduler.largest,
                sessions.places,
            )

        async def sweep() -> None:
            busy = 0.0
            while True:
                await asyncio.sleep(SWEEP)
                try:
                    await sessions.sweep()
                    await asyncio.to_thread(app.state.batch.sweep)
                    if busy != (busy := scheduler.busy_seconds):
                        await asyncio.to_thread(release)
                except Exception:  # what fails once, on a full disk perhaps, is tried again
                    log.exception("the sweep failed")

        async def watch() -> None:
            await warming
            if address:
                await Takeover(sessions, settings.folder / SERVERS).watch()

        warming = asyncio.create_task(warm_up())
        tasks = [warming, asyncio.create_task(sweep()), asyncio.create_task(watch())]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await sessions.shut_down()
            await asyncio.to_thread(app.state.batch.jobs.stop)
            await asyncio.to_thread(scheduler.stop)
            encoder.shutdown()

    largest = settings.upload_bytes + BESIDE
    app = FastAPI(title="CausVid", lifespan=lifespan, docs_url=None, redoc_url=None)
    errors.install(app)
    relay.install(app)
    app.include_router(routes.router(pipeline, app.state))
    batch.install(app, pipeline, settings, lambda: app.state.batch)

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

    @app.get("/metrics", include_in_schema=False)
    async def numbers() -> Response:
        return Response(metrics.text(), media_type=CONTENT_TYPE)

    app.add_middleware(RequestBodyLimitMiddleware, max_body_size=largest)
    # The last that is added is the first that sees a request.
    app.add_middleware(Guard, settings=settings, public=_studio_paths(), largest=largest)
    if settings.origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.origins,
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=["authorization", "content-type"],
            expose_headers=["retry-after", "openai-poll-after-ms", "x-request-id"],
        )
    app.add_middleware(RequestLog, dropped=metrics.dropped.inc)

    if (STATIC / "index.html").is_file():
        app.mount("/", StaticFiles(directory=STATIC, html=True))
    return app


def _studio_paths() -> set[str]:
    """Return the paths of the studio's files, which hold no secret and are needed to type the token in."""
    return {"/", *(f"/{file.relative_to(STATIC).as_posix()}" for file in STATIC.rglob("*") if file.is_file())}


def _free_memory() -> int:
    """Return the bytes of memory that are free."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 2**33
