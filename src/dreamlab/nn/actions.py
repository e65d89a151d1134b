"""Actions as an environment takes them, as rows hold them, and as networks see them.

Rows hold one-hot numbers where actions are discrete (``core.types``), and the environment's own units where they are
continuous. Networks see one-hot numbers, and [-1, 1] for what lies between the environment's bounds.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from gymnasium import spaces
from jaxtyping import Float
from torch import Tensor

from dreamlab.core.errors import UserError


class Actions(Protocol):
    """One action space, both ways."""

    size: int
    """A: width as networks see it"""
    groups: tuple[int, ...]
    """classes of each discrete choice; empty where actions are continuous"""

    def seen(self, act: Float[Tensor, "*batch A"]) -> Float[Tensor, "*batch A"]:
        """What rows hold, as networks see it."""
        ...

    def emit(self, act: Float[Tensor, "N A"]) -> Tensor:
        """What the environment takes."""
        ...


class Classes:
    """Discrete (one group) and MultiDiscrete actions."""

    def __init__(self, groups: tuple[int, ...], single: bool) -> None:
        self.groups, self.size, self.single = groups, sum(groups), single

    def seen(self, act: Float[Tensor, "*batch A"]) -> Float[Tensor, "*batch A"]:
        return act

    def emit(self, act: Float[Tensor, "N A"]) -> Tensor:
        """int64 (N,), or (N, k) of k choices."""
        chosen = torch.stack([part.argmax(-1) for part in act.split(self.groups, -1)], -1)
        return chosen[:, 0] if self.single else chosen


class Bounded:
    """Continuous actions between finite bounds; what lies outside is clipped."""

    groups: tuple[int, ...] = ()

    def __init__(self, low: np.ndarray, high: np.ndarray) -> None:
        self.size = len(low)
        self.middle, self.half = torch.from_numpy((high + low) / 2), torch.from_numpy((high - low) / 2)

    def seen(self, act: Float[Tensor, "*batch A"]) -> Float[Tensor, "*batch A"]:
        return ((act - self.middle.to(act)) / self.half.to(act)).clamp(-1, 1)

    def emit(self, act: Float[Tensor, "N A"]) -> Tensor:
        """float32 (N, A)."""
        return self.middle.to(act) + self.half.to(act) * act.clamp(-1, 1)


def actions_for(space: spaces.Space) -> Classes | Bounded:
    """How to act in a space.

    Raises:
        UserError: neither Discrete, MultiDiscrete nor a flat Box with bounds.
    """
    if isinstance(space, spaces.Discrete):
        return Classes((int(space.n),), single=True)
    if isinstance(space, spaces.MultiDiscrete) and space.nvec.ndim == 1:
        return Classes(tuple(int(n) for n in space.nvec), single=False)
    if isinstance(space, spaces.Box) and len(space.shape) == 1:
        low, high = space.low.astype(np.float32), space.high.astype(np.float32)
        if np.isfinite(low).all() and np.isfinite(high).all() and (low < high).all():
            return Bounded(low, high)
        raise UserError(
            f"Dreamers act between bounds, but those of this environment are {space.low} and {space.high}: give its "
            "action space finite ones (a Box), or wrap it in a function of your own, as my_pkg.my_env:make"
        )
    raise UserError(
        f"Dreamers choose one of n (Discrete), one of each of several (MultiDiscrete) or a vector between bounds "
        f"(Box); this environment's actions are {space}"
    )
