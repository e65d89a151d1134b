"""Runs as processes of their own, a few at a time; what is stopped or killed is gone on with later."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from dreamlab.cli import ls, options
from dreamlab.cli.options import Spec
from dreamlab.cli.session import is_training
from dreamlab.core.config import read_yaml, write_yaml
from dreamlab.core.errors import UserError

NOTES = ".sweep"
"""in the folder of the runs: each one's settings and what it printed"""
LOOK = 0.1
"""seconds between looking at the processes"""


@dataclass
class Ended:
    """What became of the runs."""

    finished: set[str] = field(default_factory=set)
    failed: dict[str, str] = field(default_factory=dict)
    """why, by name"""
    stopped: bool = False
    """the user asked to stop: those neither finished nor failed go on later"""


def train_all(specs: Mapping[str, Spec], folder: Path, jobs: int, cores: int, say: Callable[[str], None]) -> Ended:
    """Train specs in ``folder/<name>``, ``jobs`` at a time: finished ones are left alone, half ones gone on with."""
    ended, waiting = Ended(), dict(specs)
    running: dict[str, subprocess.Popen[bytes]] = {}
    notes = folder / NOTES
    notes.mkdir(parents=True, exist_ok=True)
    for name in [name for name, spec in specs.items() if _was_asked(name, folder, spec) and is_finished(folder / name)]:
        say(f"{name}: was finished")
        ended.finished.add(name)
        del waiting[name]
    with _signals(running) as asked:
        while running or (waiting and not asked):
            for name in _next(waiting, folder, 0 if asked else jobs - len(running)):
                running[name] = _start(name, waiting.pop(name), folder, cores // jobs)
                say(f"{name}: {'going on' if (folder / name / 'checkpoints').exists() else 'started'}")
            for name in [name for name, process in running.items() if process.poll() is not None]:
                code = running.pop(name).returncode
                _note(name, code, folder, bool(asked), ended, say)
            time.sleep(LOOK)
        ended.stopped = bool(asked)
    return ended


def is_finished(folder: Path) -> bool:
    """Whether a folder holds a run that was trained to its end."""
    return folder.is_dir() and ls.look(folder, folder)["state"] == "finished"


def _was_asked(name: str, folder: Path, spec: Spec) -> bool:
    """Whether the run that was started was this very one: a larger budget since then goes on with it."""
    try:
        return read_yaml(folder / NOTES / f"{name}.yaml") == options.to_dict(spec)
    except UserError:
        return False


def _next(waiting: Mapping[str, Spec], folder: Path, count: int) -> list[str]:
    """Runs to start now; one in whose folder a process still trains (of a killed sweep) waits for it."""
    free = (name for name in waiting if not is_training(folder / name))
    return [name for _, name in zip(range(count), free, strict=False)]


def _start(name: str, spec: Spec, folder: Path, threads: int) -> subprocess.Popen[bytes]:
    """``dreamlab train`` in a process group of its own: a Ctrl-C reaches it through us alone, and once."""
    settings = folder / NOTES / f"{name}.yaml"
    write_yaml(settings, options.to_dict(spec))
    command = [sys.executable, "-m", "dreamlab", "train", "--config", str(settings), "--run", str(folder / name)]
    environment = {"OMP_NUM_THREADS": str(max(1, threads)), **os.environ}
    with open(folder / NOTES / f"{name}.log", "ab") as log:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
            preexec_fn=_die_with_parent if sys.platform == "linux" else None,
        )


def _die_with_parent() -> None:
    """Linux: if the sweep is killed, its runs are asked to save and stop."""
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGINT)


def _note(name: str, code: int, folder: Path, asked: bool, ended: Ended, say: Callable[[str], None]) -> None:
    """Tell how a process ended."""
    if code == 0 and is_finished(folder / name):
        ended.finished.add(name)
        row = ls.look(folder / name, folder / name)
        score = "" if row["mean"] is None else f", {row['mean']:.3g} ± {row['std']:.3g} over {row['episodes']} episodes"
        say(f"{name}: finished{score}")
    elif asked and code in (130, -signal.SIGINT, -signal.SIGTERM):
        say(f"{name}: stopped")
    else:
        ended.failed[name] = _last_words(folder / NOTES / f"{name}.log", code)
        say(f"{name}: failed: {ended.failed[name]}")


def _last_words(log: Path, code: int) -> str:
    """The line with which a process left, or how it was ended."""
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    own = [line.removeprefix("dreamlab: ") for line in lines if line.startswith("dreamlab: ")]
    if code < 0:
        return f"ended by {signal.Signals(-code).name}"
    return own[-1] if own else f"it left with {code}" + (f" after: {lines[-1]}" if lines else "")


@contextmanager
def _signals(running: Mapping[str, subprocess.Popen[bytes]]) -> Iterator[list[int]]:
    """A Ctrl-C (or SIGTERM) is passed on: the first lets all runs save, the second stops them at once, the third kills.

    Yields the signals that came.
    """
    asked: list[int] = []

    def pass_on(number: int, frame: FrameType | None) -> None:
        asked.append(number)
        for process in running.values():
            if process.poll() is None:
                process.send_signal(signal.SIGINT if len(asked) < 3 else signal.SIGKILL)

    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    before: dict[Any, Any] = {s: signal.signal(s, pass_on) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
