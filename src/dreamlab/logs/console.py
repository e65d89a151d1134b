"""The terminal: one bar a phase with rate, time left and a few key figures; plain lines when it is no terminal.

No thread draws the bar: it moves when the trainer says so, so nothing is left half-drawn by Ctrl-C or a fork.
"""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.table import Column

from dreamlab.logs import logger

QUIET = 10.0
"""seconds between plain lines"""
STILL = 60.0
"""seconds between plain lines where nothing has been counted since the last one"""
REDRAW = 0.1
"""seconds between two drawings of the bar"""
RECENT = 30.0
"""seconds over which the rate is taken, longer where nothing was counted in them"""
FIGURES = 3
"""key figures beside the bar"""
FIRST = ("ret", "length", "return", "return_best", "mean_return", "loss", "reconstruction", "kl", "nll")
"""which metrics of a phase are its key figures, most telling first; then any other"""


class Sink(logger.Sink):
    """Follows one phase at a time; a phase is finished when it is done or another one starts."""

    def __init__(
        self, run: Path | None = None, file: TextIO | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.console = Console(file=file or sys.stdout, highlight=False, markup=False, soft_wrap=True)
        self.live = self.console.is_terminal and not self.console.is_dumb_terminal
        self.clock = clock
        self.figures: dict[str, float] = {}
        self._phase: _Phase | None = None
        self._bar: Progress | None = None
        self._task = TaskID(0)
        self._shown = clock()
        self._busy = False
        self._waiting: list[str] = []

    def write(self, step: int, scalars: Mapping[str, float], media: logger.Media) -> None:
        self.figures.update(scalars)

    def progress(self, phase: str, done: int, total: int, unit: str, note: str) -> None:
        with self._drawing():
            self._progress(phase, done, total, unit, note)

    def message(self, text: str) -> None:
        """Print a line above the bar. A signal may bring one while a line is being drawn: that one waits."""
        if self._busy:
            self._waiting.append(text)
            return
        with self._drawing():
            self._print(text)

    def flush(self) -> None:
        self.console.file.flush()

    def close(self) -> None:
        with self._drawing():
            self._finish()
        self.flush()

    @contextmanager
    def _drawing(self) -> Iterator[None]:
        self._busy = True
        try:
            yield
        finally:
            while self._waiting:
                self._print(self._waiting.pop(0))
            self._busy = False

    def _print(self, text: str) -> None:
        (self._bar.console if self._bar else self.console).print(text)

    def _progress(self, phase: str, done: int, total: int, unit: str, note: str) -> None:
        now = self.clock()
        current = self._phase
        if current is None or (current.name, current.unit) != (phase, unit) or done < current.done:
            self._finish()
            current = self._phase = _Phase(phase, unit, now, done)
        current.update(now, done, total, note)
        if current.ended:
            return
        ending = done >= total
        pause = REDRAW if self.live else STILL if current.printed == done else QUIET
        if ending or now - self._shown >= pause:
            self._shown = now
            self._show(current)
        if ending:
            self._finish()

    def _show(self, phase: _Phase) -> None:
        if not self.live:
            self.console.print(phase.line(self.figures))
            phase.printed = phase.done
            return
        fields: dict[str, Any] = dict(phase.fields(self.figures))
        if self._bar is None:
            self._bar = _bar(self.console)
            self._task = self._bar.add_task(phase.name, **fields)
            self._bar.start()
        self._bar.update(self._task, completed=phase.done, total=max(phase.total, 1), **fields)
        self._bar.refresh()

    def _finish(self) -> None:
        """Leave the phase's last state standing."""
        phase = self._phase
        if phase is not None and not phase.ended:
            if self.live or phase.printed != phase.done:
                self._show(phase)
            phase.ended = True
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


class _Phase:
    """How far one phase has come, how fast, and what is said about it."""

    def __init__(self, name: str, unit: str, now: float, done: int) -> None:
        self.name, self.unit = name, unit
        self.done = self.total = 0
        self.note = ""
        self.printed = -1
        self.ended = False
        self.began = now
        self.recent: deque[tuple[float, int]] = deque([(now, done)])

    def update(self, now: float, done: int, total: int, note: str) -> None:
        self.done, self.total, self.note = done, total, note
        if now - self.recent[-1][0] >= REDRAW:
            if len(self.recent) > 1 and self.recent[-2][1] == done:  # a long round: nothing is counted while it lasts
                self.recent.pop()
            self.recent.append((now, done))
        while len(self.recent) > 2 and now - self.recent[1][0] > RECENT and self.recent[1][1] < done:
            self.recent.popleft()

    @property
    def rate(self) -> float:
        """Units per second lately, 0 where unknown."""
        (t0, n0), (t1, n1) = self.recent[0], self.recent[-1]
        return (n1 - n0) / (t1 - t0) if t1 > t0 else 0.0

    def fields(self, figures: Mapping[str, float]) -> dict[str, str]:
        """The texts beside the bar."""
        rate, ended = self.rate, self.done >= self.total
        if ended:
            left = f"took {_clock(self.recent[-1][0] - self.began)}"
        else:
            left = f"ETA {_clock((self.total - self.done) / rate)}" if rate > 0 else "ETA -"
        return {
            "count": f"{self.done:,}/{self.total:,} {self.unit}",
            "rate": f"{_number(rate)}/s" if rate > 0 else "",
            "left": left,
            "figures": "  ".join(filter(None, (*self.key_figures(figures), self.note))),
        }

    def key_figures(self, figures: Mapping[str, float]) -> list[str]:
        """``name value`` of the few most telling metrics of this phase."""
        group = self.name.partition(" ")[0]  # "vision 2" is the phase vision in the second iteration
        groups = {key.partition("/")[0] for key in figures} - {"run", "eval"}
        shown = {group} if group in groups else groups  # several phases may write one group
        own = {key.partition("/")[2]: value for key, value in figures.items() if key.partition("/")[0] in shown}
        names = sorted(own, key=lambda name: FIRST.index(name) if name in FIRST else len(FIRST))
        return [f"{name.replace('_', ' ')} {_number(own[name])}" for name in names[:FIGURES]]

    def line(self, figures: Mapping[str, float]) -> str:
        """The plain line."""
        fields = self.fields(figures)
        percent = f"{100 * min(self.done, self.total) / self.total:.0f}%" if self.total else ""
        parts = (f"{self.name:<10}", fields["count"], percent, fields["rate"], fields["left"], fields["figures"])
        return "  ".join(filter(None, parts))


def _bar(console: Console) -> Progress:
    """One line that never wraps: where the terminal is narrow the key figures are cut, not the line."""

    def column(name: str, style: str = "", ratio: int | None = None) -> TextColumn:
        table = Column(no_wrap=True, overflow="ellipsis", ratio=ratio)
        return TextColumn("{task.fields[" + name + "]}", style=style, markup=False, table_column=table)

    return Progress(
        TextColumn("{task.description:<10}", style="bold", markup=False, table_column=Column(no_wrap=True)),
        BarColumn(bar_width=20 if console.width >= 100 else 10, complete_style="blue", finished_style="green"),
        column("count"),
        column("rate", "cyan"),
        column("left", "cyan"),
        column("figures", "dim", ratio=1),
        console=console,
        auto_refresh=False,
        expand=True,
    )


def _number(value: float) -> str:
    """Three or four digits that can be read at a glance."""
    size = abs(value)
    if size >= 100:
        return f"{value:,.0f}"
    if size >= 10:
        return f"{value:.1f}"
    return f"{value:.2f}" if size >= 0.1 or size == 0 else f"{value:.2g}"


def _clock(seconds: float) -> str:
    """``4:05`` or ``1:04:05``."""
    seconds = round(seconds)
    hours, minutes = seconds // 3600, seconds // 60 % 60
    return f"{hours}:{minutes:02}:{seconds % 60:02}" if hours else f"{minutes}:{seconds % 60:02}"
