"""A real server of the built-in model on a free port of loopback, and a client that speaks its protocol."""

import asyncio
import contextlib
import json
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from websockets.asyncio.client import ClientConnection, connect

from causvid.pipeline import Pipeline
from causvid.server.app import create_app
from causvid.server.settings import ServerSettings


class Served:
    """A server that runs in a thread; `stop` is a graceful end."""

    def __init__(self, pipeline: Pipeline, settings: ServerSettings) -> None:
        self.app = create_app(pipeline, settings)
        config = uvicorn.Config(self.app, port=0, log_level="warning", ws="websockets-sansio", lifespan="on")
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run)
        self._thread.start()
        while not self._server.started and self._thread.is_alive():
            time.sleep(0.01)
        self.port: int = self._server.servers[0].sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        while httpx.get(f"{self.url}/readyz").status_code != 200:
            time.sleep(0.05)

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join()


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


@contextlib.asynccontextmanager
async def talk(url: str) -> AsyncIterator[Talk]:
    async with connect(url.replace("http", "ws") + "/v1/live", max_size=None) as socket:
        yield Talk(socket)


@pytest.fixture(scope="session")
def nano() -> Pipeline:
    return Pipeline.from_pretrained()


@pytest.fixture(scope="module")
def serve(nano: Pipeline, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Served]]:
    """Return what starts a server with some settings; all are stopped at the end."""
    running = []

    def start(folder: Path | None = None, **settings: Any) -> Served:
        folder = folder or tmp_path_factory.mktemp("served")
        running.append(Served(nano, ServerSettings.make(folder=folder, **settings)))
        return running[-1]

    yield start
    for server in running:
        server.stop()


@pytest.fixture(scope="module")
def server(serve: Callable[..., Served]) -> Served:
    """A server with the default settings, shared by a module."""
    return serve()
