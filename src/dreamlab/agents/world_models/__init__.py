"""World Models (Ha & Schmidhuber 2018, arXiv:1803.10122): see (V), remember (M), act (C). Imports nothing heavy.

In the paper's order: ``config`` · ``vision``, for vectors ``vectors`` · ``memory`` · ``actions`` · ``controller``;
then who trains C: ``evolution`` and ``evolved`` with ``dreaming``, or ``policy_gradient`` and ``actor_critic``; and
what joins them: ``model`` · ``acting`` · ``schedules`` · ``reports`` · ``agent`` (the recipe).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gymnasium import spaces

from dreamlab.agents.world_models.config import DRY_RUN, EXTENDS, SEES, TAKES, Config, budget
from dreamlab.agents.world_models.footprint import footprint

if TYPE_CHECKING:
    from dreamlab.agents.world_models.agent import WorldModelsAgent
    from dreamlab.nn.compute import Compute
    from dreamlab.run.config import RunConfig

__all__ = ["DRY_RUN", "EXTENDS", "SEES", "TAKES", "Config", "budget", "build", "footprint"]


def build(
    config: Config, obs_space: spaces.Dict, act_space: spaces.Space, compute: Compute, seed: int, run: RunConfig
) -> WorldModelsAgent:
    """A fresh agent.

    Raises:
        UserError: images that are not square or not of 8 to 128 pixels, an encoder that does not fit what the
            environment gives, or actions that a controller cannot choose.
    """
    from dreamlab.agents.world_models.agent import WorldModelsAgent

    return WorldModelsAgent(config, obs_space, act_space, compute, seed, run)
