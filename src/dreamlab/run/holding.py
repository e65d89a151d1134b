"""Who holds a run folder: one process trains in it, and leaves word of why it could not go on."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from dreamlab.core.errors import UserError

LOCK = ".lock"
"""in a run folder: held by the process that trains there"""
ERROR = "error.txt"
"""in a run folder: why the run could not go on"""
TRIES, PAUSE = 20, 0.02
"""how often, and seconds between, a lock is asked for that somebody holds"""


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a run folder, which is made if need be, for this process.

    Raises:
        UserError: another process is training in it, or nothing can be written there.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = open(folder / LOCK, "w")  # noqa: SIM115 (closed below)
    except OSError as error:
        raise UserError(
            f"cannot write to the run's folder {folder} ({error.strerror}: {error.filename}); name another with --run"
        ) from error
    try:
        import fcntl
    except ImportError:  # Windows: no lock
        yield
        return
    with lock:
        for waited in range(TRIES):
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if waited == TRIES - 1:
                    raise UserError(
                        f"another process is training in {folder}; wait for it or name another folder with --run"
                    ) from None
                time.sleep(PAUSE)  # whoever looks whether somebody trains here holds the lock for an instant
        yield


def is_training(folder: Path) -> bool:
    """Whether a process holds a run folder; nothing is made or touched in it."""
    try:
        import fcntl

        with open(folder / LOCK) as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except (ImportError, OSError):  # Windows has no lock; nobody has ever trained there
        pass
    return False


@contextmanager
def failure_noted(folder: Path) -> Iterator[None]:
    """Leave in ``error.txt`` why a run could not go on; the file goes when it does go on."""
    path = folder / ERROR
    path.unlink(missing_ok=True)
    try:
        yield
    except Exception as error:
        with suppress(OSError):  # as on a full disk
            path.write_text(f"{error or type(error).__name__}\n", encoding="utf-8")
        raise
