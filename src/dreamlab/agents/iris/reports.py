"""Costlier measures of IRIS, now and then: numbers on rows spread over the whole table, pictures, films."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from dreamlab.agents.iris.tokenizer import Tokenizer, counts, usage, usage_picture
from dreamlab.core.protocols import Experience, WorldModel
from dreamlab.core.sampling import spread
from dreamlab.nn import reports

if TYPE_CHECKING:
    from dreamlab.agents.iris.agent import Iris

ROWS = 256
"""looked at for a report"""
PICTURES = 8
"""frames side by side"""
MOVES = 0.1
"""of full brightness: pixels that differ more from the background move"""
EPISODES, WHOLE = 6, 256
"""newest episodes, and rows of each at most, that values are compared over"""


@torch.no_grad()
def tokenizer(tokenizer: Tokenizer, experience: Experience) -> dict[str, Any]:
    """How far reconstructions are off, how the codebook is used, and both as pictures."""
    image = experience.gather(spread(experience.index, ROWS), obs=("image",), extras=()).obs["image"][:, 0]
    tokens = torch.cat([tokenizer.tokenise(part) for part in image.split(64)])
    truth = image.float() / 255
    again = torch.cat([tokenizer.picture(part) for part in tokens.split(64)])
    off = (again - truth).abs()
    shown = slice(None, None, max(1, len(image) // PICTURES))
    vocabulary = tokenizer.codebook.num_embeddings
    found = counts(tokens, vocabulary)
    pictures = {"codebook": usage_picture(found)}
    if image.shape[1] in (1, 3):
        pictures["reconstructions"] = reports.grid(torch.stack([truth[shown], again[shown], off[shown]]))
    return {
        "reconstruction_mae": off.mean(),
        "reconstruction_mse": off.square().mean(),
        "reconstruction_worst": off.flatten(1).amax(1).mean(),
        "moving_kept": moving_kept(truth, again),
        **usage(tokens, vocabulary),
        **pictures,
    }


def moving_kept(truth: Float[Tensor, "N C h w"], again: Float[Tensor, "N C h w"]) -> Tensor:
    """How much of what moves reconstructions keep: 1 all of it, 0 as if there were nothing but the background.

    What moves is what differs by ``MOVES`` from the median frame: paddles and balls are few pixels, which a mean over
    the whole frame hides. One less the share of their error in that of the background drawn in their place.
    """
    background = truth.median(0).values
    gone = (truth - background).abs()
    moves = (gone.amax(1, keepdim=True) > MOVES).expand_as(truth)
    return 1 - (again - truth).abs()[moves].sum() / gone[moves].sum().clamp(min=1e-6)


def dynamics(model: WorldModel, experience: Experience) -> dict[str, Any]:
    """An open-loop film: its context is the last frame that is seen, as the paper's dreams begin."""
    return dict(reports.film(model, experience))


@torch.no_grad()
def values(agent: Iris, experience: Experience) -> dict[str, Any]:
    """What the critic says along the newest whole episodes, against the discounted signs of rewards that came."""
    index, gamma = experience.index, agent.config.actor_critic.gamma
    episodes, pairs = index.episodes(), []
    for i in np.flatnonzero(episodes.whole)[::-1][:EPISODES]:
        times = np.arange(int(episodes.start[i]), int(episodes.stop[i]))[-WHOLE:]
        batch = experience.gather((times * index.streams + int(episodes.stream[i]))[None])
        tokens = agent.model.tokenizer.tokenise(batch.obs["image"][0])[None]  # (1, T, K)
        memory = agent.actor_critic.initial(1, tokens.device)
        said = agent.actor_critic.unroll(agent.see(tokens[:, :-1]), memory)
        pairs.append((said.val[0], reports.discounted(batch.rew[0, 1:].sign(), gamma)))
    if not pairs:
        return {}
    val, came = (torch.cat(parts) for parts in zip(*pairs, strict=True))
    return {"value_mae": (val - came).abs().mean(), "value_bias": (val - came).mean(), "real_return": came.mean()}
