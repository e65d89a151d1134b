"""The mathematics of the actor-critic controller: two small networks, and what steps teach them. Ours.

::

    feat   f0      f1      f2   ...   f[T]       what C acts on: z, and of M's memory what ``inputs`` says
    raw       a0      a1        ...              numbers that ``Actions`` turns into an action
    rew       r0      r1        ...              what the step from t gave: reward, and whether it goes on (con)
    value  V0 ◀─── V1 ◀─── V2   ...   V[T]       lambda-returns: targets of the critic, and of the actor less V

Actor: policy gradient (REINFORCE) with advantages in standard deviations of the returns, and an entropy bonus.
Critic: squared error; it predicts standardised returns, and its output layer is rewritten whenever their running
mean and deviation move, so that its values stay (PopArt: van Hasselt et al. 2016, arXiv:1602.07714): rewards may
be of any size.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from dreamlab.agents.world_models.memory import HALF_LOG_2PI
from dreamlab.core.types import Batch
from dreamlab.nn.returns import lambda_return

RATE = 0.01
"""of the running mean and deviation of returns"""
LEAST = 1e-4
"""smallest deviation that returns are divided by"""


# ---- the actor


class Categorical(nn.Module):
    """One of A choices, from their logits; raw is the choice as one-hot numbers."""

    def draw(self, out: Float[Tensor, "*batch A"], rng: torch.Generator) -> Float[Tensor, "*batch A"]:
        """A choice by its probability (Gumbel's trick)."""
        return self.mode(out - torch.empty_like(out).exponential_(generator=rng).log())

    def mode(self, out: Float[Tensor, "*batch A"]) -> Float[Tensor, "*batch A"]:
        """The likeliest choice."""
        return F.one_hot(out.argmax(-1), out.shape[-1]).to(out)

    def log_prob(self, out: Float[Tensor, "*batch A"], raw: Float[Tensor, "*batch A"]) -> Float[Tensor, "*batch"]:
        """Of the choice, in nats."""
        return (out.log_softmax(-1) * raw).sum(-1)

    def entropy(self, out: Float[Tensor, "*batch A"]) -> Float[Tensor, "*batch"]:
        """In nats: 0 to log A."""
        log_prob = out.log_softmax(-1)
        return -(log_prob.exp() * log_prob).sum(-1)


class Gaussian(nn.Module):
    """Independent numbers around their means; the deviations are learned, and the same everywhere.

    Raw numbers are drawn before they are squashed into an action, and so are their densities and entropy: a policy
    gradient needs no more.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.log_std = nn.Parameter(torch.zeros(size))

    def draw(self, out: Float[Tensor, "*batch A"], rng: torch.Generator) -> Float[Tensor, "*batch A"]:
        """Numbers by their density."""
        return out + self.log_std.exp() * torch.empty_like(out).normal_(generator=rng)

    def mode(self, out: Float[Tensor, "*batch A"]) -> Float[Tensor, "*batch A"]:
        """The means."""
        return out

    def log_prob(self, out: Float[Tensor, "*batch A"], raw: Float[Tensor, "*batch A"]) -> Float[Tensor, "*batch"]:
        """Of the raw numbers, in nats."""
        scaled = (raw - out) * (-self.log_std).exp()
        return (-0.5 * scaled.square() - self.log_std - HALF_LOG_2PI).sum(-1)

    def entropy(self, out: Float[Tensor, "*batch A"]) -> Float[Tensor, "*batch"]:
        """Of the raw numbers, in nats."""
        return (self.log_std + HALF_LOG_2PI + 0.5).sum().expand(out.shape[:-1])


class Actor(nn.Module):
    """Features to the numbers of a distribution over raw actions; at first nearly the same everywhere."""

    def __init__(self, features: int, hidden: int, act: int, choice: Categorical | Gaussian) -> None:
        super().__init__()
        self.net = _layers(features, hidden, act)
        self.choice = choice

    def forward(self, feat: Float[Tensor, "*batch F"]) -> Float[Tensor, "*batch A"]:
        return self.net(feat)


# ---- the critic


class Critic(nn.Module):
    """Standardised returns, whose running mean and deviation are buffers."""

    mean: Tensor
    std: Tensor
    count: Tensor

    def __init__(self, features: int, hidden: int) -> None:
        super().__init__()
        self.net = _layers(features, hidden, 1)
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("std", torch.ones(()))
        self.register_buffer("count", torch.zeros(()))

    def forward(self, feat: Float[Tensor, "*batch F"]) -> Float[Tensor, "*batch"]:
        """The return, standardised."""
        return self.net(feat).squeeze(-1)

    def value(self, feat: Float[Tensor, "*batch F"]) -> Float[Tensor, "*batch"]:
        """The return, in units of reward."""
        return self.mean + self.std * self(feat)

    def standardise(self, ret: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
        """What ``forward`` is to predict of these returns."""
        return (ret - self.mean) / self.std

    @torch.no_grad()
    def adapt(self, ret: Float[Tensor, "*batch"], weight: Float[Tensor, "*batch"]) -> None:
        """Take returns into mean and deviation, and rewrite the output layer: ``value`` stays what it was.

        The first hundred batches count alike, later ones less and less the older they are.
        """
        total = weight.sum()
        known = (total > 0).to(total)  # without a step there is nothing to take in
        self.count += known
        rate = known * (1 / self.count.clamp(min=1)).clamp(min=RATE)
        share = weight / total.clamp(min=1e-8)
        mean = (share * ret).sum()
        var = (share * (ret - mean).square()).sum()
        apart = mean - self.mean
        old_mean, old_std = self.mean.clone(), self.std.clone()
        self.mean += rate * apart
        var = (1 - rate) * old_std.square() + rate * var + rate * (1 - rate) * apart.square()
        self.std.copy_(var.sqrt().clamp(min=LEAST))
        out = self.net[-1]
        assert isinstance(out, nn.Linear)
        out.weight.mul_(old_std / self.std)
        out.bias.mul_(old_std / self.std).add_((old_mean - self.mean) / self.std)


def _layers(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    """One hidden layer of tanh units; the outputs are nearly 0 at first."""
    last = nn.Linear(hidden, outputs)
    nn.init.orthogonal_(last.weight, 0.01)
    nn.init.zeros_(last.bias)
    return nn.Sequential(nn.Linear(inputs, hidden), nn.Tanh(), last)


# ---- what they learn from


class Steps(NamedTuple):
    """T steps of N rows, time first; ``feat`` has one row more, where the last step led."""

    feat: Tensor
    """(T + 1, N, F)"""
    raw: Tensor
    """(T, N, A)"""
    rew: Tensor
    """(T, N) of the step from t"""
    con: Tensor
    """(T, N) 1 where the episode goes on after the step from t, else 0"""
    weight: Tensor
    """(T, N) 1 where there is a step from t, else 0"""


def returns(steps: Steps, value: Float[Tensor, "T1 N"], discount: float, trace: float) -> Float[Tensor, "T N"]:
    """Lambda-returns; where no step is taken, the row's own value."""
    there = steps.weight > 0
    rew = torch.where(there, steps.rew, value[:-1])
    con = torch.where(there, steps.con, 0.0)
    return lambda_return(rew, con, value[:-1], value[-1], discount, trace)


def losses(actor: Actor, critic: Critic, steps: Steps, ret: Float[Tensor, "T N"]) -> dict[str, Float[Tensor, "T N"]]:
    """``actor``: -log p(a) * (R - V) / deviation; ``entropy``: its negative; ``critic``: half the squared error."""
    feat = steps.feat[:-1]
    target, said, out = critic.standardise(ret).detach(), critic(feat), actor(feat)
    advantage = target - said.detach()
    return {
        "actor": -actor.choice.log_prob(out, steps.raw) * advantage,
        "entropy": -actor.choice.entropy(out),
        "critic": 0.5 * (said - target).square(),
    }


def practised(batch: Batch) -> Steps:
    """Steps of rows (N, T + 1) that the exploring policy has written: both rows noted, and of one episode."""
    noted = (batch.extras["raw"] != 0).any(-1) & batch.mask  # a column has zeros where it was not written
    there = noted[:, :-1] & noted[:, 1:] & ~batch.is_first[:, 1:]
    return Steps(
        feat=batch.extras["feat"].transpose(0, 1),
        raw=batch.extras["raw"][:, :-1].transpose(0, 1),
        rew=batch.rew[:, 1:].t(),
        con=(~batch.is_terminal[:, 1:]).float().t(),
        weight=there.float().t(),
    )
