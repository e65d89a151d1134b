"""SAC (Haarnoja et al. 2018, arXiv:1812.05905; discrete actions: Christodoulou 2019, arXiv:1910.07207).

::

    target   r[t+1] + gamma (min(Q1', Q2')(s[t+1], a') + alpha H)      a' by the policy now; nothing after a true end
    Q'       a slow copy of Q: ``tau`` of the way at each update
    policy   raises min(Q1, Q2) + alpha H; alpha is learned so that the entropy H comes near its target

The action space decides: squashed Gaussians in a Box, classes where one of n is chosen. Networks, losses and update are
Tianshou's (``nn/tianshou.py``); rows, acting and the recipe are ours. Actions of rows are in the environment's units,
the networks' between -1 and 1.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from dreamlab.agents import Footprint, act_then_learn, refuse_lacking
from dreamlab.agents.random import Uniform
from dreamlab.core.config import at_least, positive
from dreamlab.core.lazy import lazy
from dreamlab.core.protocols import Experience, Phase, Policy

if TYPE_CHECKING:
    from gymnasium import spaces
    from torch import nn

    from dreamlab.core import seeds
    from dreamlab.core.types import Metrics, Recorded
    from dreamlab.nn import baselines, optim, tianshou
    from dreamlab.nn import frames as seeing
    from dreamlab.nn.compute import Compute
    from dreamlab.run.config import RunConfig
else:  # the settings below are the command line's help, which waits for no networks
    seeds, baselines, optim = lazy("dreamlab.core.seeds"), lazy("dreamlab.nn.baselines"), lazy("dreamlab.nn.optim")
    tianshou, seeing = lazy("dreamlab.nn.tianshou"), lazy("dreamlab.nn.frames")

SEES = "any"
DREAMS = False
EXTENDS = ("steps", "run.steps")
DRY_RUN = {"steps": 400, "prefill": 200, "every": 20.0}


@dataclass(frozen=True)
class Config:
    """SAC: two critics and a policy of high entropy; pixels or vectors, discrete or continuous actions."""

    hidden: tuple[int, ...] = (256, 256)
    """units of the dense layers; pictures go through three convolutions first"""
    stack: int = 1
    """pictures that are seen at once, where there are pictures"""
    steps: int = 100_000
    """environment steps, unless the run says how many"""
    prefill: int = 1000
    """environment steps of random actions before the first update"""
    every: float = 1.0
    """environment steps for each update"""
    batch: int = 256
    """steps that an update learns from"""
    lr: float = 3e-4
    """learning rate of policy and critics"""
    anneal: bool = False
    """let that learning rate fall to 0 over the run: the likeliest action may turn with any one update"""
    alpha_lr: float = 3e-4
    """learning rate of the entropy's weight"""
    discount: float = 0.99
    """gamma"""
    n_step: int = 1
    """rewards that a target is made of before it trusts a value"""
    tau: float = 0.005
    """share of the critics that their slow copies take over at each update"""
    alpha: float = 1.0
    """weight of the entropy at first"""
    entropy_continuous: float = -1.0
    """entropy that is aimed at for each number of a continuous action, in nats"""
    entropy_discrete: float = 0.5
    """the same for one of n, as a share of the most that is possible"""
    evaluation: Literal["sample", "mode"] = "mode"
    """how actions are chosen when it is evaluated"""

    def __post_init__(self) -> None:
        for name in ("stack", "steps", "prefill", "batch", "n_step"):
            at_least(name, getattr(self, name), 1)
        for name in ("every", "lr", "alpha_lr", "alpha"):
            positive(name, getattr(self, name))
        for name in ("discount", "tau", "entropy_discrete"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be between 0 and 1, got {getattr(self, name)}")
        if not self.hidden or min(self.hidden) < 1:
            raise ValueError(f"hidden must be one or more sizes of at least 1, got {self.hidden}")


def budget(
    config: Config, run: RunConfig, loaded: Collection[str] = (), recorded: Recorded | None = None
) -> list[Phase]:
    """Act at random; then act and learn, a round one update. From recordings as often as from steps of its own."""
    return act_then_learn(config, run, recorded)


def footprint(config: Config, obs_space: spaces.Dict, act_space: spaces.Space, run: RunConfig) -> Footprint:
    """Of one update; nothing beside a row."""
    held = config.batch * (config.n_step + 1)
    return Footprint(baselines.memory(obs_space, config.stack, config.hidden, held, 3 * config.batch), row_bytes=0)


def build(
    config: Config, obs_space: spaces.Dict, act_space: spaces.Space, compute: Compute, seed: int, run: RunConfig
) -> SAC:
    """A fresh agent.

    Raises:
        UserError: actions it cannot choose, pictures too small, or the library is not installed.
    """
    return SAC(config, obs_space, act_space, compute, seed, run)


class SAC:
    """The agent (``core.protocols.Agent``)."""

    copies = ("slow_critic", "slow_critic_2")
    """parts that follow others, and are not optimised"""

    def __init__(
        self,
        config: Config,
        obs_space: spaces.Dict,
        act_space: spaces.Space,
        compute: Compute,
        seed: int,
        run: RunConfig,
    ) -> None:
        baselines.refuse_precision("sac", compute)
        self.config, self.run, self.compute, self.act_space = config, run, compute, act_space
        self.evaluation = config.evaluation  # may be set to the other way for one evaluation
        self.acts = baselines.actions("sac", act_space)
        self.frames = seeing.Frames(obs_space, config.stack)
        size, discrete = self.acts.size, bool(self.acts.groups)
        with seeds.forked(seed, "init"):
            actor = (tianshou.logits if discrete else tianshou.gaussian)(self.encoder(), size)
            critics = (self.critic(size, discrete), self.critic(size, discrete))
        target = config.entropy_discrete * math.log(size) if discrete else config.entropy_continuous * size
        self.adams = {name: tianshou.Adam(config.lr) for name in ("actor", "critic", "critic_2")}
        self.adams["alpha"] = tianshou.Adam(config.alpha_lr)
        self.alpha = tianshou.Alpha(target, config.alpha, self.adams["alpha"])
        baselines.on_device(compute, actor, *critics, self.alpha)
        self.algorithm = tianshou.sac(
            actor, critics, act_space, self.alpha,
            (self.adams["actor"], self.adams["critic"], self.adams["critic_2"]),
            tau=config.tau, gamma=config.discount, n_step_return_horizon=config.n_step,
        )  # fmt: skip
        self.draw = baselines.Drawn(self.frames, self.acts, config.n_step, seed)
        self.updates = 0
        self.recorded: Recorded | None = None

    def encoder(self) -> tianshou.Encoder:
        """Eyes of its own for each network."""
        return tianshou.Encoder(self.frames, self.config.hidden, "relu")

    def critic(self, size: int, discrete: bool) -> nn.Module:
        """The value of each action, or of one that is given."""
        if discrete:
            return tianshou.values(self.encoder(), size)
        return tianshou.action_values(self.frames, self.config.hidden, size)

    @property
    def parts(self) -> Mapping[str, nn.Module]:
        one = self.algorithm
        return {
            "actor": one.policy.actor, "critic": one.critic, "critic_2": one.critic2, "alpha": self.alpha,
            "slow_critic": one.critic_old, "slow_critic_2": one.critic2_old,
        }  # fmt: skip

    @property
    def learns(self) -> int:
        """Steps that an update learns from."""
        return self.config.batch

    @property
    def rate(self) -> float:
        """The learning rate of the next update."""
        if not self.config.anneal:
            return self.config.lr
        return baselines.annealed(self.config.lr, self.updates, budget(self.config, self.run, (), self.recorded))

    def phases(self) -> Sequence[Phase]:
        """``budget`` with the live parts bound to it."""
        act = {"prefill": Uniform(self.act_space), "train": self.policy(explore=True)}
        learn = ((self.learn, 1),)
        return [
            Phase(p.name, act[p.name] if p.env_steps else None, learn if p.rounds else (), p.env_steps, p.rounds)
            for p in budget(self.config, self.run, (), self.recorded)
        ]

    def policy(self, explore: bool) -> Policy:
        """It draws while it is trained, and takes the likeliest action when it is evaluated."""
        return baselines.Acting(
            self.frames,
            self.acts,
            self.compute.device,
            lambda seen: tianshou.choose(self.algorithm.policy, seen, explore or self.evaluation == "sample"),
            keep=False,
        )

    def learn_from(self, recorded: Recorded) -> None:
        """Learn from recordings alone.

        Raises:
            UserError: they lack actions or rewards.
        """
        refuse_lacking("sac", recorded)
        self.recorded = recorded

    def learn(self, experience: Experience) -> Metrics:
        """One update."""
        rows = self.draw(experience, self.config.batch)
        for name in ("actor", "critic", "critic_2"):
            for group in self.adams[name].made.param_groups:
                group["lr"] = self.rate
        losses = tianshou.update(self.algorithm, rows)
        self.updates += 1
        target, error = rows.learned.returns.flatten(), rows.learned.weight.detach()  # error: value less target
        return {
            "loss/policy": losses["actor_loss"],
            "loss/critic": losses["critic1_loss"],
            "loss/critic_2": losses["critic2_loss"],
            "loss/alpha": losses["alpha_loss"],
            "alpha": losses["alpha"],
            "policy_entropy": self.alpha.entropy,
            "value": (target + error).mean(),
            "target": target.mean(),
            "td_error": error.abs().mean(),
            "learning_rate": self.adams["actor"].made.param_groups[0]["lr"],
            "gradient_norm": optim.global_norm(self.algorithm.policy.actor.parameters()),
        }

    def report(self, phase: str, experience: Experience) -> Metrics:
        """Nothing that costs more."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """Everything that a resumed run needs to go on as if nothing had happened."""
        return baselines.saved(self.parts, self.adams, updates=self.updates, windows=self.draw.windows.state_dict())

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore ``state_dict``."""
        learning = baselines.restore(state, self.parts, self.adams)
        self.updates = int(learning["updates"])
        self.draw.windows.load_state_dict(learning["windows"])
