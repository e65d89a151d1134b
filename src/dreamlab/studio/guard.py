"""Who may ask, and what: this machine's own page alone, or whoever holds the token; nothing crooked, nothing too long.

What stands against what:

- Another page in the same browser: ``Origin`` and ``Sec-Fetch-Site`` must be the studio's own, for WebSockets as well.
- A name that somebody points at 127.0.0.1 (DNS rebinding): ``Host`` must be a name of this machine. Where another
  address was asked for, the token decides instead.
- Somebody else in the network: the token of the link, moved into a cookie at the first visit and out of the address.
- Paths that lead outside: refused here by their look; routes look names up besides, and never join them to paths.
- Text that becomes HTML or script: a Content-Security-Policy without inline scripts or styles.
- Floods: bounded bodies, messages, messages a second, requests at a time and WebSockets at a time.

An error of the studio's own is one line in the terminal and one sentence for the page.
"""

from __future__ import annotations

import hmac
import json
import logging
import re
import traceback
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qs, unquote

from starlette.requests import ClientDisconnect
from starlette.websockets import WebSocketDisconnect

from dreamlab.studio import traffic
from dreamlab.studio.traffic import Message, Receive, Send

Scope = MutableMapping[str, Any]

OWN_NAMES = ("localhost", "127.0.0.1", "[::1]")
METHODS = ("GET", "HEAD", "POST")
LONGEST_TARGET = 8192
"""bytes of a path with its query"""
LONGEST_HEAD = 16384
"""bytes of all headers"""
REQUESTS = 128
"""requests that are answered at a time"""
SOCKETS = 64
"""WebSockets at a time, those that wait for a seat among them"""

POLICY = (
    "default-src 'self'; img-src 'self' data: blob:; media-src 'self' blob:; object-src 'none'; base-uri 'none'; "
    "form-action 'none'; frame-src 'self'; frame-ancestors 'self'"
)
"""for the page and all that it loads"""
MADE_PAGE = (
    "default-src 'none'; img-src data:; media-src data:; style-src 'unsafe-inline'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'self'; sandbox allow-same-origin"
)
"""for pages made of runs, which hold their style and pictures: nothing in them acts, and their height can be read"""
HEADERS = {
    b"x-content-type-options": b"nosniff",
    b"x-frame-options": b"SAMEORIGIN",
    b"referrer-policy": b"no-referrer",
    b"cross-origin-resource-policy": b"same-origin",
}
_HOST = re.compile(r"(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+)(?::\d{1,5})?")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
log = logging.getLogger("dreamlab.studio")


class Refused(NamedTuple):
    """Why something is not answered."""

    status: int
    words: str
    headers: tuple[tuple[str, str], ...] = ()


class Guard:
    """ASGI middleware around everything. ``token`` None: only this machine can reach the page."""

    def __init__(self, app: Any, token: str | None) -> None:
        self.app, self.token = app, token
        self.requests = self.sockets = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self._http(scope, receive, send)
        elif scope["type"] == "websocket":
            await self._websocket(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        refused = crooked(scope) or self._stranger(scope)
        if refused is None and self.requests >= REQUESTS:
            refused = Refused(503, "the studio has too much to do at once; try again in a moment")
        self.requests += 1
        try:
            body = b"" if refused else await _body(scope, receive)
            refused = refused or (body if isinstance(body, Refused) else None)
            if refused is not None:
                await _answer(scope, send, refused)
            else:
                await self._asked(scope, traffic.again(body, receive), send)  # type: ignore[arg-type]
        finally:
            self.requests -= 1

    async def _asked(self, scope: Scope, receive: Receive, send: Send) -> None:
        begun = False

        async def answer(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(_dressed(message, scope["path"]))

        try:
            await self.app(scope, receive, answer)
        except Exception as error:
            if _gone(error):
                return
            tell(scope, error)
            if not begun:
                await _answer(scope, send, Refused(500, "the studio made a mistake; its terminal says where"))

    async def _websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        refused = crooked(scope) or self._stranger(scope)
        if refused is None and self.sockets >= SOCKETS:
            refused = Refused(503, "too many are connected; close a tab, or try again later")
        if refused is not None:
            await receive()
            await _answer(scope, send, refused, kind="websocket.http.response")
            return
        line = traffic.Line(receive, send)
        self.sockets += 1
        try:
            await self.app(scope, line.receive, line.send)
        except Exception as error:
            if not _gone(error):
                tell(scope, error)
                await line.close(1011, "the studio made a mistake; its terminal says where")
        finally:
            self.sockets -= 1

    def _stranger(self, scope: Scope) -> Refused | None:
        """Who may not ask at all."""
        hosts = _all(scope, b"host")
        host = _HOST.fullmatch(hosts[0]) if len(hosts) == 1 else None
        if host is None:
            return Refused(400, "a request names one host")
        if self.token is None and host[1].lower() not in OWN_NAMES:
            return Refused(403, f"this studio answers on this machine alone, as {' or '.join(OWN_NAMES[:2])}")
        origins, page = _all(scope, b"origin"), hosts[0].lower()
        if any(origin.lower() not in (f"http://{page}", f"https://{page}") for origin in origins):
            return Refused(403, "another page may not ask the studio")
        if "cross-site" in _fetch(scope, b"site") or "same-site" in _fetch(scope, b"site"):
            followed = scope["path"] == "/" and "navigate" in _fetch(scope, b"mode")
            if not (followed and "document" in _fetch(scope, b"dest") and scope.get("method") == "GET"):
                return Refused(403, "another page may not ask the studio")
        return self._without_token(scope) if self.token is not None else None

    def _without_token(self, scope: Scope) -> Refused | None:
        """Nothing for who holds the token in a cookie; who brings it in the address is sent on with one."""
        assert self.token is not None
        name, query = f"dreamlab-{scope['server'][1]}", scope["query_string"].decode("latin-1")
        front = scope["type"] == "http" and scope["path"] == "/"
        typed = parse_qs(query).get("token", []) if front else []
        if any(_same(text, self.token) for text in typed):
            cookie = f"{name}={self.token}; HttpOnly; SameSite=Strict; Path=/"
            return Refused(303, "", (("location", "/"), ("set-cookie", cookie)))
        if any(_same(value, self.token) for value in _cookies(scope, name)):
            return Refused(303, "", (("location", "/"),)) if front and query == "again" else None
        # a link that was followed from another site: its browser sends no strict cookie until a page of ours asks
        again = (("refresh", "0; url=/?again"),) if front and query == "" else ()
        return Refused(401, "this studio asks for the token of its link: open the link that it printed", again)


# -- what is asked ---------------------------------------------------------------------------------------------------


def crooked(scope: Scope) -> Refused | None:
    """Refuses what no page of ours asks: its method, its length, a path that would lead elsewhere."""
    if scope["type"] == "http" and scope["method"] not in METHODS:
        return Refused(405, f"methods are {', '.join(METHODS)}", (("allow", ", ".join(METHODS)),))
    raw, query = scope["raw_path"], scope["query_string"]
    if len(raw) + len(query) > LONGEST_TARGET:
        return Refused(414, "too long an address")
    if sum(len(key) + len(value) for key, value in scope["headers"]) > LONGEST_HEAD:
        return Refused(431, "too long a head")
    path = unquote(raw.decode("latin-1"))
    again = unquote(path)  # what would be read if somebody decoded it once more
    if not path.startswith("/") or b"%00" in query:
        return Refused(404, "there is nothing at this address")
    for text in (path, again):
        steps = text.removesuffix("/").split("/")[1:]
        if _CONTROL.search(text) or "\\" in text or any(step in ("", ".", "..") for step in steps):
            return Refused(404, "there is nothing at this address")
    if again.count("/") != path.count("/"):
        return Refused(404, "there is nothing at this address")
    return None


async def _body(scope: Scope, receive: Receive) -> bytes | Refused:
    """The whole body of a request, which is JSON."""
    close = (("connection", "close"),)
    too_long = Refused(413, f"at most {traffic.LONGEST} bytes can be sent", close)
    said = (_all(scope, b"content-length") or ["0"])[0]
    if not said.isdecimal() or int(said) > traffic.LONGEST:
        return too_long
    if scope["method"] != "POST":
        bare = int(said) == 0 and not _all(scope, b"transfer-encoding")
        return b"" if bare else Refused(400, "such a request has no body", close)
    try:
        body = await traffic.whole(receive)
    except TimeoutError:
        return Refused(408, "it took too long to arrive", close)
    if not body:
        return too_long if body is None else b""
    kind = (_all(scope, b"content-type") or [""])[0].partition(";")[0].strip().lower()
    if kind != "application/json":
        return Refused(415, "what is sent is application/json")
    return body if traffic.is_object(body) else Refused(400, "what is sent is one JSON object")


def _all(scope: Scope, name: bytes) -> list[str]:
    return [value.decode("latin-1") for key, value in scope["headers"] if key == name]


def _fetch(scope: Scope, about: bytes) -> list[str]:
    """What the browser says of a request: ``Sec-Fetch-Site``, ``-Mode``, ``-Dest``."""
    return _all(scope, b"sec-fetch-" + about)


def _cookies(scope: Scope, name: str) -> list[str]:
    pairs = (pair.strip().partition("=") for text in _all(scope, b"cookie") for pair in text.split(";"))
    return [value for key, _, value in pairs if key == name]


def _same(text: str, token: str) -> bool:
    return hmac.compare_digest(text.encode(), token.encode())


# -- what is answered ------------------------------------------------------------------------------------------------


async def _answer(scope: Scope, send: Send, refused: Refused, kind: str = "http.response") -> None:
    """A refusal: a sentence as JSON for the page's scripts, as text for who looks."""
    if kind != "http.response" and kind not in scope.get("extensions", {}):
        await send({"type": "websocket.close", "code": 1008, "reason": refused.words})
        return
    api = scope["path"].startswith("/api")
    body = json.dumps({"error": refused.words}) if api else refused.words + "\n" * bool(refused.words)
    headers = [(key.encode(), value.encode()) for key, value in refused.headers]
    headers += [(b"content-type", b"application/json" if api else b"text/plain; charset=utf-8")]
    headers += [(b"content-length", str(len(body.encode())).encode()), (b"cache-control", b"no-store")]
    start = {"type": f"{kind}.start", "status": refused.status, "headers": headers}
    await send(_dressed(start, scope["path"]))
    await send({"type": f"{kind}.body", "body": body.encode() if scope.get("method") != "HEAD" else b""})


def _dressed(message: Message, path: str) -> Message:
    """The start of an answer with the headers that hold for all; what a route says of caching is kept."""
    if not message["type"].endswith("response.start"):
        return message
    policy = MADE_PAGE if path.startswith("/api/compared/") else POLICY
    cache = b"no-store" if path.startswith("/api") else b"no-cache"
    ours = {**HEADERS, b"content-security-policy": policy.encode()}
    given = [(key, value) for key, value in message.get("headers", []) if key.lower() not in ours]
    kept = {key.lower() for key, _ in given}
    more = [] if b"cache-control" in kept else [(b"cache-control", cache)]
    return {**message, "headers": [*given, *ours.items(), *more]}


def _gone(error: BaseException) -> bool:
    """Whether an error says no more than that the client has left."""
    if isinstance(error, BaseExceptionGroup):
        return all(_gone(one) for one in error.exceptions)
    return isinstance(error, ClientDisconnect | WebSocketDisconnect | ConnectionError)


def tell(scope: Scope, error: BaseException) -> None:
    """One line in the terminal: what was asked, what went wrong, where; without the query, which may hold a token."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    last = traceback.extract_tb(error.__traceback__)[-1:]
    where = "".join(f" ({Path(frame.filename).name}:{frame.lineno})" for frame in last)
    words = _CONTROL.sub(" ", str(error))[:300]
    asked = scope["raw_path"].decode("latin-1")
    log.error("%s: %s: %s%s", asked, type(error).__name__, words, where, exc_info=error)
