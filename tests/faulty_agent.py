"""The toy agent, whose losses become NaN after as many updates as ``faulty_envs.fault_at`` says."""

from __future__ import annotations

from typing import Any

from faulty_envs import fault_at
from toy_agent import EXTENDS, SEES, Config, budget, footprint

__all__ = ["EXTENDS", "SEES", "Config", "budget", "build", "footprint"]


def build(config: Config, obs_space: Any, act_space: Any, compute: Any, seed: int, run: Any) -> Any:
    """A toy agent of the same weights."""
    from toy_parts import ToyAgent

    class Poisoned(ToyAgent):
        done = 0

        def update(self, name: str, loss: Any) -> Any:
            self.done += 1
            return super().update(name, loss * float("nan") if self.done > fault_at() else loss)

    return Poisoned(config, obs_space, act_space, compute, seed, run)
