"""Tiny environments for finding faults: a game whose optimum is known, and one that counts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from dreamlab.envs.config import EnvConfig


@dataclass(frozen=True)
class Config(EnvConfig):
    """Tiny environments of 16x16 pixels."""

    size: tuple[int, int] = (16, 16)
    """height and width of images; resized bilinearly with antialiasing"""


class Catch(gymnasium.Env):
    """A ball (red) falls through 8x8 cells; a paddle (green) on the last row moves left, stays, or moves right.

    Both start in random columns. On the last row the reward is +1 if the ball is caught, else -1, and the episode
    ends: 7 steps. The paddle moves before the ball falls, so every column can be reached: the best return is
    exactly 1.0. The ball's column is uniform whatever the paddle did, so random play has a mean of exactly -0.75.

    Both glow over several pixels: a few bright pixels on black are worth less squared error than an autoencoder
    pays to remember where they are, and it would see nothing.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}
    cells = 8

    def __init__(self, render_mode: str | None = None) -> None:
        self.render_mode = render_mode
        self.observation_space = spaces.Box(0, 255, (16, 16, 3), np.uint8)
        self.action_space = spaces.Discrete(3)
        self.ball, self.row, self.paddle = 0, 0, 0

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.ball, self.paddle = (int(c) for c in self.np_random.integers(self.cells, size=2))
        self.row = 0
        return self._draw(), {}

    def step(self, act: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.paddle = min(max(self.paddle + int(act) - 1, 0), self.cells - 1)
        self.row += 1
        over = self.row == self.cells - 1
        rew = (1.0 if self.ball == self.paddle else -1.0) if over else 0.0
        return self._draw(), rew, over, False, {}

    def render(self) -> np.ndarray:
        """The frame at 16 times its size: (256, 256, 3)."""
        return np.kron(self._draw(), np.ones((16, 16, 1), np.uint8))

    def _draw(self) -> np.ndarray:
        frame = np.zeros((16, 16, 3))
        for colour, row, column in ((0, self.row, self.ball), (1, self.cells - 1, self.paddle)):
            across = np.square(np.arange(16) - 2 * column - 0.5)
            down = np.square(np.arange(16) - 2 * row - 0.5)[:, None]
            frame[..., colour] = np.exp(-(across + down) / 12.5)
        return (255 * frame).round().astype(np.uint8)


class Count(gymnasium.Env):
    """Counts, so that a row out of place anywhere shows. The reward is the step count: 1, 2, 3, ...

    ``vector``: [mark of the episode, step count, last action...]. The mark is drawn from the episode's seed
    (``Count.mark(seed)``), so it names the episode whoever plays it; the last action is -1 after a reset.
    ``image`` (3, 16, 16): channels filled with mark, step count and the last action's first entry, modulo 256.
    Episodes take 3 to 12 steps and are truncated if their mark is odd, terminated if it is even.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}

    acts: spaces.Space = spaces.Discrete(4)

    def __init__(self, render_mode: str | None = None) -> None:
        self.render_mode, self.action_space = render_mode, self.acts
        self.width = int(np.prod(self.acts.shape or ()))
        self.observation_space = spaces.Dict(
            image=spaces.Box(0, 255, (3, 16, 16), np.uint8),
            vector=spaces.Box(-1, 2**16, (2 + self.width,), np.float32),
        )
        self.count, self.name, self.length = 0, 0, 0
        self.last = np.full(self.width, -1, np.float32)

    @staticmethod
    def mark(seed: int) -> int:
        """The mark of the episode with this seed, in [0, 2**16)."""
        return int(np.random.default_rng(seed).integers(2**16))

    @staticmethod
    def steps(mark: int) -> int:
        """How many steps the episode with this mark takes: 3 to 12."""
        return 3 + mark // 2 % 10

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[dict, dict]:
        super().reset(seed=seed)
        self.name = int(self.np_random.integers(2**16))
        self.count, self.last = 0, np.full(self.width, -1, np.float32)
        self.length = self.steps(self.name)
        return self._see(), {}

    def step(self, act: Any) -> tuple[dict, float, bool, bool, dict]:
        self.count += 1
        self.last = np.asarray(act, np.float32).reshape(self.width)
        over, odd = self.count >= self.length, bool(self.name % 2)
        return self._see(), float(self.count), over and not odd, over and odd, {}

    def render(self) -> np.ndarray:
        """The image at 16 times its size: (256, 256, 3)."""
        return np.kron(self._see()["image"].transpose(1, 2, 0), np.ones((16, 16, 1), np.uint8))

    def _see(self) -> dict[str, np.ndarray]:
        values = np.array([self.name, self.count, int(self.last[0])]) % 256
        image = np.broadcast_to(values.astype(np.uint8)[:, None, None], (3, 16, 16)).copy()
        return {"image": image, "vector": np.array([self.name, self.count, *self.last], np.float32)}


class CountContinuous(Count):
    """Counts, and takes two numbers."""

    acts = spaces.Box(-1, 1, (2,), np.float32)


class CountMulti(Count):
    """Counts, and takes two choices at once."""

    acts = spaces.MultiDiscrete([4, 3])


MAKERS: dict[str, Callable[..., gymnasium.Env]] = {
    "tiny/Catch": Catch,
    "tiny/Count": Count,
    "tiny/CountContinuous": CountContinuous,
    "tiny/CountMulti": CountMulti,
}


def claims(id: str) -> bool:
    """Catch and those that count."""
    return id in MAKERS


def ids() -> list[str]:
    """All."""
    return list(MAKERS)


def make(config: EnvConfig, render_mode: str | None = None) -> gymnasium.Env:
    """The environment itself."""
    return MAKERS[config.id](render_mode=render_mode)


def action_names(config: EnvConfig) -> list[str]:
    """What the actions of Catch mean; those of the others mean nothing."""
    return ["left", "stay", "right"] if config.id == "tiny/Catch" else []
