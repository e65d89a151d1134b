"""The undo journal: what rewritten cells held when the last checkpoint was made.

A checkpoint remembers rows by time, not by value, so a column that is written twice (stored latents)
must be able to go back. The first rewrite of a cell after a checkpoint appends its old value here, before
the cell changes; resuming writes the old values back. One folder an interval between checkpoints, named
``<step>.<number>`` after the save that began it (the same step may be saved again, with other values), one
file a column, one record a cell: row id (int64), then the old bytes. A record torn by a kill is ignored,
for its cell had not been written yet.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dreamlab.run.columns import file_name

if TYPE_CHECKING:
    from dreamlab.run.replay import Replay


class Journal:
    """First-write records since the newest checkpoint."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.since: Path | None = None  # the folder since the newest checkpoint; None: nothing to go back to
        self.columns: frozenset[str] = frozenset()  # those that the checkpoint knows
        self.stop = 0  # rows before this time are known to it
        self._seen: dict[str, np.ndarray] = {}

    def begin(self, step: int, number: int, columns: frozenset[str], stop: int) -> None:
        """A checkpoint was made, the run's save ``number``: from now on records undo back to it."""
        self.since, self.columns, self.stop = self.folder / f"{step:012d}.{number:09d}", columns, stop
        self._seen = {}
        self.since.mkdir(parents=True, exist_ok=True)

    def record(self, replay: Replay, name: str, rows: np.ndarray) -> None:
        """Remember the cells (ids ``rows``) of a column before they are rewritten."""
        if self.since is None or name not in self.columns:
            return
        rows = np.unique(rows[rows < self.stop * replay.streams])
        cells = replay.cells(rows)
        seen = self._seen.setdefault(name, np.zeros(replay.times * replay.streams, bool))
        fresh = ~seen[cells]
        rows, cells = rows[fresh], cells[fresh]
        if not len(rows):
            return
        old = np.ascontiguousarray(replay.columns[name].rows[cells])
        record = np.empty(len(rows), self._record(replay, name))
        record["row"], record["old"] = rows, old.reshape(record["old"].shape)
        fd = os.open(self.since / file_name(name), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            written = os.write(fd, record.tobytes())
            if written != record.nbytes:
                raise OSError(28, os.strerror(28), str(self.folder))  # a short write: the disk is full
        finally:
            os.close(fd)
        seen[cells] = True

    def grow(self, cells: int) -> None:
        """The store has more cells now; an unbounded one never wraps, so they keep their places."""
        self._seen = {name: np.pad(seen, (0, cells - len(seen))) for name, seen in self._seen.items()}

    def undo(self, replay: Replay, step: int, number: int) -> None:
        """Write back what cells held at a checkpoint: newest interval first, so that the oldest value wins."""
        for folder in sorted(self.folder.glob("[0-9]*"), reverse=True):
            if folder.name < f"{step:012d}.{number:09d}":
                continue
            for name, column in replay.columns.items():
                path = folder / file_name(name)
                if path.exists():
                    kind = self._record(replay, name)
                    whole = path.stat().st_size // kind.itemsize
                    records = np.fromfile(path, kind, whole)
                    column.rows[replay.cells(records["row"])] = records["old"].reshape(-1, *column.shape)
            shutil.rmtree(folder)

    def forget_before(self, step: int) -> None:
        """Drop the intervals that no kept checkpoint needs."""
        for folder in self.folder.glob("[0-9]*"):
            if folder.name < f"{step:012d}":
                shutil.rmtree(folder)

    @staticmethod
    def _record(replay: Replay, name: str) -> np.dtype:
        column = replay.columns[name]
        return np.dtype([("row", np.int64), ("old", column.dtype, column.shape or (1,))])
