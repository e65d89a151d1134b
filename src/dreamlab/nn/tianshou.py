"""Tianshou's networks and updates (https://github.com/thu-ml/tianshou, 2.0) on rows of ours.

Only three things are taken from the library: networks (``MLP``, actors, critics), policies as heads over them, and an
algorithm's ``update``. Its collectors, trainers, buffers and environments are not used. ``update`` asks a replay buffer
for a batch, for what came next, and for where episodes ended: ``Transitions`` answers from a batch of rows.

::

    rows          t            t+1                 transition t
    obs           obs[t]       obs[t+1]            obs, obs_next
    act           act[t]                           act
    rew                        rew[t+1]            rew         what act[t] earned
    is_terminal                is_terminal[t+1]    terminated  nothing comes after: no bootstrap
    is_last                    is_last[t+1]        done        at a time limit obs_next is bootstrapped from

A row with ``is_last`` begins no transition: what comes after it is another episode.

The library compiles three short loops by numba when it is imported, which takes ten seconds at each start and gains
nothing here; they are left as they are written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from dreamlab.core.errors import UserError, missing_package
from dreamlab.nn import optim
from dreamlab.nn.frames import Frames


@contextmanager
def _as_written() -> Iterator[None]:
    """Functions that are to be compiled by numba are left as they are inside the block."""
    import numba

    settings: Any = numba.config
    before, settings.DISABLE_JIT = settings.DISABLE_JIT, True
    try:
        yield
    finally:
        settings.DISABLE_JIT = before


try:
    with _as_written():
        from tianshou.algorithm import DQN, PPO, SAC, DiscreteSAC
        from tianshou.algorithm.modelfree.discrete_sac import DiscreteSACPolicy
        from tianshou.algorithm.modelfree.dqn import DiscreteQLearningPolicy
        from tianshou.algorithm.modelfree.reinforce import DiscreteActorPolicy, ProbabilisticActorPolicy
        from tianshou.algorithm.modelfree.sac import AutoAlpha, SACPolicy
        from tianshou.algorithm.optim import OptimizerFactory
        from tianshou.data import Batch
        from tianshou.utils.net.common import MLP, ModuleWithVectorOutput
        from tianshou.utils.net.continuous import ContinuousActorProbabilistic, ContinuousCritic
        from tianshou.utils.net.discrete import DiscreteActor, DiscreteCritic
        from tianshou.utils.torch_utils import policy_within_training_step
except ImportError as error:
    raise missing_package("tianshou", "baselines", f"a baseline (dqn, ppo, sac; {error})") from error

ACTIVATIONS = {"relu": nn.ReLU, "tanh": nn.Tanh}


# ---- rows as the library's buffer


class Transitions:
    """Windows of rows as the replay buffer that an update asks: transition (b, t) has the index ``b * (T - 1) + t``.

    Args:
        seen: what is seen, (B, T, ...).
        act: what was done, as the library has it: int64 (B, T), or float32 (B, T, A).
        rew: (B, T).
        is_last, is_terminal: (B, T) bool.
        all_of_them: learn from every transition, window by window; else from the first of each window.
    """

    def __init__(
        self, seen: Tensor, act: Tensor, rew: Tensor, is_last: Tensor, is_terminal: Tensor, all_of_them: bool
    ) -> None:
        self.times = is_last.shape[1]
        self.seen, self.act = seen.flatten(0, 1), act[:, :-1].flatten(0, 1)
        self.rew, self.done, self.terminated = (
            x[:, 1:].flatten().cpu().numpy() for x in (rew.double(), is_last, is_terminal)
        )
        begun = ~is_last[:, :-1].cpu().numpy()  # (B, T - 1)
        if not all_of_them:
            begun[:, 1:] = False
        self.chosen = np.flatnonzero(begun)
        self.learned: Any = None
        """the batch of the last update, with what the library has put beside it"""

    def __len__(self) -> int:
        return len(self.rew)

    def __getitem__(self, indices: np.ndarray) -> Any:
        window, time = np.divmod(indices, self.times - 1)
        rows = torch.from_numpy(window * self.times + time).to(self.seen.device)
        return Batch(
            obs=self.seen[rows],
            obs_next=self.seen[rows + 1],
            act=self.act[torch.from_numpy(indices).to(self.act.device)],
            rew=self.rew[indices],
            terminated=self.terminated[indices],
            truncated=self.done[indices] & ~self.terminated[indices],
            done=self.done[indices],
            info=Batch(),
        )

    def sample(self, size: int | None) -> tuple[Any, np.ndarray]:
        """All that are to be learned from, in their order: which they are was drawn before."""
        self.learned = self[self.chosen]
        return self.learned, self.chosen

    def next(self, indices: np.ndarray) -> np.ndarray:
        """The transition that follows; itself where the episode or the window ends."""
        return indices + ~(self.done[indices] | ((indices + 1) % (self.times - 1) == 0))

    def unfinished_index(self) -> np.ndarray:
        """Where a window ends inside an episode."""
        last = np.arange(self.times - 2, len(self), self.times - 1)
        return last[~self.done[last]]


def update(algorithm: Any, rows: Transitions, **how: int) -> dict[str, float]:
    """One update by the library on all of the rows that are to be learned from. Returns its losses by name."""
    sampled = {} if how else {"sample_size": None}  # the on-policy ones are told batch size and repetitions instead
    with policy_within_training_step(algorithm.policy):
        told = algorithm.update(buffer=rows, **sampled, **how).get_loss_stats_dict()
    return {name: float(value) for name, value in told.items()}


def choose(policy: Any, seen: Tensor, sample: bool) -> Tensor:
    """Actions (N,) or (N, A) of a policy of the library: drawn, or the likeliest."""
    with policy_within_training_step(policy, sample):
        return torch.as_tensor(policy(Batch(obs=seen, info=Batch())).act)


def distribution(policy: Any, seen: Tensor) -> torch.distributions.Distribution:
    """What a policy of the library draws its actions from; nothing is drawn."""
    with policy_within_training_step(policy, False):
        return policy(Batch(obs=seen, info=Batch())).dist


# ---- networks


class Eyes(ModuleWithVectorOutput):
    """What is seen as one vector (N, F): pictures through convolutions, and the vector as it is."""

    def __init__(self, frames: Frames) -> None:
        width = frames.vector
        if frames.shape is not None:
            with torch.no_grad(), torch.device("meta"):
                width += convolutions(frames.shape)(torch.zeros(1, *frames.shape)).shape[1]
        super().__init__(width)
        self.frames = frames
        self.convolutions = convolutions(frames.shape) if frames.shape is not None else None

    def forward(self, obs: Tensor, state: Any = None, info: Any = None) -> tuple[Tensor, Any]:
        """The vector, and the state that there is none of."""
        picture, vector = self.frames.unpacked(obs)
        parts = [] if vector is None else [vector.float()]
        if picture is not None and self.convolutions is not None:
            parts.append(self.convolutions(picture.float() / 255))
        return torch.cat(parts, -1), state


class Encoder(ModuleWithVectorOutput):
    """Features (N, hidden[-1]) of what is seen: dense layers over ``Eyes``."""

    def __init__(self, frames: Frames, hidden: Sequence[int], activation: Literal["relu", "tanh"]) -> None:
        super().__init__(hidden[-1])
        self.eyes = Eyes(frames)
        self.dense = MLP(
            input_dim=self.eyes.get_output_dim(), hidden_sizes=tuple(hidden), activation=ACTIVATIONS[activation]
        )

    def forward(self, obs: Tensor, state: Any = None, info: Any = None) -> tuple[Tensor, Any]:
        """The features, and the state that there is none of."""
        return self.dense(self.eyes(obs)[0]), state


def convolutions(shape: tuple[int, int, int]) -> nn.Module:
    """The three convolutions of Mnih et al. (2015) for pictures of 36 pixels and more; 3x3 ones for smaller ones.

    Raises:
        UserError: pictures smaller than 8 pixels.
    """
    channels, least = shape[0], min(shape[1:])
    if least < 8:
        raise UserError(f"pictures of at least 8 by 8 pixels are needed, got {shape[1]} by {shape[2]} (--env.size)")
    if least >= 36:
        layers = ((32, 8, 4), (64, 4, 2), (64, 3, 1))
    else:
        layers = ((32, 3, 2 if least >= 14 else 1), (64, 3, 1), (64, 3, 1))
    found: list[nn.Module] = []
    for out, kernel, stride in layers:
        found += [nn.Conv2d(channels, out, kernel, stride), nn.ReLU()]
        channels = out
    return nn.Sequential(*found, nn.Flatten())


def logits(encoder: Encoder, outs: int) -> Any:
    """One number for each action: values, or logits of a choice."""
    return DiscreteActor(preprocess_net=encoder, action_shape=outs, softmax_output=False)


def gaussian(encoder: Encoder, outs: int) -> Any:
    """Mean and standard deviation of each part of an action, both by what is seen."""
    return ContinuousActorProbabilistic(
        preprocess_net=encoder, action_shape=outs, unbounded=True, conditioned_sigma=True
    )


def gaussian_alone(encoder: Encoder, outs: int) -> Any:
    """The same with standard deviations that are learned, and do not depend on what is seen."""
    return ContinuousActorProbabilistic(preprocess_net=encoder, action_shape=outs, unbounded=True)


def values(encoder: Encoder, outs: int = 1) -> nn.Module:
    """The value of what is seen (N, 1), or of each action there (N, outs)."""
    return DiscreteCritic(preprocess_net=encoder, last_size=outs)


def action_values(frames: Frames, hidden: Sequence[int], size: int) -> nn.Module:
    """The value of what is seen and of an action (N, size) there: (N, 1). They meet after the convolutions."""
    wide = Eyes(frames)
    critic = ContinuousCritic(preprocess_net=wide, apply_preprocess_net_to_obs_only=True)
    critic.last = MLP(input_dim=wide.get_output_dim() + size, output_dim=1, hidden_sizes=tuple(hidden))
    return critic


def orthogonal(network: nn.Module, last: nn.Module | None = None, scale: float = 0.01) -> None:
    """Orthogonal weights and no biases, as PPO is usually begun; the last layer's are small."""
    for module in network.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            nn.init.orthogonal_(module.weight, 2**0.5)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    for module in last.modules() if last is not None else ():
        if isinstance(module, nn.Linear):
            with torch.no_grad():
                module.weight.mul_(scale)


# ---- algorithms


class Adam(OptimizerFactory):
    """Makes an Adam for the library, and keeps it: ``made``."""

    def __init__(self, lr: float, eps: float = 1e-8) -> None:
        super().__init__()
        self.lr, self.eps = lr, eps
        self.made: Any = None

    def _create_optimizer_for_params(self, params: Any) -> torch.optim.Optimizer:
        self.made = optim.adam(params, self.lr, self.eps)
        return self.made


def double_dqn(net: nn.Module, act_space: spaces.Space, adam: Adam, **settings: Any) -> Any:
    """Double DQN: ``policy.model``, and ``model_old``, which targets are made of."""
    policy = DiscreteQLearningPolicy(model=net, action_space=act_space)
    return DQN(policy=policy, optim=adam, is_double=True, **settings)


def ppo(actor: Any, critic: nn.Module, act_space: spaces.Space, adam: Adam, **settings: Any) -> Any:
    """PPO: ``policy.actor`` and ``critic``, which may share an encoder."""
    policy: Any
    if isinstance(act_space, spaces.Discrete):
        policy = DiscreteActorPolicy(actor=actor, deterministic_eval=True, action_space=act_space)
    else:
        policy = ProbabilisticActorPolicy(
            actor=actor, dist_fn=_normal, deterministic_eval=True, action_space=act_space, action_scaling=False,
            action_bound_method=None,
        )  # fmt: skip
    return PPO(policy=policy, critic=critic, optim=adam, **settings)


def _normal(stats: tuple[Tensor, Tensor]) -> torch.distributions.Distribution:
    return torch.distributions.Independent(torch.distributions.Normal(*stats), 1)


def sac(
    actor: nn.Module, critics: tuple[nn.Module, nn.Module], act_space: spaces.Space, alpha: Any,
    adams: tuple[Adam, Adam, Adam], **settings: Any,
) -> Any:  # fmt: skip
    """SAC: ``policy.actor``, ``critic``, ``critic2``, and the copies ``critic_old`` and ``critic2_old``."""
    policy: Any
    kind: Callable[..., Any]
    if isinstance(act_space, spaces.Discrete):
        policy, kind = DiscreteSACPolicy(actor=actor, action_space=act_space), DiscreteSAC
    else:
        policy, kind = SACPolicy(actor=actor, action_space=act_space, action_scaling=False), SAC
    return kind(
        policy=policy, policy_optim=adams[0], critic=critics[0], critic_optim=adams[1], critic2=critics[1],
        critic2_optim=adams[2], alpha=alpha, **settings,
    )  # fmt: skip


class Alpha(AutoAlpha):
    """The weight of the entropy, which is learned so that the entropy comes near the target.

    ``entropy`` is the policy's at the last update.
    """

    def __init__(self, target: float, start: float, adam: Adam) -> None:
        super().__init__(target, float(np.log(start)), adam)
        self.entropy = float("nan")

    def update(self, entropy: Tensor) -> float:
        """One step towards the target."""
        self.entropy = float(entropy.mean())
        return super().update(entropy)


def count_updates(algorithm: Any, updates: int) -> None:
    """Tell Double DQN how many updates there have been: it copies its network by their number."""
    algorithm._iter = updates


def running(algorithm: Any) -> dict[str, float]:
    """Mean, variance and count of the returns that PPO has seen, which it may divide them by."""
    kept = algorithm.ret_rms
    return {"mean": float(kept.mean), "var": float(kept.var), "count": float(kept.count)}


def run_on(algorithm: Any, returns: Mapping[str, float]) -> None:
    """Take up ``running``."""
    kept = algorithm.ret_rms
    kept.mean, kept.var, kept.count = returns["mean"], returns["var"], returns["count"]
