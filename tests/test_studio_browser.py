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
    few = {  # just enough that a dream does not end with its first step
        "wm": ["world-models", "--agent.memory.updates", "300", "--agent.memory.lr", "0.005"],
        "dreamer": ["dreamer-v3", "--steps", "120", "--agent.lr", "0.003", "--agent.warmup", "10"],
    }
    for name, (agent, *settings) in few.items():
        assert main(["train", agent, *train, *settings, "--run", str(root / name)]) == 0
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
        expect.set_options(timeout=WAIT)
        yield one
        expect.set_options(timeout=5000)
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
        page.on("pageerror", lambda error: watched.heard("error", error.stack or str(error)))
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
    page.get_by_role("link", name="Play from here").click()
    page.wait_for_url(re.compile(rf"#/play/{run}\?row=\d+"))


def test_a_number_of_the_code_changes_the_picture(opens: Opens):
    page = opens("#/inside/wm")
    slider = page.get_by_role("slider", name=re.compile("^Number .* of the code$")).first
    expect(slider).to_be_visible()
    until(lambda: picture(page, "The model's picture") != picture(page, "The frame"))
    before = picture(page, "The model's picture")
    slider.focus()
    page.keyboard.press("End")
    until(lambda: picture(page, "The model's picture") != before)
    page.get_by_role("button", name="Reset").first.click()
    until(lambda: picture(page, "The model's picture") == before)


def test_prior_and_posterior_are_drawn_and_a_dream_is_filmed_from_a_frame(opens: Opens):
    page = opens("#/inside/dreamer")
    for name in ("Prior", "Posterior"):
        expect(page.get_by_role("img", name=re.compile(f"^{name}: probabilities of classes"))).to_be_visible()


# -- runs that are not as they should be ---------------------------------------------------------------------------


class Client:
    """A player without a browser."""

    def __init__(self, server: Lab) -> None:
        self.connected = connect(f"ws://127.0.0.1:{server.port}/api/play")

    def __enter__(self) -> Client:
        self.line = self.connected.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self.connected.__exit__(*error)

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


# -- all runs ------------------------------------------------------------------------------------------------------


def test_the_runs_are_listed_and_two_curves_laid_over_one_another(opens: Opens):
    page = opens()
    table = page.get_by_role("table")
    for name in ("wm", "dreamer", HTML, *BROKEN):
        expect(table.get_by_role("link", name=name, exact=True)).to_be_visible()
    curves = page.get_by_role("region", name="Curves of ticked runs")
    expect(curves).to_be_hidden()
    for name in ("wm", "dreamer"):
        page.get_by_role("checkbox", name=f"Show the curves of {name}", exact=True).check()
    expect(curves.get_by_text("2 runs ticked")).to_be_visible()
    for name in ("wm", "dreamer"):
        expect(curves.locator("svg, .chart, figure").get_by_text(re.compile(rf"^{name}\b")).first).to_be_visible()
    curves.get_by_role("button", name="Clear").click()
    expect(curves).to_be_hidden()


def test_text_of_runs_is_text(opens: Opens, watched: Watched):
    watched.excused.append("400")  # there is no environment of that name
    page = opens()
    for address in ("#/", f"#/run/{urllib.parse.quote(HTML)}", f"#/episodes/{urllib.parse.quote(HTML)}"):
        page.goto(page.url.partition("#")[0] + address)
        expect(page.get_by_text(HTML).locator("visible=true").first).to_be_visible()
        assert page.locator("img[src=x]").count() == 0


# -- play ----------------------------------------------------------------------------------------------------------


def step_of(page: Page) -> int:
    """The dream's step, as the page tells it."""
    text = page.get_by_role("region", name="Numbers").locator("dt:text-is('Step') + dd").inner_text()
    return int(text.replace(",", "")) if text[0].isdigit() else 0


def play(page: Page, steps: int, *keys: str) -> None:
    """Play so many steps by keys in turn; a dream that ends is begun again."""
    again = page.get_by_role("button", name="Play again")
    last = done = presses = 0

    def played() -> bool:
        nonlocal last, done, presses
        now = step_of(page)
        done, last = done + (now - last if now >= last else now), now
        if again.is_visible():
            again.click()
        elif keys:
            page.keyboard.press(keys[presses % len(keys)], delay=40)
            presses += 1
        return done >= steps

    until(played, 30)


@pytest.mark.parametrize("run", ["wm", "dreamer"])
def test_twenty_steps_are_played_handed_over_and_taken_back_beside_reality(opens: Opens, run: str):
    page = opens(f"#/play/{run}")
    expect(page.get_by_role("button", name="Pause")).to_be_visible()
    expect(page.get_by_text("You play", exact=True)).to_be_visible()
    before = picture(page, "The dream")
    play(page, 20, "ArrowLeft", "ArrowRight")
    until(lambda: picture(page, "The dream") != before)
    page.get_by_role("button", name="Agent", exact=True).click()
    expect(page.get_by_text("The agent plays", exact=True)).to_be_visible()
    play(page, 5)
    page.get_by_role("button", name="You", exact=True).click()
    expect(page.get_by_text("You play", exact=True)).to_be_visible()
    reality = page.get_by_role("checkbox", name="Reality beside it")
    reality.set_checked(True)
    expect(page.get_by_role("img", name="Reality", exact=True)).to_be_visible()
    empty = page.evaluate("document.createElement('canvas').toDataURL()")
    until(lambda: picture(page, "Reality") != empty)
    play(page, 5, "ArrowLeft")
    expect(page.get_by_role("img", name="Apart from reality, live")).to_be_visible()
    reality.set_checked(False)
    expect(page.get_by_role("img", name="Reality", exact=True)).to_be_hidden()


def test_paused_it_goes_step_by_step_from_a_stored_frame(opens: Opens):
    page = opens("#/play/dreamer")
    page.get_by_role("button", name="Pause").click()
    expect(page.get_by_text("Paused", exact=True)).to_be_visible()
    frames = page.get_by_role("group", name="Stored frames to start from").get_by_role("button")
    frames.first.click()
    expect(frames.first).to_have_attribute("aria-pressed", "true")
    page.get_by_role("button", name="Pause").click()
    at = step_of(page)
    time.sleep(0.3)
    at = step_of(page)
    page.get_by_role("button", name="One step").click()
    until(lambda: step_of(page) in (at + 1, 1))


def test_a_second_client_plays_at_the_same_time(opens: Opens):
    pages = [opens("#/play/wm"), opens("#/play/dreamer"), opens("#/play/wm", width=390)]
    for page in pages:
        expect(page.get_by_text("You play", exact=True)).to_be_visible()
    for page in pages:
        play(page, 5, "ArrowRight")


def test_a_film_is_recorded(opens: Opens, lab: Lab):
    run = copied(lab, "filmed", "dreamer")
    page = opens("#/play/filmed")
    page.get_by_role("button", name="Pause").click()
    page.get_by_role("button", name="Record", exact=True).click()
    expect(page.get_by_role("button", name="Stop and save")).to_be_visible()
    page.get_by_role("button", name="One step").click()
    page.get_by_role("button", name="Stop and save").click()
    expect(page.locator("a[href$='.mp4']")).to_be_visible()
    assert list((run / "dreams").glob("*.mp4"))
    shutil.rmtree(run)


def test_the_studio_is_killed_and_comes_back(opens: Opens, lab: Lab, watched: Watched):
    watched.excused += ["ERR_CONNECTION_REFUSED", "ERR_CONNECTION_RESET", "ERR_EMPTY_RESPONSE", "WebSocket connection"]
    runs, game = opens(), opens("#/play/wm")
    expect(game.get_by_text("You play", exact=True)).to_be_visible()
    expect(runs.get_by_role("link", name="wm", exact=True)).to_be_visible()
    lab.stop()
    for page in (runs, game):
        expect(page.get_by_text("The studio does not answer").first).to_be_visible()
    lab.start()
    expect(game.get_by_text("The studio does not answer").first).to_be_hidden()
    expect(game.get_by_role("button", name="Pause")).to_be_visible()
    new = copied(lab, "new")
    expect(runs.get_by_role("link", name="new", exact=True)).to_be_visible()
    shutil.rmtree(new)
    expect(runs.get_by_role("link", name="new", exact=True)).to_be_hidden()


# -- looks ---------------------------------------------------------------------------------------------------------

PAGES = [
    "#/",
    *(f"#/{page}/{run}" for run in ("wm", "dreamer") for page in ("run", "play", "inside", "episodes")),
    "#/compare?run=wm&run=dreamer",
]


def light(page: Page) -> float:
    """How bright the ground of the page is, 0 to 255."""
    colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
    return sum(map(int, re.findall(r"\d+", colour)[:3])) / 3


def test_both_themes_by_the_system_and_by_the_button(opens: Opens):
    assert light(opens(scheme="dark")) < 60
    page = opens(scheme="light")
    assert light(page) > 200
    seen = set()
    for _ in range(3):
        page.get_by_role("button", name="Theme").click()
        seen.add((page.get_by_role("button", name="Theme").inner_text(), light(page) > 128))
    assert seen == {("Theme: dark", False), ("Theme: light", True), ("Theme: system", True)}
    page.get_by_role("button", name="Theme").click()
    page.reload()
    assert light(page) < 60


UNNAMED = """[...document.querySelectorAll("button, a[href], input, select, iframe, canvas[role]")]
  .filter((node) => node.checkVisibility() && !(node.innerText?.trim() || node.ariaLabel || node.title
    || node.labels?.length || node.querySelector("img[alt]:not([alt=''])")))
  .map((node) => node.outerHTML.slice(0, 120))"""


def test_every_page_fits_a_phone_has_one_heading_and_a_name_for_all_that_is_pressed(opens: Opens):
    page, wrong = opens(width=390), {}
    for address in PAGES:
        page.goto(page.url.partition("#")[0] + address)
        page.reload()
        expect(page.get_by_role("heading", level=1).first).to_be_attached()
        time.sleep(0.4)
        wide = page.evaluate("document.documentElement.scrollWidth")
        found = (wide <= 390, page.get_by_role("heading", level=1).count(), page.evaluate(UNNAMED))
        if found != (True, 1, []):
            wrong[address] = found
    assert wrong == {}


def test_an_address_that_leads_to_no_run_says_so(opens: Opens, watched: Watched):
    watched.excused += ["404", "WebSocket"]
    shown = opens()
    for page in ("run", "inside", "episodes", "play"):
        shown.goto(shown.url.partition("#")[0] + f"#/{page}/nowhere")
        expect(shown.locator(f"main.page-{page}").get_by_text(re.compile("no run")).first).to_be_visible()
