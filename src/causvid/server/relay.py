"""Pass a client on to the server that has its session, where several share a folder; the client notices nothing."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from socket import create_connection
from urllib.parse import urlsplit

from fastapi import FastAPI, Request, WebSocket, WebSocketDisconnect
from starlette.datastructures import Headers
from starlette.responses import Response, StreamingResponse

from causvid.server.errors import Busy
from causvid.server.lease import Elsewhere

PASSED = ("authorization", "host", "origin", "x-request-id")
"""Headers of the client by which the other server decides whether it may use it."""
CONNECT, ANSWER = 1.0, 10.0
"""Seconds for a connection to the other server, which its kernel makes, and for its first answer."""
RETRY_AFTER = 1


def install(app: FastAPI) -> None:
    """Let requests for a session of another server be answered by it."""
    app.add_exception_handler(Elsewhere, _answer)


async def relay_socket(socket: WebSocket, first: str, address: str) -> None:
    """Speak for a client, whose first message was read, until one of the two sides leaves.

    Raises:
        Busy: if the other server cannot be reached: it dies or sleeps, and the session will be free.
    """
    from websockets.asyncio.client import connect
    from websockets.exceptions import WebSocketException

    where = urlsplit(_reachable(address))
    headers = _headers(socket.headers)
    url = f"ws://{headers.pop('host', where.netloc)}/v1/live?{socket.url.query}"
    try:
        line = await asyncio.to_thread(create_connection, (where.hostname, where.port), CONNECT)
        with contextlib.ExitStack() as unless_used:
            unless_used.callback(line.close)
            line.setblocking(False)
            other = await connect(
                url, sock=line, additional_headers=headers, max_size=None, open_timeout=ANSWER, compression=None
            )
            unless_used.pop_all()
    except (OSError, TimeoutError, WebSocketException) as error:
        raise Busy(f"the server that has the session cannot be reached: {error}", RETRY_AFTER) from None

    async def down() -> None:
        async for data in other:
            await (socket.send_text(data) if isinstance(data, str) else socket.send_bytes(data))

    async def up() -> None:
        while True:
            message = await socket.receive()
            if message["type"] == "websocket.disconnect":
                raise WebSocketDisconnect(message.get("code", 1005))
            text = message.get("text")
            await other.send(text if text is not None else message.get("bytes") or b"")

    async with other:
        await other.send(first)
        tasks = [asyncio.create_task(down()), asyncio.create_task(up())]
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    with contextlib.suppress(RuntimeError):
        await socket.close(1012 if other.close_code == 1006 else 1000)


async def _answer(request: Request, error: Exception) -> Response:
    import httpx

    assert isinstance(error, Elsewhere)
    web = httpx.AsyncClient(base_url=_reachable(error.address), timeout=httpx.Timeout(None, connect=CONNECT))
    path = f"{request.url.path}?{request.url.query}"
    try:
        sent = web.build_request(request.method, path, headers=_headers(request.headers))
        answer = await web.send(sent, stream=True)
    except httpx.HTTPError as problem:
        await web.aclose()
        raise Busy(f"the server that has the session cannot be reached: {problem}", RETRY_AFTER) from None

    async def body() -> AsyncIterator[bytes]:
        try:
            async for piece in answer.aiter_raw():
                yield piece
        finally:
            await answer.aclose()
            await web.aclose()

    return StreamingResponse(body(), answer.status_code, dict(answer.headers))


def _headers(headers: Headers) -> dict[str, str]:
    return {name: headers[name] for name in PASSED if name in headers}


def _reachable(address: str) -> str:
    if not address:
        raise Busy("another server that does not share its sessions has this one", RETRY_AFTER)
    return address
