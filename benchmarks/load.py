"""Load a server on loopback and see whether it is fair and gives everything back: `python benchmarks/load.py`.

It starts `causvid serve` with the built-in model, opens live sessions and batch jobs, lets some readers stall, breaks
connections without a word, closes everything, and prints a table. Memory and open files are the server's own, from
/proc. It stops by itself, and fails where a share or the memory is out of bounds.
"""

import asyncio
import contextlib
import json
import os
import signal
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import httpx
import typer
from websockets.asyncio.client import ClientConnection, connect

from causvid.engine.memory import describe_machine

PROMPTS = ("a violet swan moving to the left over a lake", "a red fish hopping on a meadow")
FRAMES = 12
"""Of a chunk."""
STALL = 10.0
"""Seconds for which a reader stalls."""
LONGEST = 400.0
"""Seconds after which a round ends in any case."""
SHARE, KEPT = 0.10, 0.02
"""Bounds: how far a session's share may be from the mean, and what memory may remain."""


@dataclass
class Viewer:
    """One live session and what reached its reader. stalls: it stops reading now and then."""

    number: int
    stalls: bool
    session: str = ""
    arrived: list[float] = field(default_factory=list)
    socket: ClientConnection | None = None


def process(pid: int) -> tuple[float, int]:
    """Return the resident memory in MiB and the open files of a process."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20, len(list(Path(f"/proc/{pid}/fd").iterdir()))


async def create(url: str, number: int) -> tuple[ClientConnection, str]:
    """Open a session; return its connection and name."""
    connection = await connect(url.replace("http", "ws") + "/v1/live", max_size=None)
    request = {"prompt": PROMPTS[number % 2], "seed": number}
    await connection.send(json.dumps({"type": "create", "request": request}))
    while (message := json.loads(await connection.recv()))["type"] != "opened":
        assert message["type"] == "changed", message
    return connection, message["session"]


async def watch(viewer: Viewer) -> None:
    """Read chunks, and steer now and then, until cancelled."""
    connection = viewer.socket
    assert connection is not None
    while True:
        message = json.loads(await connection.recv())
        if message["type"] == "chunk":
            await connection.recv()
            viewer.arrived.append(time.monotonic())
            if len(viewer.arrived) % 8 == viewer.number % 8:
                prompt = PROMPTS[len(viewer.arrived) % 2]
                await connection.send(json.dumps({"type": "prompt", "prompt": prompt}))
            if viewer.stalls and len(viewer.arrived) % 5 == 0:
                await asyncio.sleep(STALL)


async def drop(url: str, viewers: list[Viewer], count: int) -> int:
    """Attach to sessions, read a little, and reset the connection; return how often."""
    for number in range(count):
        viewer = viewers[number % len(viewers)]
        connection = await connect(url.replace("http", "ws") + "/v1/live", max_size=None)
        await connection.send(json.dumps({"type": "attach", "session": viewer.session, "position": 0}))
        for _ in range(number % 4):
            await connection.recv()
        raw = connection.transport.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.transport.abort()
        await asyncio.sleep(0.05)
    return count


async def jobs(web: httpx.AsyncClient, count: int) -> list[str]:
    """Start batch jobs, if the server has them; return their names."""
    names = []
    for number in range(count):
        answer = await web.post("/v1/videos", json={"prompt": PROMPTS[number % 2], "seconds": "4"})
        if answer.status_code in (404, 405):
            return []
        assert answer.status_code < 300, answer.text
        names.append(answer.json()["id"])
    return names


async def finish(web: httpx.AsyncClient, names: list[str]) -> int:
    """Wait for jobs, delete them, and return how many were completed."""
    completed, until = 0, time.monotonic() + 300
    for name in names:
        while (status := (await web.get(f"/v1/videos/{name}")).json()["status"]) in ("queued", "in_progress"):
            if time.monotonic() > until:
                break
            await asyncio.sleep(0.5)
        completed += status == "completed"
        await web.delete(f"/v1/videos/{name}")
    return completed


async def close(viewer: Viewer) -> None:
    """Close a session and its connection."""
    assert viewer.socket is not None
    await viewer.socket.send(json.dumps({"type": "close"}))
    with contextlib.suppress(Exception):
        async with asyncio.timeout(30):
            while True:
                await viewer.socket.recv()
    await viewer.socket.close()


async def round_of(url: str, pid: int, *, sessions: int, batch: int, drops: int, chunks: int) -> dict[str, Any]:
    """Load the server once; return what was seen."""
    async with httpx.AsyncClient(base_url=url, timeout=60) as web:
        viewers = [Viewer(number, stalls=number % 4 == 3) for number in range(sessions)]
        opened = await asyncio.gather(*(create(url, viewer.number) for viewer in viewers))
        for viewer, (connection, name) in zip(viewers, opened, strict=True):
            viewer.socket, viewer.session = connection, name
        names = await jobs(web, batch)
        before = await served(web, viewers)
        until = time.monotonic() + LONGEST
        watching = [asyncio.create_task(watch(viewer)) for viewer in viewers]
        dropping = asyncio.create_task(drop(url, viewers, drops))
        after, fewest = before, 0
        while fewest < FRAMES * chunks and time.monotonic() < until:
            await asyncio.sleep(1)
            after = await served(web, viewers)
            fewest = min(b - a for a, b, v in zip(before, after, viewers, strict=True) if not v.stalls)
        for task in watching:
            task.cancel()
        await asyncio.gather(*watching, return_exceptions=True)
        dropped = await dropping
        await asyncio.gather(*(close(viewer) for viewer in viewers))
        completed = await finish(web, names)
        await asyncio.sleep(8)  # the server gives memory back every five seconds
    gaps = [b - a for v in viewers for a, b in zip(v.arrived, v.arrived[1:], strict=False)]
    made = [b - a for a, b in zip(before, after, strict=True)]
    steady = [count for viewer, count in zip(viewers, made, strict=True) if not viewer.stalls]
    mean = statistics.mean(steady)
    return {
        "jobs": len(names),
        "completed": completed,
        "dropped": dropped,
        "frames": made,
        "stalls": [viewer.stalls for viewer in viewers],
        "mean": mean,
        "worst": max(abs(count / mean - 1) for count in steady),
        "p50": statistics.median(gaps),
        "p95": sorted(gaps)[int(0.95 * len(gaps))],
        "memory": process(pid)[0],
        "files": process(pid)[1],
    }


async def served(web: httpx.AsyncClient, viewers: list[Viewer]) -> list[int]:
    """Return how many frames each session has."""
    return [(await web.get(f"/v1/sessions/{viewer.session}")).json()["frames"] for viewer in viewers]


async def load(url: str, pid: int, rounds: int, **amounts: Any) -> list[dict[str, Any]]:
    """Load the server some times, print the table, and return what every round found."""
    async with httpx.AsyncClient(base_url=url, timeout=60) as web:
        until = time.monotonic() + 300
        while True:
            with contextlib.suppress(httpx.TransportError):
                if (await web.get("/readyz")).status_code == 200:
                    break
            assert time.monotonic() < until, "the server is not ready"
            await asyncio.sleep(0.2)
    print(f"ready: {process(pid)[0]:.0f} MiB, {process(pid)[1]} files")
    seen = []
    for number in range(rounds):
        seen.append(await round_of(url, pid, **amounts))
        last = seen[-1]
        print(f"\nround {number + 1}: {last['dropped']} connections reset, {last['completed']}/{last['jobs']} jobs")
        print("session   frames   share of the mean")
        for index, (frames, stalls) in enumerate(zip(last["frames"], last["stalls"], strict=True)):
            print(f"{index:7} {frames:8} {frames / last['mean']:10.2f}{'   stalls' if stalls else ''}")
        print(
            f"worst share {last['worst']:.1%} off; a chunk every {last['p50']:.2f} s (p50), {last['p95']:.2f} s (p95)"
        )
        print(f"after closing: {last['memory']:.0f} MiB, {last['files']} files")
    return seen


def hold(seen: list[dict[str, Any]]) -> bool:
    """Tell whether all bounds hold, and print how far memory and files have grown."""
    grown = seen[-1]["memory"] / seen[0]["memory"] - 1
    files = seen[-1]["files"] - seen[0]["files"]
    print(f"\nmemory after the last round against the first: {grown:+.1%}; open files: {files:+d}")
    fair = all(one["worst"] <= SHARE for one in seen)
    return fair and grown <= KEPT and files <= 0 and all(one["completed"] == one["jobs"] for one in seen)


def main(
    sessions: Annotated[int, typer.Option(help="Live sessions.")] = 16,
    batch: Annotated[int, typer.Option(help="Batch jobs.")] = 8,
    drops: Annotated[int, typer.Option(help="Connections that are reset.")] = 100,
    chunks: Annotated[int, typer.Option(help="Of each session in a round; one more or less is 1/chunks.")] = 12,
    rounds: Annotated[int, typer.Option(min=2, help="How often all of it is done; the first also warms up.")] = 3,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write what was measured as JSON.")] = None,
) -> None:
    """Start a server, load it, stop it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder, open(Path(folder) / "log", "wb") as log:
        command = [sys.executable, "-m", "causvid.cli", "serve", "--port", str(port), "--folder", f"{folder}/data"]
        server = subprocess.Popen([*command, "--sessions", str(sessions + 4)], stderr=log)
        try:
            url = f"http://127.0.0.1:{port}"
            seen = asyncio.run(
                load(url, server.pid, rounds, sessions=sessions, batch=batch, drops=drops, chunks=chunks)
            )
        finally:
            began = time.monotonic()
            server.send_signal(signal.SIGTERM)
            server.wait(60)
            print(f"stopped in {time.monotonic() - began:.1f} s")
            text = (Path(folder) / "log").read_text()
            errors = [line for line in text.splitlines() if "ERROR" in line]
            print(text[text.find("Traceback") :][:3000] if "Traceback" in text else "")
            print(f"{len(errors)} errors in its log", *errors[:5], sep="\n")
    if output is not None:
        record = {
            "command": f"python benchmarks/load.py --rounds {rounds}",
            "machine": describe_machine(),
            "rounds": seen,
        }
        output.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    if not hold(seen) or errors:
        raise SystemExit("a bound does not hold")


if __name__ == "__main__":
    typer.run(main)
