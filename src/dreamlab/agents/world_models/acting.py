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
from dreamlab.agents.world_models.controller import Features, Form, Linear
from dreamlab.agents.world_models.vision import draw
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
    """See, act, remember: z is sampled, C acts on its features of z and M's memory, M moves on with the action taken.

    theta (n,) is one controller for all rows, or (N, n) one for each.
    """

    def __init__(
        self, model: Model, features: Features, form: Form, theta: Tensor, compute: Compute, rng: torch.Generator
    ) -> None:
        self.model, self.features, self.form, self.theta = model, features, form, theta
        self.compute, self.rng = compute, rng

    def initial(self, n: int) -> Remembered:
        return Remembered(*self.model.memory.initial(n))

    @torch.no_grad()
    def __call__(
        self, obs: Obs, is_first: Bool[Tensor, " N"], state: Remembered
    ) -> tuple[Tensor, Remembered, Mapping[str, Tensor]]:
        actions = self.model.actions
        z, h, c, first = look(self.model, self.compute, self.rng, obs, is_first, state)
        act = actions(self._raw(self.features(z, h, c)))  # (N, A)
        with self.compute.autocast():
            h, c = self.model.memory.cell(z, act, h, c, first)
        return actions.emit(act), Remembered(h, c), actions.note(act)

    @torch.no_grad()
    def follow(self, obs: Obs, is_first: Bool[Tensor, " N"], state: Remembered, act: Tensor) -> Remembered:
        """The state where somebody else chose: ``obs`` was seen and ``act`` (N, A), as rows hold it, was done."""
        return follow(self.model, self.compute, self.rng, obs, is_first, state, act)

    def _raw(self, feat: Float[Tensor, "N F"]) -> Float[Tensor, "N A"]:
        theta = self.theta.to(feat)
        if theta.dim() == 1:
            return self.form(theta[None], feat[None])[0]
        if len(theta) < len(feat):  # one controller for all rows: the mean
            theta = torch.cat([theta, theta[:1].expand(len(feat) - len(theta), -1)])
        return self.form(theta, feat[:, None])[:, 0]


def look(
    model: Model,
    compute: Compute,
    rng: torch.Generator,
    obs: Obs,
    is_first: Bool[Tensor, " N"],
    state: Remembered,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What C acts on: z as it is drawn (N, D), the memory h and c (N, H), zero in a first row, and which those are."""
    device = compute.device
    first = is_first.to(device).float()  # (N,)
    keep = (1 - first)[:, None]  # (N, 1)
    with compute.autocast():
        mu, logvar = model.vision.encode(model.vision.inputs({k: v.to(device) for k, v in obs.items()}))
    return draw(mu, logvar, rng), state.h.to(device) * keep, state.c.to(device) * keep, first


def follow(
    model: Model,
    compute: Compute,
    rng: torch.Generator,
    obs: Obs,
    is_first: Bool[Tensor, " N"],
    state: Remembered,
    act: Tensor,
) -> Remembered:
    """M's state after what was seen, and after an action (N, A) as rows hold it, whoever chose it."""
    z, h, c, first = look(model, compute, rng, obs, is_first, state)
    with compute.autocast():
        return Remembered(*model.memory.cell(z, model.actions.seen(act.to(z), {}), h, c, first))


class Varied(NamedTuple):
    """M's state of every row, and the noise on its controller: (N, H), (N, H), (N, n)."""

    memory: Remembered
    noise: Tensor


class Varying:
    """``Acting`` with a controller of its own in each episode: the mean and Gaussian noise on every weight."""

    def __init__(self, acting: Acting, sigma: float) -> None:
        self.acting, self.mean, self.sigma = acting, acting.theta, sigma

    def initial(self, n: int) -> Varied:
        return Varied(self.acting.initial(n), torch.zeros(n, len(self.mean), device=self.mean.device))

    def __call__(
        self, obs: Obs, is_first: Bool[Tensor, " N"], state: Varied
    ) -> tuple[Tensor, Varied, Mapping[str, Tensor]]:
        noise = state.noise.to(self.mean.device)
        fresh = torch.empty_like(noise).normal_(0, self.sigma, generator=self.acting.rng)  # drawn every step
        noise = torch.where(is_first.to(noise.device)[:, None], fresh, noise)
        self.acting.theta = self.mean + noise
        act, memory, columns = self.acting(obs, is_first, state.memory)
        return act, Varied(memory, noise), columns


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
        self.form = Linear(latent, actions.size)

    def initial(self, n: int) -> Drawn:
        return Drawn(torch.zeros(n, self.form.size, device=self.rng.device))

    def __call__(
        self, obs: Obs, is_first: Bool[Tensor, " N"], state: Drawn
    ) -> tuple[Tensor, Drawn, Mapping[str, Tensor]]:
        theta = state.theta.to(self.rng.device)
        scale = 0.01 * torch.rand(len(theta), 1, generator=self.rng, device=theta.device)
        fresh = scale * torch.empty_like(theta).cauchy_(generator=self.rng)  # drawn every step, used at the first
        theta = torch.where(is_first.to(theta.device)[:, None], fresh, theta)
        z = torch.empty(len(theta), 1, self.latent, device=theta.device).normal_(generator=self.rng)
        act = self.actions(self.form(theta, z)[:, 0])
        return self.actions.emit(act), Drawn(theta), self.actions.note(act)


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
        return self.actions.emit(act), Walked(act), self.actions.note(act)


class Holding(NamedTuple):
    """What every row holds: the action (N, A), how often it is checked (N,), and the step of the episode (N,)."""

    act: Tensor
    every: Tensor
    time: Tensor


class Held:
    """A random action held for a while (the authors' Doom data).

    At steps of the episode that ``every`` divides, both are drawn again: the action, and ``every`` from 1 to 10.
    """

    def __init__(self, latent: int, actions: Actions, rng: torch.Generator) -> None:
        self.actions, self.rng = actions, rng

    def initial(self, n: int) -> Holding:
        whole = torch.zeros(2, n, dtype=torch.int64, device=self.rng.device)
        return Holding(torch.zeros(n, self.actions.size, device=self.rng.device), whole[0] + 1, whole[1])

    def __call__(
        self, obs: Obs, is_first: Bool[Tensor, " N"], state: Holding
    ) -> tuple[Tensor, Holding, Mapping[str, Tensor]]:
        before, every, time = (x.to(self.rng.device) for x in state)
        time = torch.where(is_first.to(time.device), 0, time)
        fresh = self.actions.uniform(len(before), self.rng)
        drawn = torch.randint(1, 11, every.shape, generator=self.rng, device=every.device)
        redraw = time % every == 0
        act = torch.where(redraw[:, None], fresh, before)
        every = torch.where(redraw, drawn, every)
        return self.actions.emit(act), Holding(act, every, time + 1), self.actions.note(act)


class Random:
    """Every action by pure chance."""

    def __init__(self, latent: int, actions: Actions, rng: torch.Generator) -> None:
        self.actions, self.rng = actions, rng

    def initial(self, n: int) -> tuple[()]:
        return ()

    def __call__(
        self, obs: Obs, is_first: Bool[Tensor, " N"], state: tuple[()]
    ) -> tuple[Tensor, tuple[()], Mapping[str, Tensor]]:
        act = self.actions.uniform(len(is_first), self.rng)
        return self.actions.emit(act), (), self.actions.note(act)


COLLECTORS: dict[str, Callable[[int, Actions, torch.Generator], Policy]] = {
    "cauchy": Cauchy,
    "brownian": Brownian,
    "held": Held,
    "random": Random,
}
