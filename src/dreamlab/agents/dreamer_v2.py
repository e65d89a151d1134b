"""DreamerV2 (Hafner et al. 2020, arXiv:2010.02193): categorical latents, balanced KL, a target critic.

::

    rows    t-1          t            t+1                      imagined  0 = any t    1    ...   H
            obs          obs          obs                                feat ──▶    feat        feat
             │ encoder    │            │                                  │ actor     ▲ cell, prior
            embed        embed        embed                              act ─────────┘
             ▼            ▼            ▼                          r, d, v             r, d, v     r, d, v
    state   z,h ─act──▶  z,h ─act──▶  z,h ──▶ obs', rew', con'    R[k] = r[k] + d[k] (... what comes after)

    world model   reconstruction, reward and discount from z and h; KL of posterior and prior, balanced; one step
    actor         then, by the new model: REINFORCE, or returns followed back through the dynamics, or both; entropy
    critic        lambda-returns of what the target critic says, which is a copy of it made every 100 updates

Unlike V3's, a state's value holds the reward that came with the state: R[k] begins with r[k]. The reward of an
action is therefore in R[k + 1], and that is what the actor raises; its baseline is v[k] all the same, as in the
authors' code.

As the authors' code of 2021/22, except: actions take no gradient in REINFORCE's log-probability when both gradients
are mixed (theirs do); the target critic starts as a copy; Adam's epsilon is added after the bias correction; and
episodes shorter than a window are learned from, joined to others, where theirs are dropped.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from dreamlab.agents import Footprint, refuse_lacking, take_parts
from dreamlab.agents.random import Uniform
from dreamlab.core.errors import UserError
from dreamlab.core.lazy import lazy
from dreamlab.core.protocols import Experience, Phase, Policy

if TYPE_CHECKING:
    import torch
    import torch.nn.functional as F
    from gymnasium import spaces
    from torch import Tensor, nn

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
    torch, F = lazy("torch"), lazy("torch.nn.functional")
    sampling, seeds = lazy("dreamlab.core.sampling"), lazy("dreamlab.core.seeds")
    acting, actions, blocks = lazy("dreamlab.nn.acting"), lazy("dreamlab.nn.actions"), lazy("dreamlab.nn.blocks")
    cells, convolutions = lazy("dreamlab.nn.cells"), lazy("dreamlab.nn.convolutions")
    distributions = lazy("dreamlab.nn.distributions")
    judging, latents, optim = lazy("dreamlab.nn.judging"), lazy("dreamlab.nn.latents"), lazy("dreamlab.nn.optim")
    reports, returns, rssm = lazy("dreamlab.nn.reports"), lazy("dreamlab.nn.returns"), lazy("dreamlab.nn.rssm")
    senses, world_model = lazy("dreamlab.nn.senses"), lazy("dreamlab.nn.world_model")

# ---- settings

SEES = "any"
EXTENDS = ("steps", "run.steps")
DRY_RUN = {"steps": 600, "prefill": 300, "pretrain": 1, "every": 50.0}
EPS = 1e-5
"""of all three Adams"""


@dataclass(frozen=True)
class Config:
    """DreamerV2; defaults of the authors' code for environments of any kind, presets for the paper's."""

    deter: int = 1024
    """of h (D)"""
    hidden: int = 1024
    """units inside the recurrent model: of the cell's input, of prior and posterior"""
    latents: Literal["categorical", "gaussian"] = "categorical"
    """what z is: classes, or Gaussian numbers as in V1"""
    groups: int = 32
    """latent variables (S), where categorical"""
    classes: int = 32
    """of each of them (K)"""
    gaussians: int = 50
    """latent numbers, where Gaussian"""
    depth: int = 48
    """channels that convolutions are multiples of"""
    units: int = 400
    """of every hidden layer of heads, actor and critic, and of the vector's networks"""
    layers: int = 4
    """hidden layers of each of these"""
    norm: Literal["none", "layer"] = "none"
    """layer: layer normalisation after every dense layer and convolution (the cell has its own in any case)"""
    steps: int = 1_000_000
    """environment steps, unless the run says how many"""
    prefill: int = 10_000
    """environment steps of random actions before the first update"""
    pretrain: int = 0
    """updates before acting on"""
    every: float = 5.0
    """environment steps for each update"""
    batch: int = 16
    """windows of an update (B)"""
    length: int = 50
    """steps of a window (T)"""
    prioritize_ends: bool = True
    """draw an episode's last window as often as a window's length of others"""
    ongoing: bool = False
    """learn from episodes that are not over too"""
    horizon: int = 15
    """imagined steps (H), from every step of the batch"""
    discount: float = 0.99
    """gamma"""
    trace: float = 0.95
    """lambda of the returns"""
    predict_discount: bool = True
    """learn where episodes terminate; off: imagined ones never do"""
    reward_transform: Literal["tanh", "identity", "symlog"] = "tanh"
    """what the reward head learns: tanh and identity are imagined in as they are, symlog is undone before returns"""
    gradient: Literal["auto", "reinforce", "dynamics", "both"] = "auto"
    """how the actor learns: by its actions' log-probability, by following returns back through the imagined
    dynamics, or both; auto: reinforce for discrete actions, dynamics for continuous ones"""
    mix: float = 0.1
    """share of dynamics where it is both"""
    entropy: float = 2e-3
    """weight of the actor's entropy"""
    kl_balance: float = 0.8
    """share of the KL that teaches the prior; the rest teaches the posterior"""
    free_nats: float = 0.0
    """KL whose mean is below this many nats costs nothing"""
    kl_scale: float = 1.0
    """weight of the KL"""
    discount_scale: float = 1.0
    """weight of the discount's loss"""
    model_lr: float = 1e-4
    """learning rate of the world model"""
    actor_lr: float = 8e-5
    """of the actor"""
    critic_lr: float = 2e-4
    """of the critic"""
    anneal: float = 0.0
    """share of the run, its end, over which all three fall to 0 (ours): one update may turn an actor"""
    clip: float = 100.0
    """norm that the gradients of each of the three are clipped to"""
    decay: float = 1e-6
    """share of every weight that is taken off it at each update"""
    target_every: int = 100
    """updates from one copy of the critic, which returns are made of, to the next"""
    evaluation: Literal["sample", "mode"] = "mode"
    """how actions are chosen when it is evaluated"""

    def __post_init__(self) -> None:
        for name in (
            "deter", "hidden", "groups", "classes", "gaussians", "depth", "units", "layers", "steps", "batch",
            "target_every",
        ):  # fmt: skip
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("length", "horizon"):
            if getattr(self, name) < 2:
                raise ValueError(f"{name} must be at least 2, got {getattr(self, name)}")
        for name in ("prefill", "pretrain", "entropy", "free_nats", "kl_scale", "discount_scale", "clip"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        for name in ("every", "model_lr", "actor_lr", "critic_lr"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        if self.discount == 0:
            raise ValueError("discount must be above 0")
        for name in ("discount", "trace", "mix", "kl_balance", "decay", "anneal"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be between 0 and 1, got {getattr(self, name)}")


def budget(
    config: Config, run: RunConfig, loaded: Collection[str] = (), recorded: Recorded | None = None
) -> list[Phase]:
    """Act at random; learn from that alone, where it is asked for; then act and learn, a round one update.

    From recordings it learns as often as it would from so many steps of its own.
    """
    steps = run.steps or config.steps
    if recorded is not None:
        return [Phase("train", rounds=max(1, int(steps / config.every)))]
    prefill = min(max(config.prefill, 2 * run.envs), steps)
    rest = steps - prefill
    if rest < config.every:
        raise UserError(
            f"{steps} steps are spent before the first update ({prefill} of them at random); type: "
            f"--steps {prefill + math.ceil(config.every)} or more, or a smaller --agent.prefill"
        )
    phases = [Phase("prefill", env_steps=prefill)]
    if config.pretrain:
        phases.append(Phase("pretrain", rounds=config.pretrain))
    return [*phases, Phase("train", env_steps=rest, rounds=int(rest / config.every))]


def footprint(config: Config, obs_space: spaces.Dict, act_space: spaces.Space, run: RunConfig) -> Footprint:
    """Peak of learning beyond process and weights (fitted to single updates on a CPU); nothing beside a row."""
    rows = config.batch * config.length
    image = obs_space.spaces.get("image")
    maps = 0
    if image is not None and image.shape is not None:
        area = image.shape[-1] * image.shape[-2]
        maps = 4 * area * image.shape[-3] + sum(area * config.depth * 2**i // 4 ** (i + 1) for i in range(4))
    z = config.groups * config.classes if config.latents == "categorical" else 2 * config.gaussians
    scan = rows * (12 * config.deter + 6 * config.hidden + 6 * z + 6 * config.layers * config.units)
    step = 2 * (config.deter + z) + 4 * config.layers * config.units
    if dynamics_share(config, act_space):
        step += int(1.8 * (8 * config.deter + 4 * config.hidden + 4 * z))
    behaviour = rows * (config.horizon + 1) * step
    return Footprint(memory_bytes=int(30 * (1 << 20) + 4 * (rows * 2 * maps + max(scan, behaviour))), row_bytes=0)


def build(
    config: Config,
    obs_space: spaces.Dict,
    act_space: spaces.Space,
    compute: computing.Compute,
    seed: int,
    run: RunConfig,
) -> DreamerV2:
    """A fresh agent.

    Raises:
        UserError: actions it cannot choose, or images that its convolutions do not fit.
    """
    return DreamerV2(config, obs_space, act_space, compute, seed, run)


# ---- parts that a preset chooses


class Transform(NamedTuple):
    """A way to learn rewards."""

    learned: Callable[[Tensor], Tensor]
    """what the head learns of a reward"""
    imagined: Callable[[Tensor], Tensor]
    """what returns are made of, from what the head says"""
    told: Callable[[Tensor], Tensor]
    """the reward in its own units, from what the head says"""

    def counted(self, rew: Tensor) -> Tensor:
        """What a reward counts for in returns."""
        return self.imagined(self.learned(rew))


def transform(config: Config) -> Transform:
    """The one of ``reward_transform``."""
    return {
        "identity": Transform(torch.clone, torch.clone, torch.clone),
        "tanh": Transform(torch.tanh, torch.clone, lambda out: out.clamp(-0.9999, 0.9999).atanh()),
        "symlog": Transform(distributions.symlog, distributions.symexp, distributions.symexp),
    }[config.reward_transform]


def dynamics_share(config: Config, act_space: spaces.Space) -> float:
    """What share of the actor's objective are returns, followed back through the dynamics; the rest is REINFORCE."""
    auto = 0.0 if actions.actions_for(act_space).groups else 1.0
    return {"auto": auto, "reinforce": 0.0, "dynamics": 1.0, "both": config.mix}[config.gradient]


def choice(acts: actions.Actions) -> distributions.Choice:
    """How actions are drawn."""
    return distributions.OneHots(acts.groups) if acts.groups else distributions.TruncatedNormal(acts.size)


# ---- the networks


def world(config: Config, obs_space: spaces.Dict, act_space: spaces.Space) -> world_model.RecurrentModel:
    """Encoder, RSSM, decoder, reward and discount."""
    sight, acts, after = senses.Sight(obs_space), actions.actions_for(act_space), dense_end(config)
    z: latents.Latents = latents.Categorical(config.groups, config.classes)
    if config.latents == "gaussian":
        z = latents.Gaussian(config.gaussians, latents.sigmoid2_std)
    feat, norm = config.deter + z.width, config.norm == "layer"
    see_image = see_vector = draw_image = draw_vector = None
    if sight.shape:
        see_image = convolutions.Strided(sight.shape, config.depth, F.elu, norm)
        draw_image = convolutions.Destrided(feat, sight.shape, config.depth, F.elu, norm)
    if sight.vector:
        see_vector = blocks.MLP(sight.vector, config.units, config.layers, None, after)
        draw_vector = head(feat, config, sight.vector)
    encoder = senses.Encoder(sight, see_image, see_vector)
    cell = cells.NormGRU(z.width, acts.size, config.deter, config.hidden, after)
    dynamics = rssm.RSSM(cell, z, encoder.width, config.hidden, 1, after, blocks.glorot)
    rewards = transform(config)
    return world_model.RecurrentModel(
        encoder,
        dynamics,
        senses.Decoder(draw_image, draw_vector),
        head(feat, config, 1),
        head(feat, config, 1) if config.predict_discount else None,
        acts,
        world_model.Reading(
            image=lambda out: (out + 0.5).clamp(0, 1),
            vector=torch.clone,
            rew=lambda out: rewards.told(out.squeeze(-1)),
            con=lambda out: (out.squeeze(-1).sigmoid() / config.discount).clamp(max=1),
        ),
    )


def dense_end(config: Config) -> Callable[[int], nn.Module]:
    """What follows a dense layer of so many units."""
    return blocks.LayerNormElu if config.norm == "layer" else lambda units: blocks.Elu()


def head(feat: int, config: Config, out: int) -> nn.Module:
    """Dense layers on [h, z]."""
    return blocks.MLP(feat, config.units, config.layers, out, dense_end(config))


# ---- the world model's losses, unweighted: each (B, T), the KL one number


def reconstruction_losses(
    model: world_model.RecurrentModel, obs: Mapping[str, Tensor], feat: Tensor
) -> dict[str, Tensor]:
    """-log N(x; mean, 1), summed: of images in [-0.5, 0.5], of vectors as they are."""
    shape, sight = feat.shape[:2], model.encoder.sight
    said, losses = model.decoder(feat.flatten(0, 1)), {}
    if "image" in said:
        target = sight.picture(obs).flatten(0, 1).float() / 255 - 0.5
        off = distributions.unit_normal_loss(said["image"], target)
        losses["image"] = off.flatten(1).sum(-1).unflatten(0, shape)
    if "vector" in said:
        off = distributions.unit_normal_loss(said["vector"], obs["vector"].float().flatten(0, 1))
        losses["vector"] = off.sum(-1).unflatten(0, shape)
    return losses


def kl_loss(z: latents.Latents, post: Tensor, prior: Tensor, balance: float, free_nats: float) -> Tensor:
    """Balanced: the prior moves to the posterior faster than the posterior to the prior.

    KL(post || prior) in value. Free nats are of the batch's mean, on each side.
    """
    to_prior, to_post = z.kl(post.detach(), prior).mean(), z.kl(post, prior.detach()).mean()
    return balance * to_prior.clamp(min=free_nats) + (1 - balance) * to_post.clamp(min=free_nats)


def discount_loss(logit: Tensor, is_terminal: Tensor, gamma: float) -> Tensor:
    """The head's target is gamma where the episode goes on, 0 where it has terminated."""
    return distributions.bernoulli_loss(logit.squeeze(-1), gamma * (~is_terminal).float())


# ---- behaviour: time first, k of H + 1 imagined states
#
#     k          0      1      2    ...  H-1     H
#     states    z0 ─a0▶ z1 ─a1▶ z2  ...           zH
#     weights   1      d0     d0 d1                         chance that state k is still in the episode
#     returns   R0     R1     R2    ...  R[H-1]   vH        R[k] = r[k] + d[k] ((1 - l) v[k+1] + l R[k+1])
#     critic    v0     v1     v2    ...  v[H-1]             learns R[k], weighted, k < H
#     actor     a0     a1     ...  a[H-2]                   raises R[k+1] (over v[k]), weighted, k < H - 1


class Dream(NamedTuple):
    """H + 1 imagined states of N rows, the first one real, and what is said of them (H + 1, N, ...)."""

    feat: Tensor
    act: Tensor
    """(H, N, A): chosen at state k"""
    rew: Tensor
    con: Tensor
    """d: gamma, where the episode goes on"""
    val: Tensor
    """by the target critic"""


def discounts(said: Tensor, is_terminal: Tensor, gamma: float) -> Tensor:
    """d (H + 1, N): as predicted, but for the first state, of which the rows know whether it terminated (N,)."""
    return torch.cat([gamma * (~is_terminal).float()[None], said[1:]])


def imagined_returns(dream: Dream, trace: float) -> tuple[Tensor, Tensor]:
    """lambda-returns R[k] and weights w[k] (H, N)."""
    ret = returns.lambda_return(dream.rew[:-1], dream.con[:-1], dream.val[:-1], dream.val[-1], 1.0, trace)
    before = torch.cat([torch.ones_like(dream.con[:1]), dream.con[:-2]])
    return ret, before.cumprod(0).detach()


def actor_loss(
    out: Tensor, dream: Dream, ret: Tensor, pick: distributions.Choice, share: float, entropy: float
) -> tuple[Tensor, Tensor]:
    """-(rho R[k+1] + (1 - rho) log pi(a[k]) sg(R[k+1] - v[k]) + eta H), k < H - 1. Returns it and H, (H - 1, N).

    ``out`` is what the actor says of these states, as constants; ``share`` (rho) of the objective are the returns.
    """
    adv, chaos = ret[1:] - dream.val[:-2], pick.entropy(out)
    score = pick.log_prob(out, dream.act[:-1].detach()) * adv.detach()
    return -(share * ret[1:] + (1 - share) * score + entropy * chaos), chaos


def critic_loss(out: Tensor, ret: Tensor) -> Tensor:
    """-log N(R; v, 1) (H, N)."""
    return distributions.unit_normal_loss(out.squeeze(-1), ret.detach())


# ---- the agent


class DreamerV2:
    """World model, actor and critic, each with its optimiser, and the phases that train them."""

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
            feat = config.deter + self.model.dynamics.latents.width
            self.pick, self.rewards = choice(self.model.actions), transform(config)
            self.share = dynamics_share(config, act_space)
            self.actor = head(feat, config, self.pick.outs)
            self.critic = head(feat, config, 1)
            self.target = head(feat, config, 1)
        self.target.load_state_dict(self.critic.state_dict())
        self.target.requires_grad_(False)
        if not next(self.actor.parameters()).is_meta:  # sizes are counted on the meta device
            for part in self.parts.values():
                part.to(compute.device)
        self.optimizers = {
            name: optim.Adam(net.parameters(), lr, EPS, config.clip, config.decay)
            for name, net, lr in (
                ("model", self.model, config.model_lr),
                ("actor", self.actor, config.actor_lr),
                ("critic", self.critic, config.critic_lr),
            )
        }
        self.windows = sampling.EpisodePieces(
            seeds.derive(seed, "windows"), ends=config.prioritize_ends, ongoing=config.ongoing
        )
        self.updates, self.planned = 0, 0
        self.recorded: Recorded | None = None

    copies = ("target_critic",)
    """parts that follow others, and are not optimised"""

    @property
    def parts(self) -> Mapping[str, nn.Module]:
        """By the names of the paper's figures; ``target_critic`` is not optimised."""
        model = self.model
        parts = {
            "encoder": model.encoder, "dynamics": model.dynamics, "decoder": model.decoder, "reward": model.reward,
            "continuation": model.continuation, "actor": self.actor, "critic": self.critic,
            "target_critic": self.target,
        }  # fmt: skip
        return {name: part for name, part in parts.items() if part is not None}

    def phases(self) -> Sequence[Phase]:
        """``budget`` with the live parts bound to it."""
        act = {"prefill": Uniform(self.act_space), "train": self.policy(explore=True)}
        spent = budget(self.config, self.run, (), self.recorded)
        self.planned = sum(p.rounds for p in spent)
        return [
            Phase(
                p.name,
                act[p.name] if p.env_steps else None,
                ((self.learn, 1),) if p.rounds else (),
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
        """It samples while it is trained, and takes the likeliest action when it is evaluated."""
        choose = self.pick.sample if explore or self.evaluation == "sample" else self.pick.mode
        return acting.Acting(self.model, self.actor, choose, often=explore)

    def learn_from(self, recorded: Recorded) -> None:
        """Learn from recordings alone.

        Raises:
            UserError: they lack actions or rewards.
        """
        refuse_lacking("dreamer-v2", recorded)
        self.recorded = recorded
        self.windows.ongoing = True  # recordings may have been cut anywhere

    # ---- learning

    def learn(self, experience: Experience) -> Metrics:
        """One update on windows of the rows."""
        optim.scale_rates(self.optimizers.values(), optim.left(self.updates, self.planned, self.config.anneal))
        ids = self.windows(experience.index, self.config.batch, self.config.length)
        return self.update(pieces(experience.gather(ids), experience.index.streams))

    def update(self, batch: Batch) -> Metrics:
        """One step of the world model on rows (B, T); then, by the new one, of actor and critic."""
        dtype = torch.bfloat16 if self.compute.bf16 else torch.float32
        states, metrics = self.learn_world(batch, dtype)
        start = rssm.State(*(x.detach().flatten(0, 1) for x in states))
        dream = self.imagine(start, batch.is_terminal.flatten(), dtype)
        metrics |= self.learn_behaviour(dream, dtype)
        if self.updates % self.config.target_every == 0:
            optim.mix(self.target, self.critic, 1.0)
        self.updates += 1
        return metrics

    def learn_world(self, batch: Batch, dtype: torch.dtype) -> tuple[rssm.State, dict[str, Tensor]]:
        """One step of the world model; the states (B, T, ...) that its old weights found."""
        losses, scales, states, metrics = self.world_losses(batch, dtype)
        total = torch.stack([scales.get(name, 1.0) * loss.mean() for name, loss in losses.items()]).sum()
        metrics |= {f"loss/{name}": loss.detach().mean() for name, loss in losses.items()}
        return states, metrics | {"loss": total.detach()} | self.step("model", total)

    def step(self, name: str, loss: Tensor) -> dict[str, Tensor]:
        """One step of one optimiser. Returns the gradients' norms before they are clipped, of all and by part."""
        self.optimizers[name].zero_grad()
        loss.backward()
        parts = self.parts.keys() - {"actor", "critic", "target_critic"} if name == "model" else ()
        norms = {f"gradient_norm/{part}": optim.global_norm(self.parts[part].parameters()) for part in sorted(parts)}
        return norms | {f"gradient_norm/{name}": self.optimizers[name].step()}

    def world_losses(
        self, batch: Batch, dtype: torch.dtype
    ) -> tuple[dict[str, Tensor], dict[str, float], rssm.State, dict[str, Tensor]]:
        """The world model's losses, weights other than 1, the states found (B, T, ...), and measures."""
        config, model = self.config, self.model
        act = world_model.led_to(model.actions.seen(batch.act))
        start = model.dynamics.initial(len(act), act.device)
        embed = model.encoder(batch.obs, dtype)  # (B, T, E)
        states, raw = model.dynamics.observe(embed, act, batch.is_first, start)
        z, feat = model.dynamics.latents, states.feat.to(dtype)  # (B, T, F)
        post, prior = z.stats(raw), z.stats(model.dynamics.prior(states.deter.to(dtype)))
        losses = reconstruction_losses(model, batch.obs, feat)
        losses["kl"] = kl_loss(z, post, prior, config.kl_balance, config.free_nats)
        rew, true_rew = model.reward(feat).float().squeeze(-1), self.rewards.learned(batch.rew)
        losses["rew"] = distributions.unit_normal_loss(rew, true_rew)
        con = None
        if model.continuation is not None:
            con = model.continuation(feat).float()
            losses["con"] = discount_loss(con, batch.is_terminal, config.discount)
        with torch.no_grad():
            ends = None if con is None else con.squeeze(-1)
            metrics = reports.latents(z, post, prior) | reports.heads(rew, true_rew, ends, batch.is_terminal)
        return losses, {"kl": config.kl_scale, "con": config.discount_scale}, states, metrics

    def imagine(self, start: rssm.State, is_terminal: Tensor, dtype: torch.dtype) -> Dream:
        """H steps on from states (N, ...) by the actor, which sees them as constants.

        Gradients pass back from rewards, discounts and values to the actions where the actor learns by them; to no
        weight but the actor's own.
        """
        model, gamma = self.model, self.config.discount

        def act(feat: Tensor, k: int) -> Tensor:
            return self.pick.sample(self.actor(feat.detach().to(dtype)))

        with torch.set_grad_enabled(self.share > 0), optim.frozen(model):
            feat, acts = model.dynamics.imagine(start, act, self.config.horizon, dtype)
            seen = feat.to(dtype)
            rew = self.rewards.imagined(model.reward(seen).float().squeeze(-1))
            con = torch.full_like(rew, gamma)
            if model.continuation is not None:
                said = model.continuation(seen).float().squeeze(-1).sigmoid()
                con = discounts(said, is_terminal, gamma)
            return Dream(feat, acts, rew, con, self.target(seen).float().squeeze(-1))

    def learn_behaviour(self, dream: Dream, dtype: torch.dtype) -> dict[str, Tensor]:
        """One step of the actor and one of the critic."""
        ret, weight = imagined_returns(dream, self.config.trace)
        seen = dream.feat.detach().to(dtype)
        loss, chaos = actor_loss(self.actor(seen[:-2]).float(), dream, ret, self.pick, self.share, self.config.entropy)
        policy = (weight[:-1] * loss).mean()
        metrics = self.step("actor", policy)
        value = (weight * critic_loss(self.critic(seen[:-1]).float(), ret)).mean()
        metrics |= self.step("critic", value)
        with torch.no_grad():
            return metrics | {
                "loss/policy": policy.detach(), "loss/value": value.detach(), "policy_entropy": chaos.mean(),
                "imagined_return": ret.mean(), "imagined_reward": dream.rew[1:].mean(),
                "imagined_length": weight.sum(0).mean(), "value": dream.val.mean(),
                "advantage": (ret[1:] - dream.val[:-2]).abs().mean(),
            }  # fmt: skip

    # ---- reports and saving

    def report(self, phase: str, experience: Experience) -> Metrics:
        """Open-loop films; how far values are from the returns that came."""
        if phase == "prefill":
            return {}
        gamma, rewards = self.config.discount, self.rewards
        return reports.report(self.model, experience, self.value, gamma, rewards.counted, rewards.learned)

    def value(self, feat: Tensor) -> Tensor:
        """What the critic says is still to come (...): without the reward that came with the state."""
        now = self.rewards.imagined(self.model.reward(feat).squeeze(-1))
        return (self.critic(feat).squeeze(-1) - now) / max(self.config.discount, 1e-6)

    def judge(self, latents: rssm.State, memory: Any = None) -> tuple[Mapping[str, View], Any]:
        """What actor and critic say of states (N, T, ...)."""
        return judging.judged(latents.feat, self.actor, self.pick, self.value, self.model.actions), memory

    def state_dict(self) -> dict[str, Any]:
        """Everything that a resumed run needs to go on as if nothing had happened."""
        state: dict[str, Any] = {name: dict(part.state_dict()) for name, part in self.parts.items()}
        moments = {name: optim.optimizer_state(optimizer) for name, optimizer in self.optimizers.items()}
        return state | {
            "optimizers": moments,
            "learning": {"updates": self.updates, "windows": self.windows.state_dict()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore ``state_dict``."""
        for name, part in self.parts.items():
            part.load_state_dict(state[name])
        for name, optimizer in self.optimizers.items():
            optim.load_optimizer(optimizer, state["optimizers"][name])
        self.updates = int(state["learning"]["updates"])
        self.windows.load_state_dict(state["learning"]["windows"])

    def load_parts(self, state: Mapping[str, Any]) -> list[str]:
        """Begin with another run's weights (``--from``), and with nothing else of it. Returns what became of each part.

        Raises:
            UserError: not one part is there in the same sizes.
        """
        return take_parts(self.parts, state)


def pieces(batch: Batch, streams: int) -> Batch:
    """Rows in which every piece of an episode begins as an episode does: from a state of zeros."""
    cut = torch.ones_like(batch.rows, dtype=torch.bool)
    cut[:, 1:] = batch.rows.diff(dim=1) != streams
    return batch._replace(is_first=batch.is_first | cut.to(batch.is_first.device))
