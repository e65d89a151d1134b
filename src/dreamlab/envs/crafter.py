"""Crafter (Hafner 2021, arXiv:2109.06780): a small world to survive in, with 22 achievements.

64x64 pixels, 17 actions. An achievement gives +1 the first time in an episode, a lost or gained point of health
-0.1 or +0.1. Death terminates, 10,000 steps truncate. ``crafter/noreward`` is the same without rewards.

Its score is not the return: it is the geometric mean of the success rates s (in percent of episodes) of all 22
achievements, exp(mean(ln(1 + s))) - 1. Evaluations tell both.

Ours: episodes depend on their seed alone. The package draws which creature leaves by the order of a set, which is
another one in each process, and its pictures of the night from the world's own chance, so that looking changes it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from dreamlab.core.errors import UserError, missing_package
from dreamlab.envs.config import EnvConfig

IDS = ["crafter/reward", "crafter/noreward"]
STEPS = 10_000
CELLS = 9
"""cells that are seen along a side"""
SHOWN = 288
"""pixels along a side of a film's frame"""
UNLOCKED = "achievement/"
"""how the names of achievements begin in an info"""


@dataclass(frozen=True)
class Config(EnvConfig):
    """Crafter."""

    id: str = "crafter/reward"
    """which environment"""
    size: tuple[int, int] = (64, 64)
    """height and width of images, drawn at this size; from 9 on, as 9x9 cells are seen"""
    time_limit: int | None = None
    """agent steps after which an episode is truncated; none is Crafter's own: 10,000"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.time_limit is None:
            object.__setattr__(self, "time_limit", STEPS)
        if min(self.size) < CELLS:
            raise ValueError(f"size must be at least 9 by 9 (a pixel for each cell), got {self.size}")


def claims(id: str) -> bool:
    """With rewards and without."""
    return id in IDS


def ids() -> list[str]:
    """Both, where Crafter is installed."""
    return list(IDS) if find_spec("crafter") else []


def make(config: EnvConfig, render_mode: str | None = None) -> gymnasium.Env:
    """Crafter, without a limit of its own.

    Raises:
        UserError: it is not installed, or the settings are of another suite.
    """
    if not isinstance(config, Config):
        raise UserError(f"{config.id} takes the settings dreamlab.envs.default_config({config.id!r})")
    if not find_spec("crafter"):
        raise missing_package("crafter", "crafter", config.id)
    return Crafter(config, render_mode)


def action_names(config: EnvConfig) -> list[str]:
    """What the actions mean, as the package has them."""
    import crafter

    return [name.replace("_", " ") for name in crafter.Env(length=1).action_names]


def measures(infos: Mapping[str, np.ndarray]) -> dict[str, float]:
    """What is told of episodes beside their returns: the score, and the success rate of each achievement, in percent.

    Args:
        infos: of the last step of each episode, by name (N,).
    """
    rates = {
        name.removeprefix(UNLOCKED): 100 * float((infos[name] > 0).mean())
        for name in sorted(infos)
        if name.startswith(UNLOCKED)
    }
    return {"score": score(list(rates.values())), **{f"success/{name}": rate for name, rate in rates.items()}}


def score(rates: list[float]) -> float:
    """Crafter's score from success rates in percent: exp(mean(ln(1 + s))) - 1."""
    return float(np.expm1(np.log1p(rates).mean()))


class Crafter(gymnasium.Env):
    """The package's environment with Gymnasium's face; its info counts each achievement of the episode so far."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}

    def __init__(self, config: Config, render_mode: str | None = None) -> None:
        import crafter

        height, width = config.size
        self.render_mode = render_mode
        self._game = crafter.Env(size=(width, height), reward=config.id == "crafter/reward", length=0, seed=0)
        self._world: Any = self._game._world
        self._world.reset = self._again
        self.action_space = spaces.Discrete(len(self._game.action_names))
        self.observation_space = spaces.Box(0, 255, (height, width, 3), np.uint8)

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        return self._game.reset(), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
        obs, rew, _, info = self._game.step(int(action))
        unlocked = {f"{UNLOCKED}{name}": count for name, count in info["achievements"].items()}
        return obs, float(rew), info["discount"] == 0, False, unlocked

    def render(self) -> np.ndarray:
        """The same view, larger: (288, 288, 3)."""
        chance = self._world.random.get_state()
        frame = self._game.render((SHOWN, SHOWN))
        self._world.random.set_state(chance)  # the night's noise was drawn from it
        return frame

    def _again(self, seed: Any = None) -> None:
        """The world's reset, with this environment's chance, and with creatures in the order in which they came."""
        type(self._world).reset(self._world, int(self.np_random.integers(2**32)))
        self._world._chunks = defaultdict(Ordered)


class Ordered(dict):
    """A set that goes through its members in the order in which they came."""

    def add(self, member: Any) -> None:
        self[member] = None

    def remove(self, member: Any) -> None:
        del self[member]
