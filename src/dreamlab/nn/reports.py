"""Measures and films of a recurrent state-space model: what one wants to see of its learning."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from dreamlab.core.imagination import imagine, predict_all, tree_map
from dreamlab.core.sampling import EpisodeWindows
from dreamlab.nn.distributions import bernoulli_loss
from dreamlab.nn.latents import Categorical, Latents
from dreamlab.nn.world_model import RecurrentModel

if TYPE_CHECKING:
    from dreamlab.core.protocols import Experience
    from dreamlab.core.types import Batch, Metrics

ACTIVE = 0.01
"""a class is in use if its mean probability over a batch is above this"""
CONTEXT, FILMED, SHOWN = 5, 50, 6
"""rows that an open-loop film sees before it imagines; its length; films side by side (the papers': 5, 50, 6)"""
WHOLE = 256
"""rows of an episode that values are compared over, at most"""


def latents(z: Latents, post: Tensor, prior: Tensor) -> dict[str, Tensor]:
    """KL and entropies in nats (means), and how many classes of each variable are in use."""
    found = {
        "kl": z.kl(post, prior).mean(),
        "posterior_entropy": z.entropy(post).mean(),
        "prior_entropy": z.entropy(prior).mean(),
    }
    if isinstance(z, Categorical):
        found["active_classes"] = (post.exp().flatten(0, -3).mean(0) > ACTIVE).float().sum(-1).mean()
    return found


def heads(rew: Tensor, true_rew: Tensor, con_logit: Tensor, is_terminal: Tensor) -> dict[str, Tensor]:
    """How far predicted rewards are off, and how often ends are told right."""
    ended = con_logit < 0
    return {
        "reward_mae": (rew - true_rew).abs().mean(),
        "continuation_accuracy": (ended == is_terminal).float().mean(),
        "continuation_loss_hard": bernoulli_loss(con_logit, (~is_terminal).float()).mean(),
    }


@torch.no_grad()
def report(model: RecurrentModel, experience: Experience, value: Callable[[Tensor], Tensor], gamma: float) -> Metrics:
    """An open-loop film, its error, and the values' accuracy against real returns."""
    windows = EpisodeWindows(0)
    rows = windows(experience.index, SHOWN, FILMED)
    rows = rows[:, (rows >= 0).any(0)]
    found: dict[str, Tensor | float] = {}
    if rows.shape[1] > CONTEXT:
        found |= open_loop(model, experience.gather(rows))
    return found | values(model, experience, value, gamma)


def open_loop(model: RecurrentModel, batch: Batch) -> dict[str, Tensor]:
    """``CONTEXT`` rows seen, the rest imagined with the real actions: truth above, model below, difference beneath.

    Returns ``open_loop`` uint8 (T, C, 3 h, B w) where there are images, and the mean squared error of what is imagined.
    """
    seen = model.observe(batch)
    start = tree_map(lambda x: x[:, CONTEXT - 1], seen)
    dream = imagine(model, start, batch.act[:, CONTEXT - 1 : -1])
    latent = tree_map(lambda a, b: torch.cat([a[:, :CONTEXT], b[:, 1:]], 1), seen, dream.latents)
    said, valid = predict_all(model, latent), batch.mask & (batch.is_first.cumsum(1) <= batch.is_first[:, :1])
    key = "image" if "image" in said else "vector" if "vector" in said else next(iter(said))
    truth = batch.obs[key].float() / (255 if key != "vector" else 1)
    off = (said[key] - truth).square().flatten(2).mean(-1)[:, CONTEXT:]
    found = {"open_loop_error": (off * valid[:, CONTEXT:]).sum() / valid[:, CONTEXT:].sum().clamp(min=1)}
    if key == "vector":
        return found
    rows = torch.cat([truth, said[key].clamp(0, 1), ((said[key] - truth + 1) / 2).clamp(0, 1)], -2)  # (B, T, C, 3h, w)
    rows = rows * valid[..., None, None, None]
    film = rows.permute(1, 2, 3, 0, 4).flatten(-2)  # (T, C, 3h, B w)
    if film.shape[1] not in (1, 3):
        film = film.amax(1, keepdim=True)
    return found | {"open_loop": (film * 255).round().to(torch.uint8)}


def values(
    model: RecurrentModel, experience: Experience, value: Callable[[Tensor], Tensor], gamma: float
) -> dict[str, Tensor]:
    """What the critic says of rows of newest episodes, against the discounted rewards that came after them.

    Only of episodes that terminated, where nothing is missing from the sum.
    """
    episodes = experience.index.episodes()
    whole = [i for i in range(len(episodes.start) - 1, -1, -1) if episodes.whole[i]][:SHOWN]
    pairs = []
    for i in whole:
        times = range(int(episodes.start[i]), int(episodes.stop[i]))[-WHOLE:]
        rows = torch.tensor([[t * experience.index.streams + int(episodes.stream[i]) for t in times]])
        batch = experience.gather(rows)
        if not bool(batch.is_terminal[0, -1]):
            continue
        said = value(model.observe(batch).feat)[0, :-1]
        pairs.append((said, discounted(batch.rew[0, 1:], gamma)))
    if not pairs:
        return {}
    said, came = (torch.cat(parts) for parts in zip(*pairs, strict=True))
    return {"value_mae": (said - came).abs().mean(), "value_bias": (said - came).mean(), "real_return": came.mean()}


def discounted(rew: Float[Tensor, " T"], gamma: float) -> Float[Tensor, " T"]:
    """Sum of rewards from each on, each later one less by gamma."""
    total, found = 0.0, []
    for r in reversed(rew.tolist()):
        total = r + gamma * total
        found.append(total)
    return torch.tensor(found[::-1], device=rew.device)
