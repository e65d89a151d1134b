"""C by gradients: an actor and a critic of one hidden layer each, on C's features. Ours: the paper evolves C.

In the dream (phase ``controller``) an update imagines ``batch`` rollouts of ``horizon`` steps from real rows where
M's memory is filled; in the environment (phase ``practice``) it takes the newest ``window`` steps of every stream.
Both learn from their steps alike (``policy_gradient``). No gradient flows through V and M.

A dream is over when M says that the episode does not go on (con < 1/2), as for CMA-ES; without such a head it never
is, and without a reward head every step survived is worth 1. In practice an episode that was truncated is
bootstrapped at its last row, one that terminated is not.

What was acted on is written beside the rows (``feat`` and ``raw``, 4 bytes a number) rather than computed again: z
was drawn, and M's memory goes back to the episode's start. Rows of before hold zeros there, and are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from dreamlab.agents.world_models.acting import Remembered, follow, look
from dreamlab.agents.world_models.actions import Choice, plain
from dreamlab.agents.world_models.config import Config
from dreamlab.agents.world_models.controller import Features
from dreamlab.agents.world_models.memory import fresh_noise, sample
from dreamlab.agents.world_models.model import Latent, Model, codes
from dreamlab.agents.world_models.policy_gradient import (
    Actor,
    Categorical,
    Critic,
    Gaussian,
    Steps,
    losses,
    practised,
    returns,
)
from dreamlab.agents.world_models.vision import draw
from dreamlab.core.inside import Choices, Number, View
from dreamlab.core.protocols import Experience, Learn, Policy
from dreamlab.core.sampling import EpisodeWindows
from dreamlab.core.seeds import derive, torch_rng
from dreamlab.nn.compute import Compute
from dreamlab.nn.optim import load_optimizer, optimizer_state

if TYPE_CHECKING:
    from dreamlab.core.types import Metrics, Obs

CONTEXT = 32
"""rows of a window from which dreams start; inside an episode its first half only fills M's memory"""
STARTS_OF_A_WINDOW = 4
"""dreams that begin in one window, on average"""


class ActorCritic:
    """The behaviour: acts by the actor, learns in the dream and in practice."""

    def __init__(self, config: Config, model: Model, compute: Compute, seed: int) -> None:
        self.config, self.model, self.compute, self.seed = config.actor_critic, model, compute, seed
        self.temperature = config.controller.temperature
        self.features = Features(config.controller.inputs, model.vision.latent, model.memory.hidden)
        size, hidden, act = self.features.size, self.config.hidden, model.actions.size
        choice = Categorical() if isinstance(model.actions, Choice) else Gaussian(act)
        self.actor, self.critic = Actor(size, hidden, act, choice), Critic(size, hidden)
        self._parameters = [*self.actor.parameters(), *self.critic.parameters()]
        self.optimizer = torch.optim.Adam(self._parameters, self.config.lr)
        self.windows = EpisodeWindows(derive(seed, "starts"))
        self.iteration = 1
        real = not self._parameters[0].is_meta
        device = compute.device if real else torch.device("cpu")  # sizes are counted on the meta device
        self.generators = {name: torch_rng(device, seed, "actor-critic", name) for name in ("dream", "explore")}

    @property
    def parts(self) -> Mapping[str, nn.Module]:
        """C, and the critic that it is taught by."""
        return {"controller": self.actor, "critic": self.critic}

    @property
    def learners(self) -> Mapping[str, Learn]:
        """What each of its phases does."""
        return {"controller": self.dream, "practice": self.practise}

    def policy(self, explore: bool) -> Policy:
        """The actor: to explore, drawn, and noted where practice will learn from it; else its mode."""
        if not explore:
            rng = torch_rng(self.compute.device, self.seed, "act")
            return Playing(self, self.actor.choice.mode, rng)
        rng = self.generators["explore"]
        kind = Noting if self.config.env_steps else Playing
        return kind(self, partial(self.actor.choice.draw, rng=rng), rng)

    # ---- in the dream

    def dream(self, experience: Experience, iteration: int = 1) -> Metrics:
        """One update on imagined rollouts; updates that were added later go to the last iteration alone."""
        if iteration < self.iteration:
            return {}
        self.iteration = iteration
        steps = self.imagine(self.starts(experience))
        found = {"return": (steps.rew * steps.weight).sum(0).mean(), "length": steps.weight.sum(0).mean()}
        return self.learn(steps) | found

    @torch.no_grad()
    def starts(self, experience: Experience) -> Latent:
        """Where ``batch`` dreams begin (N,): rows with a step after them, and M's memory as it really was.

        It is where the window begins with its episode, and nearly after the first half of one that does not.
        """
        count, rng = self.config.batch, self.generators["dream"]
        rows = self.windows(experience.index, -(-count // STARTS_OF_A_WINDOW), CONTEXT)
        rows = rows[:, (rows >= 0).any(0)]  # short episodes leave columns of padding
        batch = experience.gather(rows, obs=())
        latent = self.model.observe(batch)  # (B, T)
        place = torch.arange(rows.shape[1], device=latent.z.device)
        filled = batch.is_first[:, :1] | (place >= CONTEXT // 2)
        likely = (batch.mask & ~batch.is_last) * (filled + 1e-6)  # the others only if there are none of these
        pick = torch.multinomial(likely.flatten(), count, replacement=True, generator=rng)  # (N,)
        latent = Latent(*(x.flatten(0, 1)[pick] for x in latent))
        mu, logvar = (code.flatten(0, 1)[pick] for code in codes(batch))
        return latent._replace(z=draw(mu, logvar, rng))

    @torch.no_grad()
    def imagine(self, start: Latent) -> Steps:
        """Dream ``horizon`` steps on from latents (N,), acting at random."""
        memory, rng = self.model.memory, self.generators["dream"]
        z, h, c, first = start.z, start.h, start.c, start.first
        feats, raws, hs = [self.features(z, h, c)], [], []
        for _ in range(self.config.horizon):
            raw = self.actor.choice.draw(self.actor(feats[-1]), rng)  # (N, A)
            with self.compute.autocast():
                h, c = memory.cell(z, self.model.actions(raw), h, c, first)
                mixture = memory.mixture(h)
            z = sample(mixture, self.temperature, fresh_noise(len(h), memory.latent, rng, h.device))
            first = torch.zeros_like(first)
            feats.append(self.features(z, h, c))
            raws.append(raw)
            hs.append(h)
        said = memory.extras(torch.stack(hs))
        always = torch.ones(len(hs), len(z), device=z.device)  # (T, N)
        con = (said["con"] >= 0).float() if "con" in said else always  # a logit: con >= 1/2
        alive = torch.cat([always[:1], con[:-1]]).cumprod(0)
        return Steps(torch.stack(feats), torch.stack(raws), said.get("rew", always), con, alive)

    # ---- in the environment

    def practise(self, experience: Experience, iteration: int = 1) -> Metrics:
        """One update on the newest ``window`` steps of every stream; rows that end an episode take one's place."""
        index = experience.index
        times = np.arange(max(index.start, index.stop - self.config.window - 1), index.stop)
        rows = np.arange(index.streams)[:, None] + times * index.streams  # (N, T + 1)
        return self.learn(practised(experience.gather(rows, obs=())))

    # ---- both

    def learn(self, steps: Steps) -> dict[str, Tensor | float]:
        """One update of actor and critic."""
        config, weight = self.config, steps.weight
        with torch.no_grad():
            ret = returns(steps, self.critic.value(steps.feat), config.discount, config.trace)
        self.critic.adapt(ret, weight)
        count = weight.sum().clamp(min=1)
        mean = {
            name: (loss * weight).sum() / count for name, loss in losses(self.actor, self.critic, steps, ret).items()
        }
        self.optimizer.zero_grad()
        (mean["actor"] + config.entropy * mean["entropy"] + mean["critic"]).backward()
        norm = nn.utils.clip_grad_norm_(self._parameters, config.clip)
        self.optimizer.step()
        return {
            "actor_loss": mean["actor"].detach(),
            "critic_loss": mean["critic"].detach(),
            "entropy": -mean["entropy"].detach(),
            "lambda_return": ((ret * weight).sum() / count),
            "gradient_norm": norm.detach(),
        }

    # ---- to be looked at

    @torch.no_grad()
    def judge(self, latents: Latent) -> dict[str, View]:
        """Values, the policy and its entropy at latents (N, T)."""
        feat = self.features(latents.z, latents.h, latents.c)  # (N, T, F)
        out, choice = self.actor(feat), self.actor.choice
        policy = (
            Choices((out.softmax(-1),))
            if isinstance(choice, Categorical)
            else plain(self.model.actions, choice.mode(out))
        )
        return {"value": Number(self.critic.value(feat)), "entropy": Number(choice.entropy(out)), "policy": policy}

    # ---- saving

    def take(self, state: Mapping[str, Any]) -> None:
        """Actor and critic of another run, to begin at.

        Raises:
            KeyError, RuntimeError: they are of another form.
        """
        for name in ("actor", "critic"):
            getattr(self, name).load_state_dict(state[name])

    def state_dict(self) -> dict[str, Any]:
        return {
            "actor": self.actor.state_dict(),
            "critic": self.critic.state_dict(),
            "optimizer": optimizer_state(self.optimizer),
            "iteration": self.iteration,
            "windows": self.windows.state_dict(),
            "generators": {name: rng.get_state() for name, rng in self.generators.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.take(state)
        load_optimizer(self.optimizer, state["optimizer"])
        self.windows.load_state_dict(state["windows"])
        for name, rng in self.generators.items():
            rng.set_state(torch.as_tensor(state["generators"][name], dtype=torch.uint8).cpu())


class Playing:
    """See, act, remember: like ``Acting``, by the actor. ``choose`` makes raw numbers of what the actor says."""

    def __init__(self, behaviour: ActorCritic, choose: Callable[[Tensor], Tensor], rng: torch.Generator) -> None:
        self.actor, self.features = behaviour.actor, behaviour.features
        self.model, self.compute, self.choose, self.rng = behaviour.model, behaviour.compute, choose, rng

    def initial(self, n: int) -> Remembered:
        return Remembered(*self.model.memory.initial(n))

    @torch.no_grad()
    def __call__(
        self, obs: Obs, is_first: Bool[Tensor, " N"], state: Remembered
    ) -> tuple[Tensor, Remembered, Mapping[str, Tensor]]:
        actions = self.model.actions
        z, h, c, first = look(self.model, self.compute, self.rng, obs, is_first, state)
        feat = self.features(z, h, c)  # (N, F)
        raw = self.choose(self.actor(feat))  # (N, A)
        act = actions(raw)
        with self.compute.autocast():
            h, c = self.model.memory.cell(z, act, h, c, first)
        return actions.emit(act), Remembered(h, c), {**actions.note(act), **self.note(feat, raw)}

    @torch.no_grad()
    def follow(self, obs: Obs, is_first: Bool[Tensor, " N"], state: Remembered, act: Tensor) -> Remembered:
        """The state where somebody else chose: ``obs`` was seen and ``act`` (N, A), as rows hold it, was done."""
        return follow(self.model, self.compute, self.rng, obs, is_first, state, act)

    def note(self, feat: Float[Tensor, "N F"], raw: Float[Tensor, "N A"]) -> Mapping[str, Tensor]:
        """Columns beside the rows."""
        return {}


class Noting(Playing):
    """What was acted on, and what came of it, are written beside the rows: practice learns from them."""

    def note(self, feat: Float[Tensor, "N F"], raw: Float[Tensor, "N A"]) -> Mapping[str, Tensor]:
        return {"feat": feat.float(), "raw": raw.float()}
