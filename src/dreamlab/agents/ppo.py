"""PPO (Schulman et al. 2017, arXiv:1707.06347): a policy and a value, learned from what that policy has just done.

::

    rollout      all rows since the last update, of all environments side by side
    advantage    GAE(lambda); a time limit is bootstrapped from what was seen there, a true end is not
    update       ``epochs`` times over the rollout, in minibatches; clipped ratios, value loss, entropy

Networks, losses and update are Tianshou's (``nn/tianshou.py``); rows, acting and the recipe are ours. The action of a
rollout's newest row is not learned from: what it led to is seen only when the policy has changed.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from dreamlab.agents import Footprint
from dreamlab.core.config import at_least, positive
from dreamlab.core.errors import UserError
from dreamlab.core.lazy import lazy
from dreamlab.core.protocols import Experience, Phase, Policy

if TYPE_CHECKING:
    import numpy as np
    import torch
    from gymnasium import spaces
    from torch import nn

    from dreamlab.core import seeds
    from dreamlab.core.types import Metrics, Recorded
    from dreamlab.nn import baselines, optim, tianshou
    from dreamlab.nn import frames as seeing
    from dreamlab.nn.compute import Compute
    from dreamlab.run.config import RunConfig
else:  # the settings below are the command line's help, which waits for no networks
    torch, np, seeds = lazy("torch"), lazy("numpy"), lazy("dreamlab.core.seeds")
    baselines, optim = lazy("dreamlab.nn.baselines"), lazy("dreamlab.nn.optim")
    tianshou, seeing = lazy("dreamlab.nn.tianshou"), lazy("dreamlab.nn.frames")

SEES = "any"
DREAMS = False
EXTENDS = ("steps", "run.steps")
DRY_RUN = {"steps": 256, "rollout": 128, "minibatch": 64, "epochs": 2}
LOOKED_AT = 256
"""steps of a rollout that the policy's change is measured on"""


@dataclass(frozen=True)
class Config:
    """PPO: a policy and its value; pixels or vectors, discrete or continuous actions."""

    hidden: tuple[int, ...] = (64, 64)
    """units of the dense layers; pictures go through three convolutions first"""
    activation: Literal["relu", "tanh"] = "tanh"
    """of the dense layers"""
    shared: bool = False
    """policy and value look through one encoder"""
    stack: int = 1
    """pictures that are seen at once, where there are pictures"""
    steps: int = 200_000
    """environment steps, unless the run says how many"""
    rollout: int = 2048
    """environment steps between two updates, of all environments together"""
    epochs: int = 10
    """how often an update goes over its rollout"""
    minibatch: int = 64
    """steps of a gradient step"""
    lr: float = 3e-4
    """learning rate"""
    anneal: bool = True
    """let the learning rate fall to 0 over the run"""
    discount: float = 0.99
    """gamma"""
    trace: float = 0.95
    """lambda of the advantages"""
    clip: float = 0.2
    """how far a probability's ratio may move before it counts no further"""
    value_clip: bool = False
    """cut the value's change off at the same place"""
    value_scale: float = 0.5
    """weight of the value's loss"""
    entropy: float = 0.0
    """weight of the policy's entropy"""
    max_norm: float = 0.5
    """norm that gradients are clipped to"""
    scale_returns: bool = False
    """divide returns by their running standard deviation: where rewards are large or long"""
    evaluation: Literal["sample", "mode"] = "mode"
    """how actions are chosen when it is evaluated"""

    def __post_init__(self) -> None:
        for name in ("stack", "steps", "epochs"):
            at_least(name, getattr(self, name), 1)
        for name in ("rollout", "minibatch"):
            at_least(name, getattr(self, name), 2)
        for name in ("value_scale", "entropy"):
            at_least(name, getattr(self, name), 0)
        for name in ("lr", "clip", "max_norm"):
            positive(name, getattr(self, name))
        for name in ("discount", "trace"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be between 0 and 1, got {getattr(self, name)}")
        if not self.hidden or min(self.hidden) < 1:
            raise ValueError(f"hidden must be one or more sizes of at least 1, got {self.hidden}")


def budget(config: Config, run: RunConfig, loaded: Collection[str] = ()) -> list[Phase]:
    """Act, and learn from each rollout: a round is one update."""
    steps = run.steps or config.steps
    if config.rollout < 3 * run.envs:
        raise UserError(
            f"a rollout of {config.rollout} steps is too short for {run.envs} environments: type "
            f"--agent.rollout {3 * run.envs} or more, or fewer --envs"
        )
    if steps < config.rollout:
        raise UserError(f"{steps} steps are less than one rollout ({config.rollout}); type: --steps {config.rollout}")
    if run.capacity and run.capacity < 2 * config.rollout:
        raise UserError(
            f"a replay of {run.capacity} rows does not hold a rollout of {config.rollout} steps and what lies between "
            f"episodes; type: --capacity {2 * config.rollout} or more"
        )
    return [Phase("train", env_steps=steps, rounds=steps // config.rollout)]


def footprint(config: Config, obs_space: spaces.Dict, act_space: spaces.Space, run: RunConfig) -> Footprint:
    """A rollout at once, minibatches of it; what was drawn, where it is cut to bounds."""
    raw = 0 if act_space.dtype is not None and act_space.dtype.kind in "iu" else 4 * int(np.prod(act_space.shape or ()))
    held, learned = config.rollout + run.envs, max(2 * config.minibatch, LOOKED_AT)
    return Footprint(baselines.memory(obs_space, config.stack, config.hidden, held, learned), row_bytes=raw)


def build(
    config: Config, obs_space: spaces.Dict, act_space: spaces.Space, compute: Compute, seed: int, run: RunConfig
) -> PPO:
    """A fresh agent.

    Raises:
        UserError: actions it cannot choose, pictures too small, or the library is not installed.
    """
    return PPO(config, obs_space, act_space, compute, seed, run)


class PPO:
    """The agent (``core.protocols.Agent``)."""

    def __init__(
        self,
        config: Config,
        obs_space: spaces.Dict,
        act_space: spaces.Space,
        compute: Compute,
        seed: int,
        run: RunConfig,
    ) -> None:
        baselines.refuse_precision("ppo", compute)
        self.config, self.run, self.compute = config, run, compute
        self.evaluation = config.evaluation  # may be set to the other way for one evaluation
        self.acts = baselines.actions("ppo", act_space)
        self.frames = seeing.Frames(obs_space, config.stack)
        with seeds.forked(seed, "init"):
            encoder = tianshou.Encoder(self.frames, config.hidden, config.activation)
            other = encoder if config.shared else tianshou.Encoder(self.frames, config.hidden, config.activation)
            actor = (tianshou.logits if self.acts.groups else tianshou.gaussian_alone)(encoder, self.acts.size)
            critic = tianshou.values(other)
            tianshou.orthogonal(critic)
            tianshou.orthogonal(actor, last=actor.last if self.acts.groups else actor.mu)
        baselines.on_device(compute, actor, critic)
        self.adam = tianshou.Adam(config.lr, 1e-5)
        self.algorithm = tianshou.ppo(
            actor, critic, act_space, self.adam, eps_clip=config.clip, value_clip=config.value_clip,
            vf_coef=config.value_scale, ent_coef=config.entropy, max_grad_norm=config.max_norm,
            gae_lambda=config.trace, gamma=config.discount, return_scaling=config.scale_returns,
        )  # fmt: skip
        self.updates = 0
        self.since = 0  # time of the oldest row that has not been learned from

    @property
    def parts(self) -> Mapping[str, nn.Module]:
        return {"actor": self.algorithm.policy.actor, "critic": self.algorithm.critic}

    def phases(self) -> Sequence[Phase]:
        """``budget`` with the live parts bound to it."""
        act = self.policy(explore=True)
        return [Phase(p.name, act, ((self.learn, 1),), p.env_steps, p.rounds) for p in budget(self.config, self.run)]

    def policy(self, explore: bool) -> Policy:
        """It draws while it is trained, and takes the likeliest action when it is evaluated."""
        return baselines.Acting(
            self.frames,
            self.acts,
            self.compute.device,
            lambda seen: tianshou.choose(self.algorithm.policy, seen, explore or self.evaluation == "sample"),
            keep=explore,
        )

    def learn_from(self, recorded: Recorded) -> None:
        """Raises UserError: it cannot."""
        raise UserError(
            "ppo learns from what its newest policy has done, and nothing else: recordings are another's doing. "
            "dqn and sac learn from them"
        )

    # ---- learning

    def learn(self, experience: Experience) -> Metrics:
        """One update, from everything that was done since the last one."""
        rows = self.rollout(experience)
        self.since = experience.index.stop
        for group in self.adam.made.param_groups:
            group["lr"] = self.rate
        losses = tianshou.update(self.algorithm, rows, batch_size=self.config.minibatch, repeat=self.config.epochs)
        self.updates += 1
        return self.measured(rows, losses)

    def rollout(self, experience: Experience) -> tianshou.Transitions:
        """Every step since the last update whose outcome is known, environment by environment."""
        index = experience.index
        time = np.arange(max(self.since, index.start), index.stop)
        ids = time * index.streams + np.arange(index.streams)[:, None]  # (streams, T)
        batch = experience.gather(self.frames.rows(ids, index.start, index.streams))
        now = slice(self.frames.stack - 1, None)
        done = batch.act.argmax(-1) if self.acts.groups else batch.extras["raw"]
        return tianshou.Transitions(
            self.frames.of_rows(batch),
            done[:, now],
            batch.rew[:, now],
            batch.is_last[:, now],
            batch.is_terminal[:, now],
            all_of_them=True,
        )

    @property
    def rate(self) -> float:
        """The learning rate of the next update."""
        if not self.config.anneal:
            return self.config.lr
        return baselines.annealed(self.config.lr, self.updates, budget(self.config, self.run))

    def measured(self, rows: tianshou.Transitions, losses: Mapping[str, float]) -> Metrics:
        """The library's losses, and what the update did."""
        batch = rows.learned
        few = batch[np.linspace(0, len(batch) - 1, min(len(batch), LOOKED_AT)).astype(np.int64)]
        with torch.no_grad():
            moved = few.logp_old - tianshou.distribution(self.algorithm.policy, few.obs).log_prob(few.act)
        explained = 1 - (batch.returns - batch.v_s).var() / batch.returns.var().clamp(min=1e-8)
        return {
            "loss": losses["loss"],
            "loss/policy": losses["actor_loss"],
            "loss/value": losses["vf_loss"],
            "policy_entropy": losses["ent_loss"],
            "value": batch.v_s.mean(),
            "advantage": batch.adv.abs().mean(),
            "explained_variance": explained,
            "policy_change": moved.mean(),
            "learning_rate": self.adam.made.param_groups[0]["lr"],
            "gradient_norm": optim.global_norm(self.adam.made.param_groups[0]["params"]),
        }

    # ---- reports and saving

    def report(self, phase: str, experience: Experience) -> Metrics:
        """Nothing that costs more."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """Everything that a resumed run needs to go on as if nothing had happened."""
        return baselines.saved(
            self.parts,
            {"both": self.adam},
            updates=self.updates,
            since=self.since,
            returns=tianshou.running(self.algorithm),
        )

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore ``state_dict``."""
        learning = baselines.restore(state, self.parts, {"both": self.adam})
        self.updates, self.since = int(learning["updates"]), int(learning["since"])
        tianshou.run_on(self.algorithm, learning["returns"])
