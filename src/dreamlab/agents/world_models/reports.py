"""Costlier measures of V and M, now and then: numbers on rows spread over the whole table, pictures of what V sees."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from dreamlab.agents.world_models.memory import Memory, Sequences, one_step
from dreamlab.agents.world_models.model import Model
from dreamlab.agents.world_models.vision import active_units, pixel_accuracy, reconstructions, traversal
from dreamlab.core.protocols import Experience
from dreamlab.core.sampling import spread

if TYPE_CHECKING:
    from dreamlab.core.types import Metrics

ROWS = 256
"""looked at for a report"""


@torch.no_grad()
def vision(model: Model, experience: Experience) -> Metrics:
    """Losses at the codes' means without a KL floor, how many dimensions tell images apart, and pictures."""
    sees = model.vision
    x = sees.inputs(experience.gather(spread(experience.index, ROWS), obs=(sees.key,)).obs)
    mu, logvar = sees.encode(x)
    recon = sees.decode(mu)
    losses = sees.losses(x, recon, mu, logvar, kl_floor=0.0)
    metrics: dict[str, Tensor | float] = {f"report_{name}": loss.mean() for name, loss in losses.items()}
    metrics["active_units"] = active_units(mu)
    if sees.key == "image":
        metrics["report_pixel_accuracy"] = pixel_accuracy(x, recon)
        metrics["reconstructions"] = reconstructions(sees, x[:: max(1, len(x) // 8)][:8])
        metrics["traversal"] = traversal(sees, x)
    return metrics


def memory(part: Memory, losses: Mapping[str, Tensor], h: Tensor, steps: Sequences) -> Metrics:
    """The losses, one step's error against predicting no change, and how well rewards and ends are foreseen."""
    metrics = {f"report_{name}": value for name, value in losses.items()}
    metrics |= one_step(part.mixture(h), steps.z, steps.after, steps.valid)
    extras = part.extras(h)
    if "rew" in extras:
        metrics["reward_mae"] = (extras["rew"] - steps.rew).abs()[steps.valid].mean()
    if "con" in extras:
        right = (extras["con"] < 0) == steps.is_terminal
        metrics["continuation_accuracy"] = right[steps.valid].float().mean()
    return metrics
