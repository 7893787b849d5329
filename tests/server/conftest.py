"""A server on loopback, as a user runs it: the built-in model, real sockets, one for each module of tests."""

import asyncio
import json
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import httpx
import pytest
from websockets.asyncio.client import ClientConnection, connect

from causvid.pipeline import Pipeline
from causvid.server.batch import Batch
from causvid.server.measure import Speed
from causvid.server.run import make_server
from causvid.server.settings import ServerSettings


@dataclass(frozen=True)
class Served:
    """A running server. app: the application, for what only it knows."""

    url: str
    settings: ServerSettings
    app: Any

    @property
    def batch(self) -> Batch:
        found: Batch = self.app.state.batch
        return found


def start_process(folder: Path, *options: str) -> tuple["subprocess.Popen[bytes]", str]:
    """Run `causvid serve` on a free port, as a process that can be killed; return it and its address."""
    place = folder.with_suffix(".log")
    with place.open("wb") as log:
        command = [sys.executable, "-m", "causvid.cli", "serve", "--port", "0", "--folder", str(folder), *options]
        process = subprocess.Popen(command, stderr=log, stdout=log)
    while "listening on " not in (text := place.read_text()):
        assert process.poll() is None, text
        time.sleep(0.1)
    return process, text.split("listening on ")[1].split()[0]


class Talk:
    """A WebSocket of the live protocol: sends messages, collects chunks until something else is waited for."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self.chunks: list[tuple[dict[str, Any], list[bytes]]] = []

    @property
    def position(self) -> int:
        header = self.chunks[-1][0] if self.chunks else {"position": 0, "frames": 0}
        return int(header["position"] + header["frames"])

    async def say(self, kind: str, **values: Any) -> None:
        await self.socket.send(json.dumps({"type": kind, **values}))

    async def hear(self) -> dict[str, Any]:
        """Return the next message; of a chunk, also its parts."""
        message: dict[str, Any] = json.loads(await asyncio.wait_for(self.socket.recv(), 60))
        if message["type"] == "chunk":
            data = await self.socket.recv()
            assert isinstance(data, bytes) and len(data) == sum(message["sizes"])
            parts, start = [], 0
            for size in message["sizes"]:
                parts.append(data[start : start + size])
                start += size
            self.chunks.append((message, parts))
        return message

    async def until(self, kind: str, **values: Any) -> dict[str, Any]:
        """Return the next message of a kind, with these values."""
        while True:
            message = await self.hear()
            if message["type"] == kind and values.items() <= message.items():
                return message

    async def frames(self, position: int) -> None:
        """Wait until the film has come so far."""
        while self.position < position:
            await self.hear()


@asynccontextmanager
async def talk(url: str) -> AsyncIterator[Talk]:
    async with connect(url.replace("http", "ws") + "/v1/live", max_size=None) as socket:
        yield Talk(socket)


@pytest.fixture(scope="session")
def built_in() -> Pipeline:
    return Pipeline.from_pretrained()


@contextmanager
def running(pipeline: Pipeline, folder: Path, **settings: Any) -> Iterator[Served]:
    """Serve on a free port until the block ends, and wait until the model is warm."""
    values = {"port": 0, "folder": folder, "sessions": 8, **settings}
    server = make_server(pipeline, ServerSettings.make(**values))
    thread = threading.Thread(target=server.run)
    # Measuring takes seconds, and tests want the same batches on every machine.
    measured = patch("causvid.server.app.measure", lambda *_, **__: Speed(batch=2, chunk=0.05))
    measured.start()
    thread.start()
    try:
        while not (server.started and server.servers):
            assert thread.is_alive()
            time.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        url = f"http://127.0.0.1:{port}"
        while httpx.get(f"{url}/readyz").status_code != 200:
            time.sleep(0.05)
        yield Served(url, ServerSettings.make(**values), server.config.app)
    finally:
        measured.stop()
        server.should_exit = True
        thread.join()


@contextmanager
def model_busy(server: Served) -> Iterator[None]:
    """Let the model's thread do nothing else in this block."""
    go = threading.Event()
    server.app.state.sessions.shared.scheduler.call(go.wait)
    try:
        yield
    finally:
        go.set()


@pytest.fixture(autouse=True, scope="session")
def _patient() -> Iterator[None]:
    """A machine that does something else for seconds is no failure."""
    with pytest.MonkeyPatch.context() as patched:
        for method in ("delete", "get", "post", "put", "request"):
            patched.setattr(httpx, method, partial(getattr(httpx, method), timeout=60))
        yield


Serve = Callable[..., AbstractContextManager[Served]]


@pytest.fixture(scope="session")
def serve(built_in: Pipeline, tmp_path_factory: pytest.TempPathFactory) -> Serve:
    return lambda folder=None, **settings: running(built_in, folder or tmp_path_factory.mktemp("server"), **settings)


@pytest.fixture(scope="module")
def server(serve: Serve) -> Iterator[Served]:
    with serve() as served:
        yield served
