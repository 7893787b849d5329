"""Sessions begun, forked, and continued from disk: what the model's thread does for `Sessions`."""

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from causvid.engine.request import GenerationRequest
from causvid.server.camera import Camera
from causvid.server.film import Film
from causvid.server.journal import Header, Journal
from causvid.server.lease import Lease
from causvid.server.live import LiveSession, Shared
from causvid.server.protocol import SessionRequest
from causvid.server.uploads import keep

LEASE = "lease"
"""File in a session's folder, locked by the server that has it open."""


@dataclass(frozen=True)
class Opener:
    """folder, find, address: as `Sessions` has them."""

    shared: Shared
    folder: Path
    find: Callable[[str, str], Path]
    address: str

    def create(self, identifier: str, request: SessionRequest, client: str) -> LiveSession:
        """Begin a session.

        Raises:
            ValueError: if the request cannot be used.
        """
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

    def reopen(self, identifier: str, *, expected: bool = False) -> LiveSession:
        """Continue a session from disk. Its journal is read here: it may have been closed since anybody looked.

        expected: a reader is on its way, and its next chunk is made before it comes.

        Raises:
            ValueError: if it cannot be continued. Elsewhere: if another server has it.
        """
        journal = Journal.open(self.folder / identifier)
        check_open(journal, identifier)
        if journal.header.request.source == "camera":
            raise ValueError("the session followed a camera, and has ended with its connection")
        lease = self._take(journal.folder)
        try:
            session = self._resumed(identifier, Journal.open(journal.folder))
        except BaseException:
            lease.release()
            raise
        session.lease = lease
        session.expected = expected
        session.start()
        return session

    def fork(self, session: LiveSession, position: int | None, identifier: str) -> LiveSession:
        """Begin a session from a point of another.

        Raises:
            ValueError: if it has no such point.
        """
        parent = session.journal.header
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

    def _take(self, folder: Path) -> Lease:
        return Lease.take(folder / LEASE, self.address)

    def _resumed(self, identifier: str, journal: Journal) -> LiveSession:
        pipeline, header = self.shared.pipeline, journal.header
        film = Film(journal.folder)
        stream = pipeline.resume(journal.state) if journal.state.exists() else None
        if stream is None or film.position < stream.frames:
            if header.parent is not None:
                raise ValueError(f"session {identifier} has lost a part of its film, from frame {film.position}")
            # What its film has lost is made again from the start, under the same changes.
            stream = pipeline.stream(self._request(header.request, journal.folder, header.files, None))
        before = film.position
        film.truncate(stream.frames)
        session = LiveSession(identifier, self.shared, stream, journal, film=film, camera=None)
        session.again = session.fetched = max(before, stream.frames)
        return session

    def _request(
        self, request: SessionRequest, folder: Path, files: dict[str, str], camera: Camera | None
    ) -> GenerationRequest:
        values = dict(request) | {name: folder / file for name, file in files.items()}
        return GenerationRequest.make(**values | ({} if camera is None else {"source": camera}))


def check_open(journal: Journal, identifier: str) -> None:
    """Refuse a session that was closed.

    Raises:
        ValueError: if it was.
    """
    if journal.header.closed:
        raise ValueError(f"session {identifier} is closed: its film can be exported")
