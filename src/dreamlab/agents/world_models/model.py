"""V and M as one world model: observe, begin, step, predict."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from jaxtyping import Float
from torch import Tensor, nn

from dreamlab.agents.world_models.actions import Actions
from dreamlab.agents.world_models.config import VisionConfig
from dreamlab.agents.world_models.memory import Memory, Noise, fresh_noise, mixture_mean, sample
from dreamlab.agents.world_models.vectors import Dense, Plain
from dreamlab.agents.world_models.vision import Seeing, Vision
from dreamlab.core.errors import RunError, UserError
from dreamlab.core.inside import Code, View
from dreamlab.core.inside import Mixture as Forecast
from dreamlab.core.protocols import Experience
from dreamlab.core.types import Batch

if TYPE_CHECKING:
    from dreamlab.core.types import Obs

STARTS = 1000
"""at most so many episodes' first rows are dreamt from (the paper's Doom: 1000)"""


class Latent(NamedTuple):
    """Where a row is: what is seen (z), and what M remembers of the steps before it (h, c)."""

    z: Tensor
    h: Tensor
    c: Tensor
    mean: Tensor
    """E[z]: V's mean of what was seen, or M's forecast of what is imagined"""
    first: Tensor
    """1 in an episode's first row, else 0: an input of M where ``memory.restart`` is set"""


Carry = Latent
"""Imagining needs nothing more: each step puts (z, act) into (h, c), and draws the next z from h."""


class Model(nn.Module):
    """The world model of V and M. What it draws comes from torch's global generator, unless noise is given."""

    def __init__(self, vision: Seeing, memory: Memory, actions: Actions) -> None:
        super().__init__()
        self.vision, self.memory, self.actions = vision, memory, actions

    @torch.no_grad()
    def observe(self, batch: Batch, before: Latent | None = None) -> Latent:
        """Latents (B, T) of a batch, z at its mean: from the stored codes where there are, else from what was seen.

        ``before`` (B,) is what M remembers at the first row, where that is known.
        """
        shape = batch.is_first.shape
        if "mu" in batch.extras:
            z = batch.extras["mu"].float()  # (B, T, D)
        else:
            z = self.vision.encode(self.vision.inputs(batch.obs))[0].unflatten(0, shape)  # (B, T, D)
        act = self.actions.seen(batch.act, batch.extras)
        known = None if before is None else (before.h, before.c)
        return Latent(z, *self.memory.states(z, act, batch.is_first, known), z, batch.is_first.float())

    def observe_after(self, before: Latent, batch: Batch) -> Latent:
        """Latents (B, T) where those of the first row are known to be ``before`` (B,)."""
        return self.observe(batch, before)

    def begin(self, latent: Latent) -> Carry:
        """The carry from latents (N,): the latents themselves."""
        return latent

    @torch.no_grad()
    def step(
        self, carry: Carry, act: Float[Tensor, "N A"], temperature: float = 1.0, noise: Noise | None = None
    ) -> tuple[Carry, Latent]:
        """One imagined step: M takes in (z, act), and the next z is drawn from its mixture."""
        h, c = self.memory.cell(carry.z, self.actions.seen(act, {}), carry.h, carry.c, carry.first)
        noise = noise or fresh_noise(len(h), self.memory.latent, None, h.device)
        mixture = self.memory.mixture(h)
        latent = Latent(sample(mixture, temperature, noise), h, c, mixture_mean(mixture), torch.zeros_like(carry.first))
        return latent, latent

    @torch.no_grad()
    def predict(self, latent: Latent) -> Mapping[str, Tensor]:
        """``image`` or ``vector`` of z; and what M said of this row on the way to it: ``rew`` and ``con``, where it
        has the heads.

        At an episode's first row M has not said anything yet: there the two mean nothing.
        """
        lead = latent.z.shape[:-1]
        said = {self.vision.key: self.vision.decode(latent.z.flatten(0, -2)).unflatten(0, lead)}  # (..., C, s, s)
        extras = self.memory.extras(latent.h)
        if "rew" in extras:
            said["rew"] = extras["rew"]
        if "con" in extras:
            said["con"] = extras["con"].sigmoid()
        return said

    @torch.no_grad()
    def inside(self, latent: Latent, obs: Obs | None = None) -> Mapping[str, View]:
        """z, and what M expected it to be: at an episode's first row M has not said anything yet."""
        std = None if obs is None else (0.5 * self.vision.encode(self.vision.inputs(obs))[1]).exp()
        said = self.memory.mixture(latent.h)  # (N, K, D); a joint mixture's weights (N, K, 1)
        weight = said.logit.softmax(-2).expand_as(said.mean)
        return {"z": Code(latent.z, std), "forecast": Forecast(weight, said.mean, said.log_std.exp())}

    def with_code(self, latent: Latent, code: Float[Tensor, "N D"]) -> Latent:
        """The latents with another z."""
        return latent._replace(z=code.to(latent.z))

    def compare(self, latent: Latent) -> Float[Tensor, "*batch D"]:
        """E[z]: M's forecast of a frame is compared with V's mean of that frame, not with one draw of either."""
        return latent.mean


def see(config: VisionConfig, obs_space: spaces.Dict) -> Seeing:
    """V for what the environment gives.

    Raises:
        UserError: the environment gives nothing that this encoder sees.
    """
    auto = "conv" if "image" in obs_space.spaces else "plain"
    encoder = auto if config.encoder == "auto" else config.encoder
    makers: dict[str, tuple[str, Callable[[tuple[int, ...]], Seeing]]] = {
        "conv": ("image", lambda shape: Vision(shape, config.latent, config.batch_norm, config.loss)),
        "mlp": ("vector", lambda shape: Dense(shape, config.latent)),
        "plain": ("vector", lambda shape: Plain(shape, config.latent)),
    }
    key, make = makers[encoder]
    if key not in obs_space.spaces:
        raise UserError(
            f"the encoder {encoder!r} sees the observation {key!r}, but the environment gives "
            f"{', '.join(obs_space.spaces)}; type: --env.obs {'pixels' if key == 'image' else 'vector'}, "
            "or --agent.vision.encoder auto"
        )
    if key == "vector" and (config.batch_norm or config.loss != "squared"):
        raise UserError("batch_norm and the loss bce are for images; this environment gives a vector: leave them out")
    return make(obs_space[key].shape or ())


def codes(batch: Batch) -> tuple[Tensor, Tensor]:
    """mu and logvar as V wrote them beside the rows (B, T, D)."""
    if "mu" not in batch.extras:
        raise RunError("these rows have no codes yet: the encode phase comes before memory and dreams")
    return batch.extras["mu"].float(), batch.extras["logvar"].float()


def dream_rows(experience: Experience, warm_up: int, seeds: np.ndarray) -> np.ndarray:
    """Row ids (N, warm_up + 1) of what is really seen before a dream goes on; a seed chooses where.

    Without warm-up these are first rows of episodes; else stretches anywhere inside one that are long enough.

    Raises:
        RunError: no episode's beginning is held, or none is long enough.
    """
    if not warm_up:
        first = first_rows(experience, STARTS)
        return first[seeds % len(first), None]
    index = experience.index
    episodes = index.episodes()
    room = np.maximum(episodes.stop - episodes.start - 1 - warm_up, 0)  # its last row is no place to act in
    total = int(room.sum())
    if not total:
        raise RunError(f"no episode is longer than the {warm_up} steps that dreams warm up for; make warm_up shorter")
    place = np.array([int(seed) % total for seed in seeds])
    which = np.searchsorted(room.cumsum(), place, side="right")
    start = episodes.start[which] + place - (room.cumsum() - room)[which]
    return (start[:, None] + np.arange(warm_up + 1)) * index.streams + episodes.stream[which, None]


def first_rows(experience: Experience, most: int) -> np.ndarray:
    """Row ids (E,) of the newest episodes' first rows.

    Raises:
        RunError: no episode's beginning is held.
    """
    index = experience.index
    episodes = index.episodes()
    rows = (episodes.start * index.streams + episodes.stream)[-most:]
    first = experience.gather(rows[:, None], obs=()).is_first[:, 0].cpu().numpy()
    if not first.any():
        raise RunError("no episode's first row is held, so there is nothing to start a dream from; collect more")
    return rows[first]
