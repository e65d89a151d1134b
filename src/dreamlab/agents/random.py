"""The smallest agent: acts uniformly at random and learns nothing.

It is the baseline of every comparison, and the example to copy for an agent of one's own: ``Config``,
``budget``, ``build`` and ``footprint`` are all that a module must offer, ``RandomAgent`` all that an agent must be.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from gymnasium import spaces

from dreamlab.agents import Footprint
from dreamlab.core.protocols import Phase

if TYPE_CHECKING:
    from torch import Tensor

    from dreamlab.core.protocols import Experience
    from dreamlab.core.types import Metrics, Obs

SEES = "any"
DREAMS = False
EXTENDS = ("collect", "run.steps")


@dataclass(frozen=True)
class Config:
    """Acts uniformly at random."""

    collect: int = 1000
    """environment steps, unless the run says how many"""


def budget(config: Config, run: Any) -> list[Phase]:
    """One phase that only acts."""
    return [Phase("collect", env_steps=run.steps or config.collect)]


def build(
    config: Config, obs_space: spaces.Dict, act_space: spaces.Space, compute: Any, seed: int, run: Any
) -> RandomAgent:
    """The agent, bound to its spaces."""
    return RandomAgent(act_space, budget(config, run))


def footprint(config: Config, obs_space: spaces.Dict, act_space: spaces.Space, run: Any) -> Footprint:
    """Nothing."""
    return Footprint(0, 0)


class RandomAgent:
    """Uniform actions, from torch's global generator."""

    def __init__(self, act_space: spaces.Space, phases: list[Phase]) -> None:
        self.act_space, self._phases = act_space, phases

    @property
    def parts(self) -> Mapping[str, Any]:
        return {}

    def phases(self) -> list[Phase]:
        return [Phase(p.name, self.policy(True), (), p.env_steps, 0) for p in self._phases]

    def policy(self, explore: bool) -> Uniform:
        return Uniform(self.act_space)

    def report(self, phase: str, experience: Experience) -> Metrics:
        return {}

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        pass


class Uniform:
    """A policy: uniform over choices and over a bounded Box, standard normal where a bound is missing."""

    def __init__(self, act_space: spaces.Space) -> None:
        self.space = act_space

    def initial(self, n: int) -> tuple[()]:
        return ()

    def __call__(self, obs: Obs, is_first: Tensor, state: Any) -> tuple[Tensor, Any, Mapping[str, Tensor]]:
        import torch

        n, device = len(is_first), is_first.device
        if isinstance(self.space, spaces.Discrete):
            return torch.randint(int(self.space.n), (n,), device=device) + int(self.space.start), (), {}
        if isinstance(self.space, spaces.MultiDiscrete):
            each = [torch.randint(int(k), (n,), device=device) for k in self.space.nvec]
            return torch.stack(each, -1), (), {}
        assert isinstance(self.space, spaces.Box)
        low, high = (torch.from_numpy(np.asarray(b, np.float32)).to(device) for b in (self.space.low, self.space.high))
        if bool(torch.isinf(low).any() or torch.isinf(high).any()):
            return torch.randn(n, *self.space.shape, device=device), (), {}
        return low + (high - low) * torch.rand(n, *self.space.shape, device=device), (), {}
