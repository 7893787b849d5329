"""Who may use the server: host and origin checks, the token, and headers for browsers.

Pure ASGI, before everything else, for requests and WebSockets alike. A page on the web cannot use a server on loopback:
its origin is refused, and so is a name that was made to point here (DNS rebinding).
"""

import ipaddress
import secrets
from collections.abc import Iterable
from urllib.parse import SplitResult, parse_qs, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from causvid.server.errors import CODES, respond
from causvid.server.settings import ServerSettings

HEALTH = frozenset({"/healthz", "/readyz"})
SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
TOKEN_LENGTH = 16
HEADERS = {
    "content-security-policy": (
        "default-src 'self'; img-src 'self' blob: data:; media-src 'self' blob:; worker-src 'self' blob:; "
        "object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(self), microphone=(), geolocation=()",
}


def check_settings(settings: ServerSettings) -> None:
    """Refuse settings that would open the server to strangers, and credentials that cannot sign.

    Raises:
        ValueError: if it listens beyond loopback without a token, or the token, an origin or a credential is not one.
    """
    if settings.token is None and not is_loopback(settings.host):
        raise ValueError(f"host={settings.host} can be reached by others: give a token, or listen on 127.0.0.1")
    if settings.token is not None and (len(settings.token) < TOKEN_LENGTH or not settings.token.isascii()):
        raise ValueError(f"token: {TOKEN_LENGTH} ASCII characters are the least: `openssl rand -hex 16` makes one")
    for origin in settings.origins:
        parts = _split(origin)
        if parts.scheme not in ("http", "https") or origin != f"{parts.scheme}://{parts.netloc}":
            raise ValueError(f"origin={origin} is not an origin such as https://studio.example")
    _ = settings.credentials


def is_loopback(host: str) -> bool:
    """Tell whether only this machine can reach an address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Guard:
    """Lets through what may use the server.

    public: paths that need no token, the studio's own files. largest: most bytes of a body.
    """

    def __init__(
        self, app: ASGIApp, *, settings: ServerSettings, public: Iterable[str] = (), largest: int = 2**62
    ) -> None:
        check_settings(settings)
        self.app, self.settings, self._largest = app, settings, largest
        self._public = HEALTH.union(public)
        self._hosts = {_split(origin).hostname for origin in settings.origins}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            return await self.app(scope, receive, send)

        async def sending(message: Message) -> None:
            if message["type"] in ("http.response.start", "websocket.http.response.start"):
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        try:
            self._check(scope)
        except HTTPException as error:
            answer = respond(error.status_code, error.detail, code=CODES.get(error.status_code, "forbidden"))
            answer.headers.update(error.headers or {})
            return await answer(scope, receive, sending)  # to a WebSocket, in place of its handshake
        await self.app(scope, receive, sending)

    def _check(self, scope: Scope) -> None:
        headers = Headers(scope=scope)
        host, origin = headers.get("host", ""), headers.get("origin")
        if is_loopback(self.settings.host) and not self._knows(host):
            raise HTTPException(403, f"host {host[:80]!r} is not this server: `--origin` names others")
        unsafe = scope["type"] == "websocket" or scope["method"] not in SAFE
        own = origin is not None and _split(origin).netloc == host
        if unsafe and origin is not None and not own and origin not in self.settings.origins:
            raise HTTPException(403, f"pages of {origin[:80]!r} may not use this server: `--origin` lets them")
        token = self.settings.token
        if token is not None and scope["path"] not in self._public:
            given = _token(scope, headers)
            if not secrets.compare_digest(given.encode(), token.encode()):
                raise HTTPException(401, "the token is missing or wrong", {"www-authenticate": "Bearer"})
        length = headers.get("content-length", "")
        if length.isdecimal() and int(length[:19]) > self._largest:
            raise HTTPException(413, f"the request is larger than {self._largest} bytes")

    def _knows(self, host: str) -> bool:
        name = _split(f"//{host}").hostname
        return name is not None and (is_loopback(name) or name in self._hosts)


def _split(address: str) -> SplitResult:
    """Take an address apart; an impossible one has no parts."""
    try:
        return urlsplit(address)
    except ValueError:
        return urlsplit("")


def _token(scope: Scope, headers: Headers) -> str:
    """Return the token of a request; as `?token=` only where a browser cannot send a header."""
    scheme, _, given = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return given.strip()
    if scope["type"] == "websocket" or scope["method"] in SAFE:
        found = parse_qs(scope["query_string"].decode("latin-1")).get("token")
        return found[0] if found else ""
    return ""
