"""MinAtar's five small games (Young & Tian 2019, arXiv:1903.03176): 10x10 cells, one plane for each kind of object.

The agent sees the planes as the channels of an image, 0 or 255. A cell is a square of as many pixels as fit into
``size``; what is left over is zeros around, half of it on each side (the odd one right and below). Nothing is
blurred. At 32x32 a cell is 3x3 pixels with one row of zeros at each edge. Ours, not the paper's: the size. One
pixel a cell (10x10, or 16x16 with zeros) can be asked for, but an autoencoder with squared error then gains less
from a single lit cell than it pays to remember where it is; one with cross-entropy (DreamerV3's ``image_loss: lit``)
does not mind.

v1 has the actions that do something in the game, v0 all six: nothing, left, up, right, down, fire.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from dreamlab.core.errors import UserError, missing_package
from dreamlab.core.pictures import to_rgb
from dreamlab.envs.config import EnvConfig

GAMES = {
    "Asterix": "asterix",
    "Breakout": "breakout",
    "Freeway": "freeway",
    "Seaquest": "seaquest",
    "SpaceInvaders": "space_invaders",
}
IDS = [f"MinAtar/{game}-v{version}" for game in GAMES for version in (0, 1)]
CELLS = 10
SHOWN = 32
"""pixels along a cell in films"""


@dataclass(frozen=True)
class Config(EnvConfig):
    """MinAtar's games."""

    id: str = "MinAtar/Breakout-v1"
    """which environment"""
    size: tuple[int, int] = (32, 32)
    """height and width of images, from 10 on: cells become squares, and zeros fill what is left over"""
    time_limit: int | None = 5000
    """agent steps after which an episode is truncated (ours: of the games only Freeway has an end of its own)"""
    sticky: float = 0.1
    """probability that the game repeats the last action instead of the agent's"""
    ramping: bool = True
    """the games become harder as they go on (Breakout and Freeway do not)"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.sticky <= 1:
            raise ValueError(f"sticky must be in [0, 1], got {self.sticky}")
        if min(self.size) < CELLS:
            raise ValueError(f"size must be at least 10 by 10 (a pixel for each cell), got {self.size}")


def claims(id: str) -> bool:
    """The five games in both versions."""
    return id in IDS


def ids() -> list[str]:
    """All, where MinAtar is installed."""
    return list(IDS) if find_spec("minatar") else []


def make(config: EnvConfig, render_mode: str | None = None) -> gymnasium.Env:
    """A game as planes.

    Raises:
        UserError: MinAtar is not installed, or the settings are of another suite.
    """
    if not isinstance(config, Config):
        raise UserError(f"{config.id} takes the settings dreamlab.envs.default_config({config.id!r})")
    return Planes(config, render_mode)


def action_names(config: EnvConfig) -> list[str]:
    """What each action of a game means."""
    words = {"n": "nothing", "l": "left", "u": "up", "r": "right", "d": "down", "f": "fire"}
    env = make(config)
    return [words.get(env.game.action_map[act], "") for act in env._acts]  # type: ignore[attr-defined]


class Planes(gymnasium.Env):
    """A game of MinAtar whose observation is uint8 (h, w, planes), and whose reset leaves no traces."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 15}

    def __init__(self, config: Config, render_mode: str | None = None) -> None:
        name, _, version = config.id.removeprefix("MinAtar/").partition("-v")
        self.render_mode, self._size, self._sticky = render_mode, config.size, config.sticky
        self.game = _game(GAMES[name], config)
        self._acts = self.game.minimal_action_set() if version == "1" else list(range(len(self.game.action_map)))
        self._last = 0
        self.action_space = spaces.Discrete(len(self._acts))
        self.observation_space = spaces.Box(0, 255, (*config.size, self.game.state_shape()[-1]), np.uint8)

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        if seed is not None:
            self.game.random = np.random.RandomState(seed)
        self.game.reset()
        self._last = 0  # the package's own lets an action stick to the next episode's first step
        return self._see(), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
        if self.game.random.rand() >= self._sticky:
            self._last = self._acts[action]
        rew, terminated = self.game.act(self._last)
        return self._see(), float(rew), bool(terminated), False, {}

    def render(self) -> np.ndarray:
        """The game (320, 320, 3), each plane in a colour of its own."""
        cells = self.game.state().transpose(2, 0, 1).astype(np.uint8) * 255  # (C, 10, 10)
        return to_rgb(cells).repeat(SHOWN, 0).repeat(SHOWN, 1)

    def _see(self) -> np.ndarray:
        return fitted(self.game.state().astype(np.uint8) * 255, self._size)


def _game(name: str, config: Config) -> Any:
    """The package's class of one game, from its file: the package as a whole loads Matplotlib and seaborn, 80 MiB."""
    package = find_spec("minatar")
    if package is None or not package.submodule_search_locations:
        raise missing_package("minatar", "minatar", config.id)
    file = Path(package.submodule_search_locations[0], "environments", f"{name}.py")
    spec = spec_from_file_location(f"minatar.environments.{name}", file)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.Env(ramping=config.ramping)


def fitted(cells: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Cells (10, 10, C) as squares in the middle of an image (h, w, C), zeros around."""
    side = min(size) // CELLS
    squares = cells.repeat(side, 0).repeat(side, 1)
    image = np.zeros((*size, cells.shape[-1]), cells.dtype)
    top, left = ((full - side * CELLS) // 2 for full in size)
    image[top : top + side * CELLS, left : left + side * CELLS] = squares
    return image
