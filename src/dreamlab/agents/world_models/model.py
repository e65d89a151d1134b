"""V and M as one world model: observe, begin, step, predict."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dreamlab.agents.world_models.memory import Memory, Noise, fresh_noise, mixture_mean, sample
from dreamlab.agents.world_models.vision import Vision, pixels
from dreamlab.core.types import Batch


class Latent(NamedTuple):
    """Where a row is: what is seen (z), and what M remembers of the steps before it (h, c)."""

    z: Tensor
    h: Tensor
    c: Tensor
    mean: Tensor
    """E[z]: V's mean of what was seen, or M's forecast of what is imagined"""


Carry = Latent
"""Imagining needs nothing more: each step puts (z, act) into (h, c), and draws the next z from h."""


class Model(nn.Module):
    """The world model of V and M. What it draws comes from torch's global generator, unless noise is given."""

    def __init__(self, vision: Vision, memory: Memory) -> None:
        super().__init__()
        self.vision, self.memory = vision, memory

    @torch.no_grad()
    def observe(self, batch: Batch) -> Latent:
        """Latents (B, T) of a batch, z at its mean: from the stored codes where there are, else from the images."""
        shape = batch.is_first.shape
        if "mu" in batch.extras:
            z = batch.extras["mu"].float()  # (B, T, D)
        else:
            z = self.vision.encode(pixels(batch.obs["image"]))[0].unflatten(0, shape)  # (B, T, D)
        return Latent(z, *self.memory.states(z, batch.act, batch.is_first), z)

    def begin(self, latent: Latent) -> Carry:
        """The carry from latents (N,): the latents themselves."""
        return latent

    @torch.no_grad()
    def step(
        self, carry: Carry, act: Float[Tensor, "N A"], temperature: float = 1.0, noise: Noise | None = None
    ) -> tuple[Carry, Latent]:
        """One imagined step: M takes in (z, act), and the next z is drawn from its mixture."""
        h, c = self.memory.cell(carry.z, act, carry.h, carry.c)
        noise = noise or fresh_noise(len(h), self.memory.latent, None, h.device)
        mixture = self.memory.mixture(h)
        latent = Latent(sample(mixture, temperature, noise), h, c, mixture_mean(mixture))
        return latent, latent

    @torch.no_grad()
    def predict(self, latent: Latent) -> Mapping[str, Tensor]:
        """``image`` of z; and what M said of this row on the way to it: ``rew`` and ``con``, where it has the heads.

        At an episode's first row M has not said anything yet: there the two mean nothing.
        """
        lead = latent.z.shape[:-1]
        said = {"image": self.vision.decode(latent.z.flatten(0, -2)).unflatten(0, lead)}  # (..., C, s, s)
        extras = self.memory.extras(latent.h)
        if "rew" in extras:
            said["rew"] = extras["rew"]
        if "con" in extras:
            said["con"] = extras["con"].sigmoid()
        return said

    def compare(self, latent: Latent) -> Float[Tensor, "*batch D"]:
        """E[z]: M's forecast of a frame is compared with V's mean of that frame, not with one draw of either."""
        return latent.mean
