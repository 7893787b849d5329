"""Kill one of two replicas under 40 sessions, and see what they notice: `python benchmarks/replicas.py -o FILE`.

It needs the extra `ray`. A random model of 32 × 48 pixels makes chunks quickly enough for 40 sessions on two cores:
what is measured is the server. Half of the sessions run on one process before, as the reference of time and bits.
"""

import asyncio
import hashlib
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import httpx
import typer
from capacity import LEAD, PACES, simulate
from websockets.asyncio.client import connect
from websockets.exceptions import WebSocketException

from causvid.engine.memory import describe_machine

PROMPTS = ("a violet swan moving to the left over a lake", "a red fish hopping on a meadow")
START = 240.0
"""Seconds for a server to be ready."""


@dataclass
class Viewer:
    """A session and what its reader saw. digests: of each chunk, by its first frame. back: attached again after."""

    number: int
    name: str = ""
    position: int = 0
    arrived: list[float] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    digests: dict[int, str] = field(default_factory=dict)
    lost: float | None = None
    back: float | None = None
    next: float | None = None


def write_model(folder: Path) -> None:
    """Write a random model of the preset `test`."""
    import torch

    from causvid.loading.bundle import Bundle
    from causvid.models.text import TextEncoder, train_tokenizer
    from causvid.models.tiny_autoencoder import TinyAutoencoder
    from causvid.models.transformer import Transformer
    from causvid.pipeline import Pipeline
    from causvid.preset import load_preset

    preset, generator = load_preset("test"), torch.Generator().manual_seed(0)
    transformer = Transformer(preset.transformer)
    transformer.initialise(generator)
    autoencoder = TinyAutoencoder(preset.autoencoder_sizes)
    with torch.no_grad():
        transformer.head.weight.normal_(std=0.3, generator=generator)
        for weight in autoencoder.parameters():
            weight.normal_(std=0.1, generator=generator)
    text = TextEncoder.create(preset.text, train_tokenizer(PROMPTS), generator=generator)
    bundle = Bundle(transformer.eval(), autoencoder.eval(), text.eval(), preset.generation, {"preset": "test"})
    Pipeline(bundle).save_pretrained(folder)


@contextmanager
def server(model: Path, folder: Path, *options: str) -> Iterator[str]:
    """Run `causvid serve` until the block ends; yield its address once it is warm."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "causvid.cli", "serve", "--port", str(port), "--folder", str(folder)]
    limits = ["--sessions", "64", "--sessions-per-client", "64", "--rewind-bytes", str(2**20), "--model", str(model)]
    limits += ["--batch", "1", "--save-every", "1"]
    with open(folder.with_suffix(".log"), "wb") as log:
        process = subprocess.Popen([*command, *limits, *options], stdout=log, stderr=log)
    url, until = f"http://127.0.0.1:{port}", time.monotonic() + START
    try:
        ready = 0
        while ready < 8:  # each may be answered by another replica
            assert process.poll() is None and time.monotonic() < until, folder.with_suffix(".log").read_text()[-3000:]
            with suppress(httpx.HTTPError):
                ready = ready + 1 if httpx.get(f"{url}/readyz").status_code == 200 else 0
            time.sleep(0.3)
        yield url
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()


async def watch(url: str, viewer: Viewer, until: float) -> None:
    """Open a session and read it; where the connection is lost, attach again."""
    request = {"prompt": PROMPTS[viewer.number % 2], "seed": viewer.number}
    while time.monotonic() < until:
        with suppress(OSError, WebSocketException, TimeoutError):
            async with connect(url.replace("http", "ws") + "/v1/live", max_size=None) as line:
                first = {"type": "attach", "session": viewer.name, "position": viewer.position}
                await line.send(json.dumps(first if viewer.name else {"type": "create", "request": request}))
                async with asyncio.timeout_at(asyncio.get_running_loop().time() + until - time.monotonic()):
                    await read(line, viewer)
        if time.monotonic() < until:
            viewer.lost = viewer.lost or time.monotonic()
            await asyncio.sleep(0.1)


async def read(line: Any, viewer: Viewer) -> None:
    """Take down what a connection brings, until it breaks."""
    async for data in line:
        said = json.loads(data)
        if said["type"] == "error":
            return
        if said["type"] == "opened":
            viewer.name = said["session"]
            viewer.back = time.monotonic() if viewer.lost is not None and viewer.back is None else viewer.back
        if said["type"] == "chunk":
            viewer.digests[said["position"]] = hashlib.sha256(await line.recv()).hexdigest()
            viewer.position = said["position"] + said["frames"]
            viewer.arrived.append(time.monotonic())
            viewer.times.append(said["timings"]["made"])
            if viewer.back is not None and viewer.next is None:
                viewer.next = viewer.arrived[-1]


def kill_owner(folder: Path, viewers: list[Viewer]) -> list[Viewer]:
    """Kill the replica that has the most sessions with -9; return them."""
    import psutil

    owned: dict[str, list[Viewer]] = {}
    for viewer in viewers:
        owned.setdefault((folder / "sessions" / viewer.name / "lease").read_text(), []).append(viewer)
    address = max(owned, key=lambda name: len(owned[name]))
    print({name: len(sessions) for name, sessions in owned.items()}, flush=True)
    port = int(address.rsplit(":", 1)[1])
    (pid,) = {one.pid for one in psutil.net_connections("tcp") if one.status == "LISTEN" and one.laddr.port == port}
    os.kill(pid, signal.SIGKILL)
    return owned[address]


async def load(url: str, folder: Path, count: int, seconds: float, *, jobs: int) -> dict[str, Any]:
    """Watch sessions for a while; with jobs, kill a replica in mid-stream."""
    viewers = [Viewer(number) for number in range(count)]
    until = time.monotonic() + seconds
    watching = [asyncio.create_task(watch(url, viewer, until)) for viewer in viewers]
    result: dict[str, Any] = {"sessions": count}
    moved: list[Viewer] = []
    steady = until
    async with httpx.AsyncClient(base_url=url, timeout=60) as web:
        if jobs:
            await asyncio.sleep(seconds / 2)
            body = {"prompt": PROMPTS[0], "seconds": "8"}
            names = [(await web.post("/v1/videos", json=body)).json()["id"] for _ in range(jobs)]
            steady = time.monotonic()
            moved = kill_owner(folder, viewers)
            killed = time.monotonic()
        await asyncio.gather(*watching)
        if jobs:
            end, done = time.monotonic() + 120, 0
            for name in names:
                status = "queued"
                while status in ("queued", "in_progress") and time.monotonic() < end:
                    with suppress(httpx.HTTPError, KeyError, ValueError):
                        status = (await web.get(f"/v1/videos/{name}")).json()["status"]
                    await asyncio.sleep(0.2)
                done += status == "completed"
            noticed = [v.lost - killed for v in moved if v.lost is not None]
            again = [v.back - killed for v in moved if v.back is not None]
            first = [v.next - killed for v in moved if v.next is not None]
            result |= {
                "moved": len(moved),
                "noticed_seconds": {"median": statistics.median(noticed), "most": max(noticed)},
                "attached_again": len(again),
                "attached_seconds": {"median": statistics.median(again), "most": max(again)},
                "continued": len(first),
                "next_chunk_seconds": {"median": statistics.median(first), "most": max(first)},
                "jobs": jobs,
                "completed": done,
            }
    began = until - seconds
    gaps, times = [], []
    for viewer in viewers:
        pairs = [(a, b) for a, b in zip(viewer.arrived, viewer.arrived[1:], strict=False) if b < steady]
        gaps += [b - a for a, b in pairs if a > began + seconds / 6]
        times += [t for t, at in zip(viewer.times, viewer.arrived, strict=True) if began + seconds / 6 < at < steady]
    about = httpx.get(f"{url}/v1/about").json()
    result |= {
        "shown": about["chunk"] / about["fps"],
        "gap": {"mean": statistics.mean(gaps), "p95": sorted(gaps)[int(0.95 * len(gaps))]},
        "made": {"mean": statistics.mean(times), "p95": sorted(times)[int(0.95 * len(times))]},
        "lead": LEAD + PACES * statistics.mean(times),
        "times": sorted(times)[:: max(1, len(times) // 200)],
        "digests": {str(viewer.number): viewer.digests for viewer in viewers},
    }
    return result


def alike(one: dict[str, Any], other: dict[str, Any]) -> dict[str, int]:
    """Count the chunks that two runs of the same sessions both have, and those of them that are equal bit for bit."""
    pairs = [
        (digest, other["digests"][number][position])
        for number, chunks in one["digests"].items()
        for position, digest in chunks.items()
        if position in other["digests"].get(number, {})
    ]
    return {"compared": len(pairs), "equal": sum(a == b for a, b in pairs)}


def main(
    sessions: Annotated[int, typer.Option(help="Live sessions on two replicas; half of them on one process.")] = 40,
    seconds: Annotated[float, typer.Option(help="Of each run.")] = 60.0,
    jobs: Annotated[int, typer.Option(help="Batch jobs in progress when the replica is killed.")] = 4,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write what was measured as JSON.")] = None,
) -> None:
    """Measure one process, then two replicas of which one is killed, and compare with the simulation."""
    with tempfile.TemporaryDirectory() as place:
        model = Path(place) / "model"
        write_model(model)
        with server(model, Path(place) / "one") as url:
            one = asyncio.run(load(url, Path(place) / "one", sessions // 2, seconds, jobs=0))
        print("one process", json.dumps({k: v for k, v in one.items() if k not in ("digests", "times")}), flush=True)
        with server(model, Path(place) / "two", "--ray", "--replicas", "2") as url:
            two = asyncio.run(load(url, Path(place) / "two", sessions, seconds, jobs=jobs))
        print("replicas", json.dumps({k: v for k, v in two.items() if k not in ("digests", "times")}), flush=True)
    foreseen = simulate(sessions // 2, two["times"], shown=two["shown"], lead=two["lead"])
    record = {
        "command": f"python benchmarks/replicas.py --sessions {sessions} --seconds {seconds:g} --jobs {jobs}",
        "machine": describe_machine(),
        "bits": alike(one, two),
        "one_process": {name: value for name, value in one.items() if name != "digests"},
        "replicas": {name: value for name, value in two.items() if name != "digests"},
        "simulated": {"mean": foreseen.mean, "p95": foreseen.p95},
        "simulated_against_measured": {
            "mean": foreseen.mean / two["gap"]["mean"] - 1,
            "p95": foreseen.p95 / two["gap"]["p95"] - 1,
        },
    }
    print(json.dumps({name: record[name] for name in ("bits", "simulated", "simulated_against_measured")}, indent=2))
    if output is not None:
        output.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
