"""Live sessions over a real socket: the video is the stream's own, whatever is done to it on the way."""

import asyncio
import io
import json
import os
import signal
from pathlib import Path
from typing import Any

import av
import httpx
import numpy as np
import pytest
from PIL import Image
from tests.server.conftest import Serve, Served, Talk, start_process, talk

from causvid.pipeline import Pipeline
from causvid.server.wire import decode_h264
from causvid.timeline import Timeline

RED = "a red fish in a lake"
BLUE = "a blue rocket in a desert"


def shown(client: Talk) -> "np.ndarray[Any, Any]":
    """Decode all chunks a client has."""
    return np.concatenate([decode_h264(parts) for _, parts in client.chunks])


def made(pipeline: Pipeline, frames: int, changes: dict[int, dict[str, Any]], **options: Any) -> "np.ndarray[Any, Any]":
    """Make the same video without a server; `changes` are options of `set_prompt`, or `adjust`, by frame."""
    stream = pipeline.stream(RED, **options)
    chunks = []
    while stream.frames < frames:
        change = changes.get(stream.frames)
        if change is not None:
            (stream.set_prompt if "prompt" in change else stream.adjust)(**change)
        chunks.append(next(stream).numpy())
    return np.concatenate(chunks)


def alike(one: "np.ndarray[Any, Any]", other: "np.ndarray[Any, Any]") -> bool:
    """Tell whether two videos are one, but for the loss of H.264."""
    count = min(len(one), len(other))
    return bool(np.abs(one[:count].astype(int) - other[:count]).mean(axis=(1, 2, 3)).max() < 8)


def test_film_is_stream(server: Served, built_in: Pipeline) -> None:
    async def run() -> None:
        async with talk(server.url) as client:
            await client.say("create", ref=7, request={"prompt": RED, "seed": 3})
            opened = await client.until("opened", ref=7)
            assert (opened["height"], opened["width"], opened["fps"]) == (128, 192, 12)
            await client.frames(25)
            assert alike(shown(client), made(built_in, 25, {}, seed=3))

    asyncio.run(run())


@pytest.mark.parametrize("form", ["webp", "jpeg", "mp4"])
def test_every_format_decodes(server: Served, built_in: Pipeline, form: str) -> None:
    async def run() -> None:
        async with talk(server.url) as client:
            await client.say("create", format=form, request={"prompt": RED, "seed": 3})
            await client.frames(25)
            parts = [part for _, parts in client.chunks for part in parts]
            if form == "mp4":
                with av.open(io.BytesIO(b"".join(parts))) as file:
                    frames = list(file.decode(video=0))
                times = [float(frame.pts * frame.time_base) for frame in frames if frame.pts is not None]
                assert times == pytest.approx([number / 12 for number in range(25)], abs=1e-4)
                video = np.stack([frame.to_ndarray(format="rgb24") for frame in frames])
            else:
                video = np.stack([np.asarray(Image.open(io.BytesIO(part)).convert("RGB")) for part in parts])
            assert alike(video, made(built_in, 25, {}, seed=3))

    asyncio.run(run())


def test_changes_take_effect_where_said(server: Served, built_in: Pipeline) -> None:
    async def run() -> None:
        async with talk(server.url) as client:
            await client.say("create", request={"prompt": RED})
            await client.frames(13)
            await client.say("pause")
            await client.until("changed", state="paused")
            await client.say("prompt", ref=1, prompt=BLUE, mode="cut")
            at = (await client.until("done", ref=1))["position"]
            await client.say("adjust", ref=2, seed=9)
            seeded = (await client.until("done", ref=2))["position"]
            await client.say("resume")
            await client.frames(at + 24)
            assert at == seeded
            stream = built_in.stream(RED)
            while stream.frames < at:
                next(stream)
            stream.set_prompt(BLUE, "cut")
            stream.adjust(seed=9)
            rest = np.concatenate([next(stream).numpy() for _ in range(2)])
            assert alike(shown(client)[at : at + 24], rest)
            first = next(header for header, _ in client.chunks if header["position"] == at)
            assert first["prompt"] == BLUE and first["timings"]["effect"] > 0

    asyncio.run(run())


def test_rewind_and_fork_are_two_futures(server: Served, built_in: Pipeline) -> None:
    async def run() -> None:
        async with talk(server.url) as client, talk(server.url) as second:
            await client.say("create", request={"prompt": RED})
            await client.frames(25)
            await client.say("fork", ref=1, position=13)
            forked = await client.until("forked", ref=1)
            assert forked["position"] == 13
            await client.say("rewind", ref=2, position=13)
            assert (await client.until("done", ref=2))["position"] == 13
            await client.say("prompt", ref=3, prompt=BLUE)
            assert (await client.until("done", ref=3))["position"] >= 13
            await second.say("attach", session=forked["session"], position=0)
            await second.until("opened", state="paused")
            await second.say("resume")
            await second.frames(37)
            assert alike(shown(second), made(built_in, 37, {}))
            await client.until("chunk", prompt=BLUE)

    asyncio.run(run())


def test_pause_stops_and_resume_goes_on(server: Served) -> None:
    async def run() -> None:
        async with talk(server.url) as client:
            await client.say("create", request={"prompt": RED})
            await client.frames(13)
            await client.say("pause")
            stopped = (await client.until("changed", state="paused"))["position"]
            await client.frames(stopped)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(client.frames(stopped + 1), 2)
            await client.say("resume")
            await client.frames(client.position + 24)

    asyncio.run(run())


def test_reader_returns_where_it_was(server: Served, built_in: Pipeline) -> None:
    async def run() -> None:
        async with talk(server.url) as client:
            await client.say("create", request={"prompt": RED})
            session = (await client.until("opened"))["session"]
            await client.frames(13)
            client.socket.transport.abort()
        async with talk(server.url) as again:
            await again.say("attach", session=session, position=13)
            await again.frames(37)
            assert again.chunks[0][0]["position"] == 13
            assert alike(shown(again), made(built_in, 37, {})[13:])

    asyncio.run(run())


def test_camera_is_translated(server: Served) -> None:
    async def run() -> None:
        async with talk(server.url) as client:
            await client.say("create", request={"prompt": RED, "source": "camera", "strength": 0.5})
            opened = await client.until("opened")
            assert opened["live"]
            for number in range(25):
                picture = io.BytesIO()
                Image.new("RGB", (320, 240), (10 * number, 200, 30)).save(picture, "JPEG")
                await client.socket.send(picture.getvalue())
                if number % 12 == 0:  # a camera drops what the model has no time for
                    await client.frames(number + 1)
            await client.say("fork", ref=1)
            assert "camera" in (await client.until("error", ref=1))["message"]

    asyncio.run(run())


def test_exports_are_the_film(server: Served, built_in: Pipeline, tmp_path: Path) -> None:
    async def run() -> str:
        async with talk(server.url) as client:
            await client.say("create", request={"prompt": RED, "seconds": 2})
            session: str = (await client.until("opened"))["session"]
            await client.until("changed", state="ended")
            await client.frames(24)
            return session

    session = asyncio.run(run())
    get = lambda form: httpx.get(f"{server.url}/v1/sessions/{session}/export", params={"format": form}).content  # noqa: E731
    with av.open(io.BytesIO(get("mp4"))) as file:
        video = np.stack([frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)])
    expected = made(built_in, 24, {}, seconds=2.0)
    assert video.shape == expected.shape and alike(video, expected)
    script = tmp_path / "timeline.toml"
    script.write_bytes(get("toml"))
    assert [shot.prompt for shot in Timeline.load(script).shots] == [RED]
    latents = tmp_path / "film.safetensors"
    latents.write_bytes(get("latents"))
    assert built_in.stream(RED, after=str(latents)).frames == 0


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ("no json", "invalid"),
        ('{"type": "fly"}', "invalid"),
        ('{"type": "prompt", "prompt": ""}', "invalid"),
        ('{"type": "prompt", "prompt": "a fish", "mode": "melt"}', "invalid"),
        ('{"type": "rewind", "position": -1}', "invalid"),
        ('{"type": "adjust", "strength": 0.5}', "invalid"),
        ('{"type": "create", "request": {"prompt": "a fish"}}', "invalid"),
        (b"\xff\xd8 no picture", "invalid"),
    ],
)
def test_bad_message_is_one_line(server: Served, message: str | bytes, code: str) -> None:
    async def run() -> None:
        async with talk(server.url) as client:
            await client.say("create", request={"prompt": RED})
            await client.frames(1)
            await client.socket.send(message)
            error = await client.until("error")
            assert error["code"] == code and "\n" not in error["message"]
            await client.frames(13)  # and the session goes on

    asyncio.run(run())


@pytest.mark.parametrize(
    "request_",
    [
        {"prompt": ""},
        {"prompt": RED, "height": 65},
        {"prompt": RED, "image": "/etc/passwd"},
        {"prompt": RED, "image": "no-such-file"},
        {"prompt": RED, "model": "other"},
        {"prompt": RED, "steps": 10**6},
        {"prompt": RED, "source": "webcam"},
    ],
)
def test_bad_request_opens_nothing(server: Served, request_: dict[str, Any]) -> None:
    async def run() -> None:
        async with talk(server.url) as client:
            await client.say("create", request=request_)
            error = await client.until("error")
            assert error["code"] in ("invalid", "missing")

    asyncio.run(run())


def test_queue_tells_place_and_refuses_when_full(serve: Serve) -> None:

    async def run(url: str) -> None:
        async with talk(url) as first, talk(url) as second, talk(url) as third:
            await first.say("create", request={"prompt": RED})
            await first.frames(1)
            await second.say("create", request={"prompt": RED})
            assert (await second.until("changed", state="queued"))["ahead"] == 0
            await second.say("ping", ref=5)
            await second.until("pong", ref=5)
            await third.say("create", request={"prompt": RED})
            refused = await third.until("error")
            assert refused["code"] == "busy" and refused["retry_after"] >= 1
            await first.say("close")
            await second.frames(13)

    with serve(sessions=1, queue=1) as server:
        asyncio.run(run(server.url))


@pytest.mark.slow
def test_killed_server_loses_no_session(built_in: Pipeline, tmp_path: Path) -> None:
    async def begin(url: str) -> tuple[str, int, int]:
        async with talk(url) as client:
            await client.say("create", request={"prompt": RED, "seed": 5})
            session = (await client.until("opened"))["session"]
            await client.frames(61)
            await client.say("prompt", ref=1, prompt=BLUE)
            at = (await client.until("done", ref=1))["position"]
            await client.frames(at + 12)
            return session, at, client.position

    async def finish(url: str, session: str, position: int) -> Talk:
        async with talk(url) as client:
            await client.say("attach", session=session, position=position)
            await client.frames(position + 24)
            return client

    process, url = start_process(tmp_path / "kept")
    session, at, position = asyncio.run(begin(url))
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process, url = start_process(tmp_path / "kept")
    try:
        client = asyncio.run(finish(url, session, position))
    finally:
        process.terminate()
        process.wait()
    expected = made(built_in, position + 24, {at: {"prompt": BLUE}}, seed=5)
    assert client.chunks[0][0]["position"] <= position
    assert alike(shown(client), expected[client.chunks[0][0]["position"] :])
    assert json.loads((tmp_path / "kept" / "sessions" / session / "session.json").read_text())["request"]["seed"] == 5
