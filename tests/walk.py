"""A world model simple enough to know the answer: a place that actions move, with noise, and a clock."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from dreamlab.core.types import Batch


class Latent(NamedTuple):
    place: Tensor
    """(N, 2)"""
    clock: Tensor
    """(N,) int64: steps since the episode began"""


class Carry(NamedTuple):
    latent: Latent
    speed: Tensor
    """(N, 2)"""


class Walk:
    """place += 0.1 act + noise · temperature; the episode ends when the clock reaches ``end``.

    The image (1, 12, 14) is a ramp as steep as the place; the reward is the place's first coordinate.
    """

    def __init__(self, noise: float = 0.1, end: int = 10**9, images: bool = True) -> None:
        self.noise, self.end, self.images = noise, end, images

    def observe(self, batch: Batch) -> Latent:
        clock, clocks = torch.zeros(len(batch.rew), dtype=torch.long), []
        for t in range(batch.rew.shape[1]):
            clock = torch.where(batch.is_first[:, t], 0, clock + 1)
            clocks.append(clock)
        return Latent(batch.obs["vector"], torch.stack(clocks, 1))

    def begin(self, latent: Latent) -> Carry:
        return Carry(latent, 0.01 * torch.randn_like(latent.place) * self.noise)

    def step(self, carry: Carry, act: Tensor, temperature: float = 1.0) -> tuple[Carry, Latent]:
        noise = torch.randn_like(carry.latent.place) * self.noise * temperature
        place = carry.latent.place + 0.1 * act[:, :2] + carry.speed + noise
        latent = Latent(place, carry.latent.clock + 1)
        return Carry(latent, carry.speed), latent

    def predict(self, latent: Latent) -> dict[str, Tensor]:
        seen = {"rew": latent.place[:, 0], "con": (latent.clock < self.end).float(), "vector": latent.place}
        return {"image": picture(latent.place), **seen} if self.images else seen

    def compare(self, latent: Latent) -> Tensor:
        return latent.place


def picture(place: Tensor) -> Tensor:
    """(..., 2) -> (..., 1, 12, 14) in (0, 1)."""
    y = torch.linspace(-1, 1, 12)[:, None] * place[..., None, None, :1]
    x = torch.linspace(-1, 1, 14)[None] * place[..., None, None, 1:]
    return (3 * (x + y)).sigmoid()


def windows(n: int, length: int, ends: list[int] | None = None, seed: int = 0) -> Batch:
    """Real walks without noise under random one-hot actions of 3; row i ends at ``ends[i]``, then padding."""
    rng = torch.Generator().manual_seed(seed)
    act = torch.nn.functional.one_hot(torch.randint(3, (n, length), generator=rng), 3).float()
    start = torch.randn(n, 1, 2, generator=rng)
    place = torch.cat([start, start + 0.1 * act[:, :-1, :2].cumsum(1)], 1)  # (n, length, 2)
    time = torch.arange(length)
    ends_at = torch.tensor(ends if ends is not None else [length + 1] * n)[:, None]
    mask = time <= ends_at
    return Batch(
        obs={
            "image": (picture(place) * 255).round().to(torch.uint8) * mask[..., None, None, None],
            "vector": place * mask[..., None],
        },
        act=act * mask[..., None],
        rew=place[..., 0] * mask,
        is_first=(time == 0).expand(n, length) & mask,
        is_last=time == ends_at,
        is_terminal=time == ends_at,
        mask=mask,
        rows=torch.where(mask, time, -1),
        extras={},
    )
