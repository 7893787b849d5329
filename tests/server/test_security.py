"""Who may use the server: tokens, hosts, origins, sizes of bodies, and the headers that browsers get."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator

import httpx
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from causvid.server.security import Guard, check_settings
from causvid.server.settings import ServerSettings

from .conftest import Serve, Served

TOKEN = "0123456789abcdef-not-a-secret"
CREATE = json.dumps({"type": "create", "request": {"prompt": "a red fish hopping on a meadow"}})


@pytest.fixture(scope="module")
def locked(serve: Serve) -> Iterator[Served]:
    with serve(token=TOKEN, origins=("https://studio.example",), upload_bytes=4096) as served:
        yield served


def handshake(served: Served, path: str = "/v1/live", **headers: str) -> int:
    """Open a WebSocket and return the status of its handshake."""
    try:
        with connect(served.url.replace("http", "ws") + path, additional_headers=headers) as socket:
            socket.send(CREATE)
            assert json.loads(socket.recv())["type"] == "opened"
            return 101
    except InvalidStatus as error:
        return error.response.status_code


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.7", "::", "server.example"])
def test_only_loopback_needs_no_token(host: str) -> None:
    with pytest.raises(ValueError, match=f"host={host} can be reached by others"):
        check_settings(ServerSettings(host=host))
    check_settings(ServerSettings(host=host, token=TOKEN))
    for own in ("127.0.0.1", "::1", "localhost", "127.9.9.9"):
        check_settings(ServerSettings(host=own))


def test_weak_tokens_and_malformed_origins_are_refused() -> None:
    with pytest.raises(ValueError, match="token"):
        check_settings(ServerSettings(token="short"))
    with pytest.raises(ValueError, match=r"origin=studio\.example"):
        check_settings(ServerSettings(origins=("studio.example",)))


@pytest.mark.parametrize("given", ["", "Bearer", "Bearer wrong", f"Basic {TOKEN}", f"Bearer {TOKEN}x"])
def test_requests_without_the_token_are_refused(locked: Served, given: str) -> None:
    headers = {"authorization": given} if given else {}
    for path in ("/v1/about", "/metrics", "/openapi.json", "/nowhere"):
        answer = httpx.get(locked.url + path, headers=headers)
        assert answer.status_code == 401, path
        assert answer.json()["error"]["type"] == "authentication_error"
    assert handshake(locked, **({"Authorization": given} if given else {})) == 401


def test_the_token_opens_requests_and_sockets(locked: Served) -> None:
    bearer = {"Authorization": f"Bearer {TOKEN}"}
    assert httpx.get(f"{locked.url}/v1/about", headers=bearer).status_code == 200
    assert httpx.get(f"{locked.url}/v1/about?token={TOKEN}").status_code == 200
    assert handshake(locked, **bearer) == 101
    assert handshake(locked, f"/v1/live?token={TOKEN}") == 101


def test_a_token_in_the_query_changes_nothing(locked: Served) -> None:
    assert httpx.post(f"{locked.url}/v1/words?token={TOKEN}", json={"prompt": "a"}).status_code == 401


def test_health_needs_no_token(locked: Served) -> None:
    assert httpx.get(f"{locked.url}/healthz").status_code == 200
    assert httpx.get(f"{locked.url}/readyz").json() == {"status": "ready"}


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "", "[", "\xe9"])
def test_names_made_to_point_here_are_refused(server: Served, host: str) -> None:
    assert httpx.get(f"{server.url}/v1/about", headers={"host": host.encode("latin-1")}).status_code in (400, 403)


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://127.0.0.1:1", "http://localhost"])
def test_pages_of_other_origins_are_refused(server: Served, origin: str) -> None:
    words = httpx.post(f"{server.url}/v1/words", json={"prompt": "a red fish"}, headers={"origin": origin})
    assert words.status_code == 403
    assert handshake(server, Origin=origin) == 403


def test_pages_of_its_own_and_named_origins_may(server: Served, locked: Served) -> None:
    words = httpx.post(f"{server.url}/v1/words", json={"prompt": "a red fish"}, headers={"origin": server.url})
    assert words.json() == {"unknown": []}
    assert handshake(server, Origin=server.url) == 101
    named, bearer = {"origin": "https://studio.example"}, {"Authorization": f"Bearer {TOKEN}"}
    assert handshake(locked, Origin=named["origin"], **bearer) == 101
    asked = {"access-control-request-method": "POST", "access-control-request-headers": "authorization"}
    preflight = httpx.options(f"{locked.url}/v1/words", headers=named | asked)
    assert preflight.headers["access-control-allow-origin"] == "https://studio.example"
    words = httpx.post(f"{locked.url}/v1/words", json={"prompt": "a"}, headers=named | bearer)
    assert words.headers["access-control-allow-origin"] == "https://studio.example"


def test_bodies_beyond_the_limit_are_refused(locked: Served) -> None:
    body = b" " * (locked.settings.upload_bytes + 2**20 + 1)

    def parts() -> Iterator[bytes]:
        yield from (body[start : start + 65536] for start in range(0, len(body), 65536))

    for content in (body, parts()):
        headers = {"Authorization": f"Bearer {TOKEN}", "content-type": "application/json"}
        assert httpx.post(f"{locked.url}/v1/words", content=content, headers=headers).status_code == 413


def test_an_undeclared_body_is_read_no_further() -> None:
    async def app(scope: object, receive: object, send: object) -> None:
        while True:
            await receive()  # type: ignore[operator]

    async def stream() -> AsyncIterator[dict[str, object]]:
        for _ in range(100):
            yield {"type": "http.request", "body": bytes(2**16), "more_body": True}

    async def ask() -> tuple[int, int]:
        read, sent, pieces = 0, [], stream()

        async def receive() -> dict[str, object]:
            nonlocal read
            read += 1
            return await anext(pieces)

        async def send(message: dict[str, object]) -> None:
            sent.append(message)

        guard = Guard(app, settings=ServerSettings(upload_bytes=2**16))  # type: ignore[arg-type]
        scope = {
            "type": "http",
            "method": "POST",
            "path": "/",
            "headers": [(b"host", b"localhost")],
            "query_string": b"",
        }
        await guard(scope, receive, send)  # type: ignore[arg-type]
        return sent[0]["status"], read  # type: ignore[return-value]

    assert asyncio.run(ask()) == (413, 18)


def test_every_answer_has_the_headers_for_browsers(server: Served) -> None:
    for path in ("/v1/about", "/healthz", "/nowhere"):
        headers = httpx.get(server.url + path).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert "default-src 'self'" in headers["content-security-policy"]
        assert headers["x-request-id"]
