"""Who may use the server: tokens, hosts, origins, sizes of bodies, and the headers that browsers get."""

import json
from collections.abc import Iterator
from http.client import HTTPConnection

import httpx
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from causvid.server.security import check_settings
from causvid.server.settings import ServerSettings

from .conftest import Serve, Served

TOKEN = "0123456789abcdef-not-a-secret"
BEARER = {"Authorization": f"Bearer {TOKEN}"}
STUDIO = "https://studio.example"
UPLOAD = 4096


@pytest.fixture(scope="module")
def locked(serve: Serve) -> Iterator[Served]:
    with serve(token=TOKEN, origins=(STUDIO,), upload_bytes=UPLOAD) as served:
        yield served


@pytest.fixture(scope="module")
def web(locked: Served) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=locked.url) as client:
        yield client


def handshake(served: Served, path: str = "/v1/live", **headers: str) -> int:
    """Open a WebSocket and return the status of its handshake."""
    try:
        with connect(served.url.replace("http", "ws") + path, additional_headers=headers) as socket:
            socket.send("{}")
            assert json.loads(socket.recv())["code"] == "invalid"
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
def test_requests_without_the_token_are_refused(locked: Served, web: httpx.Client, given: str) -> None:
    headers = {"Authorization": given} if given else {}
    for path in ("/v1/about", "/metrics", "/openapi.json", "/nowhere"):
        answer = web.get(path, headers=headers)
        assert answer.status_code == 401, path
        assert answer.json()["error"]["code"] == "forbidden"
    assert handshake(locked, **headers) == 401


def test_the_token_opens_requests_and_sockets(locked: Served, web: httpx.Client) -> None:
    assert web.get("/v1/about", headers=BEARER).status_code == 200
    assert web.get(f"/v1/about?token={TOKEN}").status_code == 200
    assert handshake(locked, **BEARER) == 101
    assert handshake(locked, f"/v1/live?token={TOKEN}") == 101


def test_a_token_in_the_query_changes_nothing(web: httpx.Client) -> None:
    assert web.post(f"/v1/words?token={TOKEN}", json={"prompt": "a"}).status_code == 401


def test_health_and_the_studio_need_no_token(web: httpx.Client) -> None:
    for path in ("/", "/js/app.js"):
        assert web.get(path).status_code == 200
    assert web.get("/js/../v1/about").status_code == 401
    assert web.get("/healthz").status_code == 200
    assert web.get("/readyz").json() == {"status": "ready"}


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "", "[", "\xe9"])
def test_names_made_to_point_here_are_refused(web: httpx.Client, host: str) -> None:
    answer = web.get("/v1/about", headers=httpx.Headers({"host": host.encode("latin-1"), **BEARER}))
    assert answer.status_code in (400, 403)


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://127.0.0.1:1", "http://["])
def test_pages_of_other_origins_are_refused(locked: Served, web: httpx.Client, origin: str) -> None:
    words = web.post("/v1/words", json={"prompt": "a red fish"}, headers={"origin": origin, **BEARER})
    assert words.status_code == 403
    assert handshake(locked, Origin=origin, **BEARER) == 403


def test_pages_of_its_own_and_named_origins_may(locked: Served, web: httpx.Client) -> None:
    words = web.post("/v1/words", json={"prompt": "a red fish"}, headers={"origin": locked.url, **BEARER})
    assert words.json() == {"unknown": [], "replaced": []}
    assert handshake(locked, Origin=locked.url, **BEARER) == 101
    assert handshake(locked, Origin=STUDIO, **BEARER) == 101
    asked = {"access-control-request-method": "POST", "access-control-request-headers": "authorization"}
    preflight = web.options("/v1/words", headers={"origin": STUDIO, **asked})
    assert preflight.headers["access-control-allow-origin"] == STUDIO
    words = web.post("/v1/words", json={"prompt": "a"}, headers={"origin": STUDIO, **BEARER})
    assert words.headers["access-control-allow-origin"] == STUDIO


def test_bodies_beyond_the_limit_are_refused(locked: Served, web: httpx.Client) -> None:
    size = UPLOAD + 2**20 + 1
    kind = {"content-type": "application/json", **BEARER}

    def parts() -> Iterator[bytes]:
        yield from (bytes(min(65536, size - start)) for start in range(0, size, 65536))

    answer = web.post("/v1/words", content=parts(), headers=kind)
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "too_large")
    assert answer.headers["x-content-type-options"] == "nosniff"
    connection = HTTPConnection(locked.url.removeprefix("http://"))
    connection.request("POST", "/v1/words", headers={"content-length": str(size), **kind})
    refused = connection.getresponse()
    assert (refused.status, json.loads(refused.read())["error"]["code"]) == (413, "too_large")
    connection.close()


def test_every_answer_has_the_headers_for_browsers(web: httpx.Client) -> None:
    for path in ("/v1/about", "/healthz", "/nowhere"):
        headers = web.get(path).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert "default-src 'self'" in headers["content-security-policy"]
        assert headers["x-request-id"]
