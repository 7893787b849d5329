"""One WebSocket: a reader that sends a session's film as it grows, and carries out what its client says."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from typing import Any

from fastapi import WebSocket, WebSocketDisconnect
from pydantic import BaseModel

from causvid.config import Settings
from causvid.engine.request import Adjustment, PromptChange
from causvid.server import protocol
from causvid.server.errors import Busy
from causvid.server.film import Piece
from causvid.server.lease import Elsewhere
from causvid.server.live import LiveSession
from causvid.server.protocol import (
    Adjust,
    Attach,
    Changed,
    Chunk,
    Create,
    Done,
    Failed,
    Forked,
    Pong,
    SetPrompt,
    Timings,
)
from causvid.server.relay import relay_socket
from causvid.server.sessions import Sessions
from causvid.server.view import changed, opened
from causvid.server.wire import decode_h264, fragment_mp4, pictures, read_picture

log = logging.getLogger("causvid.server")
FIRST_MESSAGE = 30.0
"""Seconds a client has for `create` or `attach`."""


class Readers:
    """The readers of every session, and the event that wakes them. It belongs to the event loop."""

    def __init__(self) -> None:
        self._events: dict[str, set[Reader]] = {}

    def add(self, reader: "Reader") -> None:
        """Let a reader be woken when its session has something new."""
        self._events.setdefault(reader.session.identifier, set()).add(reader)
        self.count(reader.session)

    def remove(self, reader: "Reader") -> None:
        """Forget a reader."""
        self._events.get(reader.session.identifier, set()).discard(reader)
        if not self._events.get(reader.session.identifier):
            self._events.pop(reader.session.identifier, None)
        self.count(reader.session)

    def wake(self, session: LiveSession) -> None:
        """Wake the readers of a session."""
        for reader in self._events.get(session.identifier, ()):
            reader.event.set()

    def count(self, session: LiveSession) -> None:
        """Tell a session who reads it, and how far they are."""
        readers = self._events.get(session.identifier, set())
        if session.readers and not readers:
            session.left = time.monotonic()
        session.readers = len(readers)
        session.fetched = max((reader.position for reader in readers), default=0)
        session.shared.scheduler.wake()


class Reader:
    """A connection that has opened a session."""

    def __init__(self, socket: WebSocket, session: LiveSession, form: protocol.Format, position: int) -> None:
        self.socket, self.session, self.form, self.position = socket, session, form, position
        self.early: str | bytes | None = None  # a message that came before the session was open
        self.event = asyncio.Event()
        self._rewinds = session.rewinds
        self._last: Changed | None = None
        self._initialised = False
        self._sending = asyncio.Lock()
        self.obeying = asyncio.Lock()

    async def say(self, message: Settings, payload: bytes | None = None) -> None:
        """Send a message, and the binary message that belongs to it."""
        async with self._sending:
            await self.socket.send_text(message.model_dump_json())
            if payload is not None:
                await self.socket.send_bytes(payload)

    async def send_film(self, readers: Readers) -> None:
        """Send what the film has, and what changes, until the session is over and all of it was sent."""
        session = self.session
        while True:
            self.event.clear()
            if self._rewinds != session.rewinds:
                self._rewinds, self._last = session.rewinds, None
                self.position = min(self.position, session.film.position)
            now = changed(session)
            found = session.film.read(self.position)
            if found is not None:
                await self._send_piece(*found)
                self.position = max(found[0].end, self.position)
                readers.count(session)
            if self._last is None or now.model_copy(update={"position": self._last.position}) != self._last:
                self._last = now
                await self.say(now)
            if found is not None:
                continue
            if session.error is not None:
                await self.say(Failed(code="failed", message=session.error))
            if session.state == "closed":
                return
            await self.event.wait()

    async def _send_piece(self, piece: Piece, units: list[bytes]) -> None:
        session = self.session
        parts, init = await asyncio.to_thread(self._convert, piece, units)
        timings = session.timings.get(piece.position) or Timings(waited=0, made=0, encoded=0)
        header = Chunk(
            position=piece.position,
            frames=len(piece.sizes),
            prompt=piece.prompt,
            sizes=tuple(map(len, parts)),
            init=init,
            timings=timings,
        )
        await self.say(header, b"".join(parts))

    def _convert(self, piece: Piece, units: list[bytes]) -> tuple[list[bytes], bool]:
        """Turn a chunk of the film into the client's format."""
        if self.form == "h264":
            return units, False
        if self.form == "mp4":
            init, fragment = fragment_mp4(units, fps=self.session.stream.fps, position=piece.position)
            if self._initialised:
                return [fragment], False
            self._initialised = True
            return [init, fragment], True
        return pictures(decode_h264(units), self.form), False


async def serve(socket: WebSocket, sessions: Sessions, readers: Readers) -> None:
    """Speak the protocol with one client until one of the two leaves."""
    await socket.accept()
    client = socket.client.host if socket.client else "unknown"
    with contextlib.suppress(WebSocketDisconnect, RuntimeError):
        try:
            reader = await _open(socket, sessions, client)
        except TimeoutError:
            reader = None
        except (WebSocketDisconnect, ConnectionError):
            return  # the client left before it had an answer
        except Exception as error:
            await socket.send_text(_refusal(error, None).model_dump_json())
            reader = None
        if reader is None:
            with contextlib.suppress(RuntimeError):  # it was closed where it was passed on
                await socket.close(1008)
            return
        readers.add(reader)
        tasks = [
            asyncio.create_task(reader.send_film(readers)),
            asyncio.create_task(_listen(reader, sessions, readers)),
        ]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            async with reader.obeying:
                pass  # a command that ended the session gets its answer
        finally:
            for task in tasks:
                task.cancel()
            results = await asyncio.gather(*tasks, return_exceptions=True)
            readers.remove(reader)
            if reader.session.camera is not None:
                reader.session.camera.end()
            for result in results:
                if isinstance(result, Exception) and not isinstance(result, WebSocketDisconnect | RuntimeError):
                    log.error("a connection failed", exc_info=result)
        await socket.close()


async def _open(socket: WebSocket, sessions: Sessions, client: str) -> Reader | None:
    """Carry out the first message; None if the client left."""
    async with asyncio.timeout(FIRST_MESSAGE):
        first = await _receive(socket)
    message = protocol.parse(first) if isinstance(first, str) else None
    if not isinstance(message, Create | Attach):
        raise ValueError("the first message must be create or attach")

    async def queued(ahead: int) -> None:
        waiting = Changed(state="queued", position=0, oldest=0, marks=(), seed=0, strength=1, ahead=ahead)
        with contextlib.suppress(WebSocketDisconnect, RuntimeError):
            await socket.send_text(waiting.model_dump_json())

    assert isinstance(first, str)
    if isinstance(message, Create):
        opening = asyncio.ensure_future(sessions.create(message.request, client, queued))
    else:
        opening = asyncio.ensure_future(sessions.attach(message.session, client, queued))
    leaving = asyncio.ensure_future(_wait_with(socket))  # a client that leaves the queue gives its turn away
    try:
        await asyncio.wait([opening, leaving], return_when=asyncio.FIRST_COMPLETED)
        if not opening.done() and leaving.exception() is None:
            raise ValueError("the session is not open yet: wait for `opened` before the next message")
        if not opening.done():
            return None
        try:
            session = opening.result()
        except Elsewhere as error:
            leaving.cancel()
            await asyncio.gather(leaving, return_exceptions=True)
            await relay_socket(socket, first, error.address)
            return None
    finally:
        early = leaving.done() and not leaving.cancelled() and leaving.exception() is None
        for task in (opening, leaving):
            if not task.done():
                task.cancel()
        await asyncio.gather(opening, leaving, return_exceptions=True)
    newest = session.film.position
    position = newest if isinstance(message, Attach) and message.position is None else 0
    if isinstance(message, Attach) and message.position is not None:
        position = message.position
    reader = Reader(socket, session, message.format, position)
    await reader.say(opened(session, message.format, message.ref))
    reader.early = leaving.result() if early else None
    return reader


async def _wait_with(socket: WebSocket) -> str | bytes:
    """Answer a waiting client's pings; return its first other message."""
    while True:
        data = await _receive(socket)
        message = None
        with contextlib.suppress(ValueError):
            message = protocol.parse(data) if isinstance(data, str) else None
        if not isinstance(message, protocol.Ping):
            return data
        await socket.send_text(Pong(ref=message.ref).model_dump_json())


async def _listen(reader: Reader, sessions: Sessions, readers: Readers) -> None:
    while True:
        data, reader.early = reader.early, None
        if data is None:
            data = await _receive(reader.socket)
        async with reader.obeying:
            await _obey(reader, sessions, data)


async def _obey(reader: Reader, sessions: Sessions, data: str | bytes) -> None:
    """Carry out one message; say what was wrong with it, if anything was."""
    ref = None
    try:
        if isinstance(data, bytes):
            await _see(reader.session, data)
            return
        message = protocol.parse(data)
        ref = message.ref
        await reader.say(await _carry_out(reader.session, sessions, message))
    except (ValueError, LookupError, Busy, OSError) as error:
        await reader.say(_refusal(error, ref))


async def _see(session: LiveSession, data: bytes) -> None:
    """Take a picture of the client's camera."""
    if session.camera is None:
        raise ValueError("the session follows no camera: binary messages are pictures of one")
    height, width = session.pixel_size
    session.camera.add(await asyncio.to_thread(read_picture, data, height, width))
    session.shared.scheduler.wake()


async def _carry_out(session: LiveSession, sessions: Sessions, message: BaseModel) -> Settings:
    async def run(work: Callable[[], int]) -> Done:
        position = await asyncio.wrap_future(session.shared.scheduler.call(work))
        return Done(ref=ref, position=position)

    ref = getattr(message, "ref", None)
    match message:
        case SetPrompt():
            change = PromptChange(**message.model_dump(include=set(PromptChange.model_fields)))
            return await run(lambda: session.change(change))
        case Adjust():
            adjustment = Adjustment(seed=message.seed, strength=message.strength)
            return await run(lambda: session.change(adjustment))
        case protocol.Pause() | protocol.Resume():
            return await run(lambda: session.pause(isinstance(message, protocol.Pause)))
        case protocol.Rewind():
            return await run(lambda: session.rewind(message.position))
        case protocol.Fork():
            fork = await sessions.fork(session, message.position)
            return Forked(ref=ref, session=fork.identifier, position=fork.stream.frames)
        case protocol.Close():
            await sessions.close(session.identifier)
            return Done(ref=ref, position=session.stream.frames)
        case protocol.Ping():
            return Pong(ref=ref)
    raise ValueError("this connection has its session: open another connection for a second one")


async def _receive(socket: WebSocket) -> str | bytes:
    message: dict[str, Any] = dict(await socket.receive())
    if message["type"] == "websocket.disconnect":
        raise WebSocketDisconnect(message.get("code", 1005))
    text, data = message.get("text"), message.get("bytes")
    return text if text is not None else data or b""


def _refusal(error: Exception, ref: int | None) -> Failed:
    if isinstance(error, Busy):
        return Failed(ref=ref, code="busy", message=str(error), retry_after=error.retry_after)
    if isinstance(error, LookupError):
        return Failed(ref=ref, code="missing", message=str(error.args[0] if error.args else error))
    if isinstance(error, ValueError | OSError):
        return Failed(ref=ref, code="invalid", message=str(error))
    log.error("a message could not be carried out", exc_info=error)
    return Failed(ref=ref, code="failed", message="the server could not do this: its log says why")
