"""Actions as networks see them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from gymnasium import spaces
from torch import Tensor


def one_hot(act: Tensor, space: spaces.Space) -> Tensor:
    """Actions as environments take them, as networks see them: (..., A) float32, ``A = core.types.act_size(space)``.

    Args:
        act: of a Discrete int64 (...), of a MultiDiscrete int64 (..., K), of a flat Box float32 (..., A).
        space: one environment's, counted from 0.

    Returns:
        One-hot where one of n is chosen; where K are chosen at once their one-hots, one after another::

            MultiDiscrete([3, 2]), act (2, 0)  ->  0 0 1  1 0
    """
    if isinstance(space, spaces.Discrete):
        return F.one_hot(act.long(), int(space.n)).float()
    if isinstance(space, spaces.MultiDiscrete):
        widths = torch.as_tensor(space.nvec, dtype=torch.int64, device=act.device)
        ones = act.long() + widths.cumsum(0) - widths  # (..., K): where each choice's one stands
        hot = torch.zeros(*act.shape[:-1], int(space.nvec.sum()), device=act.device)
        return hot.scatter_(-1, ones, 1.0)
    return act.float()
