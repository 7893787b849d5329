"""A client of the server's live sessions; it needs `httpx` and `websockets`, and nothing else of this package.

`with Client(url).session("a red fish") as session: for chunk in session: …`; the same with `AsyncClient`, `async with`
and `async for`. A connection that is lost is taken up where it was. For batch jobs the client is the `openai` package:
`OpenAI(base_url=f"{url}/v1", api_key=token)`.
"""

import asyncio
import itertools
import json
import threading
from collections import deque
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import httpx
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import WebSocketException

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

T = TypeVar("T")
ATTEMPTS = 8
"""Times a lost connection is tried again, after 0.1, 0.2, 0.4, … seconds."""


class ServerError(Exception):
    """What the server refused. code: `invalid`, `missing`, `busy`, …; retry_after: seconds, where waiting helps."""

    def __init__(self, message: dict[str, Any]) -> None:
        super().__init__(message["message"])
        self.code, self.retry_after = message["code"], message.get("retry_after")


@dataclass(frozen=True)
class Chunk:
    """Some frames: the number of the first, their prompt, the seconds that they took, and the bytes of each."""

    position: int
    prompt: str
    timings: dict[str, float | None]
    format: str
    frames: list[bytes]

    def decode(self) -> "NDArray[np.uint8]":
        """Return the frames as uint8 `[T, H, W, 3]`; needs `av` and `numpy`."""
        import av
        import numpy as np

        codec: Any = av.CodecContext.create({"jpeg": "mjpeg"}.get(self.format, self.format), "r")
        packets = [*map(av.Packet, self.frames), None]
        return np.stack([frame.to_ndarray(format="rgb24") for packet in packets for frame in codec.decode(packet)])


class AsyncSession:
    """A live session: iterate over its chunks, and steer it meanwhile from any task.

    opened: what the server said at the start. state: what it said last. position: the next frame.
    """

    def __init__(self, client: "AsyncClient", form: str) -> None:
        self.client, self.format = client, form
        self.opened: dict[str, Any] = {}
        self.state: dict[str, Any] = {}
        self.position = 0
        self._socket: ClientConnection | None = None
        self._chunks: deque[Chunk] = deque()
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._refs = itertools.count(1)
        self._news = asyncio.Event()
        self._error: Exception | None = None
        self._over = False

    @property
    def id(self) -> str:
        """Return its name, with which `attach` opens it again."""
        return str(self.opened["session"])

    async def prompt(self, prompt: str, *, mode: str = "cut", chunks: int = 3) -> int:
        """Change the prompt (`chunks` is the length of a blend); return the frame from which it takes effect."""
        return int((await self._ask("prompt", prompt=prompt, mode=mode, chunks=chunks))["position"])

    async def adjust(self, *, seed: int | None = None, strength: float | None = None) -> int:
        """Change the seed or the strength; return the frame from which it takes effect."""
        return int((await self._ask("adjust", seed=seed, strength=strength))["position"])

    async def pause(self) -> None:
        """Stop making chunks."""
        await self._ask("pause")

    async def resume(self) -> None:
        """Go on."""
        await self._ask("resume")

    async def rewind(self, position: int) -> int:
        """Return to a frame, or to the nearest before it that is remembered; return which one it was."""
        position = int((await self._ask("rewind", position=position))["position"])
        self._chunks = deque(chunk for chunk in self._chunks if chunk.position < position)
        return position

    async def fork(self, position: int | None = None) -> str:
        """Make a second session, paused, from a frame on; return its name, for `attach`."""
        return str((await self._ask("fork", position=position))["session"])

    async def close(self) -> None:
        """End the session for good; its film can be exported for a while."""
        await self._ask("close")

    async def export(self, path: str | Path, *, form: str = "mp4") -> None:
        """Write the film so far into a file: `mp4`, `toml` (a timeline) or `latents`."""
        async with self.client.http() as web:
            answer = await web.get(f"/v1/sessions/{self.id}/export", params={"format": form})
            if answer.is_error:
                raise ServerError({"code": "invalid", "message": answer.text})
            Path(path).write_bytes(answer.content)

    async def __aiter__(self) -> AsyncIterator[Chunk]:
        while True:
            self._news.clear()
            if self._chunks:
                yield self._chunks.popleft()
            elif self._error is not None:
                raise self._error
            elif self._over:
                return
            else:
                await self._news.wait()

    async def _ask(self, kind: str, **values: Any) -> dict[str, Any]:
        if self._socket is None:
            raise ConnectionError("the session is not connected")
        ref = next(self._refs)
        answer: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._answers[ref] = answer
        await self._socket.send(json.dumps({"type": kind, "ref": ref, **values}))
        return await answer

    async def open(self, **message: Any) -> None:
        """Connect, and wait for a place."""
        headers = {"Authorization": f"Bearer {self.client.token}"} if self.client.token else {}
        address = self.client.url.replace("http", "ws", 1) + "/v1/live"
        socket = await connect(address, additional_headers=headers, max_size=None)
        try:
            await socket.send(json.dumps({"format": self.format, **message}))
            while (said := json.loads(await socket.recv()))["type"] != "opened":
                if said["type"] == "error":
                    raise ServerError(said)
            self.opened, self.state, self._socket = said, said, socket
        except BaseException:
            await socket.close()
            raise

    async def read(self) -> None:
        """Take what the server says until the session is over."""
        try:
            while not self._over:
                with suppress(WebSocketException):
                    await self._listen()
                for answer in self._answers.values():
                    if not answer.done():
                        answer.set_exception(ConnectionError("the connection was lost before the answer"))
                self._answers.clear()
                if not self._over:
                    await self._reconnect()
        except (ServerError, OSError, WebSocketException) as error:
            self._error = error
        finally:
            self._news.set()

    async def _reconnect(self) -> None:
        for attempt in range(ATTEMPTS):
            await asyncio.sleep(0.1 * 2**attempt)
            try:
                return await self.open(type="attach", session=self.id, position=self.position)
            except (OSError, WebSocketException, ServerError) as error:
                if attempt == ATTEMPTS - 1 or (isinstance(error, ServerError) and error.retry_after is None):
                    raise

    async def _listen(self) -> None:
        socket = self._socket
        assert socket is not None
        async for data in socket:
            said = json.loads(data)
            if said["type"] == "chunk":
                payload = await socket.recv()
                assert isinstance(payload, bytes)
                ends = [0, *itertools.accumulate(said["sizes"])]
                frames = [payload[start:end] for start, end in itertools.pairwise(ends)]
                self._chunks.append(Chunk(said["position"], said["prompt"], said["timings"], self.format, frames))
                self.position = said["position"] + said["frames"]
            elif said["type"] == "changed":
                self.state = said
            elif said["type"] == "error" and said["ref"] is None:
                self._error = ServerError(said)
            answer = self._answers.pop(said.get("ref") or 0, None)
            if answer is not None and not answer.done():
                answer.set_exception(ServerError(said)) if said["type"] == "error" else answer.set_result(said)
            self._over = self.state["state"] in ("ended", "closed") and self.position >= self.state["position"]
            self._news.set()

    async def leave(self) -> None:
        """Close the connection; the session stays on the server."""
        if self._socket is not None:
            await self._socket.close()


class AsyncClient:
    """A server at an address. token: its secret, if it asks for one."""

    def __init__(self, url: str = "http://127.0.0.1:8000", *, token: str | None = None) -> None:
        self.url, self.token = url.rstrip("/"), token

    def http(self) -> httpx.AsyncClient:
        """Return a client of the server's other routes."""
        headers = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        return httpx.AsyncClient(base_url=self.url, headers=headers, timeout=60)

    @asynccontextmanager
    async def session(self, prompt: str, *, format: str = "h264", **request: Any) -> AsyncIterator[AsyncSession]:
        """Start a session. format: h264, jpeg or webp; request: seed, image, source, … as the protocol has them."""
        async with self._opened(format, type="create", request={"prompt": prompt, **request}) as session:
            yield session

    @asynccontextmanager
    async def attach(
        self, identifier: str, *, format: str = "h264", position: int | None = None
    ) -> AsyncIterator[AsyncSession]:
        """Open a session that exists, from a frame on; by default from its newest."""
        async with self._opened(format, type="attach", session=identifier, position=position) as session:
            yield session

    @asynccontextmanager
    async def _opened(self, form: str, **message: Any) -> AsyncIterator[AsyncSession]:
        session = AsyncSession(self, form)
        await session.open(**message)
        reading = asyncio.create_task(session.read())
        try:
            yield session
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
            await session.leave()


class Session:
    """`AsyncSession` for code that is not asynchronous."""

    def __init__(self, session: AsyncSession, loop: asyncio.AbstractEventLoop) -> None:
        self._session, self._loop = session, loop

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._session, name)
        return (lambda *a, **k: self._run(value(*a, **k))) if asyncio.iscoroutinefunction(value) else value

    def __iter__(self) -> Iterator[Chunk]:
        chunks = self._session.__aiter__()
        with suppress(StopAsyncIteration):
            while True:
                yield self._run(anext(chunks))  # type: ignore[arg-type]

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()


class Client:
    """`AsyncClient` for code that is not asynchronous."""

    def __init__(self, url: str = "http://127.0.0.1:8000", *, token: str | None = None) -> None:
        self._client = AsyncClient(url, token=token)

    @contextmanager
    def session(self, prompt: str, *, format: str = "h264", **request: Any) -> Iterator[Session]:
        """Start a session, as `AsyncClient.session`."""
        with _blocking(self._client.session(prompt, format=format, **request)) as session:
            yield session

    @contextmanager
    def attach(self, identifier: str, *, format: str = "h264", position: int | None = None) -> Iterator[Session]:
        """Open a session that exists, as `AsyncClient.attach`."""
        with _blocking(self._client.attach(identifier, format=format, position=position)) as session:
            yield session


@contextmanager
def _blocking(opening: Any) -> Iterator[Session]:
    """Run a session's tasks in a thread of its own."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        session = asyncio.run_coroutine_threadsafe(opening.__aenter__(), loop).result()
        try:
            yield Session(session, loop)
        finally:
            asyncio.run_coroutine_threadsafe(opening.__aexit__(None, None, None), loop).result()
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
