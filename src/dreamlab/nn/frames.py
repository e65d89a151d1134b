"""What an agent without a memory sees: the newest picture, or the last few of the episode one upon another.

::

    rows of a stream    f0  f1  f2 | g0  g1        a new episode begins at g0
    seen, stack 3       f0  f0  f0   g0  g0        oldest first; before an episode's first picture, that one again
                        f0  f0  f1   g0  g0
                        f0  f1  f2   g0  g1

The same stack is made twice: while acting, by a policy that keeps the last few (``Frames.push``), and of rows that
were stored once each (``Frames.of_rows``). A test holds the two equal.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from dreamlab.nn.senses import Sight

if TYPE_CHECKING:
    from dreamlab.core.types import Batch, Obs


class Kept(NamedTuple):
    """What a policy that stacks carries."""

    frames: Tensor
    """(N, stack, C, h, w) uint8, oldest first"""


class Frames:
    """How observations become the one tensor that networks are given.

    ====================  =================================================================
    observations          the tensor
    ====================  =================================================================
    images alone          uint8 (N, stack * C, h, w)
    a vector alone        float32 (N, n)
    both                  float32 (N, stack * C * h * w + n): the pictures' bytes, then the vector
    ====================  =================================================================

    Args:
        space: what the environment gives.
        stack: how many pictures are seen at once; a vector is not stacked.

    Raises:
        UserError: images of several sizes, or nothing at all.
    """

    def __init__(self, space: spaces.Dict, stack: int = 1) -> None:
        self.sight = Sight(space)
        self.vector = self.sight.vector
        self.stack = stack if self.sight.shape else 1
        self.shape: tuple[int, int, int] | None = None
        """of the pictures together"""
        if self.sight.shape:
            c, h, w = self.sight.shape
            self.shape = (self.stack * c, h, w)

    # ---- while acting

    def initial(self, n: int, device: torch.device) -> Any:
        """What a policy carries before it has seen anything."""
        if self.stack == 1:
            return ()
        assert self.sight.shape is not None
        return Kept(torch.zeros(n, self.stack, *self.sight.shape, dtype=torch.uint8, device=device))

    def push(self, obs: Obs, is_first: Tensor, kept: Any) -> tuple[Tensor, Any]:
        """What is seen now (N, ...), and what is to be carried on."""
        if self.stack == 1:
            return self._packed(self.sight.picture(obs) if self.shape else None, obs), ()
        now = self.sight.picture(obs)[:, None]  # (N, 1, C, h, w)
        frames = torch.cat([kept.frames[:, 1:], now], 1)  # (N, stack, C, h, w)
        frames = torch.where(is_first[:, None, None, None, None], now.expand_as(frames), frames)
        return self._packed(frames.flatten(1, 2), obs), Kept(frames)

    # ---- while learning

    def rows(self, ids: np.ndarray, start: int, streams: int) -> np.ndarray:
        """Row ids (B, T) with those before them that are seen too: (B, stack - 1 + T); -1 where none is held.

        Args:
            start: the oldest time that is held.
        """
        before = ids[:, :1] - streams * np.arange(self.stack - 1, 0, -1)  # (B, stack - 1)
        return np.concatenate([np.where(before >= start * streams, before, -1), ids], 1)

    def of_rows(self, batch: Batch) -> Tensor:
        """What is seen (B, T, ...) at the last T of the rows (B, stack - 1 + T) that ``rows`` named."""
        first = self.stack - 1
        after = {k: v[:, first:] for k, v in batch.obs.items()}
        if not self.shape:
            return self._packed(None, after)
        frames = self.sight.picture(batch.obs)  # (B, stack - 1 + T, C, h, w)
        if self.stack == 1:
            return self._packed(frames, after)
        time = torch.arange(frames.shape[1], device=frames.device)
        begins = batch.is_first | (batch.mask & ~batch.mask.roll(1, 1))  # an episode's first row, or the oldest held
        begins[:, 0] = True
        since = torch.where(begins, time, 0).cummax(1).values  # (B, T'): where the episode's pictures begin
        parts = []
        for back in range(first, -1, -1):
            source = torch.maximum(time - back, since)[:, first:]  # (B, T)
            parts.append(frames[torch.arange(len(frames), device=frames.device)[:, None], source])
        return self._packed(torch.cat(parts, 2), after)

    # ---- both

    def _packed(self, picture: Tensor | None, obs: Obs) -> Tensor:
        if picture is None:
            return obs["vector"].float()
        if not self.vector:
            return picture
        return torch.cat([picture.flatten(-3).float(), obs["vector"].float()], -1)

    def unpacked(self, seen: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Pictures (N, C, h, w) and vector (N, n) of what is seen (N, ...), whichever there are."""
        if self.shape is None:
            return None, seen
        if not self.vector:
            return seen, None
        return seen[:, : -self.vector].unflatten(1, self.shape), seen[:, -self.vector :]
