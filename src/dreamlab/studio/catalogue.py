"""Which runs there are and how each stands. What was read is read again only once it has changed."""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dreamlab.core.errors import UserError
from dreamlab.evals import catalogue
from dreamlab.evals.run_folder import RunFolder
from dreamlab.run.holding import ERROR, is_training

READ = ("", "config.yaml", "metrics.jsonl", "checkpoints", "evaluations", ERROR, "state.json")
"""what a summary is made from, below a run's folder"""
OPENED = (*READ[1:], ".lock", "replay")
"""what is opened below it"""
FRESH = 1.0
"""seconds for which rows stand: several pages that ask at once look once"""
NEW = 4.0
"""seconds after which runs are looked for that came since"""
PATIENCE = 0.1
"""seconds that an answer waits for runs to be read; those that are not by then are ``pending``"""
DRAWING = 0.15
"""the same for small curves, which come last"""
TAKEN = ("agent", "env", "state", "phase", "done", "step", "mean", "std", "episodes", "last_return", "problem")


class Unknown(UserError):
    """There is no such run."""


@dataclass
class _Kept:
    """Of one run: what was read, when the files were as ``signature`` says."""

    signature: tuple[Any, ...]
    row: dict[str, Any]
    ends: tuple[float, bool] | None = None
    spark: list[float] | None = None
    written: float = 0.0


@dataclass
class Catalogue:
    """The runs below ``root`` by name. ``dreams`` says of an agent's name whether it learns a world model."""

    root: Path
    dreams: Callable[[str], bool] = lambda agent: True
    _kept: dict[str, _Kept] = field(default_factory=dict)
    _places: dict[str, Path] = field(default_factory=dict)
    _astray: dict[str, str] = field(default_factory=dict)
    _found_at: float = -NEW
    _rows: list[dict[str, Any]] = field(default_factory=list)
    _rows_at: float = -FRESH
    _lock: threading.RLock = field(default_factory=threading.RLock)

    def place(self, name: str) -> Path:
        """The folder of a run by its name.

        Raises:
            Unknown: no run of that name, or one that must not be opened.
        """
        there = self.places().get(name)
        if (there is None or not there.is_dir()) and name not in self.places(fresh=True):
            raise Unknown(f"there is no run {name!r} here, or not any more")
        if name in self._astray:
            raise Unknown(f"the run {name!r} is not opened: {self._astray[name]}")
        return self._places[name]

    def places(self, fresh: bool = False) -> dict[str, Path]:
        """Folders by name. A folder that a link leads out of the root for is no run of this studio."""
        with self._lock:
            if fresh or time.monotonic() - self._found_at > NEW:
                home = _home(self.root)
                found, _ = catalogue.find(self.root)
                self._places = {_printable(catalogue.name(p, self.root)): p for p in found if _within(home, p)}
                self._astray = {name: why for name, p in self._places.items() if (why := _astray(home, p))}
                self._found_at = time.monotonic()
            return self._places

    def rows(self) -> list[dict[str, Any]]:
        """One summary a run, those written last first; never raises for a run that is broken.

        Of very many runs that are seen for the first time some are ``pending``: only their names are told.
        """
        with self._lock:
            if time.monotonic() - self._rows_at > FRESH:
                places = self.places()
                self._kept = {name: kept for name, kept in self._kept.items() if name in places}
                now = time.monotonic()
                rows = [self._row(name, folder, now) for name, folder in places.items() if folder.is_dir()]
                self._rows = sorted(rows, key=lambda row: (-row["written"], row["run"]))
                left = any(row["spark"] is None for row in rows)
                self._rows_at = -FRESH if left else time.monotonic()
            return self._rows

    def row(self, name: str) -> dict[str, Any]:
        """The summary of one run.

        Raises:
            Unknown: no run of that name.
        """
        with self._lock:
            folder = self.place(name)
            return self._row(name, folder, math.inf)

    def _row(self, name: str, folder: Path, asked: float) -> dict[str, Any]:
        training = name not in self._astray and is_training(folder)
        stamps = [_stamp(f"{folder}/{part}") for part in READ]
        signature = (training, *stamps)
        written = max((stamp[0] for stamp in stamps if stamp), default=0) / 1e9
        kept, until = self._kept.get(name), asked + DRAWING
        if kept is None and time.monotonic() > asked + PATIENCE:
            unknown = dict.fromkeys((*TAKEN, "eta", "eta_of", "spark")) | {"playable": False, "why": "it is being read"}
            return {"run": name, **unknown, "written": written, "pending": True}
        if kept is None or kept.signature != signature:
            files = RunFolder(folder)
            row = self._read(name, files)
            # a file that grows keeps its small curve until there is time for the next
            kept = _Kept(signature, row, spark=None if kept is None or not training else kept.spark)
            kept.written = written
            if training:
                with suppress(Exception):  # it may be cut off in the middle; the next look finds it whole
                    kept.ends = catalogue.ends_in(files)
            if time.monotonic() < until or kept.spark is None:
                kept.spark = self._spark(name, files, until)
            self._kept[name] = kept
        elif kept.spark is None:
            kept.spark = self._spark(name, RunFolder(folder), until)
        eta = None if kept.ends is None else max(0.0, kept.ends[0] - (time.time() - kept.written))
        return {
            "run": name,
            **kept.row,
            "written": kept.written,
            "eta": eta,
            "eta_of": None if kept.ends is None else "run" if kept.ends[1] else "phase",
            "spark": kept.spark,
            "pending": False,
        }

    def _read(self, name: str, files: RunFolder) -> dict[str, Any]:
        if astray := self._astray.get(name):
            told = dict.fromkeys(TAKEN) | {"problem": f"{astray}, so that nothing of this run is read"}
        else:
            found = catalogue.summary(files)
            told = {key: found[key] for key in TAKEN}
        why = self._why_not(files, told)
        return {**told, "playable": why is None, "why": why}

    def _why_not(self, files: RunFolder, row: dict[str, Any]) -> str | None:
        """Why nobody can play in its dream, as far as can be told without opening it."""
        if row["agent"] is None or row["env"] is None:
            return row["problem"] or "its settings cannot be read"
        if not self.dreams(row["agent"]):
            return f"{row['agent']} learns no world model, so there is no dream to play in"
        if row["state"] != "published" and not any((files.run / "checkpoints").glob("[0-9]*/state.json")):
            return "it has no checkpoint yet"
        return None

    def _spark(self, name: str, files: RunFolder, until: float) -> list[float] | None:
        """Its small curve; None where there was no time for it."""
        if name in self._astray:
            return []
        if time.monotonic() > until:
            return None
        try:
            return catalogue.sparkline(files.run / "metrics.jsonl")
        except (OSError, ValueError):
            return []


def _stamp(path: str) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size


def _printable(name: str) -> str:
    """A name as a page can hold it, whatever bytes a folder is named by."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _home(root: Path) -> str:
    """Where links may lead: the root; of a model in the Hub's cache all that is kept of it, as its files are links."""
    real = os.path.realpath(root)
    above, kind = os.path.split(os.path.dirname(real))
    return above if kind == "snapshots" else real


def _within(home: str, path: str | Path) -> bool:
    real = os.path.realpath(path)
    return real == home or real.startswith(os.path.join(home, ""))


def _astray(home: str, folder: Path) -> str | None:
    """What in a run's folder must not be opened, if anything: links out of the root, and what is no file or folder."""
    for part in OPENED:
        path = f"{folder}/{part}"
        if os.path.islink(path) and not _within(home, path):
            return f"{part} is a link out of the runs folder"
        if os.path.exists(path) and not (os.path.isfile(path) or os.path.isdir(path)):  # opening a pipe would wait
            return f"{part} is no file"
    return None
