"""The studio's pages in a real Chromium, over tiny runs: what a person does with them, and what must never happen.

Needs Chromium (``apt-get install chromium``) and Playwright's Python package, which comes with the extra ``dev``.
Every test fails if the page wrote an error on its console or asked any other host for anything.
"""

from __future__ import annotations

import json
import os
import pickle
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from websockets.sync.client import connect

from dreamlab.cli.main import main

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
sync_api = pytest.importorskip("playwright.sync_api", reason="needs Playwright; type: pip install -e '.[dev]'")
expect = sync_api.expect
Page = Any

HTML = "<img src=x onerror=alert(1)>"
WAIT = 15_000
"""milliseconds for what opens a model, on a busy machine"""
BROKEN = ("a broken run", "a half-written run")


@dataclass
class Lab:
    """A folder of runs, and the studio that serves it."""

    root: Path
    port: int
    options: tuple[str, ...] = ()
    process: subprocess.Popen[str] | None = None
    said: list[str] = field(default_factory=list)

    def start(self) -> None:
        self.process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "dreamlab",
                "studio",
                str(self.root),
                "--port",
                str(self.port),
                "--threads",
                "1",
                *self.options,
            ],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "XDG_CACHE_HOME": str(self.root.parent / "cache")},
        )
        assert self.process.stdout
        self.said = [self.process.stdout.readline()]

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def at(self, address: str = "#/") -> str:
        return f"http://127.0.0.1:{self.port}/{address}"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as one:
        return one.getsockname()[1]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A World Models and a DreamerV3 run on the tiny game, and runs that are broken or full of HTML."""
    root = tmp_path_factory.mktemp("studio") / "runs"
    train = ["--env", "tiny/Catch", "--preset", "smoke", "--threads", "1", "--env.no-workers", "--eval-episodes", "1"]
    for name, agent, steps in (("wm", "world-models", "200"), ("dreamer", "dreamer-v3", "96")):
        assert main(["train", agent, *train, "--steps", steps, "--run", str(root / name)]) == 0
    for name in BROKEN:
        shutil.copytree(root / "wm", root / name)
    (root / BROKEN[0] / "config.yaml").write_text("agent: [world-mod")
    for path in (root / BROKEN[1]).glob("checkpoints/*/*.safetensors"):
        path.write_bytes(path.read_bytes()[:100])
    with open(root / BROKEN[1] / "metrics.jsonl", "a") as file:
        file.write('{"step": 400, "train/vis')
    _html(root)
    return root


def _html(root: Path) -> None:
    """A run whose every text is HTML."""
    run = root / HTML
    shutil.copytree(root / "wm", run)
    config = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(config.replace("tiny/Catch", HTML))
    with open(run / "metrics.jsonl", "a") as file:
        file.write(json.dumps({"step": 500, f"train/{HTML}": 1.0}) + "\n")
        file.write(json.dumps({"step": 501, f"train/{HTML}": 2.0}) + "\n")
    for path in (run / "evaluations").glob("*.json"):
        path.write_text(path.read_text().replace('"tiny/Catch"', json.dumps(HTML)))
        shutil.copy(path, path.with_name(f"{HTML}.json"))
    (run / "error.txt").write_text(HTML)
    for path in list((run / "pictures").glob("*.png"))[:1]:
        shutil.copy(path, path.with_name(f"{HTML}.png"))


@pytest.fixture(scope="module")
def lab(root: Path) -> Iterator[Lab]:
    one = Lab(root, free_port())
    one.start()
    yield one
    one.stop()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("the studio's pages are tested in Chromium; type: apt-get install chromium")
    with sync_api.sync_playwright() as playwright:
        one = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield one
        one.close()


@dataclass
class Watched:
    """What pages of a test said and asked for."""

    own: str
    errors: list[str] = field(default_factory=list)
    away: list[str] = field(default_factory=list)
    excused: list[str] = field(default_factory=list)
    """parts of errors that the test is about"""

    def heard(self, kind: str, text: str) -> None:
        if kind == "error" and not any(part in text for part in self.excused):
            self.errors.append(text)

    def asked(self, url: str) -> None:
        if not re.match(rf"(http|ws)://{self.own}/|data:|blob:http://{self.own}/|about:", url):
            self.away.append(url)


Opens = Callable[..., Page]


@pytest.fixture
def watched(lab: Lab) -> Iterator[Watched]:
    found = Watched(f"127.0.0.1:{lab.port}")
    yield found
    assert found.errors == []
    assert found.away == []


@pytest.fixture
def opens(lab: Lab, browser: Any, watched: Watched) -> Iterator[Opens]:
    """Opens a page of the studio, in a profile of its own."""
    contexts = []

    def open_page(address: str = "#/", width: int = 1280, scheme: str = "dark", server: Lab = lab) -> Page:
        context = browser.new_context(viewport={"width": width, "height": 844}, color_scheme=scheme)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(WAIT)
        page.on("console", lambda message: watched.heard(message.type, message.text))
        page.on("pageerror", lambda error: watched.heard("error", str(error)))
        page.on("request", lambda request: watched.asked(request.url))
        page.on("websocket", lambda ws: watched.asked(ws.url))
        page.on("dialog", lambda dialog: watched.errors.append(f"a dialog: {dialog.message}"))
        page.goto(server.at(address))
        return page

    yield open_page
    for context in contexts:
        context.close()


def until(good: Callable[[], bool], seconds: float = WAIT / 1000) -> None:
    """Waits here, not in the page: its policy forbids to evaluate text."""
    end = time.monotonic() + seconds
    while not good():
        assert time.monotonic() < end, "it did not come to pass"
        time.sleep(0.05)


# -- who may open it -----------------------------------------------------------------------------------------------


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[tuple[Lab, str]]:
    """A studio that demands a token, over an empty folder."""
    one = Lab(tmp_path / "runs", free_port(), options=("--token",))
    one.root.mkdir()
    one.start()
    yield one, re.findall(r"http\S+", one.said[0])[0]
    one.stop()


def test_the_link_with_the_token_opens_the_page_typed_or_followed_from_another_site(
    guarded: tuple[Lab, str], browser: Any
):
    server, link = guarded
    assert "?token=" in link
    for way in ("typed", "followed"):
        context = browser.new_context()
        page = context.new_page()
        if way == "typed":
            page.goto(link)
        else:
            page.route(
                "http://elsewhere.example/",
                lambda route: route.fulfill(body=f'<a href="{link}">here</a>', content_type="text/html"),
            )
            page.goto("http://elsewhere.example/")
            page.get_by_role("link", name="here").click()
        expect(page).to_have_title(re.compile("dreamlab studio"))
        assert page.url == server.at("")
        assert page.evaluate("document.cookie") == ""
        context.close()
    page = browser.new_page()
    assert page.goto(server.at("")).status == 401
    page.wait_for_url(server.at("?again"))
    expect(page.get_by_text("asks for the token of its link")).to_be_visible()
    page.close()


# -- episodes ------------------------------------------------------------------------------------------------------


def picture(page: Page, label: str) -> str:
    """What a canvas shows."""
    return page.get_by_role("img", name=label, exact=True).evaluate("canvas => canvas.toDataURL()")


@pytest.mark.parametrize("run", ["wm", "dreamer"])
def test_an_episode_is_scrubbed_and_leads_to_play(opens: Opens, run: str):
    page = opens(f"#/episodes/{run}")
    slider = page.get_by_role("slider", name="Row of the episode")
    expect(slider).not_to_have_attribute("max", "0")
    slider.focus()
    first = picture(page, "The frame")
    for _ in range(3):
        page.keyboard.press("ArrowRight")
    expect(slider).to_have_value("3")
    until(lambda: picture(page, "The frame") != first)
    expect(page.get_by_text("Return so far")).to_be_visible()
    page.get_by_role("button", name="One back").click()
    expect(slider).to_have_value("2")
    page.get_by_role("link", name="Play on from here").click()
    page.wait_for_url(re.compile(rf"#/play/{run}\?row=\d+"))


# -- runs that are not as they should be ---------------------------------------------------------------------------


class Client:
    """A player without a browser."""

    def __init__(self, server: Lab) -> None:
        self.line = connect(f"ws://127.0.0.1:{server.port}/api/play")

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *error: object) -> None:
        self.line.close()

    def say(self, **message: Any) -> None:
        self.line.send(json.dumps(message))

    def hear(self, *kinds: str) -> dict[str, Any]:
        """The next message of these kinds; a picture's head is of the kind "picture"."""
        while True:
            got = self.line.recv(WAIT / 1000)
            size = int.from_bytes(got[:4], "little") if isinstance(got, bytes) else 0
            said = {"is": "picture", **json.loads(got[4 : 4 + size])} if size else json.loads(got)
            if said["is"] in kinds:
                return said

    def open(self, run: str) -> dict[str, Any]:
        self.say(do="open", run=run, start={"kind": "any"}, fps=30, reality=False)
        return self.hear("ready", "error")

    def plays(self, pictures: int = 4) -> bool:
        """Whether its dream goes on; one that has ended is begun again."""
        for _ in range(pictures):
            if (said := self.hear("picture", "error"))["is"] == "error":
                return False
            if said["ended"]:
                self.say(do="restart")
        return True


def fetched(server: Lab, path: str) -> tuple[int, Any]:
    try:
        with urllib.request.urlopen(server.at(path), timeout=20) as reply:
            return reply.status, json.loads(reply.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


def copied(lab: Lab, name: str, run: str = "wm") -> Path:
    shutil.copytree(lab.root / run, lab.root / name, dirs_exist_ok=True)
    return lab.root / name


def test_broken_runs_are_listed_with_their_trouble_and_harm_no_other(lab: Lab):
    status, told = fetched(lab, "api/runs")
    assert status == 200
    rows = {row["run"]: row for row in told["runs"]}
    assert {"wm", "dreamer", HTML, *BROKEN} <= set(rows)
    assert rows["wm"]["playable"]
    assert rows["wm"]["problem"] is None
    assert not rows[BROKEN[0]]["playable"]
    with Client(lab) as one, Client(lab) as other:
        assert other.open("wm")["is"] == "ready"
        for name in BROKEN:
            assert fetched(lab, f"api/run/{urllib.parse.quote(name)}")[0] == 200
            assert one.open(name)["is"] == "error"
        assert one.open("wm")["is"] == "ready"
        assert one.plays()
        assert other.plays()


def test_a_checkpoint_with_a_pickle_is_named_and_not_opened(lab: Lab):
    run, mark = copied(lab, "pickled"), lab.root.parent / "executed"

    class Act:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (mark,)

    for path in run.glob("checkpoints/*/*.safetensors"):
        path.write_bytes(pickle.dumps(Act()))
    with Client(lab) as one:
        said = one.open("pickled")
    assert said["is"] == "error"
    assert "pickle" in said["text"]
    assert not mark.exists()
    shutil.rmtree(run)


def test_a_run_that_is_deleted_while_it_is_played_harms_no_other(lab: Lab):
    run = copied(lab, "gone")
    with Client(lab) as one, Client(lab) as other:
        assert one.open("gone")["is"] == "ready"
        assert other.open("wm")["is"] == "ready"
        assert one.plays()
        shutil.rmtree(run)
        one.say(do="open", run="gone", start={"kind": "any"})
        assert one.hear("error")["text"]
        assert other.plays()
        until(lambda: fetched(lab, "api/run/gone")[0] == 404)
        assert "gone" not in {row["run"] for row in fetched(lab, "api/runs")[1]["runs"]}


def test_a_film_is_saved_in_the_run_and_nowhere_else(lab: Lab):
    run, outside = copied(lab, "saving"), lab.root.parent / "outside"
    outside.mkdir()

    def saved() -> dict[str, Any]:
        with Client(lab) as one:
            assert one.open("saving")["is"] == "ready"
            one.say(do="record", on=True)
            one.say(do="step")
            assert one.hear("picture", "error")["is"] == "picture"
            one.say(do="save")
            return one.hear("saved", "error")

    told = saved()
    assert (run / told["path"]).suffix == ".mp4"
    assert (run / told["path"]).parent == run / "dreams"
    assert (run / told["path"]).stat().st_size > 0
    shutil.rmtree(run / "dreams")
    (run / "dreams").symlink_to(outside)
    assert saved()["is"] == "error"
    assert list(outside.iterdir()) == []
    shutil.rmtree(run)


def test_looking_writes_nothing_into_a_run(lab: Lab):
    def state() -> dict[str, tuple[int, int]]:
        found = [path for name in ("wm", "dreamer") for path in (lab.root / name, *(lab.root / name).rglob("*"))]
        return {str(path): (path.stat().st_mtime_ns, path.stat().st_size) for path in found}

    before = state()
    for name in ("wm", "dreamer"):
        for path in ("run", "episodes", "starts"):
            assert fetched(lab, f"api/{path}/{name}")[0] == 200
        key = fetched(lab, f"api/curves/{name}")[1]["keys"][0]
        assert fetched(lab, f"api/curves/{name}?key={urllib.parse.quote(key, safe='')}")[1]["curves"][key]["y"]
        with Client(lab) as one:
            one.say(do="open", run=name, start={"kind": "any"}, reality=True)
            assert one.hear("ready", "error")["is"] == "ready"
            assert one.plays()
    assert state() == before
