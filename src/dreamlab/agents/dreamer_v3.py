"""DreamerV3 (Hafner et al. 2023/2025, arXiv:2301.04104v2), the current algorithm: one configuration for all tasks.

::

    rows    t-1          t            t+1                      imagined  0 = any t    1    ...   H
            obs          obs          obs                                feat ──▶    feat        feat
             │ encoder    │            │                                  │ actor     ▲ cell, prior
            embed        embed        embed                              act ─────────┘
             ▼            ▼            ▼                          rew, con, val       rew, con, val
    state   z,h ─act──▶  z,h ─act──▶  z,h ──▶ obs', rew', con'    R = lambda-return of what comes after

    world model   reconstruction, reward and continuation from z and h; KL of posterior and prior, both ways
    actor         imagined: log-probability of its actions, by their normalised advantage; entropy
    critic        imagined: lambda-returns; real rows too, bootstrapped with what was imagined from them
    all of them   one joint loss, one optimiser, one update

Rows keep the state that was reached in them (``deter``, ``stoch``), as the policy and later updates found it:
a window's first row only says in which state the rest begins.

As the authors' code of 2024/25, except: the paper's 1 % uniform in the actor's classes, which that code reads and
drops, is kept; h is carried in float32 whatever the precision; what the cell's hidden layer takes from h and from
everything else are two tensors, whose gradients are clipped apart; choices among the observations are seen one-hot, as
there, but told as numbers of the vector, by squared errors and not by cross-entropy.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
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
    torch = lazy("torch")
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
DRY_RUN = {"steps": 600, "prefill": 300, "ratio": 32.0}
SIZES = {"1m": 64, "12m": 256, "25m": 384, "50m": 512, "100m": 768, "200m": 1024, "400m": 1536}
"""the width that each size is made of (``widths``)"""


@dataclass(frozen=True)
class Config:
    """DreamerV3; defaults of the authors' code, but for the size (theirs: 200m) and what a preset says."""

    size: Literal["1m", "12m", "25m", "50m", "100m", "200m", "400m"] = "12m"
    """of all networks, by their parameters in all"""
    deter: int | None = None
    """of h (D); without it by size, as are the next four"""
    units: int | None = None
    """of every hidden layer"""
    classes: int | None = None
    """of each latent variable (K)"""
    groups: int = 32
    """latent variables (S)"""
    depth: int | None = None
    """channels that convolutions are multiples of"""
    mults: tuple[int, ...] = (2, 3, 4, 4)
    """channels of each stage of convolutions in depths; each stage halves the image"""
    steps: int = 400_000
    """environment steps, unless the run says how many"""
    prefill: int = 1100
    """environment steps before the first update (the authors wait for 1024 windows)"""
    ratio: float = 32.0
    """train ratio: steps learned from for each environment step; an update learns from batch * length"""
    batch: int = 16
    """windows of an update (B)"""
    length: int = 64
    """steps of a window that are learned from (T), beside the one of context"""
    horizon: int = 15
    """imagined steps (H), from every step of the batch"""
    imagine_last: int = 0
    """imagine from the last steps of each window alone, so many; 0: from all"""
    lookahead: int = 333
    """steps that discounting looks ahead: gamma = 1 - 1 / lookahead"""
    trace: float = 0.95
    """lambda of the returns"""
    entropy: float = 3e-4
    """weight of the actor's entropy"""
    free_nats: float = 1.0
    """KL below this many nats costs nothing (both of them)"""
    dyn_scale: float = 1.0
    """weight of the KL that teaches the prior"""
    rep_scale: float = 0.1
    """weight of the KL that teaches the posterior"""
    image_loss: Literal["squared", "lit"] = "squared"
    """what a drawn image costs: its pixels' squared errors; or, for pictures of ones and zeros, the cross-entropy
    of each pixel (the authors' loss of observations that are no pictures but choices)"""
    obs_scale: float = 1.0
    """weight of the errors of what is seen, images and vectors"""
    reward_scale: float = 1.0
    """weight of the reward's loss: more where rewards are rare, so that the state is made to tell them"""
    continuation_scale: float = 1.0
    """weight of the loss of the continuation"""
    replay_value_scale: float = 0.3
    """weight of the critic's loss on real rows; its gradients reach the world model"""
    unimix: float = 0.01
    """uniform mixed into latent classes and discrete actions"""
    normalise: bool = True
    """divide advantages by the returns' range (percentiles 5 to 95), where that is above 1"""
    slow_rate: float = 0.02
    """share of the critic that its slow copy, which it is held to, takes over at each update"""
    lr: float = 4e-5
    """learning rate"""
    clip: float = 0.3
    """a tensor's gradient is clipped to this share of the tensor's own norm"""
    warmup: int = 1000
    """updates over which the learning rate rises from 0"""
    anneal: float = 0.0
    """share of the run, its end, over which the learning rate falls to 0 (ours): one update may turn an actor"""
    evaluation: Literal["sample", "mode"] = "sample"
    """how actions are chosen when it is evaluated; the authors sample"""

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "horizon", "lookahead", "groups", "warmup"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.length < 2:
            raise ValueError(f"length must be at least 2, got {self.length}")
        for name in (
            "prefill", "imagine_last", "entropy", "free_nats", "obs_scale", "reward_scale", "continuation_scale",
            "replay_value_scale", "clip",
        ):  # fmt: skip
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        for name in ("ratio", "lr"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        for name in ("trace", "unimix", "slow_rate", "anneal"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be between 0 and 1, got {getattr(self, name)}")
        for name in ("deter", "units", "classes", "depth"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not self.mults or min(self.mults) < 1:
            raise ValueError(f"mults must name at least one stage, of at least 1, got {self.mults}")
        if self.imagine_last == 1:
            raise ValueError("imagine_last must be 0 (all) or at least 2: the critic learns from pairs of real rows")
        if self.imagine_last > self.length:
            raise ValueError(f"imagine_last {self.imagine_last} is more than a window's {self.length} steps")
        if widths(self).classes > 255:
            raise ValueError("classes must be at most 255: a row keeps each in a byte")
        if widths(self).deter % BLOCKS:
            raise ValueError(f"deter must be a multiple of {BLOCKS}, the blocks of its cell, got {widths(self).deter}")
        if widths(self).depth * self.mults[-1] % BLOCKS:
            raise ValueError(f"depth times the last of mults must be a multiple of {BLOCKS}, the decoder's blocks")


BLOCKS = 8
"""diagonal blocks of the cell and of the decoder's path from h"""


class Widths(NamedTuple):
    """What a size means."""

    deter: int
    units: int
    classes: int
    depth: int


def widths(config: Config) -> Widths:
    """All widths, by the authors' rule from one: h has 8 of it, images and classes a sixteenth."""
    d = SIZES[config.size]
    return Widths(
        config.deter or 8 * d, config.units or d, config.classes or max(d // 16, 1), config.depth or max(d // 16, 1)
    )


def budget(
    config: Config, run: RunConfig, loaded: Collection[str] = (), recorded: Recorded | None = None
) -> list[Phase]:
    """Act until there is enough to learn from; then act and learn, a round one update.

    From recordings it learns as often as it would from so many steps of its own.
    """
    steps = run.steps or config.steps
    learned = config.batch * config.length
    if recorded is not None:
        return [Phase("train", rounds=max(1, int(steps * config.ratio / learned)))]
    least = 2 * (config.length + 1) * run.envs
    if run.capacity and run.capacity < least:
        raise UserError(
            f"a replay of {run.capacity} rows is too small for windows of {config.length + 1} of {run.envs} "
            f"environments; type: --capacity {least} or more"
        )
    prefill = max(config.prefill, least)
    rest = max(steps - prefill, 0)
    rounds = int(rest * config.ratio / learned)
    if not rounds:
        raise UserError(
            f"{steps} steps are spent before the first update ({prefill} of them to have enough to learn from); type: "
            f"--steps {prefill + math.ceil(learned / config.ratio)} or more, or a smaller --agent.prefill"
        )
    return [Phase("prefill", env_steps=prefill), Phase("train", env_steps=rest, rounds=rounds)]


def footprint(config: Config, obs_space: spaces.Dict, act_space: spaces.Space, run: RunConfig) -> Footprint:
    """Peak of learning beyond process and weights (fitted to single updates on a CPU), and bytes beside a row."""
    w = widths(config)
    rows, starts = config.batch * config.length, config.batch * (config.imagine_last or config.length)
    images = [space.shape for space in obs_space.spaces.values() if len(space.shape or ()) == 3]
    maps = 0
    if images:
        area = images[0][-1] * images[0][-2]  # type: ignore[index]
        maps = sum(area * w.depth * m // 4**i for i, m in enumerate(config.mults))
    scan = rows * (12 * w.deter + 12 * w.units + 6 * config.groups * w.classes)
    heads = starts * (config.horizon + 1) * (2 * (w.deter + config.groups * w.classes) + 20 * w.units + 6 * 255)
    return Footprint(
        memory_bytes=int(60 * (1 << 20) + 4 * (rows * 5 * maps + scan + heads)),
        row_bytes=2 * w.deter + config.groups,
        rewritten=True,
    )


def build(
    config: Config,
    obs_space: spaces.Dict,
    act_space: spaces.Space,
    compute: computing.Compute,
    seed: int,
    run: RunConfig,
) -> DreamerV3:
    """A fresh agent.

    Raises:
        UserError: actions it cannot choose, or images that its convolutions cannot halve.
    """
    return DreamerV3(config, obs_space, act_space, compute, seed, run)


# ---- the networks


def world(config: Config, obs_space: spaces.Dict, act_space: spaces.Space) -> world_model.RecurrentModel:
    """Encoder, RSSM, decoder, reward and continuation, in the authors' initial weights."""
    w, init = widths(config), blocks.truncated()
    sight, acts = senses.Sight(obs_space), actions.actions_for(act_space)
    z = latents.Categorical(config.groups, w.classes, config.unimix)
    channels = [w.depth * m for m in config.mults]
    feat = w.deter + z.width
    see_image = see_vector = draw_image = draw_vector = None
    if sight.shape:
        see_image = convolutions.Pooled(sight.shape, channels, init)
        draw_image = convolutions.Grown(w.deter, z.width, sight.shape, channels[::-1], w.units, BLOCKS, init)
    if sight.vector:
        see_vector = blocks.MLP(sight.vector, w.units, 3, None, blocks.RMSNormSiLU, init)
        draw_vector = blocks.MLP(feat, w.units, 3, sight.vector, blocks.RMSNormSiLU, init)
    encoder = senses.Encoder(sight, see_image, see_vector, distributions.symlog)
    cell = cells.BlockGRU(z.width, acts.size, w.deter, w.units, BLOCKS, init)
    dynamics = rssm.RSSM(cell, z, encoder.width, w.units, 2, blocks.RMSNormSiLU, init)
    gamma = 1 - 1 / config.lookahead
    return world_model.RecurrentModel(
        encoder,
        dynamics,
        senses.Decoder(draw_image, draw_vector),
        head(feat, w.units, 1, 255, 0.0),
        head(feat, w.units, 1, 1),
        acts,
        world_model.Reading(
            image=torch.sigmoid,
            vector=distributions.symexp,
            rew=lambda out: distributions.TwoHot(out.device).mean(out),
            con=lambda out: (out.squeeze(-1).sigmoid() / gamma).clamp(max=1),
        ),
    )


def head(feat: int, units: int, layers: int, out: int, scale: float = 1.0) -> nn.Module:
    """Dense layers on [h, z]; the last one starts ``scale`` as large."""
    return blocks.MLP(feat, units, layers, out, blocks.RMSNormSiLU, blocks.truncated(), blocks.truncated(scale))


def choice(acts: actions.Actions, config: Config) -> distributions.Choice:
    """How actions are drawn."""
    if acts.groups:
        return distributions.OneHots(acts.groups, config.unimix)
    return distributions.BoundedNormal(acts.size)


# ---- the world model's losses: each (B, T), unweighted


def reconstruction_losses(
    model: world_model.RecurrentModel,
    obs: Mapping[str, Tensor],
    feat: Tensor,
    image_loss: Callable[[Tensor, Tensor], Tensor],
) -> dict[str, Tensor]:
    """What images cost; squared errors of vectors in symlog, summed."""
    decoder, losses = model.decoder, {}
    if decoder.image is not None:
        logit = decoder.image.unshuffled(feat.flatten(0, 1))  # type: ignore[operator]
        target = convolutions.unshuffled(model.encoder.sight.picture(obs).flatten(0, 1))
        losses["image"] = image_loss(logit, target).unflatten(0, feat.shape[:2])
    if decoder.vector is not None:
        target = distributions.symlog(obs["vector"].float())
        losses["vector"] = (decoder.vector(feat).float() - target).square().sum(-1)
    return losses


def kl_losses(z: latents.Latents, post: Tensor, prior: Tensor, free_nats: float) -> dict[str, Tensor]:
    """L_dyn moves the prior to the posterior, L_rep the posterior to the prior; each free up to ``free_nats``."""
    dyn = z.kl(post.detach(), prior)
    rep = z.kl(post, prior.detach())
    return {"dyn": dyn.clamp(min=free_nats), "rep": rep.clamp(min=free_nats)}


def continuation_loss(logit: Tensor, is_terminal: Tensor, gamma: float) -> Tensor:
    """The head learns the discount: its target is gamma where the episode goes on, 0 where it has terminated."""
    return distributions.bernoulli_loss(logit.squeeze(-1), gamma * (~is_terminal).float())


# ---- behaviour: time first, k of H + 1 imagined states


class Dream(NamedTuple):
    """H + 1 imagined states of N rows, the first one real, and what is said of them (H + 1, N, ...)."""

    feat: Tensor
    act: Tensor
    """(H, N, A): chosen at state k"""
    rew: Tensor
    con: Tensor
    """probability of going on, times gamma"""
    said: Tensor | None = None
    """(H, N, outs): what the actor said at state k, float32; it alone has gradients"""


def imagined_returns(dream: Dream, val: Tensor, trace: float) -> tuple[Tensor, Tensor]:
    """lambda-returns R[k] and weights w[k], k < H: R[k] = r[k+1] + c[k+1] ((1 - l) v[k+1] + l R[k+1])."""
    ret = returns.lambda_return(dream.rew[1:], dream.con[1:], val[:-1], val[-1], 1.0, trace)
    return ret, dream.con.cumprod(0)[:-1]  # w[0] is con[0], not 1


def actor_loss(
    out: Tensor, dream: Dream, pick: distributions.Choice, adv: Tensor, entropy: float
) -> tuple[Tensor, Tensor]:
    """REINFORCE for discrete and continuous actions: -(log pi(a) sg(A) + eta H). Returns it and H, (H, N)."""
    chaos = pick.entropy(out)
    return -(pick.log_prob(out, dream.act) * adv.detach() + entropy * chaos), chaos


def critic_loss(bins: distributions.TwoHot, out: Tensor, ret: Tensor, slow: Tensor) -> Tensor:
    """Two-hot cross-entropy with the return, and with what the slow critic says."""
    return bins.loss(out, ret.detach(), slow)


class ReturnRange:
    """S = max(1, range of returns): the difference of their 95th and 5th percentile, each a running mean from 0."""

    def __init__(self, device: torch.device, rate: float = 0.01) -> None:
        self.ends, self.rate = torch.zeros(2, device=device), rate

    def __call__(self, ret: Tensor) -> Tensor:
        """The scale, once the returns have been taken in."""
        self.ends.lerp_(torch.stack(percentiles(ret.detach(), 0.05, 0.95)), self.rate)
        return self.scale

    @property
    def scale(self) -> Tensor:
        return (self.ends[1] - self.ends[0]).clamp(min=1)


def percentiles(x: Tensor, *shares: float) -> list[Tensor]:
    """As ``torch.quantile``, which waits for the device."""
    ordered = x.flatten().sort().values
    places = [share * (len(ordered) - 1) for share in shares]
    return [torch.lerp(ordered[int(p)], ordered[min(int(p) + 1, len(ordered) - 1)], p - int(p)) for p in places]


def replay_returns(batch: Batch, boot: Tensor, gamma: float, trace: float) -> Tensor:
    """lambda-returns of real rows (B, T - 1); ``boot`` (B, T) is what was imagined from each.

    An episode's last row cuts the trace: what counts there is its own bootstrap.
    """
    rew, con = batch.rew[:, 1:].t(), (~batch.is_terminal[:, 1:]).float().t()
    live = trace * (~batch.is_last[:, 1:]).float().t()
    return returns.lambda_return(rew, con, boot[:, :-1].t(), boot[:, -1], gamma, live).t()


# ---- the agent


class DreamerV3:
    """World model, actor and critic, and the one phase that trains them together."""

    def __init__(
        self,
        config: Config,
        obs_space: spaces.Dict,
        act_space: spaces.Space,
        compute: computing.Compute,
        seed: int,
        run: RunConfig,
    ) -> None:
        self.config, self.compute, self.seed, self.run = config, compute, seed, run
        self.evaluation = config.evaluation  # may be set to the other way for one evaluation
        with seeds.forked(seed, "init"):
            self.model = world(config, obs_space, act_space)
            feat = widths(config).deter + self.model.dynamics.latents.width
            self.pick = choice(self.model.actions, config)
            self.actor = head(feat, widths(config).units, 3, self.pick.outs, 0.01)
            self.critic = head(feat, widths(config).units, 3, 255, 0.0)
            self.slow = head(feat, widths(config).units, 3, 255, 0.0)
        self.slow.load_state_dict(self.critic.state_dict())
        self.slow.requires_grad_(False)
        real = not next(self.actor.parameters()).is_meta  # sizes are counted on the meta device
        device = compute.device if real else torch.device("cpu")
        if real:
            for part in self.parts.values():
                part.to(device)
        self.optimized = [p for part in self.parts.values() for p in part.parameters() if p.requires_grad]
        self.optimizer = optim.LaProp(self.optimized, config.lr, config.clip, warmup=config.warmup)
        self.bins, self.range = distributions.TwoHot(device), ReturnRange(device)
        self.windows: sampling.StreamWindows = sampling.NewestFirst(seeds.derive(seed, "windows"))
        self.fresh: tuple[Any, dict[str, Tensor]] | None = None  # states found by the last update, not yet written
        self.recorded: Recorded | None = None
        self._update = compute.whole(self.update)

    copies = ("slow_critic",)
    """parts that follow others, and are not optimised"""

    @property
    def parts(self) -> Mapping[str, nn.Module]:
        """By the names of the paper's figures; ``slow_critic`` is not optimised."""
        model = self.model
        assert model.continuation is not None
        return {
            "encoder": model.encoder, "dynamics": model.dynamics, "decoder": model.decoder, "reward": model.reward,
            "continuation": model.continuation, "actor": self.actor, "critic": self.critic, "slow_critic": self.slow,
        }  # fmt: skip

    def phases(self) -> Sequence[Phase]:
        """``budget`` with the live parts bound to it."""
        act, spent = self.policy(explore=True), budget(self.config, self.run, (), self.recorded)
        self.optimizer.falls(sum(p.rounds for p in spent), self.config.anneal)
        return [
            Phase(p.name, act if p.env_steps else None, ((self.learn, 1),) if p.rounds else (), p.env_steps, p.rounds)
            for p in spent
        ]

    @property
    def learns(self) -> int:
        """Steps that an update learns from."""
        return self.config.batch * self.config.length

    def policy(self, explore: bool) -> Policy:
        """It samples, and leaves the states that it reached beside the rows."""
        choose = self.pick.sample if explore or self.evaluation == "sample" else self.pick.mode
        return acting.Acting(self.model, self.actor, choose, store=explore, often=explore)

    def learn_from(self, recorded: Recorded) -> None:
        """Learn from recordings alone.

        Raises:
            UserError: they lack actions or rewards.
        """
        refuse_lacking("dreamer-v3", recorded)
        self.recorded = recorded
        self.windows = sampling.StreamWindows(seeds.derive(self.seed, "windows"))

    # ---- learning

    def learn(self, experience: Experience) -> Metrics:
        """One update on windows of the rows; what the last one found is written beside its rows first."""
        ids = self.windows(experience.index, self.config.batch, self.config.length + 1)
        batch = experience.gather(ids, extras=())
        if self.fresh is not None:  # not before: this waits for the last update
            rows, columns = self.fresh
            experience.annotate(held(rows, experience), **columns)
        start = world_model.stored(self.model, experience.gather(ids[:, :1], obs=()))
        act = self.model.actions.seen(batch.act)[:, :-1]  # led_to: what was chosen a row before
        batch = cut(world_model.later(batch))
        states, metrics = self._update(batch, act, start)
        self.fresh = (ids[:, 1:], world_model.packed(self.model, states))
        return metrics

    def update(self, batch: Batch, act: Tensor, start: rssm.State) -> tuple[rssm.State, Metrics]:
        """One step of the joint loss on rows (B, T); ``act`` led to them, ``start`` (B, ...) came before them."""
        losses, scales, states, metrics = self.losses(batch, act, start)
        total = sum((scales[name] * loss.mean() for name, loss in losses.items()), torch.zeros((), device=act.device))
        self.optimizer.zero_grad()
        total.backward()
        metrics |= {f"gradient_norm/{name}": optim.global_norm(part.parameters()) for name, part in self.learned()}
        self.optimizer.step()
        optim.mix(self.slow, self.critic, self.config.slow_rate)
        metrics |= {f"loss/{name}": loss.detach().mean() for name, loss in losses.items()}
        return rssm.State(*(x.detach() for x in states)), metrics | {"loss": total.detach()}

    def learned(self) -> list[tuple[str, nn.Module]]:
        """Parts that are optimised."""
        return [(name, part) for name, part in self.parts.items() if name != "slow_critic"]

    def losses(
        self, batch: Batch, act: Tensor, start: rssm.State
    ) -> tuple[dict[str, Tensor], dict[str, float], rssm.State, dict[str, Tensor]]:
        """Every loss (B, T) or (H, N) unweighted, its weight, the states found (B, T, ...), and measures."""
        config, model = self.config, self.model
        dtype = torch.bfloat16 if self.compute.bf16 else torch.float32
        gamma = 1 - 1 / config.lookahead
        # the world model
        embed = model.encoder(batch.obs, dtype)  # (B, T, E)
        states, raw = model.dynamics.observe(embed, act, batch.is_first, start)
        z, feat = model.dynamics.latents, states.feat.to(dtype)  # (B, T, F)
        post, prior = z.stats(raw), z.stats(model.dynamics.prior(states.deter.to(dtype)))
        losses = reconstruction_losses(model, batch.obs, feat, distributions.IMAGE_LOSSES[config.image_loss])
        losses |= kl_losses(z, post, prior, config.free_nats)
        rew_out, con_out = model.reward(feat).float(), self.parts["continuation"](feat).float()
        losses["rew"] = self.bins.loss(rew_out, batch.rew)
        losses["con"] = continuation_loss(con_out, batch.is_terminal, gamma)
        # behaviour, imagined from every state, or from the last of each window
        last = config.imagine_last or config.length
        dream = self.imagine(rssm.State(*(x[:, -last:].detach().flatten(0, 1) for x in states)), dtype)
        seen = dream.feat
        val_out = self.critic(seen[:-1]).float()
        with torch.no_grad():
            slow = self.bins.mean(self.slow(seen[:-1]))
            val = torch.cat([self.bins.mean(val_out), self.bins.mean(self.critic(seen[-1:]))])  # (H + 1, N)
            ret, weight = imagined_returns(dream, val, config.trace)
            scale = self.range(ret) if config.normalise else torch.ones((), device=ret.device)
            adv = (ret - val[:-1]) / scale
        assert dream.said is not None
        policy, chaos = actor_loss(dream.said, dream, self.pick, adv, config.entropy)
        losses["policy"] = weight * policy
        losses["value"] = weight * critic_loss(self.bins, val_out, ret, slow)
        # the critic on real rows: its gradients reach the states
        real = feat[:, -last:]
        real_ret = replay_returns(world_model.window(batch, -last), ret[0].view(-1, last), gamma, config.trace)
        with torch.no_grad():
            slow_real = self.bins.mean(self.slow(real[:, :-1]))
        keep = (~batch.is_last[:, -last:-1]).float()
        losses["replay_value"] = keep * critic_loss(self.bins, self.critic(real[:, :-1]).float(), real_ret, slow_real)
        scales = {
            "image": config.obs_scale, "vector": config.obs_scale, "rew": config.reward_scale,
            "con": config.continuation_scale, "dyn": config.dyn_scale, "rep": config.rep_scale,
            "replay_value": config.replay_value_scale,
        }  # fmt: skip
        with torch.no_grad():
            metrics = reports.latents(z, post, prior) | reports.heads(
                self.bins.mean(rew_out), batch.rew, con_out.squeeze(-1), batch.is_terminal
            )
            metrics |= {
                "policy_entropy": chaos.mean(), "return_scale": scale, "imagined_return": ret.mean(),
                "imagined_reward": dream.rew[1:].mean(), "imagined_length": weight.sum(0).mean(), "value": val.mean(),
                "advantage": adv.abs().mean(),
            }  # fmt: skip
        return losses, {name: scales.get(name, 1.0) for name in losses}, states, metrics

    def imagine(self, start: rssm.State, dtype: torch.dtype) -> Dream:
        """H steps on from states (N, ...) by the actor. No gradient passes from one to another: none is needed."""
        model, said = self.model, []

        def actor(feat: Tensor, k: int) -> Tensor:
            with torch.enable_grad():
                said.append(self.actor(feat.to(dtype)).float())
            return self.pick.sample(said[-1])

        with torch.no_grad():
            feat, act = model.dynamics.imagine(start, actor, self.config.horizon, dtype)
            seen = feat.to(dtype)
            rew, con = self.bins.mean(model.reward(seen)), self.parts["continuation"](seen)
        return Dream(seen, act, rew, con.float().squeeze(-1).sigmoid(), torch.stack(said))

    # ---- reports and saving

    def report(self, phase: str, experience: Experience) -> Metrics:
        """Open-loop films; how far values are from the returns that came."""
        if phase != "train":
            return {}
        return reports.report(self.model, experience, self.value, 1 - 1 / self.config.lookahead)

    def value(self, feat: Tensor) -> Tensor:
        """What the critic says (...)."""
        return self.bins.mean(self.critic(feat))

    def judge(self, latents: rssm.State, memory: Any = None) -> tuple[Mapping[str, View], Any]:
        """What actor and critic say of states (N, T, ...)."""
        return judging.judged(latents.feat, self.actor, self.pick, self.value, self.model.actions), memory

    def state_dict(self) -> dict[str, Any]:
        """Everything that a resumed run needs to go on as if nothing had happened."""
        state: dict[str, Any] = {name: dict(part.state_dict()) for name, part in self.parts.items()}
        rows, columns = self.fresh or (None, {})
        return state | {
            "optimizer": optim.optimizer_state(self.optimizer),
            "learning": {
                "range": self.range.ends,
                "windows": self.windows.state_dict(),
                "rows": rows,
                "fresh": columns,
            },
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore ``state_dict``."""
        for name, part in self.parts.items():
            part.load_state_dict(state[name])
        optim.load_optimizer(self.optimizer, state["optimizer"])
        kept = state["learning"]
        self.range.ends.copy_(torch.as_tensor(kept["range"]))
        self.windows.load_state_dict(kept["windows"])
        self.fresh = None if kept["rows"] is None else (kept["rows"], dict(kept["fresh"]))

    def load_parts(self, state: Mapping[str, Any]) -> list[str]:
        """Begin with another run's weights (``--from``). Returns what became of each part.

        Where all fit the returns' range comes too: a trained critic's advantages are not to be divided by 1 at first.

        Raises:
            UserError: not one part is there in the same sizes.
        """
        words = take_parts(self.parts, state)
        if words == list(self.parts) and "learning" in state:  # what was published has none
            self.range.ends.copy_(torch.as_tensor(state["learning"]["range"]))
        return words


def cut(batch: Batch) -> Batch:
    """Rows before another episode's first as last ones, also where an episode was given up without an end."""
    is_last = batch.is_last.clone()
    is_last[:, :-1] |= batch.is_first[:, 1:]
    return batch._replace(is_last=is_last)


def held(rows: Any, experience: Experience) -> Any:
    """Row ids with those that the ring has dropped meanwhile as -1, which are skipped."""
    oldest = experience.index.start * experience.index.streams
    return rows * (rows >= oldest) - (rows < oldest)
