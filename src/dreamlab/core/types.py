"""Rows, batches, and the one convention of time.

::

    row t :  obs[t]  rew[t]  is_first[t] is_last[t] is_terminal[t]   act[t]
             what was seen on arriving at t                          what was then chosen
             rew[t] came with obs[t]  (rew = 0 where is_first)       (meaningless where is_last)

    is_first ─┐                     is_last = terminated or truncated
              ▼                        ▼    is_terminal = terminated only
    row:      0     1     2    ...     T    then a new episode's row 0
    act:      a0 ─▶ a1 ─▶ a2   ...    (ignored)
    rew:      0     r1    r2   ...    rT    r[t+1] is what act[t] earned

``con = ~is_terminal`` is the continuation. Gymnasium's ``AutoresetMode.NEXT_STEP`` gives exactly this
stream: after a row with ``is_last`` the next step ignores its action and returns the next episode's first
row. A paper with another convention shifts inside its own file, in one named function.

Axes: B batch, T replay time, N environments or start states, H imagined steps, A action; images C h w.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from gymnasium import spaces

if TYPE_CHECKING:
    from torch import Tensor

    Obs = Mapping[str, Tensor]
    """images uint8 (*batch, C, h, w); vectors float32 (*batch, n)"""
    Metrics = Mapping[str, Tensor | float]
    """detached scalars, left on the device until they are written; images and films have keys of their own"""

FLAGS = ("is_first", "is_last", "is_terminal")


class Batch(NamedTuple):
    """Rows gathered for learning: (B, T, ...)."""

    obs: Obs
    act: Tensor
    """(B, T, A) float32: one-hot where the action is discrete, several one-hots in a row where several are chosen"""
    rew: Tensor
    """(B, T) float32"""
    is_first: Tensor
    """(B, T) bool"""
    is_last: Tensor
    is_terminal: Tensor
    mask: Tensor
    """(B, T) bool: False where padded (row id -1); padded entries are zeros"""
    rows: Tensor
    """(B, T) int64: the rows' ids, -1 where padded"""
    extras: Mapping[str, Tensor]
    """annotation columns by name: (B, T, ...)"""


class Episodes(NamedTuple):
    """The index of episodes, oldest first. Row ids of one: ``t * streams + stream`` for t in [start, stop)."""

    stream: np.ndarray
    """(E,) int64"""
    start: np.ndarray
    """(E,) int64: time of the first row that is still held"""
    stop: np.ndarray
    """(E,) int64: one past the last row"""
    whole: np.ndarray
    """(E,) bool: begins with is_first and ends with is_last"""


class Outcome(NamedTuple):
    """What whole episodes gave: one entry an episode."""

    ret: np.ndarray
    """(N,) float64: undiscounted return"""
    length: np.ndarray
    """(N,) int64: steps"""
    infos: Mapping[str, np.ndarray] = MappingProxyType({})
    """(N,) float64 by name: the numbers in the info of the last step, where they were kept; NaN where there was none"""


class Recorded(NamedTuple):
    """What a run that learns from recordings has: the agent refuses what its recipe lacks."""

    rows: int
    actions: bool
    """whether what was done is known; else every action is the one of Discrete(1)"""
    rewards: bool
    ends: bool
    """whether it is known where episodes terminated"""
    env: bool
    """whether there is an environment to act in beside the recordings"""


def is_image(space: spaces.Space) -> bool:
    """Whether an observation space holds images: uint8 (C, h, w)."""
    return isinstance(space, spaces.Box) and space.dtype == np.uint8 and len(space.shape) == 3


def act_size(space: spaces.Space) -> int:
    """A: the width of an action as the networks see it (``core.actions.one_hot``)."""
    if isinstance(space, spaces.Discrete):
        return int(space.n)
    if isinstance(space, spaces.MultiDiscrete) and len(space.shape) == 1:
        return int(space.nvec.sum())
    if isinstance(space, spaces.Box) and len(space.shape) == 1:
        return int(space.shape[0])
    raise TypeError(f"an action is Discrete or a flat MultiDiscrete or Box here, got {space}")
