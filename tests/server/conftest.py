"""A server on loopback, as a user runs it: the built-in model, real sockets, one for each module of tests."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from causvid.pipeline import Pipeline
from causvid.server.run import make_server
from causvid.server.settings import ServerSettings


@dataclass(frozen=True)
class Served:
    """A running server. app: the application, for what only it knows."""

    url: str
    settings: ServerSettings
    app: Any


@pytest.fixture(scope="session")
def built_in() -> Pipeline:
    return Pipeline.from_pretrained()


@contextmanager
def running(pipeline: Pipeline, folder: Path, **settings: Any) -> Iterator[Served]:
    """Serve on a free port until the block ends, and wait until the model is warm."""
    values = {"port": 0, "folder": folder, "sessions": 8, **settings}
    server = make_server(pipeline, ServerSettings.make(**values))
    thread = threading.Thread(target=server.run)
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
        server.should_exit = True
        thread.join()


Serve = Callable[..., AbstractContextManager[Served]]


@pytest.fixture(scope="session")
def serve(built_in: Pipeline, tmp_path_factory: pytest.TempPathFactory) -> Serve:
    return lambda **settings: running(built_in, tmp_path_factory.mktemp("server"), **settings)


@pytest.fixture(scope="module")
def server(serve: Serve) -> Iterator[Served]:
    with serve() as served:
        yield served
