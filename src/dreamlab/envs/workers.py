"""Environments in worker processes, and the same in this process: vector environments with seeded resets.

Gymnasium's AsyncVectorEnv builds one environment in the main process, waits for its workers without a
limit, and prints their tracebacks; a crashing or hanging environment takes the run with it. Here the main
process builds nothing: workers report their spaces, answer within ``timeout``, and whatever happens to one
becomes one RunError. Observations are small dictionaries of arrays, so they travel through the pipes.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import connection
from typing import Any

import cloudpickle
import gymnasium
import numpy as np
from gymnasium import Env
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv
from gymnasium.vector.utils import batch_space, iterate

from dreamlab.core.errors import RunError, UserError

BUILD_SECONDS = 600.0
"""how long an environment may take to be built: the first time, some download what they need"""
Result = tuple[dict[str, np.ndarray], np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]


class Workers(VectorEnv):
    """One environment a process, NEXT_STEP autoreset, Dict observations, ``seeded`` resets.

    Raises:
        RunError: an environment crashed, died, or gave no answer in ``timeout`` seconds; all workers are gone then.
    """

    seeded = True
    metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP}

    def __init__(self, builders: Sequence[Callable[[], Env]], name: str, timeout: float) -> None:
        self.num_envs, self._name, self._timeout = len(builders), name, timeout
        self._steps = 0
        self._pipes: list[connection.Connection] = []
        self._processes: list[Any] = []
        try:
            for i, build in enumerate(builders):
                process, pipe = start(_serve, build, name=f"{name}-{i}")
                self._processes.append(process)
                self._pipes.append(pipe)
            ready = self._receive("being built", max(BUILD_SECONDS, timeout))
        except BaseException:
            self.close(kill=True)
            raise
        for attribute in (0, 1):
            if any(r[attribute] != ready[0][attribute] for r in ready):
                self.close(kill=True)
                raise RunError(f"the {self.num_envs} environments {name!r} do not have the same spaces")
        self.single_observation_space, self.single_action_space, self.render_mode = ready[0]
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[dict[str, np.ndarray], dict]:
        """Start episodes; ``options`` as ``SeededReset`` has them, with one entry for each environment.

        The episodes' seeds come from the run's seed, so ``seed`` is not taken.
        """
        own = split(options, self.num_envs)
        longest = max((len(o["resume"]["actions"]) for o in own if "resume" in o), default=0)
        self._send("reset", own)
        found = self._receive("a reset", self._timeout * (1 + longest // 10))
        return _stacked([obs for obs, _ in found]), self._infos([info for _, info in found])

    def step(self, actions: Any) -> Result:
        """One step of every environment; actions (N, ...)."""
        self._steps += 1
        self._send("step", list(iterate(self.action_space, actions)))
        obs, rew, terminated, truncated, infos = zip(*self._receive("a step", self._timeout), strict=True)
        flags = np.array(terminated, np.bool_), np.array(truncated, np.bool_)
        return _stacked(obs), np.array(rew, np.float64), *flags, self._infos(infos)

    def render(self) -> tuple[Any, ...]:
        """One frame (H, W, 3) uint8 for each environment; None where nothing was ever reset."""
        self._send("render", [None] * self.num_envs)
        return tuple(self._receive("a picture", self._timeout))

    def close_extras(self, kill: bool = False, **_: Any) -> None:
        """Ask the workers to leave, and end those that have not within two seconds."""
        if not kill:
            for pipe in self._pipes:
                with suppress(OSError):
                    pipe.send(("close", None))
        deadline = time.monotonic() + (0 if kill else 2)
        for process in self._processes:
            if not kill:
                process.join(max(0, deadline - time.monotonic()))
            if process.is_alive():
                process.kill()
        for process, pipe in zip(self._processes, self._pipes, strict=True):
            process.join(5)
            pipe.close()

    def __del__(self) -> None:
        with suppress(Exception):
            if not self.closed and hasattr(self, "_processes"):
                self.close(kill=True)

    def _send(self, command: str, values: Sequence[Any]) -> None:
        if self.closed:
            raise RunError(f"the environments {self._name!r} are closed")
        try:
            for pipe, value in zip(self._pipes, values, strict=True):
                with suppress(OSError):  # a dead worker is noticed, and named, when its answer is missing
                    pipe.send((command, value))
        except BaseException:  # some were asked and others not
            self.close(kill=True)
            raise

    def _receive(self, doing: str, timeout: float) -> list[Any]:
        """One answer from each worker, in order, or the first failure as an error."""
        answers: list[Any] = [None] * self.num_envs
        waiting: dict[Any, int] = {pipe: i for i, pipe in enumerate(self._pipes)}
        deadline = time.monotonic() + timeout
        try:
            while waiting:
                ready = connection.wait(list(waiting), max(0, deadline - time.monotonic()))
                if not ready:
                    raise RunError(
                        f"{self._who(min(waiting.values()))} gave no answer for {timeout:g} s during {doing}: "
                        "it hangs, or needs longer (env option timeout, in seconds)"
                    )
                for pipe in ready:
                    i = waiting.pop(pipe)
                    answers[i] = self._answer(i, doing)
        except BaseException:  # a failure, or Ctrl-C between question and answer: the pipes are out of step
            self.close(kill=True)
            raise
        return answers

    def _answer(self, i: int, doing: str) -> Any:
        try:
            kind, value = self._pipes[i].recv()
        except (EOFError, OSError) as error:
            self._processes[i].join(2)
            raise RunError(f"{self._who(i)} died during {doing} ({_exit(self._processes[i].exitcode)})") from error
        if kind == "ok":
            return value
        if kind in ("user", "run"):
            raise (RunError if kind == "run" else UserError)(value)
        text, trace = value
        failure = RunError(f"{self._who(i)} crashed during {doing}: {text}")
        failure.add_note(trace)
        raise failure

    def _who(self, i: int) -> str:
        after = f", after {self._steps} steps," if self._steps else ""
        return f"environment {i} of {self.num_envs} ({self._name}){after}"

    def _infos(self, infos: Sequence[dict[str, Any]]) -> dict[str, Any]:
        out: dict[str, Any] = {}
        for i, info in enumerate(infos):
            out = self._add_info(out, info, i) if info else out
        return out


class InProcess(SyncVectorEnv):
    """The same without processes: one environment after another. Nothing guards against hangs or dying."""

    seeded = True

    def __init__(self, builders: Sequence[Callable[[], Env]], name: str, window: bool = False) -> None:
        self._name, self._window = name, window
        with told(name, window):
            super().__init__(builders, autoreset_mode=AutoresetMode.NEXT_STEP)

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[dict[str, np.ndarray], dict]:
        """As ``Workers.reset``."""
        own = split(options, self.num_envs)
        infos: dict[str, Any] = {}
        for flags in (self._terminations, self._truncations, self._autoreset_envs):
            flags[:] = False
        with told(self._name, self._window):
            for i, env in enumerate(self.envs):
                self._env_obs[i], info = env.reset(options=own[i])
                infos = self._add_info(infos, info, i)
        return _stacked(self._env_obs), infos  # type: ignore[arg-type]

    def step(self, actions: Any) -> Result:
        """As ``Workers.step``."""
        with told(self._name, self._window):
            return super().step(actions)  # type: ignore[return-value]

    def render(self) -> tuple[Any, ...]:
        """As ``Workers.render``."""
        with told(self._name, self._window):
            return tuple(env.render() for env in self.envs)  # type: ignore[misc]


def split(options: dict[str, Any] | None, n: int) -> list[dict[str, Any]]:
    """The reset options of each environment, from those of all.

    Raises:
        ValueError: another key than ``resume`` or ``seeds``, or not one entry for each environment.
    """
    options = options or {}
    if options.keys() - {"resume", "seeds"} or len(options) > 1:
        raise ValueError(f"reset options are 'resume' or 'seeds', got {sorted(options)}")
    for key, values in options.items():
        if len(values) != n:
            raise ValueError(f"{key} needs one entry for each of {n} environments, got {len(values)}")
    return [{key: values[i] for key, values in options.items()} for i in range(n)]


@contextmanager
def told(name: str, window: bool = False) -> Iterator[None]:
    """Run an environment in this process: quietly, and whatever it raises becomes an error that names it."""
    try:
        with quiet(window):
            yield
    except (UserError, KeyboardInterrupt):
        raise
    except Exception as error:
        raise RunError(f"environment {name!r} crashed: {described(error)}") from error


def start(target: Callable[..., None], payload: Any, name: str) -> tuple[Any, connection.Connection]:
    """Start ``target(payload, pipe)`` in a quiet process of its own. Returns the process and our end of the pipe."""
    methods = multiprocessing.get_all_start_methods()
    context: Any = multiprocessing.get_context("forkserver" if "forkserver" in methods else "spawn")
    if context.get_start_method() == "forkserver":
        context.set_forkserver_preload([__name__])  # what all workers import is imported once
    ours, theirs = context.Pipe()
    process = context.Process(target=_become, args=(target, cloudpickle.dumps(payload), theirs), name=name, daemon=True)
    with _without_main(), _one_thread():
        process.start()
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
def quiet(window: bool = False) -> Iterator[None]:
    """No screen is opened and nobody says hello, unless a ``window`` is wanted. The environment variables are put back.

    SDL without a display complains about XDG_RUNTIME_DIR on stderr; its dummy driver does not.
    """
    wanted = {"PYGAME_HIDE_SUPPORT_PROMPT": "1", **({} if window else {"SDL_VIDEODRIVER": "dummy"})}
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
    """The first thing a worker does: Ctrl-C is the main process's affair, and its death ends ours."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_follow_parent, daemon=True).start()
    try:
        thing = cloudpickle.loads(payload)
    except Exception as error:
        _fail(pipe, error)
        return
    with suppress(EOFError, BrokenPipeError, ConnectionResetError):  # the main process is gone: so are we
        target(thing, pipe)


def _follow_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(0)


def _serve(build: Callable[[], Env], pipe: connection.Connection) -> None:
    """A worker's life: build, report the spaces, answer until told to close."""
    quiet(getattr(build, "window", False)).__enter__()  # for good
    try:
        env = build()
    except BaseException as error:
        _fail(pipe, error)
        return
    with suppress(Exception):
        pipe.send(("ok", (env.observation_space, env.action_space, env.render_mode)))
        over = False
        while True:
            command, value = pipe.recv()
            if command == "close":
                break
            try:
                answer, over = _obey(env, command, value, over)
            except BaseException as error:
                _fail(pipe, error)
                return
            pipe.send(("ok", answer))
    with suppress(Exception):
        env.close()


def _obey(env: Env, command: str, value: Any, over: bool) -> tuple[Any, bool]:
    """One command's answer, and whether the episode is over now (the next step then resets: NEXT_STEP)."""
    if command == "step":
        if over:
            obs, info = env.reset()
            return (obs, 0.0, False, False, info), False
        obs, rew, terminated, truncated, info = env.step(value)
        return (obs, rew, terminated, truncated, info), terminated or truncated
    if command == "reset":
        return env.reset(options=value), False
    assert command == "render", command
    return env.render(), over


def _fail(pipe: connection.Connection, error: BaseException) -> None:
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


def _exit(code: int | None) -> str:
    if code is None:
        return "it does not say how"
    if code < 0:
        with suppress(ValueError):
            return signal.Signals(-code).name
    return f"exit code {code}"


def _stacked(obs: Sequence[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {key: np.stack([o[key] for o in obs]) for key in obs[0]}
