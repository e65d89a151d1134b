"""A world-model agent of one file: a deterministic recurrent model, and plans found by shooting at random.

    dreamlab train examples.planner --env tiny/Catch --run runs/planner      (from the repository's root)
    dreamlab evaluate runs/planner ; dreamlab dream runs/planner --horizon 5 --context 2

    time         t-1            t            t+1
    latent   h ── dream(a) ──▶ ĥ ─ see(x) ▶ h ── dream(a) ──▶ ĥ ...   without x, ĥ is the latent: the open loop

The model is trained on windows of which it sees the first frames and imagines the rest. To act, it imagines
many action sequences and takes the first action of the one that promises most. Discrete actions, images or
vectors. Nothing of it is known to dreamlab: the module's path is its name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dreamlab.agents import Footprint
from dreamlab.core.imagination import alive, imagine, predict_all
from dreamlab.core.protocols import Phase
from dreamlab.core.sampling import EpisodeWindows
from dreamlab.core.seeds import forked
from dreamlab.core.types import Batch, act_size

SEES, EXTENDS = "any", ()


@dataclass(frozen=True)
class Config:
    """Planning in a recurrent model."""

    collect: int = 2000
    """environment steps of random actions at first"""
    practice: int = 4000
    """environment steps with plans; the run's steps, where given, minus those at first"""
    study: int = 600
    """updates between the two"""
    every: int = 8
    """environment steps for each update while practising"""
    width: int = 256
    """units of each layer, and of the latent (D)"""
    window: int = 8
    """rows in a training window (T)"""
    batch: int = 32
    """windows in an update (B)"""
    learning_rate: float = 1e-3
    """Adam's step"""
    plans: int = 200
    """action sequences imagined before each action (P)"""
    horizon: int = 7
    """their length (H)"""
    explore: float = 0.2
    """share of random actions while practising"""


def budget(config: Config, run: Any) -> list[Phase]:
    steps = config.practice if run.steps is None else max(run.steps - config.collect, 0)
    study = Phase("study", rounds=config.study)
    return [Phase("collect", env_steps=config.collect), study, Phase("practice", env_steps=steps, rounds=steps // config.every)]


def footprint(config: Config, obs_space: Any, act_space: Any, run: Any) -> Footprint:
    rows = max(config.batch * config.window, run.envs * config.plans)
    return Footprint(memory_bytes=rows * (20 * config.width + 16 * size_of(obs_space)) * 4, row_bytes=0)


def size_of(obs_space: Any) -> int:
    return max(torch.Size(space.shape).numel() for space in obs_space.spaces.values())


def build(config: Config, obs_space: Any, act_space: Any, compute: Any, seed: int, run: Any) -> Planner:
    return Planner(config, obs_space, act_space, compute, seed, run)


class Model(nn.Module):
    """The latent is one vector h (N, D)."""

    def __init__(self, config: Config, key: str, shape: tuple[int, ...], actions: int) -> None:
        super().__init__()
        d, self.key, self.shape = config.width, key, shape
        self.encoder = nn.Sequential(nn.Flatten(), nn.Linear(torch.Size(shape).numel(), d), nn.ELU(), nn.Linear(d, d))
        self.see, self.dream = nn.GRUCell(d, d), nn.GRUCell(actions, d)
        self.decoder = nn.Sequential(nn.Linear(d, d), nn.ELU(), nn.Linear(d, torch.Size(shape).numel()))
        self.promise = nn.Sequential(nn.Linear(d, d), nn.ELU(), nn.Linear(d, 2))  # reward, log odds of going on

    def embed(self, obs: Mapping[str, Tensor]) -> Tensor:
        x = obs[self.key].flatten(0, -len(self.shape) - 1)
        return self.encoder(x / 255 if x.dtype == torch.uint8 else x).view(*obs[self.key].shape[: -len(self.shape)], -1)

    def observe(self, batch: Batch) -> Tensor:
        embed, latents = self.embed(batch.obs), []  # (B, T, D)
        h = torch.zeros_like(embed[:, 0])
        for t in range(embed.shape[1]):
            h = self.see(embed[:, t], h * ~batch.is_first[:, t, None])
            latents.append(h)
            h = self.dream(batch.act[:, t], h)
        return torch.stack(latents, 1)

    def begin(self, latent: Tensor) -> Tensor:
        return latent

    def step(self, carry: Tensor, act: Tensor, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
        return (h := self.dream(act, carry)), h

    def predict(self, latent: Tensor) -> dict[str, Tensor]:
        seen, (rew, con) = self.decoder(latent).unflatten(-1, self.shape), self.promise(latent).unbind(-1)
        return {self.key: seen.sigmoid() if self.key == "image" else seen, "rew": rew, "con": con.sigmoid()}

    def compare(self, latent: Tensor) -> Tensor:
        return latent


class Acting(NamedTuple):
    h: Tensor  # (N, D): after the last action


class Policy:
    def __init__(self, model: Model, config: Config, actions: int, random: float) -> None:
        self.model, self.config, self.actions, self.random = model, config, actions, random

    def initial(self, n: int) -> Acting:
        return Acting(next(self.model.parameters()).new_zeros(n, self.config.width))

    @torch.no_grad()
    def __call__(self, obs: Mapping[str, Tensor], is_first: Tensor, state: Acting) -> tuple[Tensor, Acting, dict]:
        h = self.model.see(self.model.embed(obs), state.h * ~is_first[:, None])
        chance = torch.randint_like(is_first, self.actions, dtype=torch.long)
        act = torch.where(torch.rand_like(h[:, 0]) < self.random, chance, chance if self.random == 1 else self.plan(h))
        return act, Acting(self.model.dream(F.one_hot(act, self.actions).to(h), h)), {}

    def plan(self, h: Tensor) -> Tensor:
        """The first action of the best of P sequences; each action is held on with a chance of one half."""
        p, horizon = self.config.plans, self.config.horizon
        plans = torch.randint(self.actions, (len(h) * p, horizon), device=h.device)
        for t in range(1, horizon):
            plans[:, t] = torch.where(torch.rand_like(h[0, :1]).new_empty(len(plans)).uniform_() < 0.5, plans[:, t - 1], plans[:, t])
        dream = imagine(self.model, h.repeat_interleave(p, 0), F.one_hot(plans, self.actions).to(h))
        rew, con = self.model.promise(dream.latents[:, 1:]).unbind(-1)  # (N*P, H)
        ret = (rew * alive(con.sigmoid())).sum(1).view(len(h), p)
        return plans.view(len(h), p, horizon)[torch.arange(len(h)), ret.argmax(1), 0]
