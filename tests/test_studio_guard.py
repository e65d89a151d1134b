"""The studio's guard over real sockets: the page is served, and each attack is refused with a status that says why."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from fastapi import WebSocket
from starlette.requests import Request
from starlette.responses import JSONResponse
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from dreamlab.core.errors import UserError
from dreamlab.studio import guard, server, traffic
from dreamlab.studio.app import application
from dreamlab.studio.studio import Studio

SECRET = "what lies outside"
TOKEN = "a-token-of-the-tests"
FETCH = {"Sec-Fetch-Site": "cross-site"}


@dataclass
class Served:
    """A studio that listens, with routes of the tests: one that answers what it hears, and one that fails."""

    port: int
    app: Any

    @property
    def own(self) -> str:
        return f"http://127.0.0.1:{self.port}"


def echo_route(app: Any) -> None:
    @app.websocket("/api/echo")
    async def echo(socket: WebSocket) -> None:
        await socket.accept()
        while True:
            await socket.send_text(await socket.receive_text())

    @app.websocket("/api/fails")
    async def fails(socket: WebSocket) -> None:
        await socket.accept()
        raise KeyError("a secret of the studio")

    async def heard(request: Request) -> JSONResponse:
        return JSONResponse(await request.json())

    async def broken(request: Request) -> JSONResponse:
        raise KeyError("a secret of the studio")

    app.add_api_route("/api/heard", heard, methods=["POST"])
    app.add_api_route("/api/broken", broken)


@pytest.fixture(scope="module")
def serve(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    running: list[tuple[uvicorn.Server, threading.Thread]] = []

    def start(token: str | None) -> Served:
        place = tmp_path_factory.mktemp("studio")
        root = runs_in(place)
        studio = Studio(root, opener=_nothing_opens, cache=place / "cache", token=token)
        app = application(studio)
        echo_route(app)
        listening = socket.create_server(("127.0.0.1", 0))
        one = uvicorn.Server(server.settings(app))
        thread = threading.Thread(target=one.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        running.append((one, thread))
        return Served(listening.getsockname()[1], app)

    yield start
    for one, thread in running:
        one.should_exit = True
        thread.join(5)


@pytest.fixture(scope="module")
def here(serve: Any) -> Served:
    """Bound to this machine: no token."""
    return serve(None)


@pytest.fixture(scope="module")
def told(serve: Any) -> Served:
    """As with another address: the token decides."""
    return serve(TOKEN)


def runs_in(place: Path) -> Path:
    """A folder with a run that looks like one, and with links that lead out of it."""
    outside, run = place / "outside", place / "runs" / "one"
    for folder in (outside / "pictures", run / "pictures", run / "checkpoints"):
        folder.mkdir(parents=True)
    for folder in (outside, run):
        (folder / "config.yaml").write_text("agent: world-models\nenv: {id: tiny/Catch}\nrun: {seed: 0}\n")
    for name in ("film.mp4", "metrics.jsonl", "pictures/a.png"):
        (outside / name).write_text(SECRET)
    (run / "metrics.jsonl").write_text('{"step": 1, "train/loss": 2.0}\n')
    (run / "pictures" / "a.png").write_bytes(b"\x89PNG\r\n")
    (run / "pictures" / "a.txt").write_text(SECRET)
    (run / "pictures" / "link.png").symlink_to(outside / "pictures" / "a.png")
    (run / "videos").symlink_to(outside)
    (place / "runs" / "linked").symlink_to(outside)
    return place / "runs"


def _nothing_opens(folder: Path, checkpoint: int | None) -> Any:
    raise UserError("nothing opens here")


@dataclass
class Reply:
    status: int
    headers: dict[str, str]
    body: str


def raw(port: int, data: bytes, wait: float = 5.0) -> Reply:
    """Send bytes as they are; the first answer."""
    with socket.create_connection(("127.0.0.1", port), timeout=wait) as line:
        line.sendall(data)
        got = b""
        while b"\r\n\r\n" not in got:
            more = line.recv(65536)
            if not more:
                break
            got += more
        head, _, body = got.partition(b"\r\n\r\n")
        first, *rest = head.decode().split("\r\n")
        headers = {k.lower(): v for k, _, v in (one.partition(": ") for one in rest)}
        while len(body) < int(headers.get("content-length", 0)):
            body += line.recv(65536)
    return Reply(int(first.split()[1]), headers, body.decode(errors="replace"))


def ask(
    served: Served, target: str, headers: dict[str, str] | None = None, method: str = "GET", body: bytes = b""
) -> Reply:
    said = {"Host": f"127.0.0.1:{served.port}", "Connection": "close", **(headers or {})}
    if body:
        said.setdefault("Content-Length", str(len(body)))
    head = "".join(f"{key}: {value}\r\n" for key, value in said.items())
    return raw(served.port, f"{method} {target} HTTP/1.1\r\n{head}\r\n".encode("latin-1") + body)


def post(served: Served, body: bytes, **headers: str) -> Reply:
    return ask(served, "/api/heard", {"Content-Type": "application/json", **headers}, "POST", body)


# -- what is served ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost", "[::1]", "LOCALHOST"])
def test_the_page_comes_with_its_headers_by_every_name_of_this_machine(here: Served, name: str):
    found = ask(here, "/", {"Host": f"{name}:9000"})  # another port, as through ssh -L
    assert (found.status, "<!doctype html>" in found.body) == (200, True)
    policy = found.headers["content-security-policy"]
    assert "default-src 'self'" in policy
    assert "unsafe" not in policy
    assert "frame-ancestors 'self'" in policy
    assert found.headers["x-content-type-options"] == "nosniff"
    assert found.headers["x-frame-options"] == "SAMEORIGIN"
    assert found.headers["referrer-policy"] == "no-referrer"
    assert found.headers["cross-origin-resource-policy"] == "same-origin"
    assert "server" not in found.headers


def test_answers_of_the_interface_are_asked_for_anew_and_nothing_is_shared_with_other_pages(here: Served):
    found = ask(here, "/api/runs")
    assert found.status == 200
    assert found.headers["cache-control"] in ("no-store", "no-cache")
    assert not [key for key in found.headers if key.startswith("access-control")]


def test_own_pages_may_ask_and_send(here: Served):
    assert ask(here, "/api/runs", {"Origin": here.own, "Sec-Fetch-Site": "same-origin"}).status == 200
    assert post(here, b'{"a": 1.5}', Origin=here.own).body == '{"a":1.5}'
    with connect(f"ws://127.0.0.1:{here.port}/api/echo", origin=here.own) as line:  # type: ignore[arg-type]
        line.send('{"do": "step"}')
        assert line.recv(5) == '{"do": "step"}'


def test_a_made_page_acts_on_nothing():
    start = {"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/html")]}
    policy = dict(guard._dressed(start, "/api/compared/x")["headers"])[b"content-security-policy"].decode()
    assert "default-src 'none'" in policy
    assert "script" not in policy
    assert policy.endswith("sandbox allow-same-origin")


# -- strangers -----------------------------------------------------------------------------------------------------

STRANGERS = {
    "another origin": ("GET", "/api/runs", {"Origin": "http://evil.example"}),
    "another origin sends": ("POST", "/api/heard", {"Origin": "http://evil.example"}),
    "no origin in particular": ("GET", "/api/runs", {"Origin": "null"}),
    "another port of this machine": ("GET", "/api/runs", {"Origin": "http://127.0.0.1:1"}),
    "a name that begins like ours": ("GET", "/", {"Origin": "http://127.0.0.1.evil.example"}),
    "a name pointed at this machine": ("GET", "/", {"Host": "evil.example"}),
    "a name with our name in front": ("GET", "/", {"Host": "localhost.evil.example:80"}),
    "an address of the network": ("GET", "/", {"Host": "192.168.0.7:8765"}),
    "a picture in another page": ("GET", "/static/icon.svg", {**FETCH, "Sec-Fetch-Dest": "image"}),
    "a script in another page": ("GET", "/api/runs", {**FETCH, "Sec-Fetch-Dest": "script"}),
    "a frame in another page": ("GET", "/", {**FETCH, "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "iframe"}),
    "a page of the same site": ("GET", "/api/runs", {"Sec-Fetch-Site": "same-site"}),
    "a form in another page": ("POST", "/", {**FETCH, "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}),
    "a link to the interface": (
        "GET",
        "/api/runs",
        {**FETCH, "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"},
    ),
}


@pytest.mark.parametrize("case", STRANGERS)
def test_strangers_are_refused(here: Served, case: str):
    method, target, headers = STRANGERS[case]
    found = ask(here, target, headers, method)
    assert found.status == 403
    assert "<" not in found.body


def test_a_link_elsewhere_leads_to_the_front_page(here: Served):
    assert ask(here, "/", {**FETCH, "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}).status == 200


@pytest.mark.parametrize("host", ["", "a b", "evil.example/127.0.0.1", "127.0.0.1@evil.example"])
def test_a_host_that_is_no_name_is_refused(here: Served, host: str):
    assert ask(here, "/", {"Host": host}).status == 400


def test_two_hosts_or_none_are_refused(here: Served):
    assert raw(here.port, b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nHost: evil.example\r\n\r\n").status == 400
    assert raw(here.port, b"GET / HTTP/1.0\r\n\r\n").status == 400


@pytest.mark.parametrize(
    "headers", [{"Origin": "http://evil.example"}, {"Origin": "null"}, {"Host": "evil.example"}, FETCH], ids=str
)
def test_strangers_get_no_websocket(here: Served, headers: dict[str, str]):
    shake = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13"}
    found = ask(here, "/api/echo", {**shake, "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==", **headers})
    assert found.status == 403


# -- the token -----------------------------------------------------------------------------------------------------


def cookie_of(told: Served) -> str:
    return ask(told, f"/?token={TOKEN}").headers["set-cookie"].split(";")[0]


def test_the_token_moves_into_a_cookie_and_out_of_the_address(told: Served):
    found = ask(told, f"/?token={TOKEN}")
    assert (found.status, found.headers["location"]) == (303, "/")
    name, *rules = found.headers["set-cookie"].split("; ")
    assert {"HttpOnly", "SameSite=Strict", "Path=/"} <= set(rules)
    assert ask(told, "/", {"Cookie": name, "Host": "a-lab-machine:8765"}).status == 200
    assert ask(told, "/api/runs", {"Cookie": f"other=1; {name}"}).status == 200


@pytest.mark.parametrize(
    "target", ["/", "/api/runs", "/static/app.js", "/?token=", "/?token=wrong", f"/api/runs?token={TOKEN}"]
)
def test_without_the_token_nothing_is_served(told: Served, target: str):
    found = ask(told, target)
    assert found.status == 401
    assert TOKEN not in found.body + str(found.headers)


def test_a_wrong_cookie_opens_nothing(told: Served):
    name, _, value = cookie_of(told).partition("=")
    for wrong in (f"{name}=wrong", f"{name}={value}x", f"{name}=", f"x{name}={value}", f"{name}=\xff"):
        assert ask(told, "/api/runs", {"Cookie": wrong}).status == 401


def test_a_link_followed_from_another_site_asks_once_more_and_no_more(told: Served):
    """Browsers leave a strict cookie out of what another site began, the redirect included."""
    first = ask(told, "/")
    assert first.headers["refresh"] == "0; url=/?again"
    assert "refresh" not in ask(told, "/?again").headers
    found = ask(told, "/?again", {"Cookie": cookie_of(told)})
    assert (found.status, found.headers["location"]) == (303, "/")


def test_the_token_does_not_excuse_another_origin(told: Served):
    found = ask(told, "/api/runs", {"Cookie": cookie_of(told), "Origin": "http://evil.example"})
    assert found.status == 403


def test_a_websocket_needs_the_token(told: Served):
    address = f"ws://127.0.0.1:{told.port}/api/echo"
    for wrong in (address, f"{address}?token={TOKEN}"):
        with pytest.raises(InvalidStatus) as refused, connect(wrong):
            pass
        assert refused.value.response.status_code == 401
    with connect(address, additional_headers={"Cookie": cookie_of(told)}) as line:
        line.send("{}")
        assert line.recv(5) == "{}"


# -- paths ---------------------------------------------------------------------------------------------------------

CROOKED = [
    "/static/../app.py",
    "/static/%2e%2e/app.py",
    "/static/%2e%2e%2fapp.py",
    "/static/.%2e/app.py",
    "/static/%252e%252e%252fapp.py",
    "/static/..%252fapp.py",
    "/static/%c0%ae%c0%ae/%2e%2e/app.py",
    "/static/..%5capp.py",
    "/static/..\\app.py",
    "/static//etc/passwd",
    "//etc/passwd",
    "/static/%2fetc/passwd",
    "/static/app.js%00.png",
    "/static/app.js%0d%0aSet-Cookie:x=1",
    "/api/runs?x=%00",
    "http://evil.example/",
    "*",
]


@pytest.mark.parametrize("target", CROOKED)
def test_crooked_paths_are_refused(here: Served, target: str):
    found = ask(here, target)
    assert found.status == 404
    assert SECRET not in found.body


ELSEWHERE = [
    "/api/run/linked",
    "/api/run/outside",
    "/api/curves/linked?key=train/loss",
    "/api/media/linked/pictures/a.png",
    "/api/media/one/videos/film.mp4",
    "/api/media/one/pictures/link.png",
    "/api/media/one/pictures/a.txt",
    "/api/media/one/pictures/none.png",
    "/api/media/one/config.yaml",
    "/api/media/one/checkpoints/a.png",
    "/api/media/pictures/a.png",
    "/api/media/a.png",
    "/api/compared/outside",
    "/api/compared/a.b",
    "/api/frame/linked?row=0&kind=real",
    "/api/episodes/outside",
    "/api/starts/linked",
]


@pytest.mark.parametrize("target", ELSEWHERE)
def test_what_lies_elsewhere_is_not_found(here: Served, target: str):
    found = ask(here, target)
    assert found.status in (400, 404)
    assert SECRET not in found.body


WAYS_OUT = [
    "../outside",
    "..%2foutside",
    "%2e%2e/outside",
    "%252e%252e%252foutside",
    "one/../../outside",
    "/etc",
    "one/./x",
]


@pytest.mark.parametrize("way", WAYS_OUT)
@pytest.mark.parametrize("kind", ["run", "curves", "media", "frame", "episodes", "episode", "inside", "starts"])
def test_no_name_of_a_run_leads_out(here: Served, kind: str, way: str):
    for target in (f"/api/{kind}/{way}/pictures/a.png", f"/api/{kind}/one/pictures/{way}"):
        found = ask(here, target)
        assert (found.status, json.loads(found.body)) == (404, {"error": "there is nothing at this address"})


@pytest.mark.parametrize(
    "runs", [["../outside"], ["linked"], ["/etc"], ["one/../../outside"], "one", [1], [], None, ["one"] * 65]
)
def test_only_runs_that_there_are_are_compared(here: Served, runs: Any):
    found = ask(here, "/api/compare", {"Content-Type": "application/json"}, "POST", json.dumps({"runs": runs}).encode())
    assert found.status in (400, 404)
    assert list(json.loads(found.body)) == ["error"]


@pytest.mark.parametrize("run", ["../outside", "linked", "/etc", "one/../../outside", "", None, 1, ["one"], {}])
def test_only_runs_that_there_are_are_played(here: Served, run: Any):
    with connect(f"ws://127.0.0.1:{here.port}/api/play") as line:
        line.send(json.dumps({"do": "open", "run": run, "start": {"kind": "any"}}))
        while (said := json.loads(line.recv(10)))["is"] in ("waiting", "opening"):
            pass
        assert said["is"] == "error"
        assert SECRET not in said["text"]


@pytest.mark.parametrize(
    "message",
    [
        *(
            {},
            {"do": None},
            {"do": "fly"},
            {"do": "act"},
            {"do": "act", "act": 2, "n": -1},
            {"do": "set", "fps": "fast"},
        ),
        *({"do": "set", "fps": 0}, {"do": "set", "temperature": -1}, {"do": "save"}, {"do": "record", "on": 1}),
        *({"do": "step"}, {"do": "open", "run": "one", "checkpoint": "../1"}, {"do": "open", "run": "one", "start": 3}),
        *({"do": "open", "run": "one", "start": {"kind": "row", "row": -5}}, {"do": "restart", "start": {"kind": "x"}}),
        *({"do": "set", "who": "nobody"}, {"do": "act", "act": {"a": [1]}, "n": 1}),
    ],
    ids=json.dumps,
)
def test_messages_that_make_no_sense_are_answered_and_do_not_end_the_studio(here: Served, message: dict[str, Any]):
    with connect(f"ws://127.0.0.1:{here.port}/api/play") as line:
        line.send(json.dumps(message))
        line.send(json.dumps({"do": "fly"}))  # which is answered, whatever the first was
        said = json.loads(line.recv(10))
        assert said["is"] == "error"
        assert "Traceback" not in said["text"]


def test_what_a_run_shows_is_served(here: Served):
    found = ask(here, "/api/media/one/pictures/a.png")
    assert (found.status, found.headers["content-type"]) == (200, "image/png")
    assert ask(here, "/api/run/one").status == 200


@pytest.mark.parametrize(
    "target", ["/static/%c0%ae%c0%ae/app.py", "/static/", "/static", "/etc/passwd", "/openapi.json"]
)
def test_what_is_not_there_is_not_found(here: Served, target: str):
    found = ask(here, target)
    assert found.status in (404, 307)


def test_a_percent_sign_in_a_name_is_no_attack(here: Served):
    assert ask(here, "/api/run/100%25").status == 404


# -- too much, and no sense ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "CONNECT", "BREW"])
def test_other_methods_are_refused(here: Served, method: str):
    assert ask(here, "/api/runs", method=method).status in (400, 405)


def test_too_long_requests_are_refused(here: Served):
    assert ask(here, "/" + "a" * guard.LONGEST_TARGET).status == 414
    assert ask(here, "/", {"X": "a" * guard.LONGEST_HEAD}).status in (400, 431)
    long = b'{"a": "' + b"x" * traffic.LONGEST + b'"}'
    assert post(here, long).status == 413
    assert post(here, b"", **{"Content-Length": str(1 << 40)}).status == 413
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (long[:40000], long[40000:])) + b"0\r\n\r\n"
    assert post(here, chunks, **{"Transfer-Encoding": "chunked", "Content-Length": ""}).status in (400, 413)
    head = (
        b"POST /api/heard HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked"
    )
    assert raw(here.port, head + b"\r\n\r\n" + chunks).status == 413


NONSENSE = [
    b"{",
    b"[1]",
    b"3",
    b'{"a": NaN}',
    b'{"a": 1e999}',
    b'{"a": ' + b"9" * 5000 + b"}",
    b"[" * 30000,
    b'{"a":' * 12000 + b"1",
    b"\xff\xfe{}",
]


@pytest.mark.parametrize("body", NONSENSE, ids=lambda body: body[:12])
def test_bodies_that_are_no_object_are_refused(here: Served, body: bytes):
    assert post(here, body).status == 400


def test_a_form_of_another_kind_is_refused(here: Served):
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"):
        assert post(here, b"{}", **{"Content-Type": kind}).status == 415


def test_a_body_where_none_belongs_is_refused(here: Served):
    assert ask(here, "/api/runs", body=b"{}").status == 400


@pytest.mark.parametrize(
    "data", [b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", b"GET\r\n\r\n", b"\x00" * 64]
)
def test_what_is_no_http_is_refused(here: Served, data: bytes):
    assert raw(here.port, data + b"\r\n\r\n").status == 400


def closed_with(here: Served, *sent: str | bytes) -> int:
    with connect(f"ws://127.0.0.1:{here.port}/api/echo", max_size=None) as line:
        try:
            for one in sent:
                line.send(one)
            for _ in line:
                pass
        except ConnectionClosed:
            pass
        return line.protocol.close_code or 0


@pytest.mark.parametrize(
    "sent", [*(body.decode("latin-1") for body in NONSENSE), "", b"{}"], ids=lambda sent: str(sent[:12])
)
def test_messages_that_are_no_object_are_answered_and_change_nothing(here: Served, sent: str | bytes):
    with connect(f"ws://127.0.0.1:{here.port}/api/play") as line:
        line.send(sent)
        assert json.loads(line.recv(10))["is"] == "error"


def test_messages_too_long_or_too_many_end_a_websocket(here: Served):
    assert closed_with(here, '{"a": "' + "x" * traffic.LONGEST + '"}') == 1009
    assert closed_with(here, *["{}"] * (3 * traffic.MESSAGES)) == 1008


def frames(here: Served, *data: bytes) -> bytes:
    """What a WebSocket answers to bytes that are no frames of a client."""
    shake = (
        f"GET /api/echo HTTP/1.1\r\nHost: 127.0.0.1:{here.port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", here.port), timeout=5) as line:
        line.sendall(shake.encode())
        while b"\r\n\r\n" not in line.recv(65536):
            pass
        for one in data:
            line.sendall(one)
        got = b""
        while more := line.recv(65536):
            got += more
    return got


MASK = b"\0\0\0\0"
MALFORMED = {
    "no mask": (b"\x81\x02{}", 1002),
    "a reserved bit": (b"\xf1\x82" + MASK + b"{}", 1002),
    "a reserved code": (b"\x83\x82" + MASK + b"{}", 1002),
    "a continuation of nothing": (b"\x80\x82" + MASK + b"{}", 1002),
    "a ping that is too long": (b"\x89\xfe\x01\x00" + MASK + b"x" * 256, 1002),
    "a length beyond all bounds": (b"\x81\xff" + b"\x7f" + b"\xff" * 7 + MASK, 1009),
    "no UTF-8": (b"\x81\x82" + MASK + b"\xff\xfe", 1007),
    "HTTP after the handshake": (b"GET / HTTP/1.1\r\n\r\n", 1002),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_malformed_frames_end_a_websocket(here: Served, case: str):
    data, code = MALFORMED[case]
    got = frames(here, data)
    assert got[0] == 0x88  # a close frame
    assert int.from_bytes(got[2:4], "big") == code
    assert ask(here, "/").status == 200


def test_requests_and_websockets_at_a_time_are_bounded(here: Served, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(guard, "SOCKETS", 1)
    address = f"ws://127.0.0.1:{here.port}/api/echo"
    _until(lambda: _can_connect(address))
    with connect(address):
        with pytest.raises(InvalidStatus) as refused, connect(address):
            pass
        assert refused.value.response.status_code == 503
    _until(lambda: _can_connect(address))
    monkeypatch.setattr(guard, "REQUESTS", 0)
    assert ask(here, "/").status == 503


def test_connections_are_bounded_and_those_that_say_nothing_are_closed(here: Served, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(server, "PATIENCE", 0.3)
    with socket.create_connection(("127.0.0.1", here.port), timeout=5) as silent:
        silent.sendall(b"GET / HTTP/1.1\r\n")
        assert silent.recv(10) == b""
    monkeypatch.setattr(server, "CONNECTIONS", 0)
    with socket.create_connection(("127.0.0.1", here.port), timeout=5) as one:
        assert one.recv(10) == b""


def _can_connect(address: str) -> bool:
    try:
        with connect(address):
            return True
    except InvalidStatus:
        return False


def _until(good: Any, seconds: float = 5.0) -> None:
    end = time.monotonic() + seconds
    while not good():
        assert time.monotonic() < end
        time.sleep(0.02)


# -- errors of the studio's own ------------------------------------------------------------------------------------


def test_an_error_shows_no_secret_and_is_one_line(here: Served, caplog: pytest.LogCaptureFixture):
    found = ask(here, f"/api/broken?token={TOKEN}")
    with connect(f"ws://127.0.0.1:{here.port}/api/fails") as line, pytest.raises(ConnectionClosed) as ended:
        line.recv(5)
    assert (found.status, json.loads(found.body)) == (
        500,
        {"error": "the studio made a mistake; its terminal says where"},
    )
    assert ended.value.rcvd is not None
    assert ended.value.rcvd.code == 1011
    lines = [record.getMessage() for record in caplog.records]
    assert [line.split(":")[0] for line in lines] == ["/api/broken", "/api/fails"]
    assert all("KeyError" in line and "test_studio_guard.py" in line and "\n" not in line for line in lines)
    assert TOKEN not in caplog.text
