"""How fast one plays in a dream: frames a second and key press to new picture in a browser, and how clients share.

python benchmarks/studio.py RUN [RUN ...] [--seconds 10] [--presses 60] [--clients 8] [--threads 1] [--json FILE]
                            [--chromium /usr/bin/chromium]

A studio is served over each run's folder in a process of its own. ``frames``: pictures painted in one second by
headless Chromium, where 60 are asked for. ``latency``: at 25 asked for, from the browser's time of a key press to the
animation frame after the picture that knows of it was painted; presses come at random moments. ``shared``: so many
clients without a browser, each asking for 60 a second at once, and the share of the slowest in a fair part.

Floors on two cores: 25 frames a second for World Models and DreamerV3, 10 for IRIS, 60 ms at the median for the first
two. Needs ``playwright`` and Chromium (``apt install chromium``).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

FLOORS = {"world-models": (25.0, 60.0), "dreamer": (25.0, 60.0), "iris": (10.0, None)}
"""frames a second, milliseconds"""
WATCH = """
window.measured = {painted: [], latency: [], waiting: new Map(), down: null};
addEventListener("keydown", (event) => { if (!event.repeat) measured.down = event.timeStamp; }, true);
const send = WebSocket.prototype.send;
WebSocket.prototype.send = function (data) {
  const message = typeof data === "string" ? JSON.parse(data) : {};
  if (message.do === "act" && measured.down !== null) {
    measured.waiting.set(message.n, measured.down);
    measured.down = null;
  }
  return send.call(this, data);
};
const Plain = WebSocket;
window.WebSocket = class extends Plain {
  constructor(...given) {
    super(...given);
    this.addEventListener("message", ({ data }) => {
      if (typeof data === "string") return;
      const head = JSON.parse(new TextDecoder().decode(new Uint8Array(data, 4, new DataView(data).getUint32(0, true))));
      requestAnimationFrame((now) => {
        measured.painted.push(now);
        for (const [n, since] of measured.waiting)
          if (head.key >= n) {
            measured.latency.push(performance.now() - since);
            measured.waiting.delete(n);
          }
      });
    });
  }
};
"""


def main() -> None:
    """The command."""
    chosen = arguments()
    records = []
    for run in chosen.runs:
        with serving(run.resolve(), chosen.threads) as link:
            record = asyncio.run(measured(link, run.name, chosen))
        records.append(record)
        for line in told(record):
            print(line, flush=True)
    if chosen.json:
        text = json.dumps({"machine": {"cores": os.cpu_count(), "load": os.getloadavg()[0]}, "runs": records}, indent=1)
        sys.stdout.write(text) if chosen.json == "-" else Path(chosen.json).write_text(text)


def arguments() -> argparse.Namespace:
    """What was typed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each measure")
    parser.add_argument("--presses", type=int, default=60, help="keys pressed")
    parser.add_argument("--clients", type=int, default=8, help="who play at once; 0 leaves that out")
    parser.add_argument("--threads", type=int, default=1, help="of the studio")
    parser.add_argument("--reality", action="store_true", help="with reality beside the dream")
    parser.add_argument("--chromium", default="/usr/bin/chromium", help="the browser")
    parser.add_argument("--json", default="", help="write all numbers to this file; - for standard output")
    return parser.parse_args()


@contextmanager
def serving(run: Path, threads: int) -> Iterator[str]:
    """A studio over the folder that holds a run; gives its link."""
    command = [sys.executable, "-m", "dreamlab", "studio", str(run.parent), "--port", "0", "--threads", str(threads)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if found := re.search(r"http://\S+", line):
                break
        else:
            raise SystemExit("the studio did not start")
        yield found[0]
    finally:
        process.terminate()
        process.wait(20)


async def measured(link: str, run: str, chosen: argparse.Namespace) -> dict[str, Any]:
    """All measures of one run."""
    record: dict[str, Any] = {"run": run}
    record |= await in_browser(link, run, chosen)
    if chosen.clients:
        record["shared"] = await shared(link, run, chosen.clients, chosen.seconds)
    return record


async def in_browser(link: str, run: str, chosen: argparse.Namespace) -> dict[str, Any]:
    """Frames a second and latency, as a player has them."""
    from playwright.async_api import async_playwright

    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chosen.chromium, args=["--no-sandbox"])
        page = await browser.new_page(bypass_csp=True, viewport={"width": 1280, "height": 800})
        await page.add_init_script(WATCH)
        await page.add_init_script(f"localStorage.setItem('play.reality', '{'on' if chosen.reality else 'off'}')")
        await page.goto(f"{link}#/play/{run}")
        await page.wait_for_function("measured.painted.length > 5 || document.querySelector('.key')", timeout=60_000)
        await unstopped(page, 60)
        frames = await painted(page, chosen.seconds)
        await unstopped(page, 25)
        steady = await painted(page, chosen.seconds / 2)
        keys = await page.evaluate("[...document.querySelectorAll('.key kbd')].map((k) => k.textContent)")
        names = {"←": "ArrowLeft", "→": "ArrowRight", "↑": "ArrowUp", "↓": "ArrowDown", "Space": "Space"}
        known = [names.get(key, key) for key in keys if names.get(key, key)]
        await page.evaluate("measured.latency.length = 0, measured.waiting.clear()")
        rng = random.Random(0)
        for _ in range(chosen.presses):
            await page.evaluate("document.querySelector('.cover:not([hidden]) button.main')?.click()")
            await page.keyboard.press(rng.choice(known), delay=80)
            await page.wait_for_timeout(rng.uniform(60, 220))
        latency = sorted(await page.evaluate("measured.latency"))
        about = await page.text_content(".play-title")
        await browser.close()
    return {
        "agent": (about or "").split(" · ")[0],
        "frames": frames,
        "frames_at_25": steady,
        "latency_ms": {
            "median": statistics.median(latency),
            "p90": latency[int(0.9 * (len(latency) - 1))],
            "presses": len(latency),
        },
    }


async def unstopped(page: Any, fps: float) -> None:
    """Play at a speed, and begin again whenever the dream ends."""
    await page.evaluate(
        """(fps) => {
          const speed = document.querySelector(".transport input[type=range]");
          speed.value = fps === 60 ? speed.max : 10;
          speed.dispatchEvent(new Event("input"));
          const waits = [...document.querySelectorAll(".transport input[type=checkbox]")].at(-1);
          if (waits.checked) waits.click();
          clearInterval(window.again);
          window.again = setInterval(() => document.querySelector(".cover:not([hidden]) button.main")?.click(), 5);
        }""",
        fps,
    )
    await page.wait_for_timeout(1500)


async def painted(page: Any, seconds: float) -> float:
    """Pictures painted in one second."""
    await page.evaluate("measured.painted.length = 0")
    await page.wait_for_timeout(1000 * seconds)
    return await page.evaluate("(measured.painted.length - 1) / (measured.painted.at(-1) - measured.painted[0]) * 1000")


async def shared(link: str, run: str, clients: int, seconds: float) -> dict[str, Any]:
    """Frames a second of clients that all ask for as many as there may be."""
    import websockets

    address = link.replace("http", "ws", 1) + "api/play"
    counts = [0] * clients
    begun, ready = asyncio.Event(), asyncio.Semaphore(0)

    async def client(i: int) -> None:
        async with websockets.connect(address, origin=link.rstrip("/"), max_size=None) as socket:  # type: ignore[arg-type]
            opening = {"do": "open", "run": run, "start": {"kind": "any"}, "fps": 60, "seed": i}
            await socket.send(json.dumps(opening))
            async for message in socket:
                if isinstance(message, str):
                    if json.loads(message)["is"] == "ready":
                        ready.release()
                    continue
                head = json.loads(message[4 : 4 + int.from_bytes(message[:4], "little")])
                await socket.send(json.dumps({"do": "seen", "sent": head["sent"]}))
                counts[i] += begun.is_set()
                if head["ended"]:
                    await socket.send(json.dumps({"do": "restart"}))

    tasks = [asyncio.create_task(client(i)) for i in range(clients)]
    for _ in range(clients):
        await asyncio.wait_for(ready.acquire(), 60)
    await asyncio.sleep(1)
    begun.set()
    started = time.monotonic()
    await asyncio.sleep(seconds)
    took = time.monotonic() - started
    rates = [count / took for count in counts]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    mean = statistics.mean(rates)
    return {
        "clients": clients,
        "each": rates,
        "all": sum(rates),
        "slowest": min(rates) / mean,
        "fastest": max(rates) / mean,
    }


def told(record: dict[str, Any]) -> Iterator[str]:
    """Lines to read."""
    kind = next((name for name in FLOORS if record["agent"].startswith(name)), "world-models")
    least, most = FLOORS[kind]
    latency = record["latency_ms"]
    yield f"{record['run']} ({record['agent']})"
    yield f"  frames a second  {record['frames']:6.1f}   floor {least:g}: {_met(record['frames'] >= least)}"
    yield f"  at 25 asked for  {record['frames_at_25']:6.1f}"
    floor = "no floor" if most is None else f"floor {most:g}: {_met(latency['median'] <= most)}"
    yield f"  key to picture   {latency['median']:6.1f} ms, p90 {latency['p90']:.1f} of {latency['presses']}   {floor}"
    if "shared" in record:
        s = record["shared"]
        parts = f"slowest {s['slowest']:.2f}, fastest {s['fastest']:.2f} of a fair part"
        yield f"  {s['clients']} clients        {s['all']:6.1f} together; {parts}"


def _met(is_met: bool) -> str:
    return "met" if is_met else "missed"


if __name__ == "__main__":
    main()
