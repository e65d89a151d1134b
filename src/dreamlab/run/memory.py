"""How much memory a run holds: its own process and its workers, without file pages that can be dropped."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import psutil

MIB = 1 << 20


def held() -> int:
    """Bytes of memory that this process and its children hold: anonymous and shared, each page counted once.

    Pages of files (the replay's maps, libraries) are left out: the system drops them when it needs room.
    Outside Linux: the unique set size, where the system tells it.
    """
    total = 0
    me = psutil.Process()
    for process in (me, *me.children(recursive=True)):
        try:
            total += _held(process)
        except (psutil.Error, OSError):
            continue  # it ended meanwhile
    return total


def _held(process: psutil.Process) -> int:
    rollup = Path(f"/proc/{process.pid}/smaps_rollup")
    if not rollup.exists():
        return process.memory_full_info().uss
    found = 0
    for line in rollup.read_text().splitlines():
        if line.startswith(("Pss_Anon:", "Pss_Shmem:")):
            found += int(line.split()[1]) * 1024
    return found


class Peak:
    """The most memory held since it was started, looked at every ``period`` seconds by a thread of its own.

    Looking at a large process takes its time (the system walks its pages): it stays below a hundredth of the run's.
    """

    def __init__(self, period: float = 1.0) -> None:
        self.bytes = 0
        self._period = period
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True, name="memory")

    def start(self) -> Peak:
        self._thread.start()
        return self

    def look(self) -> int:
        """Bytes held now; remembered if they are the most so far."""
        now = held()
        self.bytes = max(self.bytes, now)
        return now

    def stop(self) -> int:
        """End the watch. Returns the peak in bytes."""
        self._end.set()
        self._thread.join()
        self.look()
        return self.bytes

    def _watch(self) -> None:
        pause = self._period
        while not self._end.wait(pause):
            since = time.perf_counter()
            self.look()
            pause = max(self._period, 100 * (time.perf_counter() - since))
