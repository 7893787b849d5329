"""All live sessions: who gets a place, who waits, what is put to sleep on disk, and what comes back from there.

Everything here belongs to the event loop.
"""

import asyncio
import logging
import secrets
import shutil
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar
from weakref import WeakValueDictionary

from causvid.engine.request import GenerationRequest
from causvid.server.camera import Camera
from causvid.server.errors import Busy
from causvid.server.film import Film
from causvid.server.journal import Header, Journal
from causvid.server.lease import Elsewhere, Lease, holder
from causvid.server.live import LiveSession, Shared
from causvid.server.protocol import SessionRequest
from causvid.server.uploads import keep

T = TypeVar("T")
log = logging.getLogger("causvid.server")
SLEEP = 15.0
"""Seconds without a reader after which a session goes to disk and leaves its place."""
GRACE = 2.0
"""The same where somebody waits for a place: a reader that has lost its connection is back sooner."""
LEASE = "lease"
"""File in a session's folder, locked by the server that has it open."""
RETRY_AFTER = 5
"""Seconds after which it is worth asking for a place again."""


@dataclass
class Sessions:
    """folder: of all sessions. places: how many are open at once. find: the file of an upload or a finished job.

    address: where this server answers others that share the folder; empty where none does.
    """

    shared: Shared
    folder: Path
    find: Callable[[str, str], Path]
    address: str = ""
    places: int = 1
    open: dict[str, LiveSession] = field(default_factory=dict)
    waiting: deque["asyncio.Future[None]"] = field(default_factory=deque)
    clients: dict[str, str] = field(default_factory=dict)
    _starting: int = 0
    _asking: Counter[str] = field(default_factory=Counter)
    _locks: WeakValueDictionary[str, asyncio.Lock] = field(default_factory=WeakValueDictionary)

    async def create(
        self, request: SessionRequest, client: str, queued: Callable[[int], Awaitable[None]]
    ) -> LiveSession:
        """Start a session, once there is a place. queued: is told how many wait before it, whenever that changes.

        Raises:
            ValueError: if the request cannot be used. Busy: if there is no place, and none in the queue.
        """
        self._check_client(client)
        self._asking[client] += 1
        try:
            await self._place(queued)
            identifier = f"session_{secrets.token_urlsafe(18)}"
            return await self._begin(lambda: self._create(identifier, request, client), client)
        finally:
            self._asking[client] -= 1
            self._asking += Counter()  # forget those who ask for nothing

    async def attach(self, identifier: str, client: str, queued: Callable[[int], Awaitable[None]]) -> LiveSession:
        """Return an open session, or take it up from disk.

        Raises:
            ValueError: if there is none, or it was closed. Busy: as `create`. Elsewhere: if another server has it.
        """
        async with self._locks.setdefault(identifier, asyncio.Lock()):
            if identifier in self.open:
                self.open[identifier].left = time.monotonic()
                return self.open[identifier]
            folder = self._folder(identifier)
            self._check_here(folder)
            _check_open(Journal.open(folder), identifier)
            await self._place(queued)
            # It may have been closed in the queue, so that its journal is read again.
            return await self._begin(lambda: self._reopen(identifier, Journal.open(folder)), client)

    async def fork(self, session: LiveSession, position: int | None) -> LiveSession:
        """Fork an open session; the fork is paused, and needs a place as any other.

        Raises:
            ValueError: if it has no such point. Busy: if there is no place.
        """
        if self.open.get(session.identifier) is not session:
            raise ValueError("the session is closed")
        client = self.clients[session.identifier]
        self._check_client(client)
        await self._make_room()
        if len(self.open) + self._starting >= self.places:
            raise Busy("no place is free for a fork: close a session", RETRY_AFTER)
        self._starting += 1
        identifier = f"session_{secrets.token_urlsafe(18)}"
        parent = session.journal.header

        def work() -> LiveSession:
            (folder := self.folder / identifier).mkdir(parents=True)
            try:
                for name in parent.files.values():
                    keep(session.journal.folder / name, folder / name)
                header = parent.model_copy(update={"parent": session.identifier, "created": time.time()})
                fork = session.fork(position, identifier, Journal.create(folder, header))
                fork.lease = self._take(folder)
                fork.start()
                return fork
            except BaseException:
                shutil.rmtree(folder, ignore_errors=True)
                raise

        return await self._begin(work, client)

    async def close(self, identifier: str) -> None:
        """End a session for good; its film stays until it expires.

        Raises:
            ValueError: if there is none. Elsewhere: if another server has it.
        """
        if identifier not in self.open:
            folder = self._folder(identifier)
            self._check_here(folder)
            await self._call(lambda: Journal.open(folder).close())
        session = self.open.get(identifier)  # it may have been taken up in that moment
        if session is not None:
            await _finish(self._close(session))

    async def suspend(self, identifier: str) -> None:
        """Put an open session to disk, where nobody reads it. It leaves its place, even if the disk is full."""
        await _finish(self._suspend(self.open.pop(identifier)))

    async def _close(self, session: LiveSession) -> None:
        await self._call(session.close)
        if self.open.get(session.identifier) is session:
            del self.open[session.identifier]
            self._forget(session.identifier)
            log.info("session closed", extra={"session": session.identifier, "frames": session.stream.frames})

    async def _suspend(self, session: LiveSession) -> None:
        noted = {"session": session.identifier, "frames": session.stream.frames}
        try:
            await self._call(session.suspend if session.camera is None else session.close)
            log.info("session put to disk", extra=noted)
        except OSError as error:
            log.warning("a session will go on from its last saved state: %s", error, extra=noted)
        finally:
            self._forget(session.identifier)

    async def sweep(self) -> None:
        """Put to sleep what nobody reads; delete what has expired."""
        for identifier in [identifier for identifier in self.open if self._unread(identifier) > SLEEP]:
            if self._unread(identifier) > SLEEP:
                await self.suspend(identifier)
        oldest = time.time() - self.shared.settings.keep_seconds
        for folder in self.folder.iterdir() if self.folder.is_dir() else ():
            if folder.name in self.open or folder.name in self._locks or not folder.is_dir() or _held(folder):
                continue
            with suppress(FileNotFoundError):  # a file that was just replaced: the folder is in use
                if max(file.stat().st_mtime for file in (folder, *folder.iterdir())) < oldest:
                    shutil.rmtree(folder, ignore_errors=True)

    async def shut_down(self) -> None:
        """Put every session to disk."""
        for identifier in list(self.open):
            await self.suspend(identifier)

    def film(self, identifier: str) -> tuple[Journal, Film]:
        """Return the journal and the film of a session, open or not.

        Raises:
            ValueError: if there is none. Elsewhere: if another server has it.
        """
        session = self.open.get(identifier)
        if session is not None:
            return session.journal, session.film
        folder = self._folder(identifier)
        self._check_here(folder)
        return Journal.open(folder), Film(folder, only_read=True)

    # In the model's thread.

    def _create(self, identifier: str, request: SessionRequest, client: str) -> LiveSession:
        pipeline = self.shared.pipeline
        folder = self.folder / identifier
        folder.mkdir(parents=True)
        try:
            files = {}
            for name, kind in (("image", "image"), ("after", "video"), ("source", "video")):
                wanted = getattr(request, name)
                if wanted is not None and not (name == "source" and wanted == "camera"):
                    file = self.find(wanted, kind)
                    files[name] = name + file.suffix
                    keep(file, folder / files[name])
            camera = Camera() if request.source == "camera" else None
            stream = pipeline.stream(self._request(request, folder, files, camera))
            shape = stream.session.geometry.shape
            journal = Journal.create(folder, Header(request=request, client=client, files=files, shape=shape))
            session = LiveSession(identifier, self.shared, stream, journal, film=Film(folder), camera=camera)
            session.lease = self._take(folder)
            session.start()
            return session
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise

    def _reopen(self, identifier: str, journal: Journal) -> LiveSession:
        _check_open(journal, identifier)
        if journal.header.request.source == "camera":
            raise ValueError("the session followed a camera, and has ended with its connection")
        lease = self._take(journal.folder)
        try:
            session = self._resumed(identifier, Journal.open(journal.folder))
        except BaseException:
            lease.release()
            raise
        session.lease = lease
        session.start()
        return session

    def _resumed(self, identifier: str, journal: Journal) -> LiveSession:
        pipeline, header = self.shared.pipeline, journal.header
        film = Film(journal.folder)
        stream = pipeline.resume(journal.state) if journal.state.exists() else None
        if stream is None or film.position < stream.frames:
            if header.parent is not None:
                raise ValueError(f"session {identifier} has lost a part of its film, from frame {film.position}")
            # What its film has lost is made again from the start, under the same changes.
            stream = pipeline.stream(self._request(header.request, journal.folder, header.files, None))
        film.truncate(stream.frames)
        return LiveSession(identifier, self.shared, stream, journal, film=film, camera=None)

    def _request(
        self, request: SessionRequest, folder: Path, files: dict[str, str], camera: Camera | None
    ) -> GenerationRequest:
        values = dict(request) | {name: folder / file for name, file in files.items()}
        return GenerationRequest.make(**values | ({} if camera is None else {"source": camera}))

    # Places.

    def _check_client(self, client: str) -> None:
        most = self.shared.settings.sessions_per_client
        if sum(other == client for other in self.clients.values()) + self._asking[client] >= most:
            raise Busy(f"{client} has {most} sessions, which is the most: close one", RETRY_AFTER)

    async def _place(self, queued: Callable[[int], Awaitable[None]]) -> None:
        """Wait for a place and take it."""
        await self._make_room()
        if len(self.open) + self._starting < self.places and not self.waiting:
            self._starting += 1
            return
        if len(self.waiting) >= self.shared.settings.queue:
            raise Busy(f"all {self.places} places are taken, and the queue is full", RETRY_AFTER)
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.waiting.append(turn)
        try:
            ahead = None
            while not turn.done():
                if turn in self.waiting and ahead != (now := self.waiting.index(turn)):
                    ahead = now
                    await queued(ahead)
                await asyncio.wait([turn], timeout=0.5)
                await self._make_room()
        except BaseException:
            if turn.done():
                self._starting -= 1
                self._let_in()
            raise
        finally:
            if turn in self.waiting:
                self.waiting.remove(turn)

    async def _make_room(self) -> None:
        """Put to disk what has been unread longest, if there is no place."""
        if len(self.open) + self._starting >= self.places:
            unread = max(self.open, key=self._unread, default=None)
            if unread is not None and self._unread(unread) > GRACE:
                await self.suspend(unread)

    def _unread(self, identifier: str) -> float:
        """Return for how many seconds nobody has read an open session; 0 while somebody does."""
        session = self.open.get(identifier)
        return 0.0 if session is None or session.readers else time.monotonic() - session.left

    def _let_in(self) -> None:
        while self.waiting and len(self.open) + self._starting < self.places:
            self._starting += 1
            self.waiting.popleft().set_result(None)

    async def _begin(self, work: Callable[[], LiveSession], client: str) -> LiveSession:
        """Make a session in the model's thread, on a place that was taken for it."""

        async def begin() -> LiveSession:
            try:
                session = await self._call(work)
                self._admit(session, client)
                return session
            finally:
                self._starting -= 1
                self._let_in()

        return await _finish(begin())

    def _admit(self, session: LiveSession, client: str) -> None:
        self.open[session.identifier] = session
        self.clients[session.identifier] = client
        log.info("session opened", extra={"session": session.identifier, "frames": session.stream.frames})

    def _forget(self, identifier: str) -> None:
        self.clients.pop(identifier, None)
        self._let_in()

    def _folder(self, identifier: str) -> Path:
        folder = self.folder / identifier
        if not (folder / "session.json").is_file():
            raise LookupError(f"there is no session {identifier}")
        return folder

    def _take(self, folder: Path) -> Lease:
        return Lease.take(folder / LEASE, self.address)

    def _check_here(self, folder: Path) -> None:
        """Refuse what another server has open."""
        address = holder(folder / LEASE)
        if address is not None and address != self.address:
            raise Elsewhere(address)

    async def _call(self, work: Callable[[], T]) -> T:
        return await asyncio.wrap_future(self.shared.scheduler.call(work))


async def _finish(work: Coroutine[Any, Any, T]) -> T:
    """Carry something out to its end, also where the client that asked for it leaves meanwhile."""
    return await asyncio.shield(asyncio.ensure_future(work))


def _held(folder: Path) -> bool:
    return holder(folder / LEASE) is not None


def _check_open(journal: Journal, identifier: str) -> None:
    if journal.header.closed:
        raise ValueError(f"session {identifier} is closed: its film can be exported")
