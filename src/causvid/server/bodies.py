"""The bodies of requests, JSON or forms, as plain values: limited in size while they arrive.

A form has the same fields as the JSON object: `video[id]` is the field `id` of the object `video`, and text that reads
as a number, true or false is one, where the field is not text.
"""

import json
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from fastapi import Request
from starlette.datastructures import FormData
from starlette.exceptions import HTTPException
from starlette.types import Message

from causvid.server.errors import TooLarge

OVERHEAD = 2**20
"""Bytes of a form beside its largest file."""
FIELDS = 64
FILES = 4
Values = dict[str, Any]


@asynccontextmanager
async def read_form(request: Request, most: int) -> AsyncIterator[FormData]:
    """Read a form whose files have at most `most` bytes; they are there until the block ends.

    Raises:
        ValueError: if it is not a form, or too large.
    """
    try:
        async with limited(request, most + OVERHEAD).form(max_files=FILES, max_fields=FIELDS) as form:
            yield form
    except HTTPException as error:
        raise ValueError(f"the form cannot be read: {error.detail}") from None


async def read_json(request: Request, most: int) -> Values:
    """Read a JSON object of at most so many bytes.

    Raises:
        ValueError: if it is not one, or too large.
    """
    body = await limited(request, most).body()
    try:
        found = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"the body is not JSON: {error}") from None
    if not isinstance(found, dict):
        raise ValueError("the body is not a JSON object")
    return found


def is_form(request: Request) -> bool:
    """Tell a form from JSON."""
    return request.headers.get("content-type", "").lower().startswith(("multipart/", "application/x-www-form"))


def limited(request: Request, most: int) -> Request:
    """Return the request, whose body is refused as soon as it has more than `most` bytes.

    Raises:
        TooLarge: at once, if its header says so.
    """
    message = f"the request is larger than {most} bytes"
    stated = request.headers.get("content-length", "")
    if stated.isdecimal() and int(stated) > most:
        raise TooLarge(message)
    received = 0

    async def receive() -> Message:
        nonlocal received
        part = await request.receive()
        received += len(part.get("body", b""))
        if received > most:
            raise TooLarge(message)
        return part

    return Request(request.scope, receive)


def nested(form: FormData) -> Values:
    """Return a form's fields as the JSON object would have them.

    Raises:
        ValueError: if a field is given twice.
    """
    values: Values = {}
    for name, value in form.multi_items():
        inner = re.fullmatch(r"(\w+)\[(\w*)\]", name)
        if inner is None:
            _put(values, name, value, name)
        elif inner[2]:
            _put(_within(values, inner[1], dict), inner[2], value, name)
        else:
            _within(values, inner[1], list).append(value)
    return values


def typed(values: Values, texts: frozenset[str]) -> Values:
    """Return the values, those that are text read as JSON, but for the fields named in `texts`."""
    return {name: value if name in texts else _read(value) for name, value in values.items()}


def _put(values: Values, key: str, value: Any, name: str) -> None:
    if key in values:
        raise ValueError(f"{name}: given twice")
    values[key] = value


def _within(values: Values, name: str, kind: Callable[[], Any]) -> Any:
    found = values.setdefault(name, kind())
    if type(found) is not kind:
        raise ValueError(f"{name}: given twice")
    return found


def _read(value: Any) -> Any:
    if isinstance(value, list):
        return [_read(one) for one in value]
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value
