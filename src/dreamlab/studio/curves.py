"""Reading ``metrics.jsonl``, however long it is.

A short file is read wholly. Of a long one samples are read, spread evenly over its bytes; a process of its own then
reads all of it once and leaves the cells in the studio's cache. What a file grows by is read on from where one was. A
file that was cut back or written anew is read again.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from dreamlab.studio.cells import Cells

T = TypeVar("T")
BLOCK = 1 << 20
"""bytes that are read at once"""
WHOLE = 16 << 20
"""bytes up to which a file is read wholly while its page waits"""
SAMPLES = 1024
"""places at which a longer one is read"""
ENDS = 1 << 18
"""bytes at its beginning and end that are read wholly, too"""
MARK = 64
"""bytes before where one was by which a file is known again"""
FILES = 16
"""files whose cells are held"""


@dataclass
class Reader:
    """One ``metrics.jsonl`` as cells; ``read_on`` brings them up to date."""

    path: Path
    cells: Cells = field(default_factory=Cells)
    offset: int = 0
    """bytes that were read, or passed over where it is sampled"""
    sampled: bool = False
    turn: int = 0
    """how often it was begun anew"""
    _inode: int = 0
    _mark: bytes = b""

    @property
    def seconds(self) -> float:
        """Wall time, as far as the counters know."""
        return self.cells.spent[2]

    @property
    def version(self) -> str:
        """What a client holds; another one means that there is more to see."""
        return f"{self.turn}.{self.offset}.{int(self.sampled)}"

    def read_on(self, whole: bool = False) -> None:
        """Read what has come since; all of it from the beginning where the file is another one.

        Args:
            whole: read every line, however many there are.

        Raises:
            OSError: there is no such file, or it cannot be read.
        """
        with self.path.open("rb") as file:
            found = os.fstat(file.fileno())
            if not self.knows(file, found.st_ino, found.st_size):
                self._begin(found.st_ino)
            if found.st_size - self.offset <= WHOLE or whole:
                self._follow(file, found.st_size)
            else:
                self._begin(found.st_ino)
                self._sample(file, found.st_size)
            file.seek(max(0, self.offset - MARK))
            self._mark = file.read(self.offset - file.tell())

    def knows(self, file: Any, inode: int, size: int) -> bool:
        """Whether an open file goes on from what was read: not another one, nor cut back, nor written anew."""
        if inode != self._inode or size < self.offset:
            return False
        file.seek(self.offset - len(self._mark))
        return file.read(len(self._mark)) == self._mark

    def _begin(self, inode: int) -> None:
        self.cells, self.offset, self.sampled, self._inode, self._mark = Cells(), 0, False, inode, b""
        self.turn += 1

    def _follow(self, file: Any, size: int) -> None:
        """Read whole lines from where one was."""
        file.seek(self.offset)
        rest = b""
        while self.offset + len(rest) < size:
            text = file.read(min(BLOCK, size - self.offset - len(rest)))
            if not text:
                break
            block, newline, rest = (rest + text).rpartition(b"\n")
            self.cells.add(_parsed(block))
            self.offset += len(block) + len(newline)
            if len(rest) > WHOLE:  # no line of ours is that long
                self.offset, rest = self.offset + len(rest), b""

    def _sample(self, file: Any, size: int) -> None:
        """Read the beginning, places spread evenly over the bytes, and the end."""
        self.sampled = True
        file.seek(0)
        begin = file.read(ENDS)
        length = max(1, len(begin) // max(1, begin.count(b"\n")))  # bytes of a line, about
        self.cells.per = max(1, size // length // SAMPLES)
        window = min(max(4 * length, 4096), size // SAMPLES)
        self._take(begin.rpartition(b"\n")[0])
        for place in np.linspace(ENDS, size - ENDS, SAMPLES).astype(int):
            file.seek(place)
            self._take(file.read(window).partition(b"\n")[2].rpartition(b"\n")[0])
        self.offset = size - ENDS
        file.seek(self.offset)
        self.offset += len(file.readline())
        self._follow(file, size)

    def _take(self, text: bytes) -> None:
        self.cells.add(_parsed(text), close=True)

    def save(self, path: Path) -> None:
        """Leave the cells in the cache, wholly or not at all."""
        path.parent.mkdir(parents=True, exist_ok=True)
        tensors: dict[str, Any] = self.cells.tensors()
        tensors |= {"place": np.array([self.offset, self._inode]), "mark": np.frombuffer(self._mark, np.uint8)}
        temporary = path.with_name(f"{path.stem}.{os.getpid()}.tmp.npz")
        np.savez(temporary, **tensors)
        os.replace(temporary, path)

    def load(self, path: Path) -> bool:
        """Take the cells of the cache where they are of this very file and reach further; says whether they do."""
        try:
            with np.load(path, allow_pickle=False) as stored, self.path.open("rb") as file:
                kept = Reader(self.path, Cells.of(stored), int(stored["place"][0]))
                kept._inode, kept._mark = int(stored["place"][1]), stored["mark"].tobytes()
                found = os.fstat(file.fileno())
                if not kept.knows(file, found.st_ino, found.st_size):
                    return False
        except (OSError, ValueError, KeyError, IndexError, EOFError):  # none there, or not one of ours
            return False
        self.cells, self.offset, self.sampled = kept.cells, kept.offset, False
        self._inode, self._mark = kept._inode, kept._mark
        self.turn += 1
        return True


@dataclass
class Curves:
    """The readers of a studio's runs, those last used; ``cache`` holds what took long to read."""

    cache: Path
    _readers: OrderedDict[Path, Reader] = field(default_factory=OrderedDict)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _refining: subprocess.Popen | None = None
    _tried: set[tuple[Path, int]] = field(default_factory=set)

    def read(self, run: Path, use: Callable[[Reader], T]) -> T:
        """``use`` of the metrics of a run's folder, which are up to date and change only once it is done.

        Raises:
            OSError: there are none, or they cannot be read.
        """
        path = run / "metrics.jsonl"
        with self._lock:
            reader = self._readers.get(path)
            if reader is None:
                reader = Reader(path)
                reader.load(self._stored(path))
            elif reader.sampled and not self._busy():
                reader.load(self._stored(path))
            reader.read_on()
            self._readers[path] = reader
            self._readers.move_to_end(path)
            while len(self._readers) > FILES:
                self._readers.popitem(last=False)
            if reader.sampled and not self._busy() and (path, reader.turn) not in self._tried:
                self._tried.add((path, reader.turn))
                self._refining = subprocess.Popen(
                    [sys.executable, "-m", __name__, str(path), str(self._stored(path))],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                )
            return use(reader)

    def close(self) -> None:
        """End what reads in the background."""
        if self._refining is not None:
            self._refining.kill()
            self._refining.wait()

    def _busy(self) -> bool:
        """Whether a process reads a long file: one at a time."""
        return self._refining is not None and self._refining.poll() is None

    def _stored(self, path: Path) -> Path:
        return self.cache / "curves" / f"{hashlib.sha256(os.path.realpath(path).encode()).hexdigest()[:24]}.npz"


def refine(path: Path, stored: Path) -> None:
    """Read every line of a long file, on from what the cache holds of it, and leave the cells there."""
    reader = Reader(path)
    reader.load(stored)
    reader.read_on(whole=True)
    reader.save(stored)


def _parsed(text: bytes) -> list[dict[str, Any]]:
    """The lines that are objects with a step; others are broken and left out."""
    if not text:
        return []
    try:
        found = json.loads(b"[" + b",".join(text.split(b"\n")) + b"]")
    except (ValueError, RecursionError):
        found = list(_one_by_one(text))
    return [line for line in found if isinstance(line, dict) and _is_number(line.get("step"))]


def _one_by_one(text: bytes) -> Iterator[Any]:
    for line in text.split(b"\n"):
        try:
            yield json.loads(line)
        except (ValueError, RecursionError):  # cut off, not UTF-8, or no line of ours
            continue


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < 1e300  # NaN is not, either


if __name__ == "__main__":
    os.nice(19)
    refine(Path(sys.argv[1]), Path(sys.argv[2]))
