"""Learning rates over time, one part for each kind; asked for the rate before an update, told its loss after it.

What a part needs to go on is in ``state_dict``; ``Plateau`` looks at the loss only once an ``EPOCH``, so that learning
rarely waits for the device.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

LOWEST = 1e-5
"""what the decaying rate falls towards (the authors' Doom M)"""
DECAY = 0.99999
"""an update (the same)"""
EPOCH = 250
"""updates whose mean loss is compared; ours: the known reproduction looks once an epoch at held-out data"""
PATIENCE, FACTOR = 5, 0.5
"""after so many epochs without a better one, the rate is multiplied by this (ctallec)"""


class Schedule(Protocol):
    """The learning rate of the next update."""

    rate: float

    def learned(self, loss: Tensor) -> None: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...


class Constant:
    """The rate stays."""

    def __init__(self, lr: float) -> None:
        self.rate = lr

    def learned(self, loss: Tensor) -> None:
        return

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        return


class Decay:
    """lowest + (lr - lowest) * decay^updates."""

    def __init__(self, lr: float) -> None:
        self.lr, self.updates = lr, 0

    @property
    def rate(self) -> float:
        return LOWEST + (self.lr - LOWEST) * DECAY**self.updates

    def learned(self, loss: Tensor) -> None:
        self.updates += 1

    def state_dict(self) -> dict[str, Any]:
        return {"updates": self.updates}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.updates = int(state["updates"])


class Plateau:
    """Halved when the mean loss of an epoch has not been beaten for ``PATIENCE`` epochs."""

    def __init__(self, lr: float) -> None:
        self.rate, self.updates, self.best, self.worse = lr, 0, math.inf, 0
        self.total = torch.zeros(())

    def learned(self, loss: Tensor) -> None:
        self.total = self.total.to(loss.device) + loss.detach().float()
        self.updates += 1
        if self.updates % EPOCH:
            return
        mean, self.total = float(self.total) / EPOCH, torch.zeros(())
        self.worse = 0 if mean < self.best else self.worse + 1
        self.best = min(mean, self.best)
        if self.worse > PATIENCE:
            self.rate, self.worse = self.rate * FACTOR, 0

    def state_dict(self) -> dict[str, Any]:
        return {
            "rate": self.rate,
            "updates": self.updates,
            "best": self.best if math.isfinite(self.best) else None,
            "worse": self.worse,
            "total": self.total.cpu(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.rate, self.updates, self.worse = float(state["rate"]), int(state["updates"]), int(state["worse"])
        self.best = math.inf if state["best"] is None else float(state["best"])
        self.total = torch.as_tensor(state["total"])


SCHEDULES: dict[str, type[Constant] | type[Decay] | type[Plateau]] = {
    "constant": Constant,
    "decay": Decay,
    "plateau": Plateau,
}
