"""`python batch_app.py FOLDER`: a server of batch jobs alone, which prints its port. The tests import it too."""

import asyncio
import contextlib
import sys
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path

import uvicorn
from fastapi import FastAPI

from causvid.pipeline import Pipeline
from causvid.server import batch, errors
from causvid.server.batch import Batch
from causvid.server.scheduler import Scheduler
from causvid.server.settings import ServerSettings


def create(pipeline: Pipeline, settings: ServerSettings) -> FastAPI:
    scheduler = Scheduler()

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.batch = Batch(pipeline, scheduler, settings)
        scheduler.start()
        app.state.batch.jobs.start()
        yield
        await asyncio.to_thread(app.state.batch.jobs.stop)
        await asyncio.to_thread(scheduler.stop)

    app = FastAPI(lifespan=lifespan)
    errors.install(app)
    batch.install(app, pipeline, settings, lambda: app.state.batch)
    return app


class Served:
    """A server in a thread; `stop` is a graceful end."""

    def __init__(self, pipeline: Pipeline, settings: ServerSettings) -> None:
        self.app = create(pipeline, settings)
        self._server = uvicorn.Server(uvicorn.Config(self.app, port=0, log_level="warning", lifespan="on"))
        self.thread = threading.Thread(target=self._server.run)
        self.thread.start()
        while not self._server.started and self.thread.is_alive():
            time.sleep(0.01)
        self.port: int = self._server.servers[0].sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/v1"

    @property
    def batch(self) -> Batch:
        found: Batch = self.app.state.batch
        return found

    def stop(self) -> None:
        self._server.should_exit = True
        self.thread.join()


if __name__ == "__main__":
    served = Served(Pipeline.from_pretrained(), ServerSettings.make(folder=Path(sys.argv[1])))
    print(served.port, flush=True)
    served.thread.join()
