"""Send a server on loopback what nobody should: `python benchmarks/fuzz_server.py`.

schemathesis tries every route of its OpenAPI description; then 10,000 messages go over WebSockets: valid, mutated, of
wrong types, huge, binary, out of order, before `create` and after `close`. It fails where an answer is 5xx, a message
is not answered, the log has an error, or memory and files keep growing.
"""

import asyncio
import contextlib
import json
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import httpx
import typer
from load import process
from websockets.asyncio.client import connect
from websockets.exceptions import WebSocketException

PROMPT = "a red fish hopping on a meadow"
ANSWER = 60.0
"""Seconds after which a `ping` without answer is a hang."""
ODD: tuple[Any, ...] = (
    None, True, -1, 0, 2**53, 2**64, 1e308, "", "\x00", "\ud800", "a" * 3000, [], {}, [[]], {"type": "create"}, "NaN",
    "../../etc/passwd", "camera", "session_x", float("inf"), float("nan"),
)  # fmt: skip


def valid(dice: random.Random) -> dict[str, Any]:
    """Make a message of the protocol."""
    position = dice.choice([0, 1, 13, 25, 10**6])
    kinds: list[dict[str, Any]] = [
        {"type": "prompt", "prompt": PROMPT, "mode": dice.choice(["cut", "blend", "soft"]), "chunks": 2},
        {"type": "adjust", "seed": dice.randrange(2**32)},
        {"type": "adjust", "strength": dice.random()},
        {"type": "pause"},
        {"type": "resume"},
        {"type": "rewind", "position": position},
        {"type": "fork", "position": dice.choice([None, position])},
        {"type": "ping"},
        {"type": "create", "request": {"prompt": PROMPT, "seed": 1}},
        {"type": "attach", "session": "session_none"},
    ]
    weights = [6, 4, 2, 2, 4, 4, 1, 4, 2, 2]
    return dice.choices(kinds, weights)[0] | ({"ref": dice.randrange(99)} if dice.random() < 0.5 else {})


def mutated(dice: random.Random) -> str | bytes:
    """Make a message that is wrong in some way, or not."""
    message = valid(dice)
    match dice.randrange(9):
        case 0 | 1:
            return json.dumps(message)
        case 2:
            message[dice.choice(list(message))] = dice.choice(ODD)
        case 3:
            message[dice.choice(["ref", "version", "x", "position", "request"])] = dice.choice(ODD)
        case 4:
            text = bytearray(json.dumps(message).encode())
            for _ in range(dice.randrange(1, 6)):
                text[dice.randrange(len(text))] = dice.randrange(32, 127)
            return text.decode()
        case 5:
            return json.dumps(message)[: dice.randrange(40)]
        case 6:
            return dice.randbytes(dice.choice([0, 1, 100, 5000]))
        case 7:
            return json.dumps(dice.choice(ODD))
        case 8:
            return dice.choice(["[" * 5000, '{"a":' * 2000, json.dumps({"type": "prompt", "prompt": "x" * 200_000})])
    return json.dumps(message)


async def converse(url: str, dice: random.Random, messages: int, seen: Counter[str]) -> int:
    """Open a session, or only half of one, and send messages; return how many were sent."""
    sent = 0
    with contextlib.suppress(WebSocketException, ConnectionError):
        async with connect(url.replace("http", "ws") + "/v1/live", max_size=None, close_timeout=5) as connection:
            if dice.random() < 0.3:
                await connection.send(mutated(dice))
                sent += 1
            else:
                await connection.send(json.dumps({"type": "create", "request": {"prompt": PROMPT}, "format": "jpeg"}))
                while dice.random() < 0.9 and json.loads(await connection.recv())["type"] != "opened":
                    pass  # sometimes it does not wait for the answer
            alive = asyncio.create_task(listen(connection, seen))
            for _ in range(messages):
                if alive.done():
                    break
                await connection.send(mutated(dice))
                sent += 1
            await connection.send(json.dumps({"type": "ping", "ref": 777}))
            with contextlib.suppress(WebSocketException):
                async with asyncio.timeout(ANSWER):
                    await alive
            await connection.send(json.dumps({"type": "close"}))
            await connection.send(mutated(dice))
            sent += 1
    return sent


async def listen(connection: Any, seen: Counter[str]) -> None:
    """Count answers until the one to the last ping."""
    async for data in connection:
        if isinstance(data, str):
            message = json.loads(data)
            seen[message["type"] + (f" {message['code']}" if message["type"] == "error" else "")] += 1
            if message["type"] == "pong" and message["ref"] == 777:
                return


async def sockets(url: str, count: int, seed: int) -> Counter[str]:
    """Send so many messages, in conversations of which four run at once."""
    seen: Counter[str] = Counter()
    left = count
    dice = random.Random(seed)

    async def some() -> None:
        nonlocal left
        while left > 0:
            left -= 1 + await converse(url, random.Random(dice.random()), min(100, max(1, left)), seen)

    await asyncio.gather(*(some() for _ in range(4)))
    return seen


def main(
    messages: Annotated[int, typer.Option(help="Messages over WebSockets.")] = 10_000,
    examples: Annotated[int, typer.Option(help="Requests for every route.")] = 30,
    seed: Annotated[int, typer.Option(help="Of everything that is drawn.")] = 0,
) -> None:
    """Start a server, send it all of that, and look at what it says."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url, wrong = f"http://127.0.0.1:{port}", []
    with tempfile.TemporaryDirectory() as folder, open(Path(folder) / "log", "wb") as log:
        command = [sys.executable, "-m", "causvid.cli", "serve", "--port", str(port), "--folder", f"{folder}/data"]
        command += ["--sessions", "16", "--seconds", "2", "--jobs-waiting", "8"]
        server = subprocess.Popen(command, stderr=log)
        try:
            until = time.monotonic() + 300
            while time.monotonic() < until:
                with contextlib.suppress(httpx.TransportError):
                    if httpx.get(f"{url}/readyz").status_code == 200:
                        break
                time.sleep(0.2)
            if examples:
                tool = [str(Path(sys.executable).with_name("schemathesis")), "run", f"{url}/openapi.json"]
                tool += ["--checks", "not_a_server_error", "--max-examples", str(examples), "--seed", str(seed)]
                tool += ["--request-timeout", "60", "--phases", "examples,coverage,fuzzing", "--no-color"]
                if subprocess.run([*tool, "--exclude-path", "/readyz"]).returncode:
                    wrong.append("schemathesis found something")
            sizes = []
            for part in range(4 if messages else 0):
                began = time.monotonic()
                seen = asyncio.run(sockets(url, messages // 4, seed + part))
                time.sleep(3)
                sizes.append(process(server.pid))
                print(f"{messages // 4} messages in {time.monotonic() - began:.0f} s: {dict(seen.most_common())}")
                print(f"  {sizes[-1][0]:.0f} MiB, {sizes[-1][1]} files", flush=True)
                if seen["error failed"]:
                    wrong.append("a message was answered with `failed`")
            if sizes and sizes[-1][1] > sizes[0][1] + 2:
                wrong.append(f"open files grew from {sizes[0][1]} to {sizes[-1][1]}")
            if sizes and sizes[-1][0] > 1.1 * sizes[0][0]:
                wrong.append(f"memory grew from {sizes[0][0]:.0f} to {sizes[-1][0]:.0f} MiB")
            if httpx.get(f"{url}/healthz", timeout=60).status_code != 200:
                wrong.append("it is not healthy")
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait(60)
            text = (Path(folder) / "log").read_text(errors="replace")
            if "Traceback" in text or " ERROR " in text:
                wrong.append("its log has errors:\n" + text[max(0, text.find("Traceback") - 500) :][:4000])
    print("\n".join(wrong) or "no 5xx, no hang, no growth")
    raise SystemExit(bool(wrong))


if __name__ == "__main__":
    typer.run(main)
