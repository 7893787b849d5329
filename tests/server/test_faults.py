"""What a server loses when clients leave, disks are full and files are damaged: nothing."""

import asyncio
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tests.server.conftest import Serve, Served, Talk, model_busy, talk

from causvid.engine.request import PromptChange
from causvid.server.film import Film
from causvid.server.journal import Header, Journal
from causvid.server.protocol import SessionRequest
from causvid.server.scheduler import Scheduler, Task
from causvid.server.sessions import Sessions
from causvid.server.settings import ServerSettings
from causvid.server.uploads import Uploads

RED = "a red fish in a lake"
LATENTS = torch.zeros(1, 1, 2, 2, 2)


def held(server: Served) -> Sessions:
    sessions: Sessions = server.app.state.sessions
    return sessions


async def opened(client: Talk, **values: Any) -> str:
    await client.say("create", request={"prompt": RED}, **values)
    session: str = (await client.until("opened"))["session"]
    await client.frames(13)
    return session


def journal(folder: Path) -> Journal:
    return Journal.create(folder, Header(request=SessionRequest(prompt=RED), client="a", shape=(1, 2, 3)))


def test_change_after_a_half_written_one_is_kept(tmp_path: Path) -> None:
    written = journal(tmp_path)
    written.add(1, PromptChange(prompt="one"))
    with (tmp_path / "changes.jsonl").open("a") as file:
        file.write('{"position": 13, "chan')
    written.add(25, PromptChange(prompt="two"))
    assert [at for at, _ in Journal.open(tmp_path).changes(0)] == [1, 25]


def test_film_on_a_full_disk_ends_with_whole_chunk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    film, real = Film(tmp_path), Path.open
    film.append([b"one"], LATENTS, prompt="a")

    def full(path: Path, mode: str = "r", **options: Any) -> Any:
        if path.name == "film.jsonl" and "r" not in mode:
            raise OSError(28, "No space left on device")
        return real(path, mode, **options)

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(OSError, match="No space"):
        film.append([b"two"], LATENTS, prompt="a")
    monkeypatch.undo()
    film.append([b"three"], LATENTS, prompt="a")
    assert list(Film(tmp_path).units()) == [b"one", b"three"]


def test_film_that_is_only_read_is_not_written(tmp_path: Path) -> None:
    Film(tmp_path).append([b"one"], LATENTS, prompt="a")
    with (tmp_path / "film.h264").open("ab") as file:
        file.write(b"half of the nex")
    before = {file.name: (file.stat().st_mtime_ns, file.read_bytes()) for file in tmp_path.iterdir()}
    assert list(Film(tmp_path, only_read=True).units()) == [b"one"]
    assert {file.name: (file.stat().st_mtime_ns, file.read_bytes()) for file in tmp_path.iterdir()} == before


def test_task_that_is_added_twice_takes_one_turn() -> None:
    scheduler = Scheduler()
    task = Task(None, due=lambda: 1.0, made=lambda *_: None, ended=lambda _: None)  # type: ignore[arg-type]
    scheduler.add(task)
    scheduler.add(task)
    assert scheduler._tasks == [task]


def test_session_of_a_client_that_left_is_known(server: Served) -> None:
    async def run() -> None:
        async with talk(server.url) as client:
            await opened(client)
            before = len(held(server).open)
            with model_busy(server):
                async with talk(server.url) as leaving:
                    await leaving.say("create", request={"prompt": RED})
                    await asyncio.sleep(0.3)
                    leaving.socket.transport.abort()
                await asyncio.sleep(0.3)
            while len(held(server).open) == before:
                await asyncio.sleep(0.05)
            tasks = {session.task.stream for session in held(server).open.values()}
            assert {task.stream for task in held(server).shared.scheduler._tasks} == tasks

    asyncio.run(run())


def test_client_that_leaves_does_not_lose_who_sleeps_for_it(serve: Serve) -> None:
    async def run(server: Served) -> None:
        async with talk(server.url) as first:
            session = await opened(first)
        await asyncio.sleep(2.5)
        with model_busy(server):
            async with talk(server.url) as leaving:
                await leaving.say("create", request={"prompt": RED})
                await asyncio.sleep(0.3)
                leaving.socket.transport.abort()
            await asyncio.sleep(0.3)
        async with talk(server.url) as again:
            await again.say("attach", session=session, position=0)
            await again.frames(25)

    with serve(sessions=1) as server:
        asyncio.run(run(server))


def test_creates_at_once_are_counted_for_their_client(serve: Serve) -> None:
    async def one(url: str) -> str:
        async with talk(url) as client:
            await client.say("create", request={"prompt": RED})
            while (message := await client.hear())["type"] not in ("opened", "error"):
                pass
            return str(message.get("code"))

    async def run(url: str) -> list[str]:
        return await asyncio.gather(*(one(url) for _ in range(6)))

    with serve(sessions_per_client=2) as server:
        assert asyncio.run(run(server.url)).count("busy") == 4


def test_attach_to_nothing_leaves_nothing(server: Served) -> None:
    async def run() -> None:
        for number in range(5):
            async with talk(server.url) as client:
                await client.say("attach", session=f"session_{number}")
                assert (await client.until("error"))["code"] == "missing"

    asyncio.run(run())
    assert not held(server)._locks


def test_film_that_lost_its_end_is_made_again(serve: Serve) -> None:
    async def run(server: Served) -> None:
        async with talk(server.url) as client:
            session = await opened(client)
            await client.frames(37)
        await asyncio.sleep(2.5)
        async with talk(server.url) as other:  # takes the place of the first, which is put to disk
            await opened(other)
            await other.say("close")
            await other.until("done")
        os.truncate(held(server).folder / session / "film.h264", 1000)
        async with talk(server.url) as client:
            await client.say("attach", session=session, position=0)
            await client.frames(49)
            assert [header["position"] for header, _ in client.chunks] == [0, 1, 13, 25, 37][: len(client.chunks)]

    with serve(sessions=1) as server:
        asyncio.run(run(server))


def test_sweep_leaves_a_folder_that_was_just_made(tmp_path: Path) -> None:
    studio: Any = SimpleNamespace(settings=ServerSettings(keep_seconds=60))
    (tmp_path / "session_new").mkdir()
    (tmp_path / "session_old").mkdir()
    os.utime(tmp_path / "session_old", (0, 0))
    asyncio.run(Sessions(studio, tmp_path, find=lambda *_: tmp_path).sweep())
    assert [folder.name for folder in tmp_path.iterdir()] == ["session_new"]


def test_strange_folder_among_uploads_stops_nothing(tmp_path: Path) -> None:
    (tmp_path / "x.partial").mkdir()
    (tmp_path / "old.image").touch()
    for name in ("x.partial", "old.image"):
        os.utime(tmp_path / name, (0, 0))
    Uploads(tmp_path, ServerSettings()).sweep()
    assert [file.name for file in tmp_path.iterdir()] == ["x.partial"]
