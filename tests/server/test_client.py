"""The client: chunks as frames, every command, and a connection that is lost."""

import asyncio
import itertools
from pathlib import Path

import av
import pytest

from causvid.client import AsyncClient, Client, ServerError

from .conftest import Served

FISH, SWAN = "a red fish hopping on a meadow", "a violet swan moving to the left over a lake"


def test_a_session_is_watched_and_steered(server: Served, tmp_path: Path) -> None:
    with Client(server.url).session(FISH, seed=3) as session:
        chunks = list(itertools.islice(session, 2))
        assert [chunk.position for chunk in chunks] == [0, len(chunks[0].frames)]
        assert chunks[1].decode().shape == (session.opened["chunk"], 64, 96, 3)
        change = session.prompt(SWAN)
        changed = next(chunk for chunk in session if chunk.prompt == SWAN)
        assert changed.position >= change
        session.pause()
        position = session.rewind(change)
        assert position <= change
        fork = session.fork(position)
        session.export(tmp_path / "film.mp4")
        session.close()
        list(session)
    with av.open(str(tmp_path / "film.mp4")) as film:
        assert sum(1 for _ in film.decode(video=0)) == position
    with Client(server.url).attach(fork, format="jpeg") as second:
        second.resume()
        assert next(iter(second)).decode().shape[1:] == (64, 96, 3)
        second.close()


def test_refusals_raise_what_the_server_said(server: Served) -> None:
    with pytest.raises(ServerError, match="there is no session"), Client(server.url).attach("session_none"):
        pass
    with Client(server.url).session(FISH) as session:
        with pytest.raises(ServerError, match="strength") as caught:
            session.adjust(strength=0.5)
        assert caught.value.code == "invalid"
        session.close()


def test_a_lost_connection_continues_without_a_gap(server: Served) -> None:
    async def watch() -> list[int]:
        ends = [0]
        async with AsyncClient(server.url).session(FISH) as session:
            async for chunk in session:
                assert chunk.position == ends[-1]
                ends.append(chunk.position + len(chunk.frames))
                if len(ends) == 3:
                    assert session._socket is not None
                    session._socket.transport.abort()
                if len(ends) == 6:
                    await session.close()
                    break
        return ends

    assert len(asyncio.run(watch())) == 6
