"""What a server refuses, and how it says so: error objects as OpenAI's, which every client of theirs understands."""

import logging
import re
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException

log = logging.getLogger("causvid.server")


class Busy(Exception):
    """No place is free. retry_after: seconds after which it is worth asking again."""

    def __init__(self, message: str, retry_after: int) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Conflict(ValueError):
    """What is asked for is not possible now, but may be later."""


class TooLarge(ValueError):
    """The body of a request has more bytes than are taken."""


class ErrorObject(BaseModel):
    """What went wrong. param: the field that was at fault, where it was one."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(BaseModel):
    """The body of every answer that is an error."""

    error: ErrorObject


CODES = {404: "not_found", 413: "too_large"}
"""What the framework's own refusals are called."""
RESPONSES: dict[int | str, dict[str, Any]] = {
    400: {"model": ErrorBody, "description": "A value cannot be used."},
    404: {"model": ErrorBody, "description": "There is no such thing."},
    409: {"model": ErrorBody, "description": "It is not finished."},
    413: {"model": ErrorBody, "description": "It is too large."},
    429: {"model": ErrorBody, "description": "All places are taken; Retry-After says when to ask again."},
}
"""For the description of routes."""


def install(app: FastAPI) -> None:
    """Let an application answer every error with an error object."""
    app.add_exception_handler(ValueError, _refused)
    app.add_exception_handler(LookupError, _missing)
    app.add_exception_handler(Busy, _busy)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(Exception, _failed)


def respond(
    status: int, message: str, *, code: str | None = None, param: str | None = None, retry_after: int | None = None
) -> JSONResponse:
    """Return an error object as an answer."""
    kind = "rate_limit_error" if status == 429 else "server_error" if status >= 500 else "invalid_request_error"
    # A lone surrogate, which JSON can carry into a message, has no bytes in UTF-8.
    shown = message.encode("utf-8", "replace").decode()
    headers = None if retry_after is None else {"Retry-After": str(retry_after)}
    error = ErrorObject(message=shown, type=kind, param=param, code=code)
    return JSONResponse(ErrorBody(error=error).model_dump(), status, headers)


def parameter(message: str) -> str | None:
    """Return the field that a one-line error names: `seconds=3 is …`, `size: …`, `shots.0: …`."""
    found = re.match(r"([a-z_]+(?:\.[a-z0-9_]+)*)(?:=|: )", message)
    return found[1] if found else None


async def _refused(request: Request, error: Exception) -> JSONResponse:
    status, code = 400, "invalid_value"
    if isinstance(error, Conflict):
        status, code = 409, "conflict"
    elif isinstance(error, TooLarge):
        status, code = 413, "too_large"
    message = str(error)
    return respond(status, message, code=code, param=parameter(message))


async def _missing(request: Request, error: Exception) -> JSONResponse:
    if type(error) is not LookupError:  # a key or an index that is not there is a fault of ours
        return await _failed(request, error)
    message = str(error)
    return respond(404, message, code="not_found", param=parameter(message))


async def _busy(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, Busy)
    return respond(429, str(error), code="busy", retry_after=error.retry_after)


async def _invalid(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"][1:])
    return respond(
        400, f"{place}: {first['msg']}" if place else first["msg"], code="invalid_value", param=place or None
    )


async def _http(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    message = error.detail if error.detail != HTTPStatus(error.status_code).phrase else _plain(request, error)
    answer = respond(error.status_code, message, code=CODES.get(error.status_code))
    answer.headers.update(error.headers or {})
    return answer


def _plain(request: Request, error: HTTPException) -> str:
    return f"{request.method} {request.url.path}: {error.detail.lower()}"


async def _failed(request: Request, error: Exception) -> JSONResponse:
    log.error("%s %s failed", request.method, request.url.path, exc_info=error)
    return respond(500, "the server failed; its log says why", code="internal")
