"""LunarLander-v3: land between two flags; 200 points are a solved episode. Numbers, or pixels by rendering.

Observations are eight numbers: place, speed, angle, turning, and whether each leg touches the ground. Actions:
nothing, left engine, main engine, right engine; or two throttles in [-1, 1]. Each episode is played in a world of
its own, as in ``box2d.py``.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING

from dreamlab.core.errors import UserError
from dreamlab.envs import box2d, gym
from dreamlab.envs.config import EnvConfig

if TYPE_CHECKING:
    import gymnasium

DISCRETE, CONTINUOUS = "LunarLander-v3", "LunarLanderContinuous-v3"


@dataclass(frozen=True)
class Config(box2d.Config):
    """LunarLander-v3."""

    id: str = DISCRETE
    """which environment"""
    continuous: bool = False
    """two throttles in [-1, 1], main and sideways; off: one of nothing, left, main, right engine"""
    gravity: float = -10.0
    """pull of the moon, above -12 and below 0"""
    wind: bool = False
    """wind that pushes and turns the lander while its legs are off the ground"""
    wind_power: float = 15.0
    """strength of the push (Gymnasium recommends 0 to 20)"""
    turbulence_power: float = 1.5
    """strength of the turning (Gymnasium recommends 0 to 2)"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not -12 < self.gravity < 0:
            raise ValueError(f"gravity must be above -12 and below 0, got {self.gravity}")
        if min(self.wind_power, self.turbulence_power) < 0:
            raise ValueError(f"powers must not be negative, got {self.wind_power} and {self.turbulence_power}")


def claims(id: str) -> bool:
    """LunarLander in today's version, by both of its names."""
    return id in (DISCRETE, CONTINUOUS)


def ids() -> list[str]:
    """Both names, where Box2D is installed."""
    return [DISCRETE, CONTINUOUS] if find_spec("Box2D") else []


def default(id: str) -> Config:
    """LunarLanderContinuous-v3 is LunarLander-v3 with ``continuous``."""
    return Config(id=id, continuous=id == CONTINUOUS)


def make(config: EnvConfig, render_mode: str | None = None) -> gymnasium.Env:
    """Gymnasium's own LunarLander."""
    if not isinstance(config, Config):
        raise UserError(f"{config.id} takes the settings dreamlab.envs.default_config({config.id!r})")
    return gym.make(
        config,
        render_mode,
        continuous=config.continuous,
        gravity=config.gravity,
        enable_wind=config.wind,
        wind_power=config.wind_power,
        turbulence_power=config.turbulence_power,
    )
