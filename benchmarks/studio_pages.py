"""How soon the studio's pages are there: all of many runs, and the curves of a run with very many lines of metrics.

python benchmarks/studio_pages.py [RUN] [--runs 200] [--lines 10000000] [--chromium PATH] [--out FOLDER]

RUN is copied --runs times, without its rows and weights; without RUN a small one is trained first. The studio is a
process of its own. ``cold`` is its first answer once it has said its address, ``all`` the time until every run was
read and every small curve drawn, ``warm`` a later answer, ``poll`` the seconds of CPU that the studio spends on a
minute of one open page. With Chromium, ``seen`` is the time from opening an address until all rows, or the first
curve, are drawn.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

HEAVY = ("*.bin", "*.safetensors", "events.*", "*.html", "journal", "wandb")
"""of a run, what no page of these reads"""
WAIT = 60.0
"""seconds for which the studio may start, or a page be drawn"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", nargs="?", type=Path)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--lines", type=int, default=10_000_000)
    parser.add_argument("--chromium", default=shutil.which("chromium"))
    parser.add_argument("--out", type=Path, help="where the runs are made; kept. Without it they are deleted")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        home = asked.out or Path(temporary)
        source = asked.run or train(home / "source")
        many, long = home / "many", home / "long"
        copy(source, many, asked.runs)
        copy(source, long, 1)
        write_lines(next(long.iterdir()) / "metrics.jsonl", asked.lines)
        found = {"runs": measure_runs(many, home, asked.chromium), "lines": measure_lines(long, home, asked.chromium)}
    print(json.dumps(found, indent=1))
    return 0


def measure_runs(root: Path, home: Path, chromium: str | None) -> dict[str, float]:
    """Seconds of the page of all runs."""
    found = {}
    with studio(root, home / "cache") as (address, process):
        began = time.perf_counter()
        found["cold"] = timed(lambda: get(f"{address}/api/runs"))
        while any(run["pending"] or run["spark"] is None for run in get(f"{address}/api/runs")["runs"]):
            time.sleep(0.05)
        found["all"] = time.perf_counter() - began
        time.sleep(1.1)
        found["warm"] = timed(lambda: get(f"{address}/api/runs"))
        before = cpu(process)
        for _ in range(10):
            get(f"{address}/api/runs")
            time.sleep(2)
        found["poll"] = 3 * (cpu(process) - before)
    if chromium:
        count = len(list(root.iterdir()))
        with studio(root, home / "cache2") as (address, _):
            script = f"document.querySelectorAll('.runs tbody tr').length >= {count}"
            found["seen_cold"] = seen(chromium, f"{address}/", script)
            found["seen"] = seen(chromium, f"{address}/", script)
    return found


def measure_lines(root: Path, home: Path, chromium: str | None) -> dict[str, float]:
    """Seconds of one run with very many lines."""
    name = next(root.iterdir()).name
    found = {"bytes": (root / name / "metrics.jsonl").stat().st_size}
    question = f"api/curves/{name}?key=train/ret"
    with studio(root, home / "cache3") as (address, process):
        found["cold"] = timed(lambda: get(f"{address}/{question}"))
        found["warm"] = timed(lambda: get(f"{address}/{question}"))
        found["memory_mib"] = process.memory_info().rss / 2**20
        began = time.perf_counter()
        while get(f"{address}/{question}")["sampled"]:
            time.sleep(1)
        found["all_lines"] = time.perf_counter() - began
        found["memory_after_mib"] = process.memory_info().rss / 2**20
    with studio(root, home / "cache3") as (address, _):
        found["cold_with_cache"] = timed(lambda: get(f"{address}/{question}"))
    if chromium:
        drawn = "[...document.querySelectorAll('.chart-plot canvas')].some(c => c.height > 0)"
        with studio(root, home / "cache4") as (address, _):
            found["seen_cold"] = seen(chromium, f"{address}/#/run/{name}", drawn)
    return found


# -- what is measured --------------------------------------------------------------------------------------------


def train(folder: Path) -> Path:
    """A small run."""
    command = ["train", "random", "--env", "tiny/Catch", "--steps", "20000", "--run", str(folder)]
    subprocess.run([sys.executable, "-m", "dreamlab", *command], check=True, stdout=subprocess.DEVNULL)
    return folder


def copy(source: Path, root: Path, count: int) -> None:
    root.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        if not (root / f"{source.name}-s{i:03d}").exists():
            shutil.copytree(source, root / f"{source.name}-s{i:03d}", ignore=shutil.ignore_patterns(*HEAVY))


def write_lines(path: Path, count: int) -> None:
    """A long ``metrics.jsonl``: short lines of five numbers."""
    rng = random.Random(0)
    with path.open("w") as file:
        for i in range(count):
            ret = 20 * math.sin(8 * i / count) + rng.random()
            file.write(
                f'{{"step": {4 * i}, "train/ret": {ret:.5f}, "train/loss": {rng.random():.5f}, "run/env_steps": '
                f'{4 * i}.0, "run/updates": {i}.0, "run/steps_per_second": 812.5, "run/updates_per_second": 203.1}}\n'
            )


# -- the studio and who looks at it ------------------------------------------------------------------------------


@contextmanager
def studio(root: Path, cache: Path) -> Iterator[tuple[str, psutil.Process]]:
    """A studio of its own over a folder: its address and its process."""
    command = [sys.executable, "-m", "dreamlab", "studio", str(root), "--port", "0"]
    environment = {**os.environ, "XDG_CACHE_HOME": str(cache)}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        address = re.search(r"http://\S+:\d+", process.stdout.readline())  # printed when it can answer
        if address is None:
            raise RuntimeError("the studio did not start")
        yield address[0], psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait()


def get(address: str) -> dict:
    with urllib.request.urlopen(address, timeout=WAIT) as reply:
        return json.loads(reply.read())


def timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def cpu(process: psutil.Process) -> float:
    spent = process.cpu_times()
    return spent.user + spent.system


def seen(chromium: str, address: str, script: str) -> float:
    """Seconds from opening an address in a fresh Chromium page until a script says that it is there."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(bypass_csp=True, viewport={"width": 1280, "height": 800})
        began = time.perf_counter()
        page.goto(address, wait_until="commit")
        page.wait_for_function(script, timeout=WAIT * 1000)
        found = time.perf_counter() - began
        browser.close()
    return found


if __name__ == "__main__":
    sys.exit(main())
