"""Catch, gone wrong: each fault at the step that its maker's name and the environment variable FAULT_AT say.

The variable travels to the worker processes, so that a fault can be mended between two commands.
"""

from __future__ import annotations

import ctypes
import os
import time
from typing import Any

import numpy as np

from dreamlab.envs.tiny import Catch


def fault_at() -> int:
    """How many steps an environment takes before its fault; never where the variable is not set."""
    return int(os.environ.get("FAULT_AT", 10**9))


class Faulty(Catch):
    """Catch that counts its steps over all episodes."""

    def __init__(self, render_mode: str | None = None) -> None:
        super().__init__(render_mode)
        self.taken = 0

    def step(self, act: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.taken += 1
        found = super().step(act)
        return self.fault(found) if self.taken >= fault_at() else found

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


class VectorAtReset(Vector):
    """NaN already when an episode begins."""

    def fault(self, found: Any) -> Any:
        return found

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict]:
        obs, info = super().reset(seed=seed)
        return (np.full(3, np.nan, np.float32) if fault_at() < 10**9 else obs), info


class Slow(Faulty):
    """A tenth of a second a step: long enough to be interrupted in."""

    def fault(self, found: Any) -> Any:
        time.sleep(0.1)
        return found
