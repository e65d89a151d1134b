"""Atari games by ale-py: one as a Gymnasium environment, and many on ALE's C++ threads, frame by frame the same.

ALE's vector engine sets the form of an agent step, and ``Game`` follows it: frames are pooled before anything else,
and where a game is over within a step, its last picture is the one before (as in Gymnasium's AtariPreprocessing).
``Game`` alone can also resize frames before it pools them, and count frames instead of steps.
The engine hands out whole frames, so that both resize them by the same ``picture``; and lives, rewards and limits
are seen to here. Single rows are reset with seeds, so the engine follows ``SeededReset`` as workers do.
"""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ale_py
import gymnasium
import numpy as np
from ale_py import roms
from ale_py.vector_env import AtariVectorEnv
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from dreamlab.core.errors import UserError
from dreamlab.core.pictures import picture, pictures
from dreamlab.core.seeds import derive
from dreamlab.envs import atari
from dreamlab.envs.workers import split
from dreamlab.envs.wrappers import GOES_ON, image_space, not_deterministic

if TYPE_CHECKING:
    from dreamlab.envs.atari import Config

NO_LIMIT = 1 << 30


def meanings(config: Config) -> list[str]:
    """ALE's word for each action of a game: NOOP, UPRIGHTFIRE."""
    ale = _interface(config)
    known = ale.getLegalActionSet() if config.action_set == "full" else ale.getMinimalActionSet()
    return [action.name for action in known]


class Game(gymnasium.Env):
    """One game: frames (H, W, 3) uint8, or (h, w, 3) resized, an action for ``config.repeat`` frames at a time.

    Where a lost life ends an episode, that step's info says ``goes_on``, and a reset without a seed goes on in the
    same game after one step without action.

    Raises:
        UserError: its ROM is damaged.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 15}

    def __init__(self, config: Config, render_mode: str | None = None) -> None:
        self._config, self.render_mode = config, render_mode
        self._rom, self._ale = _rom_of(config), _interface(config)
        full = config.action_set == "full"
        self._actions = self._ale.getLegalActionSet() if full else self._ale.getMinimalActionSet()
        shape = (*(config.size if config.resize_first else self._ale.getScreenDims()), 3)
        self._frames = np.zeros((2, *shape), np.uint8)  # what an agent step shows, and the frame before it
        self.action_space = spaces.Discrete(len(self._actions))
        self.observation_space = spaces.Box(0, 255, shape, np.uint8)  # type: ignore[arg-type]
        self._rng: np.random.RandomState | None = None
        self._steps, self._lives, self._goes_on = 0, 0, False
        self._played = 0  # frames of the running game
        self._frame_limit = config.limit * config.repeat if config.limit_counts == "frames" else NO_LIMIT

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        """Start a game; see the class for what a reset without a seed may do."""
        super().reset(seed=seed)
        over = True
        if seed is None and self._goes_on:
            over = self._act(0)[1] or self._played >= self._frame_limit
        elif seed is not None or self._rng is None:
            self._seed(int(self.np_random.integers(2**31)) if seed is None else seed % 2**31)
        if over:
            self._start()
        self._lives, self._goes_on = self._ale.lives(), False
        return self._frames[0].copy(), {"lives": self._lives}

    def step(self, act: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        """Hold an action for ``repeat`` frames, or until the game is over or its frames are used up."""
        rew, over = self._act(int(act))
        lives = self._ale.lives()
        limit = self._steps >= self._config.limit or self._played >= self._frame_limit
        lost = self._config.life_loss == "end" and 0 < lives < self._lives
        self._lives, self._goes_on = lives, bool(lost and not over and not limit)
        if self._config.rewards == "sign":
            rew = float(np.sign(rew))
        info = {"lives": lives, **({GOES_ON: True} if self._goes_on else {})}
        return self._frames[0].copy(), rew, bool(over or lost), bool(limit and not over and not lost), info

    def render(self) -> np.ndarray:
        """The frame now, at full size and not pooled."""
        return self._ale.getScreenRGB()

    def _seed(self, seed: int) -> None:
        self._rng = np.random.RandomState(seed)
        self._ale.setInt("random_seed", seed)
        self._ale.loadROM(self._rom)

    def _start(self) -> None:
        assert self._rng is not None
        self._reset_game()
        low, high = self._config.noops
        waits = low + _draw(self._rng, high - low + 1)
        if self._config.fire and ale_py.Action.FIRE in self._actions:
            self._frame(ale_py.Action.FIRE)
            waits -= 1
        for _ in range(waits):
            self._frame(ale_py.Action.NOOP)
            if self._ale.game_over():
                self._reset_game()
        screen = self._ale.getScreenRGB()
        self._frames[0], self._frames[1] = self._resized([screen]) if self._config.resize_first else screen, 0
        self._steps = 0

    def _reset_game(self) -> None:
        self._ale.reset_game()
        self._played = 0

    def _frame(self, action: ale_py.Action) -> float:
        """One frame of the game; its reward."""
        self._played += 1
        return self._ale.act(action)

    def _act(self, act: int) -> tuple[float, bool]:
        """Reward and whether the game is over."""
        rew, self._steps = 0.0, self._steps + 1
        seen: list[np.ndarray] = []  # this step's last two frames
        for left in reversed(range(self._config.repeat)):  # frames still to come
            rew += self._frame(self._actions[act])
            over = self._ale.game_over()
            if self._config.resize_first:
                seen = [*seen[-1:], self._ale.getScreenRGB()]
            elif left < 2 and not over:
                self._frames[left] = self._ale.getScreenRGB()
            if over or self._played >= self._frame_limit:
                break
        if self._config.resize_first:
            self._frames[0] = self._resized(seen if self._config.pool else seen[-1:])
        elif self._config.pool:
            np.maximum(self._frames[0], self._frames[1], out=self._frames[0])
        return rew, self._ale.game_over()

    def _resized(self, frames: list[np.ndarray]) -> np.ndarray:
        """Frames (H, W, 3) each resized, then the brighter of them, pixel by pixel: (h, w, 3)."""
        return pictures(np.stack(frames), self._config.size, layout="last").max(0).transpose(1, 2, 0)


class Games(VectorEnv):
    """n games on C++ threads: NEXT_STEP autoreset, ``seeded`` resets as ``SeededReset`` has them.

    Idle rows play on unseen: the engine steps all or none.

    Raises:
        UserError: their ROM is damaged.
    """

    seeded = True
    metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP}

    def __init__(self, config: Config, n: int, seed: int) -> None:
        self.num_envs, self._config, self._seed = n, config, seed
        _rom_of(config)
        height, width = _interface(config).getScreenDims()
        self._pool = AtariVectorEnv(
            str(atari.rom(config.id)),
            n,
            max_num_frames_per_episode=NO_LIMIT,
            repeat_action_probability=float(config.sticky or 0),
            full_action_space=config.action_set == "full",
            img_height=height,
            img_width=width,
            grayscale=False,
            stack_num=1,
            frameskip=config.repeat,
            maxpool=config.pool,
            noop_max=config.noops[1] + 1,  # the engine draws one of 0, ..., noop_max - 1
            episodic_life=False,
            life_loss_info=False,
            reward_clipping=False,
            use_fire_reset=config.fire,
        )
        self._threads = ThreadPoolExecutor(min(n, os.cpu_count() or 1))  # Pillow resizes without the interpreter lock
        shape = self._picture(np.zeros((height, width, 3), np.uint8)).shape
        self.single_observation_space = spaces.Dict(image=image_space(shape))
        self.single_action_space = self._pool.single_action_space
        self.observation_space = batch_space(self.single_observation_space, n)
        self.action_space = batch_space(self.single_action_space, n)
        self._next = np.zeros(n, np.int64)  # number of each one's next own episode
        self._steps, self._lives = np.zeros(n, np.int64), np.zeros(n, np.int64)  # of the running game
        self._one_off, self._idle, self._over, self._goes_on = np.zeros((4, n), bool)
        self._images = np.zeros((n, *shape), np.uint8)

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[dict[str, np.ndarray], dict]:
        """Start episodes; ``options`` as ``Workers.reset``."""
        own = split(options, self.num_envs)
        self._one_off[:] = ["seeds" in o for o in own]
        self._idle[:] = ["seeds" in o and o["seeds"] is None for o in own]
        self._over[:] = self._goes_on[:] = False
        resume = [o["resume"] for o in own if "resume" in o]
        if resume:
            self._next[:] = [r["episode"] for r in resume]
        seeds = [int(o.get("seeds") or 0) if "seeds" in o else self._own_seed(i) for i, o in enumerate(own)]
        frames, info = self._pool.reset(seed=np.array(seeds))
        self._lives, self._steps[:] = info["lives"], 0
        self._see(frames)
        if resume:
            self._replay(np.array(seeds), [r["actions"] for r in resume])
        return {"image": self._images.copy()}, {}

    def step(self, actions: Any) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray, np.ndarray, dict]:
        """One step of every game; actions (n,)."""
        act = np.asarray(actions, np.int64)
        if not ((act >= 0) & (act < self.single_action_space.n)).all():  # type: ignore[attr-defined]
            raise ValueError(f"actions must be in {self.single_action_space}, got {act}")  # the engine would hang
        self._idle |= self._over & self._one_off
        first = self._over & ~self._idle
        goes_on = first & self._goes_on
        playing = ~(first | self._idle)
        frames, rew, over, _, info = self._pool.step(np.where(playing, act, 0))
        self._steps += 1
        anew = first & (over | ~goes_on)
        if anew.any():
            seeds = [-1 if goes_on[i] else self._own_seed(int(i)) for i in np.flatnonzero(anew)]  # -1: not seeded again
            frames, info = self._start(anew, seeds)
        lives, limit = info["lives"], self._steps >= self._config.limit
        lost = (self._config.life_loss == "end") & (lives > 0) & (lives < self._lives)
        terminated = playing & (over | lost)
        truncated = playing & limit & ~terminated
        self._lives, self._over = lives, terminated | truncated
        self._goes_on = playing & lost & ~over & ~limit
        self._see(frames)
        rew = np.where(playing, np.sign(rew) if self._config.rewards == "sign" else rew, 0).astype(np.float64)
        return {"image": self._images.copy()}, rew, terminated, truncated, {GOES_ON: goes_on}

    def close_extras(self, **_: Any) -> None:
        """End the threads."""
        self._threads.shutdown()
        del self._pool

    def _own_seed(self, i: int) -> int:
        """The seed of the next own episode of row i, which is counted."""
        self._next[i] += 1
        return derive(self._seed, "episode", i, int(self._next[i]) - 1)

    def _start(self, rows: np.ndarray, seeds: Sequence[int]) -> tuple[np.ndarray, dict]:
        """Games from their beginning in these rows; frames and infos of all."""
        self._steps[rows] = 0
        return self._pool.reset(seed=np.array(seeds), options={"reset_mask": rows})

    def _replay(self, seeds: np.ndarray, actions: Sequence[np.ndarray]) -> None:
        """Play the running episodes again: all take their last action together, so the longest one starts first."""
        lengths = np.array([len(a) for a in actions])
        for left in range(int(lengths.max()), -1, -1):
            begin = lengths == left
            self._idle = lengths < left
            if begin.any():
                frames, info = self._start(begin, seeds[begin].tolist())
                self._lives = np.where(begin, info["lives"], self._lives)
                self._see(frames)
            for i in np.flatnonzero(self._over & ~self._goes_on if left else []):
                raise not_deterministic(int(self._next[i]) - 1, int(i), int(lengths[i] - left), int(lengths[i]))
            if left:
                self.step([0 if idle else a[-left] for a, idle in zip(actions, self._idle, strict=True)])

    def _picture(self, frame: np.ndarray) -> np.ndarray:
        return picture(frame, self._config.size, self._config.crop, self._config.grey)

    def _see(self, frames: np.ndarray) -> None:
        """Frames (n, 1, H, W, 3); idle rows keep what they saw last."""
        rows = np.flatnonzero(~self._idle)
        for i, image in zip(rows, self._threads.map(self._picture, frames[rows, 0]), strict=True):
            self._images[i] = image


def _interface(config: Config) -> Any:
    """An emulator with the game in it."""
    ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
    ale = ale_py.ALEInterface()
    ale.setFloat("repeat_action_probability", float(config.sticky or 0))
    ale.loadROM(_rom_of(config))
    return ale


def _rom_of(config: Config) -> Path:
    with redirect_stdout(io.StringIO()):  # it tells where it reads from
        try:
            return Path(str(roms.get_rom_path(str(atari.rom(config.id)))))
        except OSError as error:
            raise UserError(
                f"{config.id}: its ROM is damaged: {' '.join(str(error).split())}; "
                "type: pip install --force-reinstall ale-py"
            ) from error


def _draw(rng: np.random.RandomState, n: int) -> int:
    """One of 0, ..., n - 1, as the vector engine draws it: a Mersenne twister of the same seed, and Lemire's way.

    So does GCC's C++ library. With another one, the same seed may wait longer in one engine than in the other.
    """
    while True:
        product = int(rng.randint(0, 2**32, dtype=np.uint32)) * n
        if product % 2**32 >= 2**32 % n:
            return product // 2**32
