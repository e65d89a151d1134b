"""Curves of ``metrics.jsonl`` as a table of cells: each is the summary of some lines that follow one another.

::

    lines    ......|......|......|......|  .........|         a cell: of each key the count, sum, least, greatest
    cells      0      1      2      3          4               twice as many lines a cell, once there are too many
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from dreamlab.evals.scored import spent

Axis = Literal["env_steps", "wall", "step"]
CELLS = 2048
"""of one file, at most; half of it at least, once it is long"""
COUNTERS = tuple(f"run/{name}" for name in ("env_steps", "updates", "steps_per_second", "updates_per_second"))
KEYS = 1000
"""of one file, at most; others are left out"""
COUNT, SUM, LOW, HIGH = range(4)


@dataclass(frozen=True)
class Curve:
    """One key over an axis, (n,) each: means, and the least and greatest value behind each."""

    x: np.ndarray
    y: np.ndarray
    low: np.ndarray
    high: np.ndarray


class Cells:
    """Summaries of lines in the order of the file."""

    def __init__(self) -> None:
        self.per = 1  # lines a cell
        self.open = 0  # lines in the last cell
        self.size = 0
        self.lines = 0
        self.step = np.zeros((2, 64))  # count and sum
        self.steps = np.zeros((2, 64))  # the same of environment steps, where a line counts them
        self.seconds = np.zeros((2, 64))
        self.keys: dict[str, np.ndarray] = {}  # key -> (4, capacity)
        self.spent = (0.0, 0.0, 0.0)  # environment steps, updates and seconds at the last line of counters

    def add(self, lines: Sequence[Mapping[str, Any]], close: bool = False) -> None:
        """Take lines that follow; ``close`` ends the last cell, as the next lines are not the ones after these."""
        if lines:
            columns = _columns(lines)
            while self.size + (self.open + len(lines)) // self.per + 2 > CELLS:
                self._halve()
            first = self.size - (1 if self.open else 0)
            cell = first + (self.open + np.arange(len(lines))) // self.per  # (lines,)
            self._make_room(int(cell[-1]) + 1)
            self.size, self.open = int(cell[-1]) + 1, (self.open + len(lines)) % self.per
            self.lines += len(lines)
            for key, (at, values) in columns.items():
                if key == "step":
                    _put(self.step, cell[at], values)
                    continue
                if key not in self.keys:
                    if len(self.keys) >= KEYS:
                        continue
                    self.keys[key] = _empty(self.step.shape[1])
                _put(self.keys[key], cell[at], values)
            self._clock(columns, cell)
        if close:
            self.open = 0

    def curve(self, key: str, axis: Axis, points: int) -> Curve | None:
        """A key's curve in at most ``points`` points of equal width.

        None where there is no such key, or where nothing tells the time.
        """
        if key not in self.keys or (axis == "wall" and not self.seconds[COUNT].any()):
            return None
        count, total, low, high = self.keys[key][:, : self.size]
        held = count > 0
        x = self._axis(axis)[held]
        count, total, low, high = count[held], total[held], low[held], high[held]
        order = np.argsort(x, kind="stable")
        x, count, total, low, high = x[order], count[order], total[order], low[order], high[order]
        if len(x) > points:
            wide = (x[-1] - x[0]) or 1.0
            pixel = np.minimum(((x - x[0]) / wide * points).astype(int), points - 1)
            begin = np.flatnonzero(np.diff(pixel, prepend=-1))
            x = np.add.reduceat(x * count, begin) / np.add.reduceat(count, begin)
            count, total = np.add.reduceat(count, begin), np.add.reduceat(total, begin)
            low, high = np.minimum.reduceat(low, begin), np.maximum.reduceat(high, begin)
        return Curve(x, total / count, low, high)

    def _axis(self, axis: Axis) -> np.ndarray:
        """Where each cell lies, (cells,). Between lines of counters it is interpolated by the step."""
        step = _mean(self.step[:, : self.size])
        if axis == "step":
            return step
        known = (self.steps if axis == "env_steps" else self.seconds)[:, : self.size]
        held = known[0] > 0
        if not held.any():
            return step
        return np.interp(step, step[held], _mean(known[:, held]))

    def _clock(self, columns: Mapping[str, tuple[np.ndarray, np.ndarray]], cell: np.ndarray) -> None:
        """Environment steps and seconds at each line that has all counters."""
        if not all(key in columns for key in COUNTERS):
            return
        at = columns[COUNTERS[0]][0]
        for key in COUNTERS[1:]:
            if not np.array_equal(at, columns[key][0]):  # a line lacks one
                at = np.intersect1d(at, columns[key][0], assume_unique=True)
        if not len(at):
            return
        counted = (columns[key] for key in COUNTERS)
        values = [column if len(column) == len(at) else column[np.isin(index, at)] for index, column in counted]
        seconds = self.spent[2] + np.cumsum(spent(values, self.spent[:2]))
        _put(self.steps, cell[at], values[0])
        _put(self.seconds, cell[at], seconds)
        self.spent = (float(values[0][-1]), float(values[1][-1]), float(seconds[-1]))

    def _make_room(self, size: int) -> None:
        have = self.step.shape[1]
        if size <= have:
            return
        more = min(CELLS, max(size, 2 * have)) - have
        self.step, self.steps, self.seconds = (
            np.pad(part, ((0, 0), (0, more))) for part in (self.step, self.steps, self.seconds)
        )
        self.keys = {key: np.concatenate([part, _empty(more)], 1) for key, part in self.keys.items()}

    def _halve(self) -> None:
        """Two cells become one."""
        held = self.open or self.per  # lines in the last cell
        self.open = held if self.size % 2 else held + self.per if self.open else 0
        size, room = -(-self.size // 2), self.step.shape[1]
        for part in (self.step, self.steps, self.seconds):
            part[:, :size] = part[:, : 2 * size : 2] + part[:, 1 : 2 * size : 2]
            part[:, size:] = 0
        for part in self.keys.values():
            a, b = part[:, : 2 * size : 2].copy(), part[:, 1 : 2 * size : 2]
            part[:2, :size] = a[:2] + b[:2]
            part[LOW, :size], part[HIGH, :size] = np.minimum(a[LOW], b[LOW]), np.maximum(a[HIGH], b[HIGH])
            part[:, size:] = _empty(room - size)
        self.size, self.per = size, self.per * 2

    def tensors(self) -> dict[str, np.ndarray]:
        """All of it, for a file of the cache."""
        numbers = (self.per, self.open, self.size, self.lines, *self.spent)
        kept = {"numbers": np.array(numbers), "step": self.step, "steps": self.steps, "seconds": self.seconds}
        return kept | {f"key:{key}": part for key, part in self.keys.items()}

    @classmethod
    def of(cls, tensors: Mapping[str, np.ndarray]) -> Cells:
        """What ``tensors`` gave."""
        cells = cls()
        cells.per, cells.open, cells.size, cells.lines = (int(n) for n in tensors["numbers"][:4])
        cells.spent = tuple(float(n) for n in tensors["numbers"][4:])  # type: ignore[assignment]
        cells.step, cells.steps, cells.seconds = tensors["step"], tensors["steps"], tensors["seconds"]
        cells.keys = {key[4:]: part for key, part in tensors.items() if key.startswith("key:")}
        return cells


def _columns(lines: Sequence[Mapping[str, Any]]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Of each key: the lines that have a finite number of it (n,), and the numbers (n,)."""
    found: dict[str, tuple[list[int], list[float]]] = {}
    for i, line in enumerate(lines):
        for key, value in line.items():
            if type(value) is float or type(value) is int:
                if key not in found:
                    found[key] = [], []
                at, values = found[key]
                at.append(i)
                values.append(value)
    columns = {key: (np.array(at), _floats(values)) for key, (at, values) in found.items()}
    finite = {key: np.isfinite(values) for key, (_, values) in columns.items()}
    return {key: (at[finite[key]], values[finite[key]]) for key, (at, values) in columns.items()}


def _floats(values: Sequence[float]) -> np.ndarray:
    try:
        return np.array(values, float)
    except OverflowError:  # a whole number beyond all floats
        return np.array([value if abs(value) < 1e308 else np.inf for value in values], float)


def _empty(room: int) -> np.ndarray:
    """Cells without a value, (4, room)."""
    part = np.zeros((4, room))
    part[LOW], part[HIGH] = np.inf, -np.inf
    return part


def _put(part: np.ndarray, cell: np.ndarray, values: np.ndarray) -> None:
    np.add.at(part[COUNT], cell, 1)
    np.add.at(part[SUM], cell, values)
    if len(part) > HIGH:
        np.minimum.at(part[LOW], cell, values)
        np.maximum.at(part[HIGH], cell, values)


def _mean(part: np.ndarray) -> np.ndarray:
    return part[SUM] / np.maximum(part[COUNT], 1)
