"""What a player's hands do, as ticks see it: the newest act wins, and no short press is lost."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from gymnasium import spaces

from dreamlab.core.errors import UserError

LET_GO = 1.5
"""seconds of silence after which pressed keys are let go: a page that holds some says so twice a second"""


class Hand:
    """Acts as they come, numbered by ``n``; ``rest`` is what is done while nothing is pressed, if there is such.

    What came and went between two ticks acts in the next one, and in no other: a short press, also while other keys
    are held down.
    """

    def __init__(self, rest: Any) -> None:
        self.rest = rest
        self.held: Any = None  # None: nothing is pressed
        self.n = -1
        self._before: Any = None  # what was held at the last tick
        self._tap: Any = None  # the newest since then that differs from it
        self._heard = 0.0
        self._last: Any = rest

    def press(self, act: Any, n: int, now: float) -> bool:
        """The newest act, None where all is let go; an older ``n`` is dropped. Returns whether something changed."""
        if n < self.n:
            return False
        again = n == self.n
        self.n, self._heard = n, now
        act = None if _same(act, self.rest) else act
        changed = not _same(act, self.held)
        self.held = act
        if act is not None and not again and not _same(act, self._before):
            self._tap = act
        return changed

    def pressing(self, now: float) -> bool:
        """Whether a tick now would find something pressed."""
        self._silence(now)
        return self.held is not None or self._tap is not None

    def take(self, now: float) -> Any:
        """What this tick does."""
        self._silence(now)
        back = self.held is None or _same(self.held, self._before)
        act = self._tap if back and self._tap is not None else self.held
        self._before, self._tap = self.held, None
        if act is None:
            act = self.rest if self.rest is not None else self._last
        self._last = act
        return act

    def let_go(self) -> None:
        """Nothing is pressed any more."""
        self.held = self._tap = None

    def _silence(self, now: float) -> None:
        if now - self._heard > LET_GO:
            self.let_go()


def reader(space: spaces.Space) -> Callable[[Any], Any]:
    """A function that makes of what a page sent an action of this space, None of None.

    Raises (the function):
        UserError: it is none; says what an action is.
    """
    if isinstance(space, spaces.Discrete):
        n = int(space.n)

        def one(act: Any) -> int | None:
            if act is not None and (not _whole(act) or not 0 <= act < n):
                raise UserError(f"An act is a whole number from 0 to {n - 1} here.")
            return act

        return one
    if isinstance(space, spaces.MultiDiscrete):
        widths = [int(n) for n in space.nvec]

        def several(act: Any) -> list[int] | None:
            if act is None:
                return None
            if not isinstance(act, list) or len(act) != len(widths) or not all(map(_whole, act)):
                raise UserError(f"An act is a list of {len(widths)} whole numbers here.")
            if not all(0 <= a < n for a, n in zip(act, widths, strict=True)):
                raise UserError(f"An act's whole numbers are from 0 to below {widths} here.")
            return act

        return several
    assert isinstance(space, spaces.Box)
    low, high = space.low.astype(np.float64), space.high.astype(np.float64)

    def numbers(act: Any) -> list[float] | None:
        if act is None:
            return None
        if not isinstance(act, list) or len(act) != len(low) or not all(map(_number, act)):
            raise UserError(f"An act is a list of {len(low)} numbers here.")
        return np.clip(np.array(act, np.float64), low, high).tolist()

    return numbers


def as_taken(act: Any, space: spaces.Space) -> np.ndarray:
    """An act as the environment takes it."""
    return np.asarray(act, space.dtype or np.int64)


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e300  # nor NaN


def _same(a: Any, b: Any) -> bool:
    return a is b if a is None or b is None else np.array_equal(a, b)
