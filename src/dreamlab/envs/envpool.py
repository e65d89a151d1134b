"""CarRacing-v3 on EnvPool's C++ threads: faster than Gymnasium's own, but it cannot be sent back into an episode.

An episode's seed is the track's: for whole episodes with given seeds a new pool is built, which takes a few
milliseconds a car. Within a stream EnvPool resets itself with seeds of its own, so ``seeded`` is False: a run that is
resumed starts fresh episodes.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from dreamlab.core.errors import missing_package
from dreamlab.core.seeds import derive
from dreamlab.envs.wrappers import image_space, picture

if TYPE_CHECKING:
    from dreamlab.envs.car_racing import Config

STEPS = 1000
"""Gymnasium's time limit of CarRacing-v3"""
SEEDS = 2**31
"""EnvPool takes seeds below this"""


class CarRacing(VectorEnv):
    """n cars; frames are cropped and resized in this process.

    Raises:
        UserError: EnvPool is not installed.
    """

    seeded = False
    metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP}

    def __init__(self, config: Config, n: int, seed: int) -> None:
        try:
            import envpool
        except ImportError as error:
            raise missing_package("envpool", "envpool", "engine envpool") from error
        self.num_envs, self._config, self._make = n, config, envpool.make_gymnasium
        self._seed, self._pools = seed, 0
        self._pool: Any = None
        self._low, self._high = np.array([-1, 0, 0], np.float32), np.ones(3, np.float32)
        bounds = (-self._high, self._high) if config.actions == "unit" else (self._low, self._high)
        self.single_action_space = spaces.Box(*bounds, dtype=np.float32)
        shape = self._picture(np.zeros((96, 96, 3), np.uint8)).shape
        self.single_observation_space = spaces.Dict(image=image_space(shape))
        self.action_space = batch_space(self.single_action_space, n)
        self.observation_space = batch_space(self.single_observation_space, n)

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[dict[str, np.ndarray], dict]:
        """Fresh episodes everywhere: with ``options={"seeds": (n,)}`` those of these seeds (None: whichever)."""
        given = (options or {}).get("seeds", [None] * self.num_envs)
        self._begin(
            [derive(self._seed, "envpool", self._pools, i) if s is None else int(s) for i, s in enumerate(given)]
        )
        frames, _ = self._pool.reset()
        return self._see(frames), {}

    def _begin(self, seeds: list[int]) -> None:
        """A pool whose cars start on the tracks of these seeds."""
        if self._pool is not None:
            self._pool.close()
        self._pools += 1
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self._pool = self._make(
                "CarRacing-v3",
                num_envs=self.num_envs,
                seed=[seed % SEEDS for seed in seeds],
                max_episode_steps=self._config.time_limit or STEPS,
                lap_complete_percent=self._config.lap_complete_percent,
            )

    def step(self, actions: Any) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray, np.ndarray, dict]:
        """One step of every car; actions (n, 3)."""
        act = np.asarray(actions, np.float32)
        if self._config.actions == "unit":
            act = self._low + (np.clip(act, -1, 1) + 1) / 2 * (self._high - self._low)
        frames, rew, terminated, truncated, _ = self._pool.step(np.clip(act, self._low, self._high))
        return self._see(frames), np.asarray(rew, np.float64), terminated.astype(bool), truncated.astype(bool), {}

    def close_extras(self, **_: Any) -> None:
        """End EnvPool's threads."""
        if self._pool is not None:
            self._pool.close()

    def _picture(self, frame: np.ndarray) -> np.ndarray:
        return picture(frame, self._config.size, self._config.crop, self._config.grey)

    def _see(self, frames: np.ndarray) -> dict[str, np.ndarray]:
        return {"image": np.stack([self._picture(frame) for frame in frames])}  # (n, C, h, w)
