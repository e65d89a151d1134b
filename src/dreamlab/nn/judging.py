"""What an actor and a critic say along an episode, to be looked at (``core.inside``)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from dreamlab.core.inside import Choices, Number, Spread, View
from dreamlab.nn.actions import Actions
from dreamlab.nn.distributions import Choice, OneHots

DRAWS = 32
"""from which a policy's spread is told"""


@torch.no_grad()
def judged(
    feat: Tensor, actor: Callable[[Tensor], Tensor], pick: Choice, value: Callable[[Tensor], Tensor], acts: Actions
) -> dict[str, View]:
    """``value``, ``entropy`` in nats, and ``policy`` in the environment's units, of features (N, T, F)."""
    out = actor(feat).float()
    if isinstance(pick, OneHots):
        policy: View = Choices(tuple(pick.probs(out)))
    else:
        drawn = torch.stack([acts.emit(pick.sample(out)) for _ in range(DRAWS)])
        policy = Spread(acts.emit(pick.mode(out)), drawn.std(0))
    return {"value": Number(value(feat).float()), "entropy": Number(pick.entropy(out)), "policy": policy}
