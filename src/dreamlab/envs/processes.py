"""Quiet processes of our own for foreign code, and how what happens in them is told."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing import connection, resource_tracker, util
from typing import Any

import cloudpickle
import gymnasium

from dreamlab.core.errors import EnvironmentFailed, RunError, UserError


def start(target: Callable[..., None], payload: Any, name: str) -> tuple[Any, connection.Connection]:
    """Start ``target(payload, pipe)`` in a quiet process of its own. Returns the process and our end of the pipe."""
    methods = multiprocessing.get_all_start_methods()
    context: Any = multiprocessing.get_context("forkserver" if "forkserver" in methods else "spawn")
    if context.get_start_method() == "forkserver":
        context.set_forkserver_preload(["dreamlab.envs.build"])  # what all workers import is imported once
    ours, theirs = context.Pipe()
    process = context.Process(target=_become, args=(target, cloudpickle.dumps(payload), theirs), name=name, daemon=True)
    with _without_main(), _one_thread(), _without_signals():
        process.start()
    # at our end multiprocessing asks daemons to terminate and waits, but workers leave that signal to us
    util.Finalize(process, process._popen.kill, exitpriority=10)
    theirs.close()  # so that a dead worker reads as the end of its pipe
    return process, ours


@contextmanager
def _without_main() -> Iterator[None]:
    """Hide which file ``__main__`` is, so that a worker does not run the user's script again.

    What the script defines travels by value (cloudpickle), so ``if __name__ == "__main__"`` is not needed.
    """
    main: dict[str, Any] = sys.modules["__main__"].__dict__
    kept: dict[str, Any] = {key: main.pop(key) for key in ("__file__", "__spec__") if key in main}
    main["__spec__"] = None
    try:
        yield
    finally:
        del main["__spec__"]
        main.update(kept)


@contextmanager
def _one_thread() -> Iterator[None]:
    """One arithmetic thread a worker: they share the cores already."""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    kept = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, "1"))
    try:
        yield
    finally:
        for name, value in kept.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextmanager
def _without_signals() -> Iterator[None]:
    """Keep SIGINT and SIGTERM from what is started here: a group is told to end, the main process decides how.

    The signals wait meanwhile. The fork server inherits that, and so do its workers, which would otherwise be
    interrupted between their start and ``_become``.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    resource_tracker.ensure_running()  # or it would be started inside, and let the signal through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def quiet(window: bool = False) -> Iterator[None]:
    """Nobody says hello, plays sounds, or opens a screen unless a ``window`` is wanted; put back afterwards.

    SDL without a display complains about XDG_RUNTIME_DIR on stderr; its dummy driver does not.
    """
    wanted = {"PYGAME_HIDE_SUPPORT_PROMPT": "1", "SDL_AUDIODRIVER": "dummy"}
    if not window:
        wanted["SDL_VIDEODRIVER"] = "dummy"
    new = {key: value for key, value in wanted.items() if key not in os.environ}
    os.environ.update(new)
    level, gymnasium.logger.min_level = gymnasium.logger.min_level, gymnasium.logger.ERROR
    try:
        yield
    finally:
        gymnasium.logger.min_level = level
        for key in new:
            os.environ.pop(key, None)


def _become(target: Callable[..., None], payload: bytes, pipe: connection.Connection) -> None:
    """The first thing a worker does: signals are the main process's affair, and its death ends ours."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: None)  # what an environment starts can still be ended by it
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGTERM})
    threading.Thread(target=_follow_parent, daemon=True).start()
    try:
        thing = cloudpickle.loads(payload)
    except Exception as error:
        send_failure(pipe, error)
        return
    with suppress(EOFError, BrokenPipeError, ConnectionResetError):  # the main process is gone: so are we
        target(thing, pipe)


def _follow_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(0)


@contextmanager
def told(name: str, window: bool = False) -> Iterator[None]:
    """Run an environment in this process: quietly, and whatever it raises becomes an error that names it."""
    try:
        with quiet(window):
            yield
    except (UserError, KeyboardInterrupt):
        raise
    except Exception as error:
        raise EnvironmentFailed(f"environment {name!r} crashed: {described(error)}") from error


def send_failure(pipe: connection.Connection, error: BaseException) -> None:
    """Tell the main process: ("user" or "run", message) for our own errors, else ("crash", (line, traceback))."""
    with suppress(OSError):
        if isinstance(error, UserError):
            pipe.send(("run" if isinstance(error, RunError) else "user", str(error)))
        else:
            pipe.send(("crash", (described(error), "".join(traceback.format_exception(error)))))


def described(error: BaseException) -> str:
    """The error's kind and words, and the line that raised it."""
    text = f"{type(error).__name__}: {error}".rstrip(": ")
    frames = traceback.extract_tb(error.__traceback__)
    return f"{text} ({os.path.basename(frames[-1].filename)} line {frames[-1].lineno})" if frames else text


def how_it_ended(code: int | None) -> str:
    """An exit code in words: a signal's name where one ended the process."""
    if code is None:
        return "it does not say how"
    if code < 0:
        with suppress(ValueError):
            return signal.Signals(-code).name
    return f"exit code {code}"
