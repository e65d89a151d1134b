"""Rows on disk: a memory-mapped ring of times × streams, with columns beside each other.

::

    time t ▶   ...  t-1   t   t+1  ...        one time of all streams is appended at once
    stream 0        row  row  row             row id = t * streams + stream, never reused
    stream 1        row  row  row             position in the ring = t % times

Memory does not grow with rows: the operating system keeps of the maps what it has room for. Appending
costs the same whatever is held. A bounded ring has ``slack`` more times than it shows for
each checkpoint that is kept, and never overwrites a row that one of them can see: when ``room`` is used up, the
trainer saves.
"""

from __future__ import annotations

import os
import shutil
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dreamlab.core.errors import RunError
from dreamlab.core.types import Episodes
from dreamlab.run.columns import Column, file_name
from dreamlab.run.journal import Journal

GROWTH = 1024
"""times of an unbounded store at first; it doubles"""


class Replay:
    """A table of rows in a folder. ``capacity`` in rows, 0 for all; ``streams`` rows are written at once."""

    def __init__(self, folder: Path, streams: int, capacity: int = 0, keep: int = 2) -> None:
        if capacity and capacity < streams:
            raise RunError(f"a replay of {capacity} rows cannot hold one row of each of {streams} environments")
        self.folder, self.streams = Path(folder), streams
        self.shown = -(-capacity // streams)  # times shown; 0: all
        self.slack = max(64, self.shown // 8)  # times between two checkpoints, at most
        self.times = self.shown + keep * self.slack if self.shown else GROWTH
        self.start = self.stop = 0
        self.saves = 0  # checkpoints that have been made of it
        self.columns: dict[str, Column] = {}
        self.journal = Journal(self.folder / "journal")
        self._floor: int | None = None  # the oldest time that a kept checkpoint can see
        self._saved = 0  # the time at the newest checkpoint
        self._starts: list[deque[int]] = [deque() for _ in range(streams)]
        self._episodes: Episodes | None = None

    # -- writing ---------------------------------------------------------------------------------------------

    def room(self) -> int | None:
        """How many times may be appended before a checkpoint is due; None where that never happens."""
        if not self.shown or self._floor is None:
            return None
        return min(self._floor + self.times, self._saved + self.slack) - self.stop

    def append(self, values: Mapping[str, np.ndarray]) -> None:
        """One time of all streams: arrays (streams, ...). Columns appear with their first values.

        Raises:
            OSError: the disk is full; nothing was written.
            RunError: no room is left before a checkpoint.
        """
        room = self.room()
        if room is not None and room <= 0:
            raise RunError("the replay is full of rows that the last checkpoint needs: save first")
        if not self.shown and self.stop == self.times:
            self._grow()
        position = self.stop % self.times
        for name, value in values.items():
            if name not in self.columns:
                self._add(name, value.shape[1:], value.dtype)
            self.columns[name].reserve(position)
        for name, value in values.items():
            self.columns[name].values[position] = value
        for name in self.columns.keys() - values.keys():  # a ring position is used again: no stale annotation
            self.columns[name].reserve(position)
            self.columns[name].values[position] = 0
        for stream in np.flatnonzero(values["is_first"]):
            self._starts[stream].append(self.stop)
        self.stop += 1
        self.start = max(0, self.stop - self.shown) if self.shown else 0
        self._episodes = None

    def annotate(self, rows: np.ndarray, **columns: np.ndarray) -> None:
        """Write columns beside rows: ids (...), values (..., *shape). Ids of -1 are skipped."""
        flat = np.asarray(rows).reshape(-1)
        real = flat >= 0
        self._check(flat[real])
        cells = self.cells(flat[real])
        for name, values in columns.items():
            values = np.asarray(values)
            shape = values.shape[np.ndim(rows) :]
            if name not in self.columns:
                self._add(name, shape, values.dtype)
            column = self.columns[name]
            if column.shape != shape or column.dtype != values.dtype:
                raise RunError(
                    f"column {name!r} holds {column.dtype} {column.shape}, but {values.dtype} {shape} was to be written"
                )
            if len(cells):
                column.reserve(int(cells.max()) // self.streams)
                self.journal.record(self, name, flat[real])
                column.rows[cells] = values.reshape(-1, *shape)[real]

    def _add(self, name: str, shape: tuple[int, ...], dtype: np.dtype) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)  # only now: who looks at rows makes no folder
        column = Column(self.folder / file_name(name), self.times, self.streams, shape, dtype)
        if self.stop:  # a later column: blocks for the rows that are there already
            column.reserve(min(self.stop, self.times) - 1)
        self.columns[name] = column

    def _grow(self) -> None:
        self.times *= 2
        for column in self.columns.values():
            column.resize(self.times)
        self.journal.grow(self.times * self.streams)

    # -- reading ---------------------------------------------------------------------------------------------

    def cells(self, rows: np.ndarray) -> np.ndarray:
        """Places in ``Column.rows`` of row ids."""
        return (rows // self.streams) % self.times * self.streams + rows % self.streams

    def take(self, name: str, rows: np.ndarray) -> np.ndarray:
        """A column's values at ids (...): (..., *shape), zeros where the id is -1."""
        if name not in self.columns:
            raise KeyError(f"no column {name!r} in the replay; there are: {', '.join(sorted(self.columns))}")
        self._check(rows[rows >= 0])
        out = self.columns[name].rows[self.cells(np.maximum(rows, 0))]
        if (rows < 0).any():
            out[rows < 0] = 0
        return out

    def _check(self, rows: np.ndarray) -> None:
        if len(rows) and not (self.start * self.streams <= rows.min() and rows.max() < self.stop * self.streams):
            held = f"{self.start * self.streams} to {self.stop * self.streams - 1}"
            raise IndexError(f"rows {rows.min()} to {rows.max()} asked for, but {held} are held")

    def episodes(self) -> Episodes:
        """All episodes of which rows are held, oldest first; one cut short by the ring begins where it is held."""
        if self._episodes is None:
            table: list[tuple[int, int, int, bool]] = []
            for stream, starts in enumerate(self._starts):
                while len(starts) > 1 and starts[1] <= self.start:
                    starts.popleft()
                stops = [*list(starts)[1:], *([self.stop] if starts else [])]
                for first, stop in zip(starts, stops, strict=True):
                    if stop > max(first, self.start):
                        last = self.columns["is_last"].values[(stop - 1) % self.times, stream]
                        table.append((max(first, self.start), stream, stop, bool(first >= self.start and last)))
            table.sort()
            columns = zip(*table, strict=True) if table else ((), (), (), ())
            begin, streams, end, whole = (np.array(c, np.int64) for c in columns)
            self._episodes = Episodes(streams, begin, end, whole.astype(bool))
        return self._episodes

    # -- keeping ---------------------------------------------------------------------------------------------

    def bytes(self) -> int:
        """Disk in use."""
        return sum(os.stat(c.path).st_blocks * 512 for c in self.columns.values())

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint must know; the rows themselves stay where they are."""
        return {
            "streams": self.streams,
            "shown": self.shown,
            "times": self.times,
            "stop": self.stop,
            "save": self.saves + 1,
            "columns": {name: column.spec() for name, column in self.columns.items()},
        }

    def sync(self) -> None:
        """Have the disk hold all rows. Called before a checkpoint that speaks of them is written."""
        for column in self.columns.values():
            column.sync()

    def saved(self, step: int, oldest: int, oldest_start: int) -> None:
        """A checkpoint was made at ``step``; ``oldest`` is the oldest one kept, and ``oldest_start`` its first time."""
        self.saves += 1
        self.journal.begin(step, self.saves, frozenset(self.columns), self.stop)
        self.journal.forget_before(oldest)
        self._floor, self._saved = oldest_start, self.stop

    def load_state_dict(self, state: Mapping[str, Any], step: int) -> None:
        """Go back to the rows as checkpoint ``step`` saw them: later rows, columns and rewrites are undone.

        Raises:
            RunError: the folder does not hold what the checkpoint speaks of.
        """
        if (self.streams, self.shown) != (state["streams"], state["shown"]):
            raise RunError(
                f"the replay was written by {state['streams']} environments and shows {state['shown']} times; "
                f"asked for are {self.streams} and {self.shown}: go on with the same --envs and --capacity"
            )
        self._refuse_incomplete(state)
        self.times, self.stop = state["times"], state["stop"]
        self.saves = state["save"] - 1  # ``saved`` is told of this checkpoint once more
        self.start = max(0, self.stop - self.shown) if self.shown else 0
        for path in self.folder.glob("*.bin"):
            if path.name not in {file_name(name) for name in state["columns"]}:
                path.unlink()
        for name, spec in state["columns"].items():
            path = self.folder / file_name(name)
            self.columns[name] = Column(path, self.times, self.streams, tuple(spec["shape"]), np.dtype(spec["dtype"]))
        self.journal.undo(self, step, state["save"])
        self._find_starts()

    def _refuse_incomplete(self, state: Mapping[str, Any]) -> None:
        """Raise RunError, before anything is changed, where a file is missing or shorter than it was."""
        for name, spec in state["columns"].items():
            path = self.folder / file_name(name)
            width = max(1, int(np.prod(spec["shape"], dtype=np.int64)) * np.dtype(spec["dtype"]).itemsize)
            size = path.stat().st_size if path.is_file() else None
            if size is None or size < state["times"] * state["streams"] * width:
                what = "is missing" if size is None else "was truncated"
                raise RunError(
                    f"{path} {what}: the rows that this run learns from are not whole, so it cannot go on. Put the "
                    "file back, or train in another folder; dreamlab evaluate does not need the rows"
                )

    def clear(self) -> None:
        """Forget whatever rows lie in the folder: nothing was saved that speaks of them."""
        for path in self.folder.glob("*.bin"):
            path.unlink()
        shutil.rmtree(self.journal.folder, ignore_errors=True)

    @classmethod
    def view(cls, folder: Path, state: Mapping[str, Any]) -> Replay:
        """The rows that a checkpoint saw, for reading alone: a run that is being trained is not disturbed.

        Columns that training rewrites may be newer than the checkpoint.

        Raises:
            RunError: the folder does not hold what the checkpoint speaks of.
        """
        replay = cls(folder, state["streams"])
        replay.shown, replay.times, replay.stop = state["shown"], state["times"], state["stop"]
        replay.start = max(0, replay.stop - replay.shown) if replay.shown else 0
        for name, spec in state["columns"].items():
            path = replay.folder / file_name(name)
            shape, dtype = tuple(spec["shape"]), np.dtype(spec["dtype"])
            try:
                replay.columns[name] = Column(path, replay.times, replay.streams, shape, dtype, read_only=True)
            except (OSError, ValueError) as error:
                raise RunError(f"{path} is missing or shorter than the checkpoint says ({error})") from error
        replay._find_starts()
        return replay

    def _find_starts(self) -> None:
        self._episodes = None
        self._starts = [deque() for _ in range(self.streams)]
        if not self.stop:
            return
        times = np.arange(self.start, self.stop)
        first = self.columns["is_first"].values[times % self.times]  # (times, streams)
        for stream in range(self.streams):
            found = times[first[:, stream]]
            if len(times) and not (len(found) and found[0] == self.start):
                self._starts[stream].append(int(self.start) - 1 if self.start else 0)  # begun before what is held
            self._starts[stream].extend(int(t) for t in found)
