"""DreamerV1 (Hafner et al. 2020, arXiv:1912.01603v3): behaviour by gradients through imagined latent states.

::

    rows    t-1          t            t+1              imagined  start      0       1    ...   H-1
            obs          obs          obs                        feat     feat    feat         feat
             │ encoder    │            │                           │ actor ▲  │     ▲
            embed        embed        embed                       act ─────┘ act ───┘ cell, prior
             ▼            ▼            ▼                                  rew, val of each
    state   z,h ─act──▶  z,h ─act──▶  z,h ──▶ obs', rew'          R = lambda-return from rew[0] on

    world model   reconstruction and reward from z and h; KL of posterior and prior, free up to 3 nats of its mean
    actor         raises R: gradients pass back through values, rewards and every imagined step to its actions
    critic        imagined: R
    all of them   losses of the same parameters, then three optimisers, one each

The paper learns from images with continuous actions; its authors' discrete tasks have one-hot actions whose
gradients go straight through, and a head that predicts the discount.

Ours, not the paper's: vectors (concatenated, dense layers with ELU, as DreamerV2 has them); windows of short
episodes are padded, and what is padded counts nowhere; the last row of an episode is learned from (the authors'
sampler misses it), though rarely where episodes are much longer than windows; nothing is imagined from where an
episode has terminated if the discount is learned; windows begin with a zero action, as with a zero state; episodes
are drawn by their length, running ones too; Adam's epsilon is added after the bias correction; convolutions fit
other image sizes than 64.
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from dreamlab.agents import Footprint, refuse_lacking, take_parts
from dreamlab.core.errors import UserError
from dreamlab.core.lazy import lazy
from dreamlab.core.protocols import Experience, Phase, Policy

if TYPE_CHECKING:
    import torch
    from gymnasium import spaces
    from torch import Tensor, nn
    from torch.nn import functional

    from dreamlab.agents import random as random_agent
    from dreamlab.core import sampling, seeds
    from dreamlab.core.inside import View
    from dreamlab.core.types import Batch, Metrics, Recorded
    from dreamlab.nn import (
        acting,
        actions,
        blocks,
        cells,
        convolutions,
        distributions,
        judging,
        latents,
        optim,
        reports,
        returns,
        rssm,
        senses,
        world_model,
    )
    from dreamlab.nn import compute as computing
    from dreamlab.run.config import RunConfig
else:  # the settings below are the command line's help, which waits for no networks
    torch, functional = lazy("torch"), lazy("torch.nn.functional")
    random_agent = lazy("dreamlab.agents.random")
    sampling, seeds = lazy("dreamlab.core.sampling"), lazy("dreamlab.core.seeds")
    acting, actions, blocks = lazy("dreamlab.nn.acting"), lazy("dreamlab.nn.actions"), lazy("dreamlab.nn.blocks")
    cells, convolutions = lazy("dreamlab.nn.cells"), lazy("dreamlab.nn.convolutions")
    distributions = lazy("dreamlab.nn.distributions")
    judging, latents, optim = lazy("dreamlab.nn.judging"), lazy("dreamlab.nn.latents"), lazy("dreamlab.nn.optim")
    computing = lazy("dreamlab.nn.compute")
    reports, returns, rssm = lazy("dreamlab.nn.reports"), lazy("dreamlab.nn.returns"), lazy("dreamlab.nn.rssm")
    senses, world_model = lazy("dreamlab.nn.senses"), lazy("dreamlab.nn.world_model")

# ---- settings

SEES = "any"
EXTENDS = ("steps", "run.steps")
DRY_RUN = {"steps": 600, "prefill": 300, "pretrain": 5, "train_every": 100, "updates": 5}


@dataclass(frozen=True)
class Config:
    """DreamerV1; defaults of the paper for continuous control. Steps are agent steps (its frames: two each)."""

    deter: int = 200
    """of h (D)"""
    stoch: int = 30
    """Gaussian numbers of z"""
    hidden: int = 200
    """units of the layers before the cell, and of prior and posterior"""
    units: int = 400
    """of the layers of all heads, of actor and critic (and of vectors)"""
    depth: int = 32
    """channels that convolutions are multiples of"""
    vector_layers: int = 4
    """dense layers of encoder and decoder of a vector; the paper has no vectors, these are ours, after DreamerV2"""
    steps: int = 2_500_000
    """environment steps, unless the run says how many"""
    prefill: int = 2500
    """environment steps of random actions at first"""
    pretrain: int = 100
    """updates after them, before it acts"""
    train_every: int = 500
    """environment steps between rounds of updates"""
    updates: int = 100
    """of a round"""
    batch: int = 50
    """windows of an update (B)"""
    length: int = 50
    """rows of a window, all of one episode (T)"""
    horizon: int = 15
    """imagined states (H), from every row of the batch"""
    gamma: float = 0.99
    """discount"""
    trace: float = 0.95
    """lambda of the returns"""
    free_nats: float = 3.0
    """KL whose mean is below this many nats costs nothing"""
    kl_scale: float = 1.0
    """weight of the KL; the paper's discrete tasks: 0.1 (check)"""
    reward: Literal["identity", "tanh"] = "identity"
    """what is done to rewards before they are learned and imagined; tanh for games"""
    continuation: bool = False
    """predict where episodes terminate, as a discount; needed where they do"""
    continuation_scale: float = 10.0
    """weight of its loss"""
    model_lr: float = 6e-4
    """learning rate of the world model"""
    actor_lr: float = 8e-5
    """learning rate of the actor"""
    critic_lr: float = 8e-5
    """learning rate of the critic"""
    anneal: float = 0.0
    """share of the run, its end, over which all three fall to 0 (ours): one update may turn an actor"""
    clip: float = 100.0
    """the norm that all gradients of each of the three are clipped to"""
    entropy: float = 0.0
    """weight of the actor's entropy where it acts; the paper has none, and small games lose all chance without it"""
    discrete: Literal["straight", "reinmax"] = "straight"
    """how gradients pass a discrete action: straight through, as in the paper, or to second order (ours; ReinMax):
    straight through, an action that is best because it changes nothing, such as to stay, may never be found"""
    noise: float = 0.3
    """deviation of a normal that is added to continuous actions while it explores"""
    epsilon: float = 0.4
    """probability of a random action where they are discrete, while it explores, before the first update"""
    epsilon_final: float = 0.1
    """and after ``epsilon_updates``, falling evenly; 0.4 and 0.1 are the paper's (check)"""
    epsilon_updates: int = 200_000
    """updates until then (check)"""
    evaluation: Literal["mode", "sample"] = "mode"
    """how actions are chosen when it is evaluated; mode: the likeliest (continuous: the densest of 100 samples)"""

    def __post_init__(self) -> None:
        for name in ("deter", "stoch", "hidden", "units", "depth", "steps", "train_every", "updates", "batch"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("length", "horizon"):
            if getattr(self, name) < 2:
                raise ValueError(f"{name} must be at least 2, got {getattr(self, name)}")
        for name in ("model_lr", "actor_lr", "critic_lr", "clip"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        if self.gamma == 0:
            raise ValueError("gamma must be above 0")
        for name in ("gamma", "trace", "epsilon", "epsilon_final", "anneal"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be between 0 and 1, got {getattr(self, name)}")
        for name in (
            "vector_layers", "prefill", "pretrain", "free_nats", "entropy", "kl_scale", "continuation_scale", "noise",
            "epsilon_updates",
        ):  # fmt: skip
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")


def budget(
    config: Config, run: RunConfig, loaded: Collection[str] = (), recorded: Recorded | None = None
) -> list[Phase]:
    """Act at random; learn from it; then act and learn, in rounds of ``updates``.

    From recordings it learns as often as it would from so many steps of its own.
    """
    steps = run.steps or config.steps
    prefill = min(max(config.prefill, 2 * run.envs), steps)
    rest = steps - prefill
    if rest < config.train_every:
        raise UserError(
            f"{steps} steps are spent before the first round of learning ({prefill} of them at random); type: "
            f"--steps {prefill + config.train_every} or more, or a smaller --agent.prefill"
        )
    before = Phase("pretrain", rounds=config.pretrain)
    if recorded is not None:
        return [before, Phase("train", rounds=max(1, rest // config.train_every))]
    return [
        Phase("prefill", env_steps=prefill),
        before,
        Phase("train", env_steps=rest, rounds=rest // config.train_every),
    ]


def footprint(config: Config, obs_space: spaces.Dict, act_space: spaces.Space, run: RunConfig) -> Footprint:
    """Peak of learning beyond process and weights (fitted to single updates on a CPU), and bytes beside a row."""
    rows, feat = config.batch * config.length, config.deter + config.stoch
    image = obs_space.spaces.get("image")
    maps = 0
    if image is not None and image.shape is not None:
        maps = image.shape[-1] * image.shape[-2] * (3 * image.shape[-3] + 2 * config.depth)
    scan = 14 * config.deter + 5 * config.hidden + 12 * config.stoch
    heads = 2 * feat + 22 * config.units
    return Footprint(
        memory_bytes=int(10 * (1 << 20) + 4 * rows * (maps + scan + config.horizon * (scan + heads))), row_bytes=0
    )


def build(
    config: Config,
    obs_space: spaces.Dict,
    act_space: spaces.Space,
    compute: computing.Compute,
    seed: int,
    run: RunConfig,
) -> DreamerV1:
    """A fresh agent.

    Raises:
        UserError: actions it cannot choose, or images that its convolutions do not fit.
    """
    return DreamerV1(config, obs_space, act_space, compute, seed, run)


# ---- the networks


def world(config: Config, obs_space: spaces.Dict, act_space: spaces.Space) -> world_model.RecurrentModel:
    """Encoder, RSSM, decoder, reward and (where it is learned) continuation, started as Keras does."""
    sight, acts = senses.Sight(obs_space), actions.actions_for(act_space)
    z = latents.Gaussian(config.stoch, latents.softplus_std)
    feat = config.deter + config.stoch
    see_image = see_vector = draw_image = draw_vector = None
    if sight.shape:
        see_image = convolutions.Strided(sight.shape, config.depth, functional.relu)
        draw_image = convolutions.Destrided(feat, sight.shape, config.depth, functional.relu)
    if sight.vector:
        see_vector = blocks.MLP(sight.vector, config.units, config.vector_layers, None, elu)
        draw_vector = blocks.MLP(feat, config.units, config.vector_layers, sight.vector, elu)
    encoder = senses.Encoder(sight, see_image, see_vector)
    cell = cells.KerasGRU(z.width, acts.size, config.deter, config.hidden)
    return world_model.RecurrentModel(
        encoder,
        rssm.RSSM(cell, z, encoder.width, config.hidden, 1, elu),
        senses.Decoder(draw_image, draw_vector),
        head(config, 2),
        head(config, 3) if config.continuation else None,
        acts,
        world_model.Reading(
            image=lambda out: (out + 0.5).clamp(0, 1),
            vector=lambda out: out,
            rew=lambda out: untransformed(config, out.float().squeeze(-1)),
            con=lambda out: (out.float().squeeze(-1).sigmoid() / config.gamma).clamp(max=1),
        ),
    )


def elu(units: int) -> nn.Module:
    """What follows a dense layer: no norm."""
    return blocks.Elu()


def head(config: Config, layers: int, out: int = 1) -> nn.Module:
    """Dense layers on [h, z]."""
    return blocks.MLP(config.deter + config.stoch, config.units, layers, out, elu)


def choice(acts: actions.Actions, config: Config) -> distributions.Choice:
    """How actions are drawn."""
    if acts.groups:
        return distributions.ONE_HOTS[config.discrete](acts.groups)
    return distributions.TanhNormal(acts.size)


def transformed(config: Config, rew: Tensor) -> Tensor:
    """Rewards of the rows as they are learned; what is imagined, values too, is of these."""
    return rew.tanh() if config.reward == "tanh" else rew


def untransformed(config: Config, rew: Tensor) -> Tensor:
    """And back, as far as tanh can be undone."""
    return rew.clamp(-0.999, 0.999).atanh() if config.reward == "tanh" else rew


# ---- the world model's losses: each (B, T), unweighted


def reconstruction_losses(
    model: world_model.RecurrentModel, obs: Mapping[str, Tensor], feat: Tensor
) -> dict[str, Tensor]:
    """-log N(obs; obs', 1), summed over pixels (x / 255 - 0.5) and over numbers."""
    shape, sight = feat.shape[:2], model.encoder.sight
    said, losses = model.decoder(feat.flatten(0, 1)), {}
    if "image" in said:
        target = sight.picture(obs).flatten(0, 1).float() / 255 - 0.5
        losses["image"] = distributions.unit_normal_loss(said["image"], target).flatten(1).sum(-1).unflatten(0, shape)
    if "vector" in said:
        target = obs["vector"].float().flatten(0, 1)
        losses["vector"] = distributions.unit_normal_loss(said["vector"], target).sum(-1).unflatten(0, shape)
    return losses


def free_kl(kl: Tensor, mask: Tensor, free_nats: float) -> Tensor:
    """max(mean over the batch, free nats): below them there is no gradient at all."""
    return world_model.masked_mean(kl, mask).clamp(min=free_nats)


def continuation_loss(logit: Tensor, is_terminal: Tensor, gamma: float) -> Tensor:
    """The head learns the discount: its target is gamma where the episode goes on, 0 where it has terminated."""
    return distributions.bernoulli_loss(logit.squeeze(-1), gamma * (~is_terminal).float())


# ---- behaviour: time first, k of H imagined states; the real one that they began from is not among them
#
#     k         0          1          2      ...      H-1
#     feat    feat[0] ─▶ feat[1] ─▶ feat[2]  ...  feat[H-1]      act is chosen from the state before, without gradient
#     rew      r0         r1         r2      ...    (r[H-1])     rew[k] came with feat[k]: V[k] counts it too
#     val     (v0)        v1         v2      ...     v[H-1]
#     ret      R0 ◀────── R1 ◀────── R2      ... ◀── v[H-1]      R[k] = r[k] + d[k] ((1 - l) v[k+1] + l R[k+1])
#     weight   1          d0         d0 d1   ...


class Dream(NamedTuple):
    """H imagined states of N starts, and what is said of them (H, N, ...); gradients lead to the actor alone."""

    feat: Tensor
    rew: Tensor
    con: Tensor
    """the discount: gamma, or what the continuation says"""
    val: Tensor


def imagined_returns(dream: Dream, trace: float) -> tuple[Tensor, Tensor]:
    """lambda-returns R[k] and weights w[k] (without gradient), k < H - 1."""
    ret = returns.lambda_return(dream.rew[:-1], dream.con[:-1], dream.val[:-1], dream.val[-1], 1.0, trace)
    before = torch.cat([torch.ones_like(dream.con[:1]), dream.con[:-2]])
    return ret, before.cumprod(0).detach()


def actor_loss(ret: Tensor, weight: Tensor) -> Tensor:
    """-w R (H - 1, N): whatever raises the return."""
    return -weight * ret


def critic_loss(val: Tensor, ret: Tensor, weight: Tensor) -> Tensor:
    """-w log N(R; v, 1) (H - 1, N)."""
    return weight * distributions.unit_normal_loss(val, ret.detach())


# ---- exploration


def noisy(act: Tensor, std: float) -> Tensor:
    """Actions (N, A) in [-1, 1] with normal noise."""
    return (act + std * torch.randn_like(act)).clamp(-1, 1)


def epsilon_greedy(act: Tensor, sizes: Sequence[int], epsilon: float) -> Tensor:
    """One-hot actions (N, A), each choice a uniform one with probability ``epsilon``."""
    found = []
    for one in act.split(tuple(sizes), -1):
        n, k = one.shape
        chance = functional.one_hot(torch.randint(k, (n,), device=act.device), k).to(one)
        found.append(torch.where(torch.rand(n, 1, device=act.device) < epsilon, chance, one))
    return torch.cat(found, -1)


# ---- the agent


class DreamerV1:
    """World model, actor and critic, and the phases that train them."""

    def __init__(
        self,
        config: Config,
        obs_space: spaces.Dict,
        act_space: spaces.Space,
        compute: computing.Compute,
        seed: int,
        run: RunConfig,
    ) -> None:
        self.config, self.compute, self.seed, self.run, self.act_space = config, compute, seed, run, act_space
        self.evaluation = config.evaluation  # may be set to the other way for one evaluation
        with seeds.forked(seed, "init"):
            self.model = world(config, obs_space, act_space)
            self.pick = choice(self.model.actions, config)
            self.actor = head(config, 4, self.pick.outs)
            self.critic = head(config, 3)
        if not next(self.actor.parameters()).is_meta:  # sizes are counted on the meta device
            for part in self.parts.values():
                part.to(compute.device)
        self.learners: dict[str, nn.Module] = {"model": self.model, "actor": self.actor, "critic": self.critic}
        rates = {"model": config.model_lr, "actor": config.actor_lr, "critic": config.critic_lr}
        self.optimizers = {
            name: optim.adam(part.parameters(), rates[name], 1e-7) for name, part in self.learners.items()
        }
        self.windows = sampling.EpisodeWindows(seeds.derive(seed, "windows"))
        self.updates, self.planned = 0, 0
        self.recorded: Recorded | None = None

    @property
    def parts(self) -> Mapping[str, nn.Module]:
        """By the names of the paper's figures."""
        model = self.model
        ends = {} if model.continuation is None else {"continuation": model.continuation}
        return {
            "encoder": model.encoder, "dynamics": model.dynamics, "decoder": model.decoder, "reward": model.reward,
            **ends, "actor": self.actor, "critic": self.critic,
        }  # fmt: skip

    def phases(self) -> Sequence[Phase]:
        """``budget`` with the live parts bound to it."""
        acts = {"prefill": random_agent.Uniform(self.act_space), "train": self.policy(explore=True)}
        times = {"pretrain": 1, "train": self.config.updates}
        spent = budget(self.config, self.run, (), self.recorded)
        self.planned = sum(p.rounds * times[p.name] for p in spent if p.rounds)
        return [
            Phase(
                p.name,
                acts[p.name] if p.env_steps else None,
                ((self.learn, times[p.name]),) if p.rounds else (),
                p.env_steps,
                p.rounds,
            )
            for p in spent
        ]

    @property
    def learns(self) -> int:
        """Rows that an update learns from."""
        return self.config.batch * self.config.length

    def policy(self, explore: bool) -> Policy:
        """It samples and adds noise, or takes the likeliest action."""
        plain = self.pick.mode if self.evaluation == "mode" else self.pick.sample
        return acting.Acting(self.model, self.actor, self.explored if explore else plain, often=explore)

    def explored(self, out: Tensor) -> Tensor:
        """An action (N, A) while it explores, of what the actor says."""
        act, groups = self.pick.sample(out), self.model.actions.groups
        return epsilon_greedy(act, groups, self.epsilon) if groups else noisy(act, self.config.noise)

    @property
    def epsilon(self) -> float:
        """Probability of random actions after the updates that were done."""
        config = self.config
        past = min(self.updates / config.epsilon_updates, 1.0) if config.epsilon_updates else 1.0
        return config.epsilon + past * (config.epsilon_final - config.epsilon)

    def learn_from(self, recorded: Recorded) -> None:
        """Learn from recordings alone.

        Raises:
            UserError: they lack actions or rewards.
        """
        refuse_lacking("dreamer-v1", recorded)
        self.recorded = recorded

    # ---- learning

    def learn(self, experience: Experience) -> Metrics:
        """One update on windows of the rows."""
        optim.scale_rates(self.optimizers.values(), optim.left(self.updates, self.planned, self.config.anneal))
        rows = self.windows(experience.index, self.config.batch, self.config.length)
        batch = experience.gather(rows)
        with computing.denormals_as_zero():
            metrics = self.update(batch)
        self.updates += 1
        return metrics

    def update(self, batch: Batch) -> Metrics:
        """A step of all three on rows (B, T): first all gradients, then all steps."""
        states, model_loss, metrics = self.model_loss(batch)
        mask = batch.mask & ~batch.is_terminal if self.config.continuation else batch.mask
        start = rssm.State(*(x.detach().flatten(0, 1) for x in states))
        actor, critic, more = self.behaviour_losses(start, mask.flatten())
        for optimizer in self.optimizers.values():
            optimizer.zero_grad()
        for loss in (model_loss, actor, critic):
            loss.backward()
        metrics |= more | {"loss": model_loss.detach(), "loss/policy": actor.detach(), "loss/value": critic.detach()}
        metrics |= {f"gradient_norm/{name}": optim.global_norm(part.parameters()) for name, part in self.parts.items()}
        for name, part in self.learners.items():
            torch.nn.utils.clip_grad_norm_(part.parameters(), self.config.clip)
            self.optimizers[name].step()
        return metrics

    @property
    def dtype(self) -> torch.dtype:
        """What networks compute in."""
        return torch.bfloat16 if self.compute.bf16 else torch.float32

    def model_loss(self, batch: Batch) -> tuple[rssm.State, Tensor, dict[str, Tensor]]:
        """The posterior states found (B, T, ...), the world model's loss, and measures."""
        config, model, mask = self.config, self.model, batch.mask
        embed = model.encoder(batch.obs, self.dtype)  # (B, T, E)
        act = world_model.led_to(model.actions.seen(batch.act))
        zeros = model.dynamics.initial(len(act), act.device)
        states, raw = model.dynamics.observe(embed, act, batch.is_first, zeros)
        z, feat = model.dynamics.latents, states.feat.to(self.dtype)  # (B, T, F)
        post, prior = z.stats(raw), z.stats(model.dynamics.prior(states.deter.to(self.dtype)))
        rew = model.reward(feat).float().squeeze(-1)
        each = reconstruction_losses(model, batch.obs, feat)
        each["rew"] = distributions.unit_normal_loss(rew, transformed(config, batch.rew))
        con = None
        if model.continuation is not None:
            con = model.continuation(feat).float()
            each["con"] = continuation_loss(con, batch.is_terminal, config.gamma)
        losses = {name: world_model.masked_mean(loss, mask) for name, loss in each.items()}
        losses["kl"] = free_kl(z.kl(post, prior), mask, config.free_nats)
        scales = {"kl": config.kl_scale, "con": config.continuation_scale}
        total = torch.stack([scales.get(name, 1.0) * loss for name, loss in losses.items()]).sum()
        with torch.no_grad():
            metrics = {f"loss/{name}": loss.detach() for name, loss in losses.items()}
            metrics |= reports.latents(z, post, prior, mask) | reports.heads(
                rew, transformed(config, batch.rew), None if con is None else con.squeeze(-1), batch.is_terminal, mask
            )
        return states, total, metrics

    def behaviour_losses(self, start: rssm.State, mask: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Losses of actor and critic, imagined from states (N, ...), of which ``mask`` (N,) counts; and measures."""
        dream = self.imagine(start)
        ret, weight = imagined_returns(dream, self.config.trace)  # (H - 1, N)
        val = self.critic(dream.feat[:-1].detach().to(self.dtype)).float().squeeze(-1)
        actor = world_model.masked_mean(actor_loss(ret, weight), mask)
        critic = world_model.masked_mean(critic_loss(val, ret, weight), mask)
        chaos = self.pick.entropy(self.actor(start.feat.to(self.dtype)))
        actor = actor - self.config.entropy * world_model.masked_mean(chaos, mask)
        with torch.no_grad():
            means = {"policy_entropy": chaos, "imagined_return": ret, "imagined_reward": dream.rew, "value": dream.val}
            metrics = {name: world_model.masked_mean(x, mask) for name, x in means.items()}
            metrics["imagined_length"] = world_model.masked_mean(weight.sum(0), mask)
        return actor, critic, metrics

    def imagine(self, start: rssm.State) -> Dream:
        """H steps on from states (N, ...) by the actor. Gradients pass through all networks, to the actor alone.

        The actor sees states without their gradient: its actions are moved by what comes of them, not by what
        later actions see.
        """
        model, dtype = self.model, self.dtype
        with optim.frozen(model, self.critic):
            feats, _ = model.dynamics.imagine(
                start, lambda feat, k: self.pick.sample(self.actor(feat.detach().to(dtype))), self.config.horizon, dtype
            )
            feat = feats[1:]
            seen = feat.to(dtype)
            rew, val = (net(seen).float().squeeze(-1) for net in (model.reward, self.critic))
            if model.continuation is None:
                con = torch.full_like(rew, self.config.gamma)
            else:
                con = model.continuation(seen).float().squeeze(-1).sigmoid()
        return Dream(feat, rew, con, val)

    # ---- reports and saving

    def report(self, phase: str, experience: Experience) -> Metrics:
        """Open-loop films; how far values are from the (transformed) returns that came."""
        if phase != "train":
            return {}
        config = self.config
        learned = functools.partial(transformed, config)
        return reports.report(self.model, experience, self.value, config.gamma, learned, learned)

    def value(self, feat: Tensor) -> Tensor:
        """What is yet to come after a state (...): the critic's value without the state's own reward."""
        whole, own = (net(feat).float().squeeze(-1) for net in (self.critic, self.model.reward))
        return (whole - own) / self.config.gamma

    def judge(self, latents: rssm.State, memory: Any = None) -> tuple[Mapping[str, View], Any]:
        """What actor and critic say of states (N, T, ...)."""
        return judging.judged(latents.feat, self.actor, self.pick, self.value, self.model.actions), memory

    def state_dict(self) -> dict[str, Any]:
        """Everything that a resumed run needs to go on as if nothing had happened."""
        state: dict[str, Any] = {name: dict(part.state_dict()) for name, part in self.parts.items()}
        return state | {
            "optimizers": {name: optim.optimizer_state(o) for name, o in self.optimizers.items()},
            "learning": {"windows": self.windows.state_dict(), "updates": self.updates},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore ``state_dict``."""
        for name, part in self.parts.items():
            part.load_state_dict(state[name])
        for name, optimizer in self.optimizers.items():
            optim.load_optimizer(optimizer, state["optimizers"][name])
        self.windows.load_state_dict(state["learning"]["windows"])
        self.updates = int(state["learning"]["updates"])

    def load_parts(self, state: Mapping[str, Any]) -> list[str]:
        """Begin with another run's weights (``--from``), and with nothing else of it. Returns what became of each part.

        Raises:
            UserError: not one part is there in the same sizes.
        """
        return take_parts(self.parts, state)
