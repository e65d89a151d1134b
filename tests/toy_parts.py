"""The torch side of the toy agent: tokenizer, token-context model, policies, learning. See ``toy_agent``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.nn.functional as F
from gymnasium import spaces
from torch import Tensor, nn
from toy_agent import Config, budget

from dreamlab.core.imagination import alive, imagine, predict_all, tree_map
from dreamlab.core.protocols import Experience, Phase
from dreamlab.core.sampling import EpisodeWindows, Frames, StreamWindows, WholeEpisodes
from dreamlab.core.seeds import derive, forked
from dreamlab.core.types import Batch, act_size

if TYPE_CHECKING:
    from dreamlab.core.types import Metrics, Obs


class Latent(NamedTuple):
    """The last K tokens, oldest first, and the actions chosen at them."""

    tokens: Tensor
    """(N, K) int64; V where before the episode"""
    acts: Tensor
    """(N, K) int64; A where not (yet) chosen"""


class Tokenizer(nn.Module):
    """Observations as the nearest of V learned points: a mixture of Gaussians of one width, by gradient."""

    def __init__(self, size: int, codes: int) -> None:
        super().__init__()
        self.points = nn.Parameter(torch.rand(codes, size))

    def distance(self, x: Tensor) -> Tensor:
        """Mean squared distance (..., V) of x (..., size) to each point."""
        return (x[..., None, :] - self.points).square().mean(-1)

    def loss(self, x: Tensor, width: float = 0.01) -> Tensor:
        """(...) negative log-likelihood but for a constant, times the width: soft, so that all points move."""
        return -width * torch.logsumexp(-self.distance(x) / width, -1)


class ToyModel(nn.Module):
    """A world model over tokens: observe, begin, step, predict. One MLP over K (token, action) pairs."""

    def __init__(self, config: Config, shape: tuple[int, ...], key: str, actions: int) -> None:
        super().__init__()
        self.config, self.shape, self.key, self.actions = config, shape, key, actions
        width, codes = config.width, config.codes
        self.tokenizer = Tokenizer(torch.Size(shape).numel(), codes)
        self.token = nn.Embedding(codes + 1, width)
        self.act = nn.Embedding(actions + 1, width)
        self.body = nn.Sequential(nn.Linear(config.context * width, width), nn.ReLU())
        self.next = nn.Linear(width, codes)
        self.rew = nn.Linear(width, 1)
        self.con = nn.Linear(width, 1)

    def encode(self, obs: Obs) -> Tensor:
        """Tokens (...) of observations (..., *shape)."""
        return self.tokenizer.distance(self.flat(obs)).argmin(-1)

    def flat(self, obs: Obs) -> Tensor:
        """(..., size) floats; bytes are scaled to [0, 1]."""
        x = obs[self.key].flatten(-len(self.shape))
        return x.float() / 255 if x.dtype == torch.uint8 else x

    def fresh(self, n: int, device: torch.device) -> Latent:
        """What is known before anything was seen."""
        k = self.config.context
        return Latent(
            torch.full((n, k), self.config.codes, device=device), torch.full((n, k), self.actions, device=device)
        )

    def see(self, latent: Latent, token: Tensor) -> Latent:
        """The next latent: one more token (N,), whose action is still to be chosen."""
        none = torch.full_like(token, self.actions)
        return Latent(
            torch.cat([latent.tokens[:, 1:], token[:, None]], 1), torch.cat([latent.acts[:, 1:], none[:, None]], 1)
        )

    def chose(self, latent: Latent, act: Tensor) -> Latent:
        """The same latent with the action (N,) that was chosen at its last token."""
        return latent._replace(acts=torch.cat([latent.acts[:, :-1], act[:, None]], 1))

    def feature(self, latent: Latent) -> Tensor:
        """(N, width)."""
        return self.body((self.token(latent.tokens) + self.act(latent.acts)).flatten(1))

    def observe(self, batch: Batch) -> Latent:
        tokens, acts = self.encode(batch.obs), batch.act.argmax(-1)  # (B, T)
        latent, seen = self.fresh(len(tokens), tokens.device), []
        for t in range(tokens.shape[1]):
            latent = restart(batch.is_first[:, t], self.fresh(len(tokens), tokens.device), latent)
            latent = self.see(latent, tokens[:, t])
            seen.append(latent)
            latent = self.chose(latent, acts[:, t])
        return tree_map(lambda *xs: torch.stack(xs, 1), *seen)

    def begin(self, latent: Latent) -> Latent:
        return latent

    def step(self, carry: Latent, act: Tensor, temperature: float = 1.0) -> tuple[Latent, Latent]:
        logits = self.next(self.feature(self.chose(carry, act.argmax(-1)))) / max(temperature, 1e-6)  # (N, V)
        token = torch.multinomial(logits.softmax(-1), 1).squeeze(1)
        latent = self.see(self.chose(carry, act.argmax(-1)), token)
        return latent, latent

    def predict(self, latent: Latent) -> Mapping[str, Tensor]:
        feature = self.feature(latent)
        seen = self.tokenizer.points[latent.tokens[:, -1]].unflatten(-1, self.shape)
        return {
            self.key: seen.clamp(0, 1) if self.key == "image" else seen,
            "rew": self.rew(feature).squeeze(-1),
            "con": self.con(feature).squeeze(-1).sigmoid(),
        }

    def compare(self, latent: Latent) -> Tensor:
        """Where the last token lies."""
        return self.tokenizer.points[latent.tokens[:, -1]]


class Acting(NamedTuple):
    """What the policy carries: the window, with its last action filled in."""

    window: Latent


class ToyPolicy:
    """Draws from the actor's logits, takes the best, or draws uniformly where there is no actor."""

    def __init__(self, model: ToyModel, actor: nn.Module | None, explore: bool) -> None:
        self.model, self.actor, self.explore = model, actor, explore

    def initial(self, n: int) -> Acting:
        return Acting(self.model.fresh(n, self.model.tokenizer.points.device))

    def __call__(self, obs: Obs, is_first: Tensor, state: Acting) -> tuple[Tensor, Acting, Mapping[str, Tensor]]:
        fresh = self.model.fresh(len(is_first), is_first.device)
        latent = self.model.see(restart(is_first, fresh, state.window), self.model.encode(obs))
        logits = self.logits(latent)
        act = torch.multinomial(logits.softmax(-1), 1).squeeze(1) if self.explore else logits.argmax(-1)
        return act, Acting(self.model.chose(latent, act)), {"token": latent.tokens[:, -1]}

    def logits(self, latent: Latent) -> Tensor:
        """(N, A)."""
        if self.actor is None:
            return torch.zeros(len(latent.tokens), self.model.actions, device=latent.tokens.device)
        return self.actor(self.model.feature(latent))


class Candidates(ToyPolicy):
    """Half of the rows act with the actor, the other half with a shifted one."""

    def __init__(self, model: ToyModel, actor: nn.Linear, shift: Tensor) -> None:
        super().__init__(model, actor, explore=False)
        self.shift = shift

    def logits(self, latent: Latent) -> Tensor:
        feature = self.model.feature(latent)
        shifted = F.linear(feature, self.actor.weight + self.shift, self.actor.bias)
        second = torch.arange(len(feature), device=feature.device) >= len(feature) // 2
        return torch.where(second[:, None], shifted, self.actor(feature))


class ToyAgent:
    """The recipe: see ``toy_agent.budget``."""

    def __init__(self, config: Config, obs_space: spaces.Dict, act_space: Any, compute: Any, seed: int, run: Any):
        self.config, self.run, self.seed, self.device = config, run, seed, compute.device
        key = "image" if "image" in obs_space.spaces else "vector"
        actions = act_size(act_space)
        with forked(seed, "toy"):
            self.model = ToyModel(config, obs_space[key].shape, key, actions).to(self.device)
            self.actor = nn.Linear(config.width, actions).to(self.device)
        tokens = list(self.model.tokenizer.parameters())
        dynamics = [p for name, p in self.model.named_parameters() if not name.startswith("tokenizer")]
        rate = config.learning_rate
        self.optimizers = {
            "tokenizer": torch.optim.Adam(tokens, rate),
            "dynamics": torch.optim.Adam(dynamics, rate),
            "actor": torch.optim.Adam(self.actor.parameters(), rate),
        }
        self.samplers = {
            "frames": Frames(seed),
            "windows": StreamWindows(seed),
            "starts": EpisodeWindows(seed),
            "episodes": WholeEpisodes(seed),
        }
        self.gains: list[float] = []  # of what was tuned; its length seeds the next try

    @property
    def parts(self) -> Mapping[str, nn.Module]:
        return {"model": self.model, "actor": self.actor}

    def phases(self) -> list[Phase]:
        bound = {
            "collect": {"act": ToyPolicy(self.model, None, explore=True)},
            "study": {"learn": ((self.learn_tokens, 3), (self.write_tokens, 1), (self.learn_dynamics, 2))},
            "tune": {"learn": ((self.tune, 1),)},
            "practice": {"act": self.policy(True), "learn": ((self.learn_dynamics, 2), (self.learn_actor, 1))},
        }
        return [replace(phase, **bound[phase.name]) for phase in budget(self.config, self.run)]

    def policy(self, explore: bool) -> ToyPolicy:
        return ToyPolicy(self.model, self.actor, explore)

    def report(self, phase: str, experience: Experience) -> Metrics:
        rows = WholeEpisodes(self.seed)(experience.index, 1, 8)
        batch = experience.gather(rows)
        with torch.no_grad():
            seen = predict_all(self.model, self.model.observe(batch))[self.model.key]
        if self.model.key != "image":
            return {"error": F.mse_loss(seen, batch.obs["vector"])}
        return {"reconstructions": (seen[0] * 255).to(torch.uint8)}  # (T, C, h, w)

    # -- learning --------------------------------------------------------------------------------------------

    def learn_tokens(self, experience: Experience) -> Metrics:
        """Frames, with some noise on them."""
        batch = experience.gather(self.samplers["frames"](experience.index, self.config.batch), obs=[self.model.key])
        x = self.model.flat(batch.obs)
        loss = self.model.tokenizer.loss(x + 0.01 * torch.randn_like(x)).mean()
        return self.update("tokenizer", loss)

    @torch.no_grad()
    def write_tokens(self, experience: Experience) -> Metrics:
        """Annotate the rows of some episodes with their tokens; padding is passed on and must be skipped."""
        rows = self.samplers["episodes"](experience.index, 4, 30)
        batch = experience.gather(rows, obs=[self.model.key])
        token = self.model.encode(batch.obs)
        before = batch.extras.get("token", token)
        experience.annotate(rows, token=token)
        return {"changed": ((token != before) & batch.mask).float().mean()}

    def learn_dynamics(self, experience: Experience) -> Metrics:
        """Next token, reward and continuation, in windows that cross episode ends."""
        length = self.config.context + 4
        batch = experience.gather(self.samplers["windows"](experience.index, self.config.batch, length))
        latents = self.model.observe(batch)  # (B, T, K)
        flat = tree_map(lambda x: x.flatten(0, 1), latents)
        seen = self.model.feature(flat)  # (B*T, width)
        chosen = self.model.chose(flat, batch.act.argmax(-1).flatten())
        logits = self.model.next(self.model.feature(chosen)).unflatten(0, batch.mask.shape)  # (B, T, V)
        goes_on = ~batch.is_last[:, :-1]
        token = F.cross_entropy(logits[:, :-1][goes_on], latents.tokens[:, 1:, -1][goes_on])
        rew = F.mse_loss(self.model.rew(seen).squeeze(-1), batch.rew.flatten())
        con = F.binary_cross_entropy_with_logits(
            self.model.con(seen).squeeze(-1), (~batch.is_terminal).float().flatten()
        )
        return {"token": token.detach(), "rew": rew.detach()} | self.update("dynamics", token + rew + con)

    def learn_actor(self, experience: Experience) -> Metrics:
        """REINFORCE on dreamt returns to come, from the first rows of some windows."""
        batch = experience.gather(self.samplers["starts"](experience.index, self.config.batch, self.config.context))
        policy = ToyPolicy(self.model, self.actor, explore=True)
        with torch.no_grad():
            start = tree_map(lambda x: x[:, 0], self.model.observe(batch))
            dream = imagine(self.model, start, lambda z: one_hot_draw(policy.logits(z)), self.config.horizon)
            seen = predict_all(self.model, dream.latents)
            living = alive(seen["con"])[:, 1:]  # (N, H)
            ret = (seen["rew"][:, 1:] * living).flip(1).cumsum(1).flip(1)  # (N, H) of the actions' own future
        flat = tree_map(lambda x: x[:, :-1].flatten(0, 1), dream.latents)
        logp = (policy.logits(flat).log_softmax(-1).unflatten(0, living.shape) * dream.act).sum(-1)
        return {"ret": ret[:, 0].mean()} | self.update("actor", -(logp * (ret - ret.mean(0))).mean())

    @torch.no_grad()
    def tune(self, experience: Experience) -> Metrics:
        """Keep a shifted actor if whole episodes of the environment like it better; same seeds for both.

        Both halves are rows of one rollout; with room for one episode at a time nothing is tried.
        """
        half = experience.slots // 2
        if not half:
            return {}
        seeds = [derive(self.seed, "tune", len(self.gains), i) for i in range(half)]
        with forked(self.seed, "shift", len(self.gains)):
            shift = 0.3 * torch.randn_like(self.actor.weight)
        ret = experience.rollout(Candidates(self.model, self.actor, shift), seeds * 2).ret
        better = float(ret[half:].mean() - ret[:half].mean())
        if better > 0:
            self.actor.weight += shift
        self.gains.append(better)
        return {"gain": better}

    def update(self, name: str, loss: Tensor) -> Metrics:
        """One step of an optimizer on its own parameters."""
        optimizer = self.optimizers[name]
        optimizer.zero_grad()
        loss.backward(inputs=[p for group in optimizer.param_groups for p in group["params"]])
        optimizer.step()
        return {"loss": loss.detach()}

    # -- keeping ---------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        return {
            "parts": {k: v.state_dict() for k, v in self.parts.items()},
            "optimizers": {k: v.state_dict() for k, v in self.optimizers.items()},
            "samplers": {k: v.state_dict() for k, v in self.samplers.items()},
            "gains": list(self.gains),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        for held, kind in ((self.parts, "parts"), (self.optimizers, "optimizers"), (self.samplers, "samplers")):
            for name, part in held.items():
                part.load_state_dict(state[kind][name])
        self.gains = list(state["gains"])


def restart(is_first: Tensor, fresh: Latent, latent: Latent) -> Latent:
    """Fresh rows where an episode begins."""
    return tree_map(lambda a, b: torch.where(is_first[:, None], a, b), fresh, latent)


def one_hot_draw(logits: Tensor) -> Tensor:
    """(N, A) one-hot draws."""
    return F.one_hot(torch.multinomial(logits.softmax(-1), 1).squeeze(1), logits.shape[-1]).float()
