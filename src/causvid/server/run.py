"""Run the server until it is told to stop: SIGTERM and Ctrl-C put every session to disk first."""

from socket import socket

import uvicorn

from causvid.pipeline import Pipeline
from causvid.server.app import create_app
from causvid.server.logs import LogFormat, configure, log
from causvid.server.settings import ServerSettings

MESSAGE_BYTES = 2**22
"""Largest message of a WebSocket: a picture of a camera."""
GRACE = 5
"""Seconds that open requests have when the server stops; live sessions are told at once."""


def make_server(pipeline: Pipeline, settings: ServerSettings) -> uvicorn.Server:
    """Return the server of one model, not yet running."""
    config = uvicorn.Config(
        create_app(pipeline, settings),
        host=settings.host,
        port=settings.port,
        log_config=None,
        access_log=False,
        ws="websockets-sansio",
        ws_max_size=MESSAGE_BYTES,
        timeout_graceful_shutdown=GRACE,
    )
    return _Server(config)


def run(pipeline: Pipeline, settings: ServerSettings, *, log_format: LogFormat) -> None:
    """Serve until a signal comes."""
    configure(log_format)
    make_server(pipeline, settings).run()


class _Server(uvicorn.Server):
    """Says where it listens, once it does; uvicorn's own lines would hold the queries of WebSockets."""

    async def startup(self, sockets: list[socket] | None = None) -> None:
        await super().startup(sockets)
        for server in self.servers:
            for listener in server.sockets:
                host, port = listener.getsockname()[:2]
                shown = f"[{host}]" if ":" in host else host
                log.info("listening on http://%s:%d", shown, port)
