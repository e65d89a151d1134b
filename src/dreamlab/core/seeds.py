"""Seeds derived from names, so that no two uses share a stream and none depends on order.

A run has one seed. Whatever draws derives its own from it: ``derive(seed, "episode", env, number)``.
What is interrupted and done again therefore draws the same numbers again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


def derive(seed: int, *path: str | int) -> int:
    """A seed in [0, 2**31) for one use, from the run's seed and a path of names and counts."""
    text = "/".join(map(str, (seed, *path)))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") % 2**31


def numpy_rng(seed: int, *path: str | int) -> np.random.Generator:
    """A NumPy generator of its own for one use."""
    return np.random.default_rng(derive(seed, *path))


def torch_rng(device: torch.device | str, seed: int, *path: str | int) -> torch.Generator:
    """A torch generator of its own, on ``device``, for one use."""
    import torch

    return torch.Generator(device).manual_seed(derive(seed, *path))


@contextmanager
def forked(seed: int, *path: str | int) -> Iterator[None]:
    """Seed torch's global generators inside the block and give them back untouched after it."""
    import torch

    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_available() else []
    mps = torch.mps.get_rng_state() if torch.backends.mps.is_available() else None
    try:
        with torch.random.fork_rng(devices):
            torch.manual_seed(derive(seed, *path))
            yield
    finally:
        if mps is not None:
            torch.mps.set_rng_state(mps)
