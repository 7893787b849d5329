"""All live sessions: who gets a place, who waits, what is put to sleep on disk, and what comes back from there.

Everything here belongs to the event loop.
"""

import asyncio
import logging
import random
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

from causvid.server.errors import Busy
from causvid.server.film import Film
from causvid.server.journal import Journal
from causvid.server.lease import Elsewhere, abandoned, holder
from causvid.server.live import LiveSession, Shared
from causvid.server.opener import LEASE, Opener, check_open
from causvid.server.protocol import SessionRequest

T = TypeVar("T")
log = logging.getLogger("causvid.server")
SLEEP = 15.0
"""Seconds without a reader after which a session goes to disk and leaves its place."""
GRACE = 2.0
"""The same where somebody waits for a place: a reader that has lost its connection is back sooner."""
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
    _opener: Opener = field(init=False)
    _locks: WeakValueDictionary[str, asyncio.Lock] = field(default_factory=WeakValueDictionary)

    def __post_init__(self) -> None:
        self._opener = Opener(self.shared, self.folder, self.find, self.address)

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
            return await self._begin(lambda: self._opener.create(identifier, request, client), client)
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
            check_open(Journal.open(folder), identifier)
            await self._place(queued)
            # It may have been closed in the queue, so that its journal is read again.
            return await self._begin(lambda: self._opener.reopen(identifier), client)

    async def adopt(self, address: str) -> int:
        """Continue what a server that died had open, where places are free; return how many sessions that is.

        Servers that do the same at once share them: each takes one after the other, in an order of its own.
        """
        count = 0
        folders = await asyncio.to_thread(abandoned, self.folder, LEASE, address)
        for folder in random.sample(folders, len(folders)):
            if self.waiting or len(self.open) + self._starting >= self.places:
                break
            with suppress(ValueError, OSError, Elsewhere):
                count += await self._adopt(folder)
        return count

    async def _adopt(self, folder: Path) -> bool:
        async with self._locks.setdefault(folder.name, asyncio.Lock()):
            if folder.name in self.open:
                return False
            client = Journal.open(folder).header.client
            self._starting += 1
            await self._begin(lambda: self._opener.reopen(folder.name, expected=True), client)
            return True

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
        return await self._begin(lambda: self._opener.fork(session, position, identifier), client)

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
