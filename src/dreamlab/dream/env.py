"""Dreams as environments: any world model behind Gymnasium's two faces, many rows or one.

::

    reset ─▶ latent 0 ─ predict ─▶ obs
    step(a) ─▶ carry, latent = model.step(carry, a) ─ predict ─▶ obs, rew, terminated = con < 0.5
    a row that ended starts again from another start latent at the next step, whose action is ignored (NEXT_STEP)

A dream is as reproducible as a seeded environment: what the model draws comes from a stream of the dream's
own, and torch's global generators are left as they were found. For the same seed and actions a dream is
``core.imagination.imagine``, step by step.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from torch import Tensor

from dreamlab.core.actions import one_hot
from dreamlab.core.errors import UserError
from dreamlab.core.imagination import leaves, pick, tree_map
from dreamlab.core.pictures import to_rgb
from dreamlab.core.protocols import State, WorldModel
from dreamlab.core.seeds import forked, torch_rng
from dreamlab.core.types import act_size

RENDER = {"render_modes": ["rgb_array"], "render_fps": 30}


class DreamEnv(VectorEnv):
    """A world model as a vector environment.

    Args:
        model: what is dreamt in.
        starts: latents (S, ...) of real experience (``model.observe``), from which each episode draws its start.
        act_space: Discrete, a flat MultiDiscrete or a flat Box, of one environment.
        num_envs: rows dreamt side by side.
        horizon: steps until an episode is truncated.
        temperature: how freely the model draws.
        seed: of the starts and of the model's draws, until ``reset(seed=...)`` gives another.
        render_mode: ``"rgb_array"`` lets ``render`` return the last pictures.

    Observations are a Dict of what the model predicts: ``image`` uint8 (C, h, w), ``vector`` float32 (n,).
    The reward is the predicted one, 0 where the model predicts none; episodes end where it predicts less than
    half a chance of going on, if it predicts that.

    ``reset(options={"start": latent})`` starts the rows from latents (num_envs, ...), or all from one (1, ...).
    ``latent`` holds the latents now (num_envs, ...), and ``said`` the numbers ``rew`` and ``con`` that the model
    predicts of them, where it predicts them.

    Raises:
        UserError: no start latents, or the model predicts neither an image nor a vector.
    """

    def __init__(
        self,
        model: WorldModel,
        starts: State,
        act_space: spaces.Space,
        num_envs: int = 1,
        *,
        horizon: int = 1000,
        temperature: float = 1.0,
        seed: int = 0,
        render_mode: str | None = None,
    ) -> None:
        if horizon < 1 or num_envs < 1:
            raise UserError(f"a dream has at least one row and one step, got {num_envs} rows and horizon {horizon}")
        self.model, self.starts, self.horizon, self.temperature = model, starts, horizon, temperature
        self.count = len(leaves(starts)[0])
        if not self.count:
            raise UserError("a dream needs at least one start latent: observe some real experience first")
        self.device = leaves(starts)[0].device
        self.num_envs, self.render_mode = num_envs, render_mode
        self.metadata = {**RENDER, "autoreset_mode": AutoresetMode.NEXT_STEP}
        self.actions = act_size(act_space)
        self.single_action_space, self.action_space = act_space, batch_space(act_space, num_envs)
        self.single_observation_space = self._space()
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.latent: State = None
        self.said: dict[str, np.ndarray] = {}
        self.steps = np.zeros(num_envs, np.int64)
        self.ended = np.zeros(num_envs, bool)
        self._obs: dict[str, np.ndarray] = {}
        self._seed(seed)

    def reset(  # type: ignore[override]
        self, *, seed: int | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Start every row. Without a seed the random streams go on."""
        if seed is not None:
            self._seed(seed)
        start = (options or {}).get("start")
        if start is None:
            start = self._draw(self.num_envs)
        else:
            start = tree_map(lambda x: x.to(self.device).expand(self.num_envs, *x.shape[1:]), start)
        with torch.no_grad(), self._stream():
            self.carry, self.latent = self.model.begin(start), start
            seen = self.model.predict(self.latent)
        self._obs, self.said = _arrays(seen), _numbers(seen)
        self.steps[:], self.ended[:] = 0, False
        return _copies(self._obs), {}

    def step(  # type: ignore[override]
        self, actions: np.ndarray
    ) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """One imagined step of every row; rows that have ended start again instead."""
        assert self.latent is not None, "reset a dream before its first step"
        fresh = self.ended
        with torch.no_grad(), self._stream():
            self.carry, self.latent = self.model.step(self.carry, self._encode(actions), self.temperature)
            if fresh.any():
                mask = torch.from_numpy(fresh).to(self.device)
                start = self._draw(self.num_envs)
                self.carry = pick(mask, self.model.begin(start), self.carry)
                self.latent = pick(mask, start, self.latent)
            seen = self.model.predict(self.latent)
        self._obs, self.said = _arrays(seen), _numbers(seen)
        rew = np.where(fresh, 0, self.said["rew"]) if "rew" in seen else np.zeros(self.num_envs)
        over = self.said["con"] < 0.5 if "con" in seen else np.zeros(self.num_envs, bool)
        self.steps = np.where(fresh, 0, self.steps + 1)
        terminated = over & ~fresh
        truncated = (self.steps >= self.horizon) & ~terminated
        self.ended = terminated | truncated
        return _copies(self._obs), rew.astype(np.float64), terminated, truncated, {}

    def render(self) -> tuple[np.ndarray, ...] | None:  # type: ignore[override]
        """The last pictures, (h, w, 3) each; None without a render mode or without pictures."""
        if self.render_mode is None or "image" not in self._obs:
            return None
        return tuple(to_rgb(self._obs["image"]).copy())  # (N, h, w, 3)

    @classmethod
    def single(cls, model: WorldModel, starts: State, act_space: spaces.Space, **kwargs: Any) -> SingleDream:
        """The same dream with one row, as a ``gymnasium.Env``."""
        return SingleDream(model, starts, act_space, **kwargs)

    def _space(self) -> spaces.Dict:
        with torch.no_grad(), forked(0, "space"):
            seen = self.model.predict(tree_map(lambda x: x[:1], self.starts))
        parts: dict[str, spaces.Space] = {
            key: spaces.Box(0, 255, value.shape[1:], np.uint8)
            if key == "image"
            else spaces.Box(-np.inf, np.inf, value.shape[1:], np.float32)
            for key, value in seen.items()
            if key in ("image", "vector")
        }
        if not parts:
            raise UserError(f"this model predicts neither an image nor a vector to be seen, only: {', '.join(seen)}")
        return spaces.Dict(parts)

    def _encode(self, actions: np.ndarray) -> Tensor:
        return one_hot(torch.from_numpy(np.asarray(actions)).to(self.device), self.single_action_space)  # (N, A)

    def _draw(self, n: int) -> State:
        rows = torch.randint(self.count, (n,), generator=self.rng).to(self.device)
        return tree_map(lambda x: x[rows], self.starts)

    def _seed(self, seed: int) -> None:
        self.rng = torch_rng("cpu", seed, "starts")
        with forked(seed, "dream"):
            self._drawn = self._generators()

    def _generators(self) -> list[Tensor]:
        states = [torch.get_rng_state()]
        if self.device.type == "cuda":
            states.append(torch.cuda.get_rng_state(self.device))
        return states

    @contextmanager
    def _stream(self) -> Iterator[None]:
        """torch's global generators as this dream left them; the caller's are given back after the block."""
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices):
            torch.set_rng_state(self._drawn[0])
            if devices:
                torch.cuda.set_rng_state(self._drawn[1], self.device)
            yield
            self._drawn = self._generators()


class SingleDream(gymnasium.Env):
    """One row of a DreamEnv as a ``gymnasium.Env``; takes DreamEnv's arguments but ``num_envs``."""

    metadata = RENDER

    def __init__(self, model: WorldModel, starts: State, act_space: spaces.Space, **kwargs: Any) -> None:
        self.rows = DreamEnv(model, starts, act_space, num_envs=1, **kwargs)
        self.observation_space, self.action_space = self.rows.single_observation_space, self.rows.single_action_space
        self.render_mode = self.rows.render_mode

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Start from a drawn latent, or from ``options={"start": latent (1, ...)}``."""
        super().reset(seed=seed)
        obs, info = self.rows.reset(seed=seed, options=options)
        return {k: v[0] for k, v in obs.items()}, info

    def step(self, action: Any) -> tuple[dict[str, np.ndarray], float, bool, bool, dict[str, Any]]:
        """One imagined step."""
        obs, rew, terminated, truncated, info = self.rows.step(np.asarray(action)[None])
        return {k: v[0] for k, v in obs.items()}, float(rew[0]), bool(terminated[0]), bool(truncated[0]), info

    def render(self) -> np.ndarray | None:
        """The last picture (h, w, 3)."""
        frames = self.rows.render()
        return None if frames is None else frames[0]


def pixels(image: Tensor) -> np.ndarray:
    """Predicted pictures in [0, 1] as bytes."""
    return (image * 255).round().clamp(0, 255).to(torch.uint8).cpu().numpy()


def _arrays(seen: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    obs = {}
    if "image" in seen:
        obs["image"] = pixels(seen["image"])
    if "vector" in seen:
        obs["vector"] = seen["vector"].float().cpu().numpy()
    return obs


def _numbers(seen: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    return {key: seen[key].cpu().numpy() for key in ("rew", "con") if key in seen}


def _copies(obs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {k: v.copy() for k, v in obs.items()}
