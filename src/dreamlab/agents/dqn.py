"""Double DQN (van Hasselt et al. 2016, arXiv:1509.06461): values of actions, learned from rows drawn at random.

::

    target   r[t+1] + ... + gamma^(n-1) r[t+n] + gamma^n Q'(s[t+n], argmax_a Q(s[t+n], a))     no Q' after a true end
    Q'       a copy of Q, made anew every ``target_every`` updates

Network, loss and update are Tianshou's (``nn/tianshou.py``); rows, exploration and the recipe are ours.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dreamlab.agents import Footprint, act_then_learn, refuse_lacking
from dreamlab.agents.random import Uniform
from dreamlab.core.config import at_least, positive
from dreamlab.core.lazy import lazy
from dreamlab.core.protocols import Experience, Phase, Policy

if TYPE_CHECKING:
    import torch
    from gymnasium import spaces
    from torch import Tensor, nn

    from dreamlab.core import seeds
    from dreamlab.core.types import Metrics, Recorded
    from dreamlab.nn import baselines, optim, tianshou
    from dreamlab.nn import frames as seeing
    from dreamlab.nn.compute import Compute
    from dreamlab.run.config import RunConfig
else:  # the settings below are the command line's help, which waits for no networks
    torch, seeds = lazy("torch"), lazy("dreamlab.core.seeds")
    baselines, optim = lazy("dreamlab.nn.baselines"), lazy("dreamlab.nn.optim")
    tianshou, seeing = lazy("dreamlab.nn.tianshou"), lazy("dreamlab.nn.frames")

SEES = "any"
DREAMS = False
EXTENDS = ("steps", "run.steps")
DRY_RUN = {"steps": 400, "prefill": 200, "every": 20.0}


@dataclass(frozen=True)
class Config:
    """Double DQN: values of actions; pixels or vectors, one of n actions."""

    hidden: tuple[int, ...] = (128, 128)
    """units of the dense layers; pictures go through three convolutions first"""
    stack: int = 1
    """pictures that are seen at once, where there are pictures"""
    steps: int = 100_000
    """environment steps, unless the run says how many"""
    prefill: int = 1000
    """environment steps of random actions before the first update"""
    every: float = 4.0
    """environment steps for each update"""
    batch: int = 64
    """steps that an update learns from"""
    lr: float = 1e-3
    """learning rate"""
    anneal: bool = False
    """let the learning rate fall to 0 over the run: a greedy policy may turn with any one update"""
    discount: float = 0.99
    """gamma"""
    n_step: int = 1
    """rewards that a target is made of before it trusts a value"""
    target_every: int = 250
    """updates from one copy of the network, which targets are made of, to the next"""
    huber: float | None = None
    """error from which on the loss grows linearly; none: squared everywhere"""
    epsilon: float = 0.05
    """share of random actions once it has learned for a while"""
    epsilon_steps: int = 10_000
    """environment steps in which that share falls there from 1"""
    eval_epsilon: float = 0.0
    """the share when it is evaluated; the protocol of a score says it"""

    def __post_init__(self) -> None:
        for name in ("stack", "steps", "prefill", "batch", "n_step", "target_every", "epsilon_steps"):
            at_least(name, getattr(self, name), 1)
        for name in ("every", "lr"):
            positive(name, getattr(self, name))
        if self.huber is not None:
            positive("huber", self.huber)
        for name in ("discount", "epsilon", "eval_epsilon"):
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
    return Footprint(baselines.memory(obs_space, config.stack, config.hidden, held, config.batch), row_bytes=0)


def build(
    config: Config, obs_space: spaces.Dict, act_space: spaces.Space, compute: Compute, seed: int, run: RunConfig
) -> DoubleDQN:
    """A fresh agent.

    Raises:
        UserError: actions it cannot choose, pictures too small, or the library is not installed.
    """
    return DoubleDQN(config, obs_space, act_space, compute, seed, run)


class DoubleDQN:
    """The agent (``core.protocols.Agent``)."""

    copies = ("target",)
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
        baselines.refuse_precision("dqn", compute)
        self.config, self.run, self.compute, self.act_space = config, run, compute, act_space
        self.acts = baselines.actions("dqn", act_space, continuous=False)
        self.frames = seeing.Frames(obs_space, config.stack)
        with seeds.forked(seed, "init"):
            net = tianshou.logits(tianshou.Encoder(self.frames, config.hidden, "relu"), self.acts.size)
        baselines.on_device(compute, net)
        self.adam = tianshou.Adam(config.lr)
        self.algorithm = tianshou.double_dqn(
            net, act_space, self.adam, gamma=config.discount, n_step_return_horizon=config.n_step,
            target_update_freq=config.target_every, huber_loss_delta=config.huber,
        )  # fmt: skip
        self.draw = baselines.Drawn(self.frames, self.acts, config.n_step, seed)
        self.updates = 0
        self.recorded: Recorded | None = None

    @property
    def parts(self) -> Mapping[str, nn.Module]:
        return {"values": self.algorithm.policy.model, "target": self.algorithm.model_old}

    @property
    def protocol(self) -> Mapping[str, Any]:
        """What a score says besides."""
        return {"epsilon": self.config.eval_epsilon} if self.config.eval_epsilon else {}

    @property
    def learns(self) -> int:
        """Steps that an update learns from."""
        return self.config.batch

    @property
    def epsilon(self) -> float:
        """The share of random actions now: it falls with the updates, which are spread evenly over the steps."""
        share = min(1.0, self.updates * self.config.every / self.config.epsilon_steps)
        return 1.0 + share * (self.config.epsilon - 1.0)

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
        """The action of the highest value, and now and then any."""

        def act(seen: Tensor) -> Tensor:
            best = tianshou.choose(self.algorithm.policy, seen, sample=False).to(seen.device)
            epsilon = self.epsilon if explore else self.config.eval_epsilon
            if not epsilon:
                return best
            any_one = torch.randint_like(best, self.acts.size)
            return torch.where(torch.rand(len(best), device=best.device) < epsilon, any_one, best)

        return baselines.Acting(self.frames, self.acts, self.compute.device, act, keep=False)

    def learn_from(self, recorded: Recorded) -> None:
        """Learn from recordings alone.

        Raises:
            UserError: they lack actions or rewards.
        """
        refuse_lacking("dqn", recorded)
        self.recorded = recorded

    def learn(self, experience: Experience) -> Metrics:
        """One update."""
        rows = self.draw(experience, self.config.batch)
        for group in self.adam.made.param_groups:
            group["lr"] = self.rate
        losses = tianshou.update(self.algorithm, rows)
        self.updates += 1
        target, error = rows.learned.returns.flatten(), rows.learned.weight.detach()
        return {
            **{f"loss/{name}" if name != "loss" else name: value for name, value in losses.items()},
            "value": (target - error).mean(),
            "target": target.mean(),
            "td_error": error.abs().mean(),
            "epsilon": self.epsilon,
            "learning_rate": self.adam.made.param_groups[0]["lr"],
            "gradient_norm": optim.global_norm(self.algorithm.policy.model.parameters()),
        }

    def report(self, phase: str, experience: Experience) -> Metrics:
        """Nothing that costs more."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """Everything that a resumed run needs to go on as if nothing had happened."""
        return baselines.saved(
            self.parts, {"values": self.adam}, updates=self.updates, windows=self.draw.windows.state_dict()
        )

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore ``state_dict``."""
        learning = baselines.restore(state, self.parts, {"values": self.adam})
        self.updates = int(learning["updates"])
        tianshou.count_updates(self.algorithm, self.updates)
        self.draw.windows.load_state_dict(learning["windows"])
