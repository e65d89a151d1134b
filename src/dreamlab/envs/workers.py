"""Environments in worker processes, and the same in this process: vector environments with seeded resets.

Gymnasium's AsyncVectorEnv builds one environment in the main process, waits for its workers without a
limit, and prints their tracebacks; a crashing or hanging environment takes the run with it. Here the main
process builds nothing: workers report their spaces, answer within ``timeout``, and whatever happens to one
becomes one RunError. Observations are small dictionaries of arrays, so they travel through the pipes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing import connection
from typing import Any

import numpy as np
from gymnasium import Env
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv
from gymnasium.vector.utils import batch_space, iterate

from dreamlab.core.errors import EnvironmentFailed, RunError, UserError
from dreamlab.envs.processes import how_it_ended, quiet, send_failure, start, told

BUILD_SECONDS = 600.0
"""how long an environment may take to be built: the first time, some download what they need"""
Result = tuple[dict[str, np.ndarray], np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]


class Workers(VectorEnv):
    """One environment a process, NEXT_STEP autoreset, Dict observations, ``seeded`` resets.

    Raises:
        EnvironmentFailed: one crashed, died, or gave no answer in ``timeout`` seconds; all workers are gone then.
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
                    raise EnvironmentFailed(
                        f"{self._who(min(waiting.values()))} gave no answer for {timeout:g} s during {doing}: "
                        "it hangs, or needs longer (--env.timeout, in seconds)"
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
            raise EnvironmentFailed(
                f"{self._who(i)} died during {doing} ({how_it_ended(self._processes[i].exitcode)})"
            ) from error
        if kind == "ok":
            return value
        if kind in ("user", "run"):
            raise (RunError if kind == "run" else UserError)(value)
        text, trace = value
        failure = EnvironmentFailed(f"{self._who(i)} crashed during {doing}: {text}")
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


def _serve(build: Callable[[], Env], pipe: connection.Connection) -> None:
    """A worker's life: build, report the spaces, answer until told to close."""
    with quiet(getattr(build, "window", False)):
        _live(build, pipe)


def _live(build: Callable[[], Env], pipe: connection.Connection) -> None:
    try:
        env = build()
    except BaseException as error:
        send_failure(pipe, error)
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
                send_failure(pipe, error)
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


def _stacked(obs: Sequence[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {key: np.stack([o[key] for o in obs]) for key in obs[0]}
