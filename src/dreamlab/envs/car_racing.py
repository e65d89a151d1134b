"""CarRacing-v3: a top-down racing track, 96x96 pixels, new for every episode.

As in World Models (Ha & Schmidhuber 2018), the bar of instruments is cut off (rows 84 to 95) and the rest
is resized to 64x64. Actions: steering in [-1, 1], gas and brake in [0, 1]; or one of five.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Literal

from dreamlab.core.errors import UserError, missing_package
from dreamlab.envs import gym
from dreamlab.envs.config import EnvConfig

if TYPE_CHECKING:
    import gymnasium
    from gymnasium.vector import VectorEnv


WORKER_BYTES = 25 << 20
"""memory of one in a worker process (1, 2, 4 of them: 26, 52, 98 MiB)"""


@dataclass(frozen=True)
class Config(EnvConfig):
    """CarRacing-v3."""

    id: str = "CarRacing-v3"
    """which environment"""
    crop: tuple[int, int, int, int] | None = (0, 84, 0, 96)
    """rows and columns of the 96x96 frame to keep, before resizing: top bottom left right"""
    continuous: bool = True
    """steering, gas and brake; off: one of nothing, right, left, gas, brake"""
    lap_complete_percent: float = 0.95
    """share of the track's tiles to visit before crossing the start line ends the lap"""
    domain_randomize: bool = False
    """other colours of road and grass in each episode"""
    engine: Literal["auto", "gymnasium", "envpool"] = "auto"
    """who simulates: auto takes EnvPool where it is installed and offers what is asked for"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.lap_complete_percent <= 1:
            raise ValueError(f"lap_complete_percent must be in (0, 1], got {self.lap_complete_percent}")


def claims(id: str) -> bool:
    """CarRacing-v3 alone."""
    return id == "CarRacing-v3"


def ids() -> list[str]:
    """CarRacing-v3, where Box2D is installed."""
    return ["CarRacing-v3"] if find_spec("Box2D") else []


def make(config: EnvConfig, render_mode: str | None = None) -> gymnasium.Env:
    """Gymnasium's own CarRacing."""
    config = _own(config)
    return gym.make(
        config,
        render_mode,
        continuous=config.continuous,
        lap_complete_percent=config.lap_complete_percent,
        domain_randomize=config.domain_randomize,
    )


def make_vec(config: EnvConfig, n: int, seed: int) -> VectorEnv | None:
    """EnvPool's CarRacing where it is asked for, or found and able; else None.

    Raises:
        UserError: EnvPool was asked for, but is not installed or lacks an option.
    """
    config = _own(config)
    if config.engine == "gymnasium":
        return None
    wants = [
        name
        for name, wanted in (
            ("discrete actions", not config.continuous),
            ("random colours", config.domain_randomize),
            ("repeated actions", config.repeat > 1),
            ("vector observations", config.obs == "vector"),
        )
        if wanted
    ]
    if config.engine == "envpool" and wants:
        raise UserError(f"EnvPool's CarRacing has no {' and no '.join(wants)}; type: engine gymnasium")
    if config.engine == "envpool" and find_spec("envpool") is None:
        raise missing_package("envpool", "envpool", "engine envpool")
    if wants or find_spec("envpool") is None:
        return None
    from dreamlab.envs.envpool import CarRacing

    return CarRacing(config, n, seed)


def action_names(config: EnvConfig) -> list[str]:
    """What each of the five actions means, where actions are discrete."""
    return [] if _own(config).continuous else ["nothing", "right", "left", "gas", "brake"]


def _own(config: EnvConfig) -> Config:
    if not isinstance(config, Config):
        raise UserError("CarRacing-v3 takes the settings dreamlab.envs.default_config('CarRacing-v3')")
    return config
