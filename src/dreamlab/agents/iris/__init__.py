"""IRIS (Micheli, Alonso & Fleuret 2023, arXiv:2209.00588): a transformer over tokens of frames. Imports nothing heavy.

In the paper's order: ``config`` · ``tokenizer`` with ``perceptual`` · ``dynamics`` · ``actor_critic``; and what joins
them: ``model`` · ``acting`` · ``reports`` · ``agent`` (the recipe).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gymnasium import spaces

from dreamlab.agents.iris.config import DRY_RUN, EXTENDS, SEES, Config, budget
from dreamlab.agents.iris.footprint import footprint

if TYPE_CHECKING:
    from dreamlab.agents.iris.agent import Iris
    from dreamlab.nn.compute import Compute
    from dreamlab.run.config import RunConfig

__all__ = ["DRY_RUN", "EXTENDS", "SEES", "Config", "budget", "build", "footprint"]


def build(
    config: Config, obs_space: spaces.Dict, act_space: spaces.Space, compute: Compute, seed: int, run: RunConfig
) -> Iris:
    """A fresh agent.

    Raises:
        UserError: no frames, frames that cannot be halved as often, actions that are not one of n, or LPIPS asked for
            where its weights are not.
    """
    from dreamlab.agents.iris.agent import Iris

    return Iris(config, obs_space, act_space, compute, seed, run)
