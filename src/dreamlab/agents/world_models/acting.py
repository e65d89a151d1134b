"""Policies: who collects the random data, and V, M and C acting together.

They keep nothing but parameters: what is carried from step to step is in the state, and noise comes from a
generator that its owner saves or derives.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from dreamlab.agents.world_models.actions import Actions
from dreamlab.agents.world_models.controller import linear, size
from dreamlab.agents.world_models.vision import draw, pixels
from dreamlab.core.protocols import Policy
from dreamlab.nn.compute import Compute

if TYPE_CHECKING:
    from dreamlab.agents.world_models.model import Model
    from dreamlab.core.types import Obs


class Remembered(NamedTuple):
    """M's state of every row: (N, H) each."""

    h: Tensor
    c: Tensor


class Acting:
    """See, act, remember: z is sampled, C acts on [z, h], M moves on with the action taken.

    theta (n,) is one controller for all rows, or (N, n) one for each.
    """

    def __init__(self, model: Model, theta: Tensor, actions: Actions, compute: Compute, rng: torch.Generator) -> None:
        self.model, self.theta, self.actions, self.compute, self.rng = model, theta, actions, compute, rng

    def initial(self, n: int) -> Remembered:
        return Remembered(*self.model.memory.initial(n))

    @torch.no_grad()
    def __call__(
        self, obs: Obs, is_first: Bool[Tensor, " N"], state: Remembered
    ) -> tuple[Tensor, Remembered, Mapping[str, Tensor]]:
        device, memory = self.compute.device, self.model.memory
        keep = (~is_first.to(device))[:, None].float()  # (N, 1)
        h, c = state.h.to(device) * keep, state.c.to(device) * keep
        with self.compute.autocast():
            mu, logvar = self.model.vision.encode(pixels(obs["image"].to(device)))  # (N, D) each
        z = draw(mu, logvar, self.rng)
        act = self.actions(self._raw(torch.cat([z, h], -1)))  # (N, A)
        with self.compute.autocast():
            h, c = memory.cell(z, act, h, c)
        return self.actions.emit(act), Remembered(h, c), {}

    def _raw(self, feat: Float[Tensor, "N F"]) -> Float[Tensor, "N A"]:
        theta = self.theta.to(feat)
        if theta.dim() == 1:
            return linear(theta[None], feat[None], self.actions.size)[0]
        if len(theta) < len(feat):  # one controller for all rows: the mean
            theta = torch.cat([theta, theta[:1].expand(len(feat) - len(theta), -1)])
        return linear(theta, feat[:, None], self.actions.size)[:, 0]


class Drawn(NamedTuple):
    """The random controller of every row's episode: (N, n)."""

    theta: Tensor


class Walked(NamedTuple):
    """Where every row's walk is: (N, A)."""

    act: Tensor


class Cauchy:
    """A fresh random controller for each episode, on noise for a latent (the authors' CarRacing data).

    Weights are standard Cauchy times s, s ~ U(0, 0.01). Their V and M are random too, but nearly zero: z ~ N(0, 1)
    and h = 0. The car jitters around half gas, with a rare heavy bias.
    """

    def __init__(self, latent: int, actions: Actions, rng: torch.Generator) -> None:
        self.latent, self.actions, self.rng = latent, actions, rng

    def initial(self, n: int) -> Drawn:
        return Drawn(torch.zeros(n, size(self.latent, self.actions.size), device=self.rng.device))

    def __call__(
        self, obs: Obs, is_first: Bool[Tensor, " N"], state: Drawn
    ) -> tuple[Tensor, Drawn, Mapping[str, Tensor]]:
        theta = state.theta.to(self.rng.device)
        scale = 0.01 * torch.rand(len(theta), 1, generator=self.rng, device=theta.device)
        fresh = scale * torch.empty_like(theta).cauchy_(generator=self.rng)  # drawn every step, used at the first
        theta = torch.where(is_first.to(theta.device)[:, None], fresh, theta)
        z = torch.empty(len(theta), 1, self.latent, device=theta.device).normal_(generator=self.rng)
        act = self.actions(linear(theta, z, self.actions.size)[:, 0])
        return self.actions.emit(act), Drawn(theta), {}


class Brownian:
    """A random walk: the first action is uniform, each next one drifts (ctallec's CarRacing data)."""

    AMOUNT = (1 / 50) ** 0.5

    def __init__(self, latent: int, actions: Actions, rng: torch.Generator) -> None:
        self.actions, self.rng = actions, rng

    def initial(self, n: int) -> Walked:
        return Walked(torch.zeros(n, self.actions.size, device=self.rng.device))

    def __call__(
        self, obs: Obs, is_first: Bool[Tensor, " N"], state: Walked
    ) -> tuple[Tensor, Walked, Mapping[str, Tensor]]:
        before = state.act.to(self.rng.device)
        fresh = self.actions.uniform(len(before), self.rng)
        moved = self.actions.drift(before, self.AMOUNT, self.rng)
        act = torch.where(is_first.to(before.device)[:, None], fresh, moved)
        return self.actions.emit(act), Walked(act), {}


class Random:
    """Every action by pure chance."""

    def __init__(self, latent: int, actions: Actions, rng: torch.Generator) -> None:
        self.actions, self.rng = actions, rng

    def initial(self, n: int) -> tuple[()]:
        return ()

    def __call__(
        self, obs: Obs, is_first: Bool[Tensor, " N"], state: tuple[()]
    ) -> tuple[Tensor, tuple[()], Mapping[str, Tensor]]:
        return self.actions.emit(self.actions.uniform(len(is_first), self.rng)), (), {}


COLLECTORS: dict[str, Callable[[int, Actions, torch.Generator], Policy]] = {
    "cauchy": Cauchy,
    "brownian": Brownian,
    "random": Random,
}
