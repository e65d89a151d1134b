"""C, the controller: a_t = W_c [z_t h_t] + b_c in the paper (arXiv:1803.10122, Eq. 1), and its other forms.

What it acts on and its form are parts. A form knows how many numbers it has, and gives the raw action of P
candidates, each on its own R rows; what becomes of raw numbers is said in ``actions``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dreamlab.agents.world_models.config import ControllerConfig


@dataclass(frozen=True)
class Features:
    """What C acts on: z, and of M's memory h and c as the names say."""

    inputs: str
    latent: int
    hidden: int

    @property
    def size(self) -> int:
        """F."""
        return self.latent + self.hidden * (len(self.inputs) - 1)

    def __call__(
        self, z: Float[Tensor, "*batch D"], h: Float[Tensor, "*batch H"], c: Float[Tensor, "*batch H"]
    ) -> Float[Tensor, "*batch F"]:
        """z, then c, then h, as far as they are inputs (the authors' order)."""
        have = {"z": z, "c": c, "h": h}
        return torch.cat([have[name] for name in "zch" if name in self.inputs], -1)


@dataclass(frozen=True)
class Linear:
    """W x + b. theta: weights (A, F) row by row, then the biases (A) if there are any."""

    features: int
    act: int
    bias: bool = True

    @property
    def size(self) -> int:
        """Length of a parameter vector."""
        return (self.features + self.bias) * self.act

    def unpack(self, theta: Float[Tensor, "P n"]) -> tuple[Float[Tensor, "P A F"], Float[Tensor, "P A"]]:
        """Weights and biases of P candidates."""
        weight = theta[:, : self.features * self.act].unflatten(1, (self.act, self.features))
        bias = theta[:, self.features * self.act :] if self.bias else theta.new_zeros(len(theta), self.act)
        return weight, bias

    def __call__(self, theta: Float[Tensor, "P n"], feat: Float[Tensor, "P R F"]) -> Float[Tensor, "P R A"]:
        weight, bias = self.unpack(theta)
        return torch.baddbmm(bias[:, None], feat, weight.mT)


@dataclass(frozen=True)
class Hidden:
    """W2 tanh(W1 x + b1) + b2, the paper's "z + hidden layer". theta: the two layers as ``Linear`` has them."""

    features: int
    act: int
    units: int

    @property
    def layers(self) -> tuple[Linear, Linear]:
        return Linear(self.features, self.units), Linear(self.units, self.act)

    @property
    def size(self) -> int:
        """Length of a parameter vector."""
        return sum(layer.size for layer in self.layers)

    def __call__(self, theta: Float[Tensor, "P n"], feat: Float[Tensor, "P R F"]) -> Float[Tensor, "P R A"]:
        first, second = self.layers
        return second(theta[:, first.size :], first(theta[:, : first.size], feat).tanh())


Form = Linear | Hidden


def form_of(config: ControllerConfig, features: int, act: int) -> Form:
    """The form that the settings ask for."""
    return Hidden(features, act, config.hidden) if config.hidden else Linear(features, act, config.bias)


class Controller(nn.Module):
    """The weights that the agent acts with: the mean of CMA-ES's distribution."""

    def __init__(self, form: Form) -> None:
        super().__init__()
        self.form: Callable[[Tensor, Tensor], Tensor] = form
        self.theta = nn.Parameter(torch.zeros(form.size), requires_grad=False)
