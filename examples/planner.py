"""A world-model agent in one file: a deterministic recurrent model, and plans found by random shooting.

    python -m dreamlab train examples.planner --env tiny/Catch       (from the repository's root)

    time         t-1              t              t+1
    latent   h ── dream(a) ──▶ ĥ ── see(x) ─▶ h ── dream(a) ──▶ ĥ ...   open loop: ĥ is taken for h
It learns from windows of which it sees the first frames and imagines the rest. To act, it imagines many
action sequences and takes the first action of the one that promises most. For images and Discrete actions.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy, one_hot

from dreamlab.agents import Footprint
from dreamlab.core.imagination import alive, imagine, predict_all
from dreamlab.core.protocols import Phase
from dreamlab.core.sampling import EpisodeWindows

SEES, EXTENDS, KEPT = "image", ("practice", "run.steps"), ("model", "optimizer", "sampler")
D, BATCH, PLANS = 128, 32, 200  # units of each layer; windows in an update; sequences imagined before an action


@dataclass(frozen=True)
class Config:
    """Planning in a recurrent model."""

    collect: int = 4000
    """environment steps of random actions at first"""
    study: int = 3000
    """updates on them"""
    practice: int = 2000
    """environment steps with plans, each second with an update; the run's steps, less those at first"""
    window: int = 8
    """rows of a training window (T); plans are one step shorter (H)"""


def budget(config: Config, run: Any) -> list[Phase]:
    steps = config.practice if run.steps is None else max(run.steps - config.collect, 0)
    study, practice = Phase("study", rounds=config.study), Phase("practice", env_steps=steps, rounds=steps // 2)
    return [Phase("collect", env_steps=config.collect), study, practice]


def footprint(config: Config, obs_space: Any, act_space: Any, run: Any) -> Footprint:
    update = BATCH * (30 * D + 6 * torch.Size(obs_space["image"].shape).numel())
    return Footprint(4 * config.window * max(update, 8 * D * run.envs * PLANS), row_bytes=0)


class Model(nn.Module):
    """A world model whose latent is one vector h (N, D)."""

    def __init__(self, shape: tuple[int, ...], actions: int) -> None:
        super().__init__()
        self.shape, self.actions, size = shape, actions, torch.Size(shape).numel()
        self.encoder = nn.Sequential(nn.Linear(size, D, bias=False), nn.LayerNorm(D), nn.ELU(), nn.Linear(D, D))
        self.see, self.dream = nn.GRUCell(D, D), nn.GRUCell(actions, D)
        self.decoder = nn.Sequential(nn.Linear(D, D), nn.ELU(), nn.Linear(D, size))
        self.promise = nn.Sequential(nn.Linear(D, D), nn.ELU(), nn.Linear(D, 2))  # reward, log odds of going on

    def observe(self, batch: Any) -> Tensor:
        embed, latents = self.encoder(batch.obs["image"].flatten(2) / 255), []  # (B, T, D)
        h = torch.zeros_like(embed[:, 0])
        for t in range(embed.shape[1]):
            latents.append(self.see(embed[:, t], h * ~batch.is_first[:, t, None]))
            h = self.dream(batch.act[:, t], latents[t])
        return torch.stack(latents, 1)

    def begin(self, latent: Tensor) -> Tensor:
        return latent

    def step(self, carry: Tensor, act: Tensor, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
        return (h := self.dream(act, carry)), h

    def predict(self, latent: Tensor) -> dict[str, Tensor]:
        rew, con = self.promise(latent).unbind(-1)
        return {"image": self.decoder(latent).unflatten(-1, self.shape).sigmoid(), "rew": rew, "con": con.sigmoid()}


class Policy(NamedTuple):  # plans; its state is the latent after the last action
    model: Model
    horizon: int
    random: float  # share of random actions

    def initial(self, n: int) -> Tensor:
        return self.model.see.bias_hh.new_zeros(n, D)

    def __call__(self, obs: Any, is_first: Tensor, state: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        h = self.model.see(self.model.encoder(obs["image"].flatten(1) / 255), state * ~is_first[:, None])
        act = torch.randint(self.model.actions, is_first.shape, device=h.device)
        if self.random < 1:
            act = torch.where(torch.rand_like(h[:, 0]) < self.random, act, self.plan(h))
        return act, self.model.dream(one_hot(act, self.model.actions).to(h), h), {}

    def plan(self, h: Tensor) -> Tensor:
        """First actions (N,) of the best of P sequences; each goes on with its last action half of the time."""
        shots = torch.randint(self.model.actions, (len(h) * PLANS, self.horizon), device=h.device)  # (N*P, H)
        for t in range(1, self.horizon):
            shots[:, t] = torch.where(torch.rand(len(shots), device=h.device) < 0.5, shots[:, t - 1], shots[:, t])
        dream = imagine(self.model, h.repeat_interleave(PLANS, 0), one_hot(shots, self.model.actions).to(h))
        rew, con = self.model.promise(dream.latents[:, 1:]).unbind(-1)  # (N*P, H)
        best = (rew * alive(con.sigmoid())).sum(1).view(len(h), -1).argmax(1)  # (N,)
        return shots[:, 0].view(len(h), -1).gather(1, best[:, None])[:, 0]


class Planner:
    def __init__(self, config: Config, obs_space: Any, act_space: Any, compute: Any, seed: int, run: Any) -> None:
        self.config, self.run, self.sampler = config, run, EpisodeWindows(seed)
        self.model = Model(obs_space["image"].shape, int(act_space.n)).to(compute.device)
        self.optimizer, self.parts = torch.optim.Adam(self.model.parameters(), 2e-3), {"model": self.model}

    def phases(self) -> list[Phase]:
        collect, study, practice = budget(self.config, self.run)
        collect, study = replace(collect, act=self.policy(True, 1.0)), replace(study, learn=((self.learn, 1),))
        return [collect, study, replace(practice, act=self.policy(True), learn=study.learn)]

    def policy(self, explore: bool, random: float = 0.1) -> Policy:
        return Policy(self.model, self.config.window - 1, random if explore else 0.0)

    def learn(self, experience: Any) -> dict[str, Tensor]:
        """See the first c frames of each window, imagine the others, and compare all of them with what was."""
        batch = experience.gather(self.sampler(experience.index, BATCH, self.config.window))
        latents, c = self.model.observe(batch), int(torch.randint(1, self.config.window, ()))
        dream = imagine(self.model, latents[:, c - 1], batch.act[:, c - 1 : -1])
        seen = predict_all(self.model, torch.cat([latents[:, :c], dream.latents[:, 1:]], 1))
        pixels = binary_cross_entropy(seen["image"], batch.obs["image"] / 255, reduction="none").flatten(2).sum(2)
        con = binary_cross_entropy(seen["con"], (~batch.is_terminal).float(), reduction="none")
        losses = {"image": 0.1 * pixels, "rew": 10 * (seen["rew"] - batch.rew).square(), "con": con}  # (B, T)
        means = {name: loss[batch.mask].mean() for name, loss in losses.items()}
        self.optimizer.zero_grad()
        sum(means.values()).backward()
        self.optimizer.step()
        return {name: loss.detach() for name, loss in means.items()}

    def report(self, phase: str, experience: Any) -> dict[str, Tensor]:
        return {}

    def state_dict(self) -> dict[str, Any]:
        return {name: getattr(self, name).state_dict() for name in KEPT}

    def load_state_dict(self, state: Any) -> None:
        for name in KEPT:
            getattr(self, name).load_state_dict(state[name])


build = Planner
