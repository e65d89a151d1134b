"""V for vectors: ours, as the paper has images only. Both standardise what is seen by the statistics of the data.

``Plain`` takes the standardised observation itself for z. ``Dense`` puts a small variational autoencoder on it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dreamlab.agents.world_models.vision import ERRORS, vision_losses

if TYPE_CHECKING:
    from dreamlab.core.types import Obs

CERTAIN = -20.0
"""log-variance of a z that is not drawn: a standard deviation of 5e-5"""
LEAST = 1e-3
"""smallest standard deviation that a number is divided by: one that never changes stays near 0"""
WIDTH = 128
"""of the dense layers"""


class Standard(nn.Module):
    """Mean and variance of every number over all batches so far (Chan et al. 1979), as buffers."""

    mean: Tensor
    var: Tensor
    count: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("var", torch.ones(size))
        self.register_buffer("count", torch.zeros(()))

    @torch.no_grad()
    def adapt(self, x: Float[Tensor, "N n"]) -> None:
        """Take a batch in."""
        n, mean, var = len(x), x.mean(0), x.var(0, unbiased=False)
        total = self.count + n
        old, new = self.count / total, n / total
        apart = mean - self.mean
        self.var.copy_(old * self.var + new * var + old * new * apart.square())
        self.mean.add_(new * apart)
        self.count.copy_(total)

    def forward(self, x: Float[Tensor, "N n"]) -> Float[Tensor, "N n"]:
        """Mean 0, variance 1."""
        return (x - self.mean) / self.var.sqrt().clamp(min=LEAST)

    def inverse(self, z: Float[Tensor, "N n"]) -> Float[Tensor, "N n"]:
        """Back to the observation's own units."""
        return z * self.var.sqrt().clamp(min=LEAST) + self.mean


class Plain(nn.Module):
    """z is the standardised observation; there is nothing to train but its statistics."""

    key = "vector"

    def __init__(self, vector: tuple[int, ...], latent: int) -> None:
        super().__init__()
        self.latent = vector[0]
        self.standard = Standard(self.latent)
        self.error = ERRORS["squared"]

    def inputs(self, obs: Obs) -> Float[Tensor, "N n"]:
        """The vectors, one leading axis."""
        return obs["vector"].reshape(-1, obs["vector"].shape[-1]).float()

    def adapt(self, x: Float[Tensor, "N n"]) -> None:
        """Learn the data's mean and variance."""
        self.standard.adapt(x)

    def encode(self, x: Float[Tensor, "N n"]) -> tuple[Float[Tensor, "N D"], Float[Tensor, "N D"]]:
        """z, and that it is certain."""
        mu = self.standard(x)
        return mu, torch.full_like(mu, CERTAIN)

    def decode(self, z: Float[Tensor, "N D"]) -> Float[Tensor, "N n"]:
        """The observation in its own units."""
        return self.standard.inverse(z)

    def losses(
        self, x: Tensor, recon: Tensor, mu: Tensor, logvar: Tensor, kl_floor: float
    ) -> dict[str, Float[Tensor, " N"]]:
        """The reconstruction is exact but for rounding, and z costs nothing."""
        return {"reconstruction": self.error(x, recon), "kl": torch.zeros_like(mu[:, 0])}


class Dense(Plain):
    """A variational autoencoder of dense layers on the standardised observation."""

    def __init__(self, vector: tuple[int, ...], latent: int) -> None:
        super().__init__(vector, latent)
        seen, self.latent = self.latent, latent
        self.encoder = nn.Sequential(nn.Linear(seen, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH), nn.ReLU())
        self.mu, self.logvar = nn.Linear(WIDTH, latent), nn.Linear(WIDTH, latent)
        self.decoder = nn.Sequential(nn.Linear(latent, WIDTH), nn.ReLU(), nn.Linear(WIDTH, seen))

    def encode(self, x: Float[Tensor, "N n"]) -> tuple[Float[Tensor, "N D"], Float[Tensor, "N D"]]:
        """Mean and log-variance of z."""
        feat = self.encoder(self.standard(x))
        return self.mu(feat).float(), self.logvar(feat).float()

    def decode(self, z: Float[Tensor, "N D"]) -> Float[Tensor, "N n"]:
        """The observation in its own units."""
        return self.standard.inverse(self.decoder(z).float())

    def losses(
        self, x: Tensor, recon: Tensor, mu: Tensor, logvar: Tensor, kl_floor: float
    ) -> dict[str, Float[Tensor, " N"]]:
        """As of images, with the error in standard deviations of each number."""
        return vision_losses(self.standard(x), self.standard(recon), mu, logvar, kl_floor, self.error)
