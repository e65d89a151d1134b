"""``dreamlab studio``: its words, its link, how it ends, what comes in the wheel, and what the demo says of it."""

from __future__ import annotations

import contextlib
import io
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from websockets.sync.client import connect

from dreamlab.cli import demo
from dreamlab.cli import studio as studio_command
from dreamlab.cli.main import main

ROOT = Path(__file__).parent.parent


@contextlib.contextmanager
def studio(*argv: object, **environment: str) -> Iterator[tuple[subprocess.Popen[str], list[str]]]:
    """A studio of its own process, once it serves, and the lines that it said."""
    surroundings = {k: v for k, v in os.environ.items() if k not in ("DISPLAY", "WAYLAND_DISPLAY", "SSH_CONNECTION")}
    process = subprocess.Popen(
        [sys.executable, "-m", "dreamlab", "studio", *map(str, argv)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**surroundings, **environment},
    )
    assert process.stdout
    try:
        said = [process.stdout.readline(), process.stdout.readline()]
        yield process, said
    finally:
        process.kill()
        process.communicate()


def port_of(said: list[str]) -> int:
    found = re.search(r":(\d+)/", said[0])
    assert found, said
    return int(found[1])


def status(address: str) -> int:
    try:
        return urllib.request.urlopen(address, timeout=20).status
    except urllib.error.HTTPError as error:
        return error.code


def test_an_empty_folder_is_served_quietly_and_ends_at_once_with_130(tmp_path: Path):
    with studio(tmp_path, "--port", 0, "--open") as (process, said):
        port = port_of(said)
        assert said[0] == f"studio: http://127.0.0.1:{port}/   (Ctrl-C ends it)\n"
        assert said[1] == f"        {tmp_path}: no runs yet; they show as they appear\n"
        assert status(f"http://127.0.0.1:{port}/") == 200
        assert status(f"http://127.0.0.1:{port}/api/run/none") == 404
        with connect(f"ws://127.0.0.1:{port}/api/play"), socket.create_connection(("127.0.0.1", port)):
            begun = time.monotonic()
            process.send_signal(signal.SIGINT)
            assert process.wait(10) == 130
            assert time.monotonic() - begun < 4
        assert process.stdout
        assert process.stderr
        assert process.stdout.read() == "        there is no display here: open the link yourself\n"
        assert process.stderr.read() == "dreamlab: stopped\n"
    assert list(tmp_path.iterdir()) == []


def test_another_address_demands_the_token_of_the_link(tmp_path: Path):
    with studio(tmp_path, "--port", 0, "--host", "0.0.0.0") as (process, said):
        port, token = port_of(said), re.search(r"token=([\w-]{20,})", said[0])
        assert token
        assert status(f"http://127.0.0.1:{port}/") == 401
        assert status(f"http://127.0.0.1:{port}/?token={token[1]}x") == 401
        opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
        with opener.open(f"http://127.0.0.1:{port}/?token={token[1]}", timeout=20) as page:
            assert (page.status, page.url) == (200, f"http://127.0.0.1:{port}/")
        process.send_signal(signal.SIGINT)
        assert token[1] not in "".join(process.communicate(timeout=10))


def test_through_ssh_it_says_how_to_reach_it(tmp_path: Path):
    with studio(tmp_path, "--port", 0, SSH_CONNECTION="1.2.3.4 1 5.6.7.8 22") as (process, said):
        assert process.stdout
        assert f"ssh -L {port_of(said)}:localhost:{port_of(said)}" in process.stdout.readline()


@pytest.mark.parametrize("typed", ["a run", "a run/", "a run/.", "a run/replay/.."])
def test_one_run_alone_is_what_the_link_leads_to(typed: str, tmp_path: Path):
    (tmp_path / "a run" / "replay").mkdir(parents=True)
    (tmp_path / "a run" / "config.yaml").touch()
    assert studio_command.find(str(tmp_path / typed)).name == "a run"
    assert "#/run/a%20run " in greeting(tmp_path / "a run")
    assert "#" not in greeting(tmp_path)


def greeting(root: Path) -> str:
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        studio_command.greet(studio_command.Options(str(root)), root, 8765, None)
    return said.getvalue()


def test_a_port_that_is_taken_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        assert main(["studio", str(tmp_path), "--port", str(port)]) == 2
    assert f"port {port} is taken" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["nowhere/at/all"], "there is no folder nowhere/at/all; name one that holds runs"),
        ([], "dreamlab demo makes a first run"),
        (["a-file"], "a-file is no folder"),
        ([".", "--port", "70000"], "--port must be between 0 and 65535"),
        ([".", "--clients", "0"], "--clients and --threads must be at least 1"),
        ([".", "--host", "203.0.113.7"], "--host names an address of this machine"),
    ],
)
def test_what_cannot_be_served_is_said(
    argv: list[str], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    Path("a-file").touch()
    assert main(["studio", *argv]) == 2
    assert words in capsys.readouterr().err


def test_all_that_the_page_loads_comes_in_the_wheel(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(ROOT)
    package = pytest.importorskip("setuptools").Distribution()
    package.parse_config_files()
    build = package.get_command_obj("build_py")
    build.ensure_finalized()
    build.manifest_files = {}  # or it would write a list of all sources beside them
    shipped = set(map(Path, build.find_data_files("dreamlab", "src/dreamlab")))
    needed = {path for path in Path("src/dreamlab/studio/static").rglob("*") if path.is_file()}
    assert len(needed) > 10
    assert not needed - shipped


def test_the_page_asks_no_other_host_and_holds_no_script_of_its_own():
    static = ROOT / "src" / "dreamlab" / "studio" / "static"
    for path in static.rglob("*.*"):
        text = path.read_text(encoding="utf-8")
        away = set(re.findall(r"""(?:https?|wss?):?//[^\s"'`)]+""", text)) - {"http://www.w3.org/2000/svg"}
        assert not {link for link in away if "${" not in link}, path
        if path.suffix == ".html":
            assert not re.search(r"<script(?![^>]*\ssrc=)|<style|\sstyle=|\son\w+=|javascript:", text), path
        if path.suffix == ".js":
            assert not re.search(
                r"\.(inner|outer)HTML\b|insertAdjacentHTML|document\.write|\beval\(|new Function", text
            )
            assert not re.search(r"""setAttribute\(["']style|\bstyle: *["'`]""", text), path


def test_the_demo_ends_by_saying_how_to_open_the_studio_on_its_run():
    score = {"mean": 1.0, "std": 1.0, "returns": [1.0, 2.0]}
    summary = {**dict.fromkeys(demo.WHO, score), "wall_seconds": 60.0, "peak_memory_mib": 100}
    assert "play:    dreamlab studio runs/demo --open" in demo.farewell(summary, Path("runs/demo"))[-2:]
