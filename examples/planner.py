"""A world-model agent in one file: a deterministic recurrent model, and plans found by random shooting.

    dreamlab train examples.planner --env tiny/Catch --run runs/planner       (from the repository's root)
    dreamlab dream runs/planner --context 2 --horizon 5

    time         t-1              t              t+1
    latent   h ── dream(a) ──▶ ĥ ── see(x) ─▶ h ── dream(a) ──▶ ĥ ...   open loop: ĥ is taken for h

It learns from windows of which it sees the first frames and imagines the rest. To act, it imagines many
action sequences and takes the first action of the one that promises most. For Discrete actions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dreamlab.agents import Footprint
from dreamlab.core.imagination import alive, imagine, predict_all
from dreamlab.core.protocols import Phase
from dreamlab.core.sampling import EpisodeWindows
from dreamlab.core.seeds import forked

SEES, EXTENDS = "any", ()


@dataclass(frozen=True)
class Config:
    """Planning in a recurrent model."""

    collect: int = 2000
    """environment steps of random actions at first"""
    study: int = 800
    """updates on them"""
    practice: int = 4000
    """environment steps with plans; the run's steps, where given, less those at first"""
    every: int = 5
    """environment steps for each update while practising"""
    width: int = 256
    """units of each layer and of the latent (D)"""
    window: int = 8
    """rows of a training window (T); plans are one step shorter"""
    batch: int = 32
    """windows in an update (B)"""
    learning_rate: float = 1e-3
    """Adam's step"""
    plans: int = 200
    """action sequences imagined before each action (P)"""


def budget(config: Config, run: Any) -> list[Phase]:
    steps = config.practice if run.steps is None else max(run.steps - config.collect, 0)
    first, study = Phase("collect", env_steps=config.collect), Phase("study", rounds=config.study)
    return [first, study, Phase("practice", env_steps=steps, rounds=steps // config.every)]


def footprint(config: Config, obs_space: Any, act_space: Any, run: Any) -> Footprint:
    size = sum(torch.Size(space.shape).numel() for space in obs_space.values())
    rows = max(config.batch * config.window, run.envs * config.plans)
    return Footprint(memory_bytes=4 * rows * (30 * config.width + 6 * size), row_bytes=0)


def build(config: Config, obs_space: Any, act_space: Any, compute: Any, seed: int, run: Any) -> Planner:
    return Planner(config, obs_space, act_space, compute.device, seed, run)


class Model(nn.Module):
    """A world model whose latent is one vector h (N, D)."""

    def __init__(self, d: int, key: str, shape: tuple[int, ...], actions: int) -> None:
        super().__init__()
        self.key, self.shape, size = key, shape, torch.Size(shape).numel()
        self.encoder = nn.Sequential(nn.Linear(size, d), nn.ELU(), nn.Linear(d, d))
        self.see, self.dream = nn.GRUCell(d, d), nn.GRUCell(actions, d)
        self.decoder = nn.Sequential(nn.Linear(d, d), nn.ELU(), nn.Linear(d, size))
        self.promise = nn.Sequential(nn.Linear(d, d), nn.ELU(), nn.Linear(d, 2))  # reward, log odds of going on

    def embed(self, obs: Any) -> Tensor:
        x = obs[self.key].flatten(-len(self.shape))  # (..., size)
        return self.encoder(x / 255 if x.dtype == torch.uint8 else x)

    def observe(self, batch: Any) -> Tensor:
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


class Acting(NamedTuple):
    """(N, D): the latent after the last action."""

    h: Tensor


class Policy(NamedTuple):
    """Plans, but for a share of random actions."""

    model: Model
    actions: int
    plans: int
    horizon: int
    random: float

    def initial(self, n: int) -> Acting:
        return Acting(self.model.see.bias_hh.new_zeros(n, self.model.see.hidden_size))

    def __call__(self, obs: Any, is_first: Tensor, state: Acting) -> tuple[Tensor, Acting, dict[str, Tensor]]:
        h = self.model.see(self.model.embed(obs), state.h * ~is_first[:, None])
        act = torch.randint(self.actions, is_first.shape, device=h.device)
        if self.random < 1:
            act = torch.where(torch.rand_like(h[:, 0]) < self.random, act, self.plan(h))
        return act, Acting(self.model.dream(F.one_hot(act, self.actions).to(h), h)), {}

    def plan(self, h: Tensor) -> Tensor:
        """First actions (N,) of the best of P sequences, in which every action may be held on."""
        shots = torch.randint(self.actions, (len(h) * self.plans, self.horizon), device=h.device)
        for t in range(1, self.horizon):
            shots[:, t] = torch.where(torch.rand(len(shots), device=h.device) < 0.5, shots[:, t - 1], shots[:, t])
        dream = imagine(self.model, h.repeat_interleave(self.plans, 0), F.one_hot(shots, self.actions).to(h))
        rew, con = self.model.promise(dream.latents[:, 1:]).unbind(-1)  # (N*P, H)
        best = (rew * alive(con.sigmoid())).sum(1).view(len(h), -1).argmax(1)  # (N,)
        return shots[:, 0].view(len(h), -1).gather(1, best[:, None])[:, 0]


class Planner:
    def __init__(self, config: Config, obs_space: Any, act_space: Any, device: Any, seed: int, run: Any) -> None:
        self.config, self.run, self.actions = config, run, int(act_space.n)
        key = "image" if "image" in obs_space.spaces else "vector"
        with forked(seed, "planner"):
            self.model = Model(config.width, key, obs_space[key].shape, self.actions).to(device)
        self.optimizer = torch.optim.Adam(self.model.parameters(), config.learning_rate)
        self.sampler, self.parts = EpisodeWindows(seed), {"model": self.model}

    def phases(self) -> list[Phase]:
        first, study, practice = budget(self.config, self.run)
        learn = ((self.learn, 1),)
        return [
            Phase(first.name, self.acting(1.0), (), first.env_steps),
            Phase(study.name, None, learn, 0, study.rounds),
            Phase(practice.name, self.acting(0.2), learn, practice.env_steps, practice.rounds),
        ]

    def acting(self, random: float) -> Policy:
        return Policy(self.model, self.actions, self.config.plans, self.config.window - 1, random)

    def policy(self, explore: bool) -> Policy:
        return self.acting(0.2 if explore else 0.0)

    def learn(self, experience: Any) -> dict[str, Tensor]:
        """See the first c frames of each window, imagine the others, and compare all of them with what was."""
        batch = experience.gather(self.sampler(experience.index, self.config.batch, self.config.window))
        c = int(torch.randint(1, self.config.window, ()))
        latents = self.model.observe(batch)[:, :c]
        dream = imagine(self.model, latents[:, -1], batch.act[:, c - 1 : -1])
        seen = predict_all(self.model, torch.cat([latents, dream.latents[:, 1:]], 1))
        real = batch.obs[self.model.key] / (255 if self.model.key == "image" else 1)
        losses = {
            "seen": (seen[self.model.key] - real).square().flatten(2).sum(-1),
            "rew": (seen["rew"] - batch.rew).square(),
            "con": F.binary_cross_entropy(seen["con"], (~batch.is_terminal).float(), reduction="none"),
        }
        means = {name: loss[batch.mask].mean() for name, loss in losses.items()}
        self.optimizer.zero_grad()
        sum(means.values()).backward()
        self.optimizer.step()
        return {name: loss.detach() for name, loss in means.items()}

    def report(self, phase: str, experience: Any) -> dict[str, Tensor]:
        return {}

    def state_dict(self) -> dict[str, Any]:
        return {name: getattr(self, name).state_dict() for name in ("model", "optimizer", "sampler")}

    def load_state_dict(self, state: Any) -> None:
        for name in ("model", "optimizer", "sampler"):
            getattr(self, name).load_state_dict(state[name])
