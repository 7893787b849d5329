"""Servers that share a folder: a session has one owner, readers find it, and a dead server loses nothing."""

import asyncio
import fcntl
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.server.conftest import talk

from causvid.server.lease import Elsewhere, Lease, abandoned, holder
from causvid.server.replicas import Fleet
from causvid.server.settings import ServerSettings
from causvid.server.store import Job, Store

ROOT = Path(__file__).parents[2]
SERVE = """
import socket, sys, uvicorn
from tests.conftest import small_pipeline
from unittest.mock import patch
from causvid.server.measure import Speed
from causvid.server.replicas import application
from causvid.server.settings import ServerSettings
patch("causvid.server.app.measure", lambda *_, **__: Speed(batch=1, chunk=0.05)).start()
listener = socket.create_server(("127.0.0.1", 0))
app = application(small_pipeline(), ServerSettings(folder=sys.argv[1], sessions=8))
print(listener.getsockname()[1], flush=True)
uvicorn.Server(uvicorn.Config(app, log_level="warning", ws="websockets-sansio")).run(sockets=[listener])
"""


@contextmanager
def replica(folder: Path) -> Iterator[tuple["subprocess.Popen[str]", str]]:
    """Run a server that shares a folder, as a process that can be killed."""
    command = [sys.executable, "-c", SERVE, str(folder)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        url = f"http://127.0.0.1:{int(process.stdout.readline())}"
        while True:
            try:
                if httpx.get(f"{url}/readyz").status_code == 200:
                    break
            except httpx.TransportError:
                assert process.poll() is None
            time.sleep(0.05)
        yield process, url
    finally:
        process.kill()
        process.wait()


async def film(url: str, frames: int) -> tuple[str, list[list[bytes]]]:
    """Start a session; return its name and its chunks up to a frame."""
    async with talk(url) as client:
        await client.say("create", request={"prompt": "a red swan over the snow", "seed": 3})
        name = (await client.until("opened"))["session"]
        await client.frames(frames)
        return name, [parts for _, parts in client.chunks]


def test_lease_has_one_owner(tmp_path: Path) -> None:
    lease = Lease.take(tmp_path / "lease", "http://first")
    with pytest.raises(Elsewhere) as refused:
        Lease.take(tmp_path / "lease", "http://second")
    assert refused.value.address == holder(tmp_path / "lease") == "http://first"
    lease.release()
    assert holder(tmp_path / "lease") is None
    lonely = Lease.take(tmp_path / "lonely", "")
    assert holder(tmp_path / "lonely") == ""
    lonely.release()
    Lease.take(tmp_path / "lease", "http://second").release()


def test_jobs_of_a_dead_owner_wait_again(tmp_path: Path) -> None:
    one, other = (Store(tmp_path / "jobs.sqlite", shared=True) for _ in range(2))
    for name in "abc":
        one.add(Job(name, "queued", "{}", prompt="", model="", size="", seconds=""))
    first, second = one.take("first"), other.take("second")
    assert first is not None and second is not None and (first.id, second.id) == ("a", "b")
    other.requeue("first")
    assert other.owners() == {"second"}
    taken = other.take("second")
    assert taken is not None and (taken.id, taken.owner) == ("a", "second")


def test_fleet_follows_sessions_of_a_known_number() -> None:
    settings = ServerSettings(sessions=10)
    assert Fleet(replicas=2).options(settings, gpu=True)["num_replicas"] == 2
    scaling = Fleet(replicas=1, most=4).options(settings, gpu=False)["autoscaling_config"]
    assert (scaling["max_replicas"], scaling["target_ongoing_requests"]) == (4, 8)
    for fleet, given, message in (
        (Fleet(replicas=5, most=4), settings, "max_replicas=4 is less"),
        (Fleet(most=4), ServerSettings(), "needs sessions"),
    ):
        with pytest.raises(ValueError, match=message):
            fleet.options(given, gpu=False)


def test_reader_reaches_the_owner_through_another(tmp_path: Path) -> None:
    async def run(one: str, other: str) -> None:
        async with talk(one) as first:
            await first.say("create", request={"prompt": "a red swan over the snow", "seed": 3})
            name = (await first.until("opened"))["session"]
            await first.frames(13)
            async with talk(other) as second:
                await second.say("attach", session=name, position=0)
                await second.until("opened", session=name)
                await second.frames(13)
                assert [parts for _, parts in second.chunks][:2] == [parts for _, parts in first.chunks][:2]
                await second.say("pause", ref=5)
                await second.until("done", ref=5)
            states = {httpx.get(f"{url}/v1/sessions/{name}").json()["state"] for url in (one, other)}
            assert states == {"paused"}
            answer = httpx.delete(f"{other}/v1/sessions/{name}")
            assert answer.json()["closed"] is True
            await first.until("changed", state="closed")

    with replica(tmp_path) as (_, one), replica(tmp_path) as (_, other):
        asyncio.run(run(one, other))


def test_session_and_job_of_a_killed_server_continue(tmp_path: Path) -> None:
    async def goes_on(url: str, name: str, position: int, frames: int) -> list[list[bytes]]:
        async with talk(url) as client:
            await client.say("attach", session=name, position=position)
            await client.until("opened", session=name)
            while client.position < frames:
                await client.hear()
            return [parts for _, parts in client.chunks]

    def finished(url: str, name: str) -> dict[str, Any]:
        while (job := httpx.get(f"{url}/v1/videos/{name}").json())["status"] in ("queued", "in_progress"):
            time.sleep(0.1)
        found: dict[str, Any] = job
        return found

    with ExitStack() as stack:
        killed, one = stack.enter_context(replica(tmp_path))
        ids = [
            httpx.post(f"{one}/v1/videos", json={"prompt": "a blue mammoth", "seconds": "20", "seed": n}).json()["id"]
            for n in range(3)
        ]
        name, seen = asyncio.run(film(one, 49))
        _, other = stack.enter_context(replica(tmp_path))
        killed.kill()
        killed.wait()
        position = sum(map(len, seen))
        rest = asyncio.run(goes_on(other, name, position, position + 36))
        _, unbroken = asyncio.run(film(other, position + 36))
        assert (seen + rest)[: len(unbroken)] == unbroken[: len(seen + rest)]
        assert {finished(other, job)["status"] for job in ids} == {"completed"}


def test_survivor_continues_sessions_before_readers_return(tmp_path: Path) -> None:
    with ExitStack() as stack:
        killed, one = stack.enter_context(replica(tmp_path))
        _, other = stack.enter_context(replica(tmp_path))

        async def run() -> None:
            async with talk(one) as client:
                await client.say("create", request={"prompt": "a red swan over the snow", "seed": 3})
                name = (await client.until("opened"))["session"]
                await client.frames(25)
                lease = tmp_path / "sessions" / name / "lease"
                dead = holder(lease)
                killed.kill()
                killed.wait()
            while holder(lease) in (None, dead):
                await asyncio.sleep(0.05)
            assert holder(lease) == lease.read_text().strip() != ""
            # A chunk is made for the reader; the next waits until it is there.
            position = client.position
            while (frames := httpx.get(f"{other}/v1/sessions/{name}").json()["frames"]) <= position:
                await asyncio.sleep(0.05)
            assert frames <= position + 24

        asyncio.run(run())


def test_owner_that_has_locked_but_not_yet_written_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("causvid.server.lease.UNNAMED", 10**6)
    file = tmp_path / "lease"
    with file.open("w") as owner, ThreadPoolExecutor(2) as threads:
        fcntl.flock(owner, fcntl.LOCK_EX)
        asked = threads.submit(holder, file)
        refused = threads.submit(Lease.take, file, "http://second")
        time.sleep(0.2)
        assert not asked.done() and not refused.done()
        owner.write("http://first\n")
        owner.flush()
        assert asked.result() == "http://first"
        with pytest.raises(Elsewhere, match="http://first"):
            refused.result()


def test_only_what_a_dead_server_had_is_abandoned(tmp_path: Path) -> None:
    for name in ("slept", "open"):
        (tmp_path / name).mkdir()
    Lease.take(tmp_path / "slept" / "lease", "http://first").release()
    lease = Lease.take(tmp_path / "open" / "lease", "http://first")
    assert abandoned(tmp_path, "lease", "http://first") == []
    os.close(lease._descriptor or 0)  # as the kernel does when the process dies
    assert abandoned(tmp_path, "lease", "http://first") == [tmp_path / "open"]
    assert abandoned(tmp_path, "lease", "http://second") == []
