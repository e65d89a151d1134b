"""What the Dreamers' heads say, as closed forms on the numbers that a network gives.

Rewards and values: a unit normal (V1, V2) or two-hot over symmetric exponential bins (V3). Actions: one class
``Choice`` a kind, each with ``outs`` (numbers asked of the network), ``sample``, ``mode``, ``log_prob``, ``entropy``.
Samples are drawn from torch's global generator.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from dreamlab.nn.latents import race, race_noise, softmax

HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)


def symlog(x: Tensor) -> Tensor:
    """sign(x) log(1 + |x|)."""
    return x.sign() * x.abs().log1p()


def symexp(x: Tensor) -> Tensor:
    """sign(x) (exp|x| - 1): the inverse of ``symlog``."""
    return x.sign() * x.abs().expm1()


def unit_normal_loss(mean: Tensor, target: Tensor) -> Tensor:
    """-log N(target; mean, 1), elementwise: half the squared error and a constant."""
    return 0.5 * (mean - target).square() + HALF_LOG_2PI


def bernoulli_loss(logit: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy of a probability with a target in [0, 1], elementwise."""
    return F.binary_cross_entropy_with_logits(logit, target, reduction="none")


class TwoHot:
    """A number as weights of the two around it, of 255 bins from -4.85e8 to 4.85e8 (arXiv:2301.04104v2).

    The bins are ``symexp`` of equal steps. Interpolated in the number's own units, not in symlog's.
    """

    def __init__(self, device: torch.device | str = "cpu", size: int = 255) -> None:
        half = symexp(torch.linspace(-20, 0, (size + 1) // 2, dtype=torch.float32, device=device))
        self.bins = torch.cat([half, -half[:-1].flip(0)])  # antisymmetric to the bit, 0 in the middle
        self.outs = size

    def place(self, x: Float[Tensor, "*batch"]) -> tuple[Tensor, Tensor, Tensor]:
        """The bins below and above x, and how near it is to the upper one; clamped outside."""
        above = torch.bucketize(x.contiguous(), self.bins).clamp(1, self.outs - 1)
        low, high = self.bins[above - 1], self.bins[above]
        return above - 1, above, ((x - low) / (high - low)).clamp(0, 1)

    def loss(self, logits: Float[Tensor, "*batch 255"], *targets: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
        """Cross-entropy with the target's weights, of 255 log-probabilities two; the sum over several targets."""
        places = [self.place(target) for target in targets]
        index = torch.stack([end for below, above, _ in places for end in (below, above)], -1)
        weight = torch.stack([w for *_, near in places for w in (1 - near, near)], -1)
        return _TwoHotLoss.apply(logits.float(), index, weight)  # type: ignore[no-any-return]

    def mean(self, logits: Float[Tensor, "*batch 255"]) -> Float[Tensor, "*batch"]:
        """Sum of p * bin, mirrored bins first: equal probabilities give exactly 0."""
        half = self.outs // 2
        p = logits.float().softmax(-1)
        above, below = p[..., half + 1 :], p[..., :half].flip(-1)
        return ((above - below) * self.bins[half + 1 :]).sum(-1)


class _TwoHotLoss(torch.autograd.Function):
    """-sum of weight * log softmax at a few classes; going back costs no more than its result."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, index: Tensor, weight: Tensor) -> Tensor:
        log_p = logits.log_softmax(-1)
        ctx.save_for_backward(log_p, index, weight)
        return -(log_p.gather(-1, index) * weight).sum(-1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        log_p, index, weight = ctx.saved_tensors
        to_logits = log_p.exp().mul_(weight.sum(-1, keepdim=True)).scatter_add_(-1, index, -weight)
        return to_logits.mul_(grad.unsqueeze(-1)), None, None


# ---- actions


class Choice(Protocol):
    """A distribution over actions (..., A), from the numbers (..., outs) of a network."""

    outs: int

    def sample(self, out: Tensor) -> Tensor: ...
    def mode(self, out: Tensor) -> Tensor: ...
    def log_prob(self, out: Tensor, act: Tensor) -> Tensor: ...
    def entropy(self, out: Tensor) -> Tensor: ...


class OneHots:
    """One class of each group, as one-hot numbers one after another; ``unimix`` of a uniform is mixed in.

    Samples pass gradients straight through to the probabilities (V1 and V2 learn by them).
    """

    def __init__(self, sizes: Sequence[int], unimix: float = 0.0) -> None:
        self.sizes, self.unimix, self.outs = list(sizes), unimix, sum(sizes)

    def probs(self, out: Tensor) -> list[Tensor]:
        """Of each group (..., n)."""
        found = [softmax(part) for part in out.float().split(self.sizes, -1)]
        return [torch.lerp(p, torch.full_like(p, 1 / p.shape[-1]), self.unimix) if self.unimix else p for p in found]

    def sample(self, out: Tensor) -> Tensor:
        drawn = []
        for p in self.probs(out):
            chosen = race(p.detach(), race_noise(*p.shape, device=p.device))
            drawn.append(F.one_hot(chosen, p.shape[-1]) + p - p.detach())
        return torch.cat(drawn, -1)

    def mode(self, out: Tensor) -> Tensor:
        return torch.cat([F.one_hot(p.argmax(-1), p.shape[-1]) + p - p.detach() for p in self.probs(out)], -1)

    def log_prob(self, out: Tensor, act: Tensor) -> Tensor:
        parts = zip(self.probs(out), act.split(self.sizes, -1), strict=True)
        return torch.stack([(p.log() * one).sum(-1) for p, one in parts]).sum(0)

    def entropy(self, out: Tensor) -> Tensor:
        return torch.stack([-(p * p.log()).sum(-1) for p in self.probs(out)]).sum(0)


class BoundedNormal:
    """DreamerV3: mean tanh(m), deviation between 0.1 and 1 (0.89 at first); samples are not squashed or clipped."""

    def __init__(self, size: int, low: float = 0.1, high: float = 1.0) -> None:
        self.outs, self.low, self.high = 2 * size, low, high

    def _parts(self, out: Tensor) -> tuple[Tensor, Tensor]:
        mean, std = out.float().chunk(2, -1)
        return mean.tanh(), self.low + (self.high - self.low) * torch.sigmoid(std + 2)

    def sample(self, out: Tensor) -> Tensor:
        mean, std = self._parts(out)
        return mean + std * torch.randn_like(mean)

    def mode(self, out: Tensor) -> Tensor:
        return self._parts(out)[0]

    def log_prob(self, out: Tensor, act: Tensor) -> Tensor:
        mean, std = self._parts(out)
        return (-0.5 * ((act - mean) / std).square() - std.log() - HALF_LOG_2PI).sum(-1)

    def entropy(self, out: Tensor) -> Tensor:
        return (self._parts(out)[1].log() + HALF_LOG_2PI + 0.5).sum(-1)
