"""Catch, gone wrong: the class says how, a file (or the environment variable FAULT_AT) after how many steps.

A file, because worker processes have the environment variables of when the first one was started: so a fault
can be mended between two commands of one process.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from dreamlab.envs.tiny import Catch

NEVER = 10**9


def fault_file() -> Path:
    """Holds the step of the fault, for the main process and its workers; none, no fault."""
    parent = multiprocessing.parent_process()
    return Path(tempfile.gettempdir()) / f"dreamlab-fault-{parent.pid if parent else os.getpid()}"


def fault_at() -> int:
    """How many steps an environment takes before its fault."""
    if "FAULT_AT" in os.environ:
        return int(os.environ["FAULT_AT"])
    try:
        return int(fault_file().read_text())
    except FileNotFoundError:
        return NEVER


class Faulty(Catch):
    """Catch that counts its steps over all episodes."""

    def __init__(self, render_mode: str | None = None) -> None:
        super().__init__(render_mode)
        self.taken, self.at = 0, fault_at()

    def step(self, act: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.taken += 1
        found = super().step(act)
        return self.fault(found) if self.taken >= self.at else found

    def fault(self, found: Any) -> Any:
        raise NotImplementedError


class Crash(Faulty):
    """Raises."""

    def fault(self, found: Any) -> Any:
        raise ValueError("the wheel came off")


class Exit(Faulty):
    """Ends its process."""

    def fault(self, found: Any) -> Any:
        os._exit(7)


class Segfault(Faulty):
    """Ends its process as C code does."""

    def fault(self, found: Any) -> Any:
        ctypes.string_at(0)


class Hang(Faulty):
    """Never answers."""

    def fault(self, found: Any) -> Any:
        while True:
            time.sleep(0.01)


class Reward(Faulty):
    """Gives a reward that is none."""

    def fault(self, found: Any) -> Any:
        return (found[0], float("nan"), *found[2:])


class Vector(Faulty):
    """Catch as a vector of three; NaN at the fault."""

    def __init__(self, render_mode: str | None = None) -> None:
        from gymnasium import spaces

        super().__init__(render_mode)
        self.observation_space = spaces.Box(-1, 8, (3,), np.float32)

    def fault(self, found: Any) -> Any:
        return (np.full(3, np.nan, np.float32), *found[1:])

    def _draw(self) -> np.ndarray:
        return np.array([self.row, self.ball, self.paddle], np.float32)


class Longer(Vector):
    """Catch as a vector of three; of four at the fault."""

    def fault(self, found: Any) -> Any:
        return (np.ones(4, np.float32), *found[1:])


class Vanishing(Vector):
    """Catch as two keys; as one at the fault."""

    def __init__(self, render_mode: str | None = None) -> None:
        from gymnasium import spaces

        super().__init__(render_mode)
        self.observation_space = spaces.Dict({key: spaces.Box(-1, 8, (3,), np.float32) for key in ("far", "near")})

    def fault(self, found: Any) -> Any:
        return ({"near": found[0]["near"]}, *found[1:])

    def _draw(self) -> Any:
        return {key: super(Vanishing, self)._draw() for key in ("far", "near")}


class Colourless(Faulty):
    """Catch, whose picture has another form at the fault."""

    def fault(self, found: Any) -> Any:
        return (found[0][..., :1] if found[0].ndim == 3 else found[0][:-1], *found[1:])


class VectorAtReset(Vector):
    """NaN already when an episode begins."""

    def fault(self, found: Any) -> Any:
        return found

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict]:
        obs, info = super().reset(seed=seed)
        return (np.full(3, np.nan, np.float32) if self.at < NEVER else obs), info


class Slow(Faulty):
    """A tenth of a second a step: long enough to be interrupted in."""

    def fault(self, found: Any) -> Any:
        time.sleep(0.1)
        return found
