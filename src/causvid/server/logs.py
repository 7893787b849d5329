"""Logs: one line an event, as text or JSON; every request has an id, which its lines and its answer carry."""

import json
import logging
import secrets
import time
from collections.abc import Callable
from contextvars import ContextVar
from typing import Literal

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LogFormat = Literal["text", "json"]
log = logging.getLogger("causvid.server")
request_id: ContextVar[str | None] = ContextVar("request_id", default=None)
QUIET = frozenset({"/healthz", "/readyz", "/metrics"})
"""Paths that are asked every few seconds; only their failures are noted."""
PROPER = (1000, 1001, 1012)
"""Codes of RFC 6455 with which a client, or this server when it stops, closes on purpose."""
_KNOWN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "color_message"}


class Lines(logging.Formatter):
    """A record as a line: its time, level, logger, message, the request's id, and the fields of `extra`."""

    def __init__(self, form: LogFormat) -> None:
        super().__init__()
        self._form = form

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03}Z"
        fields = {"request": request_id.get()} | {k: v for k, v in vars(record).items() if k not in _KNOWN}
        fields = {name: value for name, value in fields.items() if value is not None}
        error = self.formatException(record.exc_info) if record.exc_info else None
        if self._form == "json":
            whole = {"time": moment, "level": record.levelname.lower(), "logger": record.name}
            whole |= {"message": record.getMessage()} | fields | ({} if error is None else {"error": error})
            return json.dumps(whole, default=str)
        words = [moment, record.levelname, record.getMessage(), *(f"{k}={v}" for k, v in fields.items())]
        line = " ".join(words).replace("\n", "\\n")
        return line if error is None else f"{line}\n{error}"


def configure(form: LogFormat) -> None:
    """Write the logs of the server and of uvicorn to stderr. Its lines of access are left out: ours say more.

    Ours also leave out the query, in which a token may stand.
    """
    handler = logging.StreamHandler()
    handler.setFormatter(Lines(form))
    for name, level in (("causvid", logging.INFO), ("uvicorn", logging.WARNING)):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(level)


class RequestLog:
    """Notes every request and WebSocket when it ends. dropped: is called for each WebSocket that was lost."""

    def __init__(self, app: ASGIApp, *, dropped: Callable[[], None]) -> None:
        self.app, self.dropped = app, dropped

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            return await self.app(scope, receive, send)
        given = Headers(scope=scope).get("x-request-id", "")
        identifier = given if given.isalnum() and given.isascii() and len(given) <= 64 else secrets.token_hex(8)
        token = request_id.set(identifier)
        began, status, lost = time.perf_counter(), 500, False
        code: int | None = None

        async def receiving() -> Message:
            nonlocal code, lost
            message = await receive()
            if message["type"] == "websocket.disconnect" and code is None:
                code = message.get("code", 1006)
                # uvicorn says 1005 both when no code was given, then with a reason, and when the connection was lost.
                lost = code not in PROPER and not (code == 1005 and "reason" in message)
            return message

        async def sending(message: Message) -> None:
            nonlocal status, code
            if message["type"] in ("http.response.start", "websocket.http.response.start"):
                status = message["status"]
                MutableHeaders(scope=message)["x-request-id"] = identifier
            elif message["type"] == "websocket.accept":
                status = 101
            elif message["type"] == "websocket.close":
                code = code or message.get("code", 1000)
            await send(message)

        try:
            await self.app(scope, receiving, sending)
        finally:
            if lost:
                self.dropped()
            if scope["path"] not in QUIET or status >= 400:
                fields = {
                    "method": scope.get("method", "WEBSOCKET"),
                    "path": scope["path"],
                    "status": status,
                    "code": code,
                    "seconds": round(time.perf_counter() - began, 4),
                    "client": scope["client"][0] if scope.get("client") else None,
                }
                log.info("request" if scope["type"] == "http" else "connection", extra=fields)
            request_id.reset(token)
