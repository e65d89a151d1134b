"""Box2D's BipedalWalker, each episode in a world of its own: numbers, or pixels by rendering.

Box2D remembers the contact order of what was destroyed, so BipedalWalker-v3 plays the same seed and actions
otherwise in a used world than in a new one. A new world costs a millisecond or two and makes resuming exact.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING

from dreamlab.envs import gym
from dreamlab.envs.config import EnvConfig

if TYPE_CHECKING:
    import gymnasium

IDS = ["BipedalWalker-v3", "BipedalWalkerHardcore-v3"]


@dataclass(frozen=True)
class Config(EnvConfig):
    """BipedalWalker."""

    fresh: bool = True
    """build the environment anew for each episode: a used Box2D world plays the same seed otherwise"""


def claims(id: str) -> bool:
    """BipedalWalker in today's versions, easy and hard."""
    return id in IDS


def ids() -> list[str]:
    """Both, where Box2D is installed."""
    return list(IDS) if find_spec("Box2D") else []


def make(config: EnvConfig, render_mode: str | None = None) -> gymnasium.Env:
    """The environment as Gymnasium makes it."""
    return gym.make(config, render_mode)
