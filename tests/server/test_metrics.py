"""What a server says about itself: its numbers for Prometheus, its logs."""

import io
import json
import logging
import socket
import struct
import time
from collections.abc import Callable
from urllib.request import urlopen

import httpx
from prometheus_client.parser import text_string_to_metric_families
from websockets.sync.client import connect

from causvid.server.logs import Lines, log

from .conftest import Served

BEGAN = time.monotonic()


def numbers(served: Served) -> dict[str, float]:
    """Read every number, by its name and labels."""
    with urlopen(f"{served.url}/metrics") as answer:
        families = text_string_to_metric_families(answer.read().decode())
    return {
        "".join([sample.name, *(f"{{{name}={value}}}" for name, value in sample.labels.items())]): sample.value
        for family in families
        for sample in family.samples
    }


def eventually(test: Callable[[], bool]) -> None:
    """Wait for what other threads do."""
    while not test():
        time.sleep(0.02)


def test_numbers_follow_a_session(server: Served) -> None:
    before = numbers(server)
    with connect(server.url.replace("http", "ws") + "/v1/live") as client:
        client.send(json.dumps({"type": "create", "request": {"prompt": "a red fish hopping on a meadow"}}))
        frames = 0
        while frames < 13:
            message = json.loads(client.recv())
            if message["type"] == "chunk":
                frames += message["frames"]
                client.recv()
                client.send(json.dumps({"type": "prompt", "prompt": "a violet swan on a lake"}))
        now = numbers(server)
        assert now["causvid_sessions{state=playing}"] == 1
        assert now["causvid_readers"] == 1
        eventually(lambda: numbers(server)["causvid_prompt_effect_seconds_count"] >= 1)
        client.send(json.dumps({"type": "close"}))
    eventually(lambda: numbers(server)["causvid_readers"] == 0)
    after = numbers(server)
    assert after["causvid_frames_total"] - before["causvid_frames_total"] >= frames
    assert after["causvid_first_frame_seconds_count"] == 1
    assert 0 < after["causvid_first_frame_seconds_sum"] < 60
    assert after["causvid_chunk_seconds_count"] >= 2
    assert 0 < after["causvid_model_busy_seconds_total"] < time.monotonic() - BEGAN
    assert after["causvid_sessions{state=playing}"] == 0
    assert after["process_resident_memory_bytes"] > 2**20


def test_lost_connections_are_counted(server: Served) -> None:
    before = numbers(server)["causvid_dropped_connections_total"]
    with connect(server.url.replace("http", "ws") + "/v1/live") as client:
        client.send(json.dumps({"type": "create", "request": {"prompt": "a red fish"}}))
        client.recv()
        client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.socket.close()
    eventually(lambda: numbers(server)["causvid_dropped_connections_total"] == before + 1)


def test_a_log_line_is_one_json_object(server: Served) -> None:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(Lines("json"))
    log.addHandler(handler)
    level = log.level
    log.setLevel(logging.INFO)
    try:
        httpx.get(f"{server.url}/v1/about?token=hidden", headers={"x-request-id": "abc123"})
        httpx.get(f"{server.url}/healthz")
        log.info("two\nlines")
    finally:
        log.removeHandler(handler)
        log.setLevel(level)
    request, message = (json.loads(line) for line in stream.getvalue().splitlines())
    assert request["path"] == "/v1/about"
    assert (request["request"], request["status"], request["method"]) == ("abc123", 200, "GET")
    assert "hidden" not in stream.getvalue()
    assert message["message"] == "two\nlines"
