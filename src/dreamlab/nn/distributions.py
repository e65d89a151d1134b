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
from jaxtyping import Float, UInt8
from torch import Tensor

from dreamlab.nn.latents import race, race_noise, softmax

HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)
ROOT_HALF = math.sqrt(0.5)


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


def squared_sigmoid_loss(logit: Float[Tensor, "N C h w"], target: UInt8[Tensor, "N C h w"]) -> Float[Tensor, " N"]:
    """Sum of (sigmoid(logit) - target / 255)^2 over each image, in float32."""
    return _SquaredSigmoid.apply(logit, target)  # type: ignore[no-any-return]


def lit_pixel_loss(logit: Float[Tensor, "N C h w"], target: UInt8[Tensor, "N C h w"]) -> Float[Tensor, " N"]:
    """-log of the probability sigmoid(logit) of a lit pixel, summed over each image, in float32: for 0 and 255."""
    return bernoulli_loss(logit.float(), target.float() / 255).sum((1, 2, 3))


IMAGE_LOSSES = {"squared": squared_sigmoid_loss, "lit": lit_pixel_loss}
"""What an image costs, by name: how far off its pixels are, or how improbable which of them are lit."""


class _SquaredSigmoid(torch.autograd.Function):
    """Pixels are the most numbers there are: as few passes over them as can be, and one map kept for the way back."""

    @staticmethod
    def forward(ctx: Any, logit: Tensor, target: Tensor) -> Tensor:
        mean = torch.sigmoid(logit.float())
        off = target.to(mean.dtype)
        torch.add(mean, off, alpha=-1 / 255, out=off)
        loss = torch.linalg.vector_norm(off, dim=(1, 2, 3)).square_()
        ctx.save_for_backward(torch.ops.aten.sigmoid_backward.grad_input(off, mean, grad_input=off))
        return loss

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        (slope,) = ctx.saved_tensors
        return slope * (2 * grad).view(-1, 1, 1, 1), None


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
        return (above - below) @ self.bins[half + 1 :]


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
            drawn.append(F.one_hot(chosen, p.shape[-1]) + (p - p.detach()))
        return torch.cat(drawn, -1)

    def mode(self, out: Tensor) -> Tensor:
        return torch.cat([F.one_hot(p.argmax(-1), p.shape[-1]) + (p - p.detach()) for p in self.probs(out)], -1)

    def log_probs(self, out: Tensor) -> list[Tensor]:
        """Of each group (..., n); finite where a probability without unimix is too small for a float."""
        if self.unimix:
            return [p.log() for p in self.probs(out)]
        return [part.log_softmax(-1) for part in out.float().split(self.sizes, -1)]

    def log_prob(self, out: Tensor, act: Tensor) -> Tensor:
        parts = zip(self.log_probs(out), act.split(self.sizes, -1), strict=True)
        return torch.stack([(log * one).sum(-1) for log, one in parts]).sum(0)

    def entropy(self, out: Tensor) -> Tensor:
        return torch.stack([-(log.exp() * log).sum(-1) for log in self.log_probs(out)]).sum(0)


class ReinMax(OneHots):
    """The same choices; samples pass gradients to second order (Liu et al. 2023, arXiv:2304.08612, algorithm 2).

    Straight through, a class counts for what it would change, to first order, at the class that was drawn. One that is
    the best because it changes nothing, between two that go too far either way, never gains by that. Here the expected
    gradient is exact where what follows is at most quadratic in the one-hot numbers.
    """

    def __init__(self, sizes: Sequence[int]) -> None:
        super().__init__(sizes)  # with a uniform mixed in it would not be exact

    def sample(self, out: Tensor) -> Tensor:
        drawn = []
        for part, p in zip(out.float().split(self.sizes, -1), self.probs(out), strict=True):
            chosen = F.one_hot(race(p.detach(), race_noise(*p.shape, device=p.device)), p.shape[-1])
            between = torch.lerp(p.detach(), chosen.to(p), 0.5)
            passed = 2 * softmax(between.log() + (part - part.detach())) - 0.5 * p
            drawn.append(chosen + (passed - passed.detach()))
        return torch.cat(drawn, -1)


ONE_HOTS = {"straight": OneHots, "reinmax": ReinMax}
"""How gradients pass a discrete action, by name."""


class TanhNormal:
    """DreamerV1: tanh of a normal of mean 5 tanh(m / 5) and deviation softplus(s + 4.9932) + 1e-4 (5 at first).

    Samples pass gradients to both. ``mode`` is the densest of 100 samples: the density has no peak in closed form.
    """

    def __init__(self, size: int, reach: float = 5.0, initial: float = 5.0, least: float = 1e-4, draws: int = 100):
        self.outs, self.reach, self.least, self.draws = 2 * size, reach, least, draws
        self.lift = math.log(math.expm1(initial))

    def _parts(self, out: Tensor) -> tuple[Tensor, Tensor]:
        mean, std = out.float().chunk(2, -1)
        return self.reach * (mean / self.reach).tanh(), F.softplus(std + self.lift) + self.least

    def sample(self, out: Tensor) -> Tensor:
        mean, std = self._parts(out)
        return (mean + std * torch.randn_like(mean)).tanh()

    def mode(self, out: Tensor) -> Tensor:
        mean, std = self._parts(out)
        noise = torch.randn(self.draws, *mean.shape, device=mean.device)
        wide = mean + std * noise  # (draws, ..., A)
        best = (-0.5 * noise.square() - log_slope(wide)).sum(-1).argmax(0)  # of one state all deviations are alike
        return wide.gather(0, best[None, ..., None].expand(1, *mean.shape))[0].tanh()

    def log_prob(self, out: Tensor, act: Tensor) -> Tensor:
        """Of actions at the bounds: as of those 1e-7 inside."""
        mean, std = self._parts(out)
        wide = act.clamp(-1 + 1e-7, 1 - 1e-7).atanh()
        normal = -0.5 * ((wide - mean) / std).square() - std.log() - HALF_LOG_2PI
        return (normal - log_slope(wide)).sum(-1)

    def entropy(self, out: Tensor) -> Tensor:
        """An estimate from one sample: the normal's own entropy, and what tanh takes from it."""
        mean, std = self._parts(out)
        wide = mean + std * torch.randn_like(mean)
        return (std.log() + HALF_LOG_2PI + 0.5 + log_slope(wide)).sum(-1)


def log_slope(x: Tensor) -> Tensor:
    """log of tanh's derivative at x."""
    return 2 * (math.log(2) - x - F.softplus(-2 * x))


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


class TruncatedNormal:
    """DreamerV2: a normal cut off at -1 and 1; mean tanh(m), deviation 2 sigmoid(s / 2) + 0.1 (1.1 at first).

    Samples are made of uniform numbers by the inverse of their distribution, so that gradients reach both.
    """

    inside = 1e-6
    """how far inside the bounds samples stay"""

    def __init__(self, size: int) -> None:
        self.outs = 2 * size

    def _parts(self, out: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Mean and deviation before the cut, and both bounds in deviations from the mean."""
        mean, std = out.float().chunk(2, -1)
        mean, std = mean.tanh(), 2 * torch.sigmoid(std / 2) + 0.1
        return mean, std, (-1 - mean) / std, (1 - mean) / std

    def sample(self, out: Tensor) -> Tensor:
        mean, std, low, high = self._parts(out)
        low, high = torch.erf(low * ROOT_HALF), torch.erf(high * ROOT_HALF)
        place = low + (high - low) * torch.rand_like(mean)
        x = mean + std * torch.erfinv(place.clamp(-1 + self.inside, 1 - self.inside)) / ROOT_HALF
        return x + (x.clamp(-1 + self.inside, 1 - self.inside) - x).detach()

    def mode(self, out: Tensor) -> Tensor:
        return self._parts(out)[0]

    def log_prob(self, out: Tensor, act: Tensor) -> Tensor:
        mean, std, low, high = self._parts(out)
        mass = _normal_mass(low, high)
        return (-0.5 * ((act - mean) / std).square() - std.log() - HALF_LOG_2PI - mass.log()).sum(-1)

    def entropy(self, out: Tensor) -> Tensor:
        _, std, low, high = self._parts(out)
        mass = _normal_mass(low, high)
        tails = (low * _normal_density(low) - high * _normal_density(high)) / (2 * mass)
        return (0.5 + HALF_LOG_2PI + std.log() + mass.log() + tails).sum(-1)


def _normal_mass(low: Tensor, high: Tensor) -> Tensor:
    """Of a standard normal, between two bounds."""
    return 0.5 * (torch.erf(high * ROOT_HALF) - torch.erf(low * ROOT_HALF))


def _normal_density(x: Tensor) -> Tensor:
    return (-0.5 * x.square() - HALF_LOG_2PI).exp()
