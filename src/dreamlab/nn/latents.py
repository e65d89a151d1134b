"""The stochastic part of a state: a few categorical variables, or Gaussian numbers.

A network gives ``raw`` numbers; ``stats`` makes of them what a loss needs, over any leading axes and all times at
once; ``draw`` makes a sample whose gradient goes straight through. Samples are flat, (..., width).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from dreamlab.core.inside import Classes, Normals


class Latents(Protocol):
    """What an RSSM needs to know of its stochastic part."""

    width: int
    """of a sample, flat"""
    raw: int
    """numbers that a network gives for one"""

    def noise(self, *lead: int, device: torch.device) -> Tensor:
        """Fresh noise for samples (*lead), from torch's global generator."""
        ...

    def draw(self, raw: Tensor, noise: Tensor, temperature: float = 1.0) -> Tensor:
        """A sample (..., width), with the estimator's gradient to ``raw``."""
        ...

    def mode(self, raw: Tensor) -> Tensor:
        """The likeliest sample (..., width)."""
        ...

    def stats(self, raw: Tensor) -> Tensor:
        """What ``kl`` and ``entropy`` take, in float32."""
        ...

    def kl(self, one: Tensor, two: Tensor) -> Tensor:
        """KL(one || two) in nats (...)."""
        ...

    def entropy(self, stats: Tensor) -> Tensor:
        """In nats (...)."""
        ...

    def pack(self, sample: Tensor) -> Tensor:
        """A sample as few bytes (..., n)."""
        ...

    def unpack(self, packed: Tensor) -> Tensor:
        """The sample that was packed (..., width)."""
        ...

    def view(self, sample: Tensor, prior: Tensor, post: Tensor | None) -> Classes | Normals:
        """A sample (N, width), and the statistics that it was drawn by, to be looked at."""
        ...

    def coded(self, value: Tensor) -> Tensor:
        """The sample (N, width) that a view's ``value`` stands for."""
        ...


class Categorical:
    """S variables of K classes each, one-hot; ``unimix`` of a uniform is mixed into each (DreamerV3: 1 %)."""

    def __init__(self, groups: int, classes: int, unimix: float = 0.0) -> None:
        self.groups, self.classes, self.unimix = groups, classes, unimix
        self.width = self.raw = groups * classes

    def noise(self, *lead: int, device: torch.device) -> Float[Tensor, "*lead S K"]:
        """For ``race``."""
        return race_noise(*lead, self.groups, self.classes, device=device)

    def draw(
        self, raw: Float[Tensor, "*batch W"], noise: Float[Tensor, "*batch S K"], temperature: float = 1.0
    ) -> Float[Tensor, "*batch W"]:
        """One-hot going forward, the probabilities' gradient going back: y = onehot + p - sg(p)."""
        raw = raw.unflatten(-1, (self.groups, self.classes)).float()
        raw = raw if temperature == 1 else raw / temperature
        if not torch.is_grad_enabled():
            return _drawn(softmax(raw), noise, self.unimix)
        return _Straight.apply(raw, noise, self.unimix)  # type: ignore[no-any-return]

    def mode(self, raw: Float[Tensor, "*batch W"]) -> Float[Tensor, "*batch W"]:
        raw = raw.unflatten(-1, (self.groups, self.classes))
        return F.one_hot(raw.argmax(-1), self.classes).flatten(-2).float()

    def stats(self, raw: Float[Tensor, "*batch W"]) -> Float[Tensor, "*batch S K"]:
        """Log-probabilities, with the uniform mixed in."""
        raw = raw.unflatten(-1, (self.groups, self.classes)).float()
        if not self.unimix:
            return raw.log_softmax(-1)
        return softmax(raw).mul(1 - self.unimix).add(self.unimix / self.classes).log()

    def kl(self, one: Float[Tensor, "*batch S K"], two: Float[Tensor, "*batch S K"]) -> Float[Tensor, "*batch"]:
        return (one.exp() * (one - two)).sum((-2, -1))

    def entropy(self, stats: Float[Tensor, "*batch S K"]) -> Float[Tensor, "*batch"]:
        return -(stats.exp() * stats).sum((-2, -1))

    def pack(self, sample: Float[Tensor, "*batch W"]) -> UInt8[Tensor, "*batch S"]:
        """The classes, from 1 on; 0 stands for none, a vector of zeros."""
        return sample.unflatten(-1, (self.groups, self.classes)).argmax(-1).add(1).to(torch.uint8)

    def unpack(self, packed: UInt8[Tensor, "*batch S"]) -> Float[Tensor, "*batch W"]:
        return F.one_hot(packed.long(), self.classes + 1)[..., 1:].flatten(-2).float()

    def view(self, sample: Float[Tensor, "N W"], prior: Tensor, post: Tensor | None) -> Classes:
        groups = sample.unflatten(-1, (self.groups, self.classes))
        value = torch.where(groups.any(-1), groups.argmax(-1), -1)
        return Classes(value, prior.exp(), None if post is None else post.exp())

    def coded(self, value: Int[Tensor, "N S"]) -> Float[Tensor, "N W"]:
        return self.unpack(value + 1)


def race_noise(*shape: int, device: torch.device) -> Tensor:
    """1 / Exp(1), made of uniform numbers: several times faster on a CPU than ``exponential_``."""
    return torch.rand(*shape, device=device).log_().reciprocal_().neg_()


def race(p: Tensor, noise: Tensor) -> Tensor:
    """Classes (...) drawn by their probabilities (..., K): the first to arrive, with waiting times Exp(1) / p."""
    return (p * noise).argmax(-1)


def softmax(raw: Tensor) -> Tensor:
    """Over the last axis. On a CPU a short axis is many times slower there than anywhere else (fewer than a vector)."""
    if raw.device.type != "cpu" or raw.shape[-1] >= 16:
        return raw.softmax(-1)
    return raw.transpose(-1, -2).softmax(-2).transpose(-1, -2).contiguous()


def _drawn(q: Tensor, noise: Tensor, unimix: float) -> Tensor:
    """One-hot (..., S K) by probabilities (..., S, K) with a uniform mixed in."""
    p = q.mul(1 - unimix).add_(unimix / q.shape[-1]) if unimix else q
    return torch.zeros_like(q).scatter_(-1, race(p, noise).unsqueeze(-1), 1.0).flatten(-2)


class _Straight(torch.autograd.Function):
    """Draws one-hot; its gradient is that of the probabilities (straight-through, not Gumbel-softmax)."""

    @staticmethod
    def forward(ctx: Any, raw: Tensor, noise: Tensor, unimix: float) -> Tensor:
        q = softmax(raw)  # (..., S, K)
        ctx.save_for_backward(q)
        ctx.unimix = unimix
        return _drawn(q, noise, unimix)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        (q,) = ctx.saved_tensors
        to_raw = torch.ops.aten._softmax_backward_data(grad.view_as(q).contiguous(), q, -1, q.dtype)
        return to_raw.mul_(1 - ctx.unimix) if ctx.unimix else to_raw, None, None


def softplus_std(raw: Tensor) -> Tensor:
    """softplus(x) + 0.1 (DreamerV1)."""
    return F.softplus(raw) + 0.1


def sigmoid2_std(raw: Tensor) -> Tensor:
    """2 sigmoid(x / 2) + 0.1 (DreamerV2's Gaussian latents)."""
    return 2 * torch.sigmoid(raw / 2) + 0.1


class Gaussian:
    """Independent numbers: raw holds their means and what ``std`` makes deviations of."""

    def __init__(self, size: int, std: Callable[[Tensor], Tensor]) -> None:
        self.width, self.raw, self.std = size, 2 * size, std

    def noise(self, *lead: int, device: torch.device) -> Float[Tensor, "*lead W"]:
        return torch.randn(*lead, self.width, device=device)

    def draw(
        self, raw: Float[Tensor, "*batch R"], noise: Float[Tensor, "*batch W"], temperature: float = 1.0
    ) -> Float[Tensor, "*batch W"]:
        """mean + std * noise, the noise scaled by the square root of the temperature."""
        mean, deviation = raw.float().chunk(2, -1)
        return mean + self.std(deviation) * (noise if temperature == 1 else noise * math.sqrt(temperature))

    def mode(self, raw: Float[Tensor, "*batch R"]) -> Float[Tensor, "*batch W"]:
        return raw.chunk(2, -1)[0].float()

    def stats(self, raw: Float[Tensor, "*batch R"]) -> Float[Tensor, "*batch 2 W"]:
        """Means and deviations."""
        mean, deviation = raw.float().chunk(2, -1)
        return torch.stack([mean, self.std(deviation)], -2)

    def kl(self, one: Float[Tensor, "*batch 2 W"], two: Float[Tensor, "*batch 2 W"]) -> Float[Tensor, "*batch"]:
        (m1, s1), (m2, s2) = one.unbind(-2), two.unbind(-2)
        return ((s2 / s1).log() + (s1.square() + (m1 - m2).square()) / (2 * s2.square()) - 0.5).sum(-1)

    def entropy(self, stats: Float[Tensor, "*batch 2 W"]) -> Float[Tensor, "*batch"]:
        return (stats[..., 1, :].log() + 0.5 * math.log(2 * math.pi * math.e)).sum(-1)

    def pack(self, sample: Float[Tensor, "*batch W"]) -> Tensor:
        return sample.float()

    def unpack(self, packed: Tensor) -> Float[Tensor, "*batch W"]:
        return packed.float()

    def view(self, sample: Float[Tensor, "N W"], prior: Tensor, post: Tensor | None) -> Normals:
        return Normals(sample, prior.mT, None if post is None else post.mT)

    def coded(self, value: Float[Tensor, "N W"]) -> Float[Tensor, "N W"]:
        return value.float()
