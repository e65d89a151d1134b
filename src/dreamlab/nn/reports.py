"""Measures, pictures and films of a world model: what one wants to see of its learning."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from dreamlab.core.imagination import imagine, predict_all, tree_map
from dreamlab.core.pictures import to_rgb
from dreamlab.core.sampling import EpisodeWindows, StreamWindows
from dreamlab.nn.distributions import bernoulli_loss
from dreamlab.nn.latents import Categorical, Latents
from dreamlab.nn.rssm import State
from dreamlab.nn.world_model import RecurrentModel, masked_mean

if TYPE_CHECKING:
    from dreamlab.core.protocols import Experience, WorldModel
    from dreamlab.core.types import Batch, Metrics

ACTIVE = 0.01
"""a class is in use if its mean probability over a batch is above this"""
CONTEXT, FILMED, SHOWN = 5, 50, 6
"""rows that an open-loop film sees before it imagines; its length; films side by side (the papers': 5, 50, 6)"""
SEEING, IMAGINING = (80, 150, 230), (240, 160, 60)
"""colours of the bar above a film"""
FORESEEN, AT_ONCE, DRAWS = 64, 8, 8
"""windows whose rewards and ends are foretold; of them at once; draws of the prior for each row"""
WHOLE = 256
"""rows of an episode that values are compared over, at most"""


def latents(z: Latents, post: Tensor, prior: Tensor, mask: Tensor | None = None) -> dict[str, Tensor]:
    """KL and entropies in nats (means), and how many classes of each variable are in use."""
    found = {
        "kl": masked_mean(z.kl(post, prior), mask),
        "posterior_entropy": masked_mean(z.entropy(post), mask),
        "prior_entropy": masked_mean(z.entropy(prior), mask),
    }
    if isinstance(z, Categorical):
        found["active_classes"] = (post.exp().flatten(0, -3).mean(0) > ACTIVE).float().sum(-1).mean()
    return found


def heads(
    rew: Tensor, true_rew: Tensor, con_logit: Tensor | None, is_terminal: Tensor, mask: Tensor | None = None
) -> dict[str, Tensor]:
    """How far predicted rewards are off, and how often ends are told right, where that is learned."""
    found = {"reward_mae": masked_mean((rew - true_rew).abs(), mask)}
    if con_logit is None:
        return found
    ended = con_logit < 0
    return found | {
        "continuation_accuracy": masked_mean((ended == is_terminal).float(), mask),
        "continuation_loss_hard": masked_mean(bernoulli_loss(con_logit, (~is_terminal).float()), mask),
    }


@torch.no_grad()
def report(
    model: RecurrentModel,
    experience: Experience,
    value: Callable[[Tensor], Tensor],
    gamma: float,
    counted: Callable[[Tensor], Tensor] = torch.clone,
    learned: Callable[[Tensor], Tensor] = torch.clone,
) -> Metrics:
    """An open-loop film, its error, what is foreseen, and the values' accuracy against real returns.

    Args:
        counted: rewards as they count in returns.
        learned: rewards as they are learned.
    """
    told = film(model, experience) | foresight(model, experience, learned)
    return told | values(model, experience, value, gamma, counted)


@torch.no_grad()
def film(model: WorldModel, experience: Experience) -> dict[str, Tensor]:
    """``open_loop`` of windows anywhere, where some are long enough."""
    rows = EpisodeWindows(0)(experience.index, SHOWN, FILMED)
    rows = rows[:, (rows >= 0).any(0)]
    return open_loop(model, experience.gather(rows)) if rows.shape[1] > CONTEXT else {}


def open_loop(model: WorldModel, batch: Batch) -> dict[str, Tensor]:
    """``CONTEXT`` rows seen, the rest imagined with the real actions: truth above, model below, difference beneath.

    Returns a film ``open_loop`` uint8 (T, 3, H, W) where there are images, and the squared error of what is imagined.
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
    image = said[key].clamp(0, 1)
    if truth.shape[2] not in (1, 3):  # planes of a game: how far each is off is shown in the plane's own colour
        rows = torch.stack([truth, image, (image - truth).abs()], 1)
    else:
        rows = torch.stack([truth, image, (image - truth + 1) / 2], 1)
    shown = rows * valid[:, None, :, None, None, None]  # (B, 3, T, C, h, w)
    return found | {"open_loop": torch.from_numpy(framed((shown * 255).round().to(torch.uint8).cpu().numpy(), CONTEXT))}


@torch.no_grad()
def foresight(
    model: RecurrentModel, experience: Experience, learned: Callable[[Tensor], Tensor] = torch.clone
) -> dict[str, Tensor]:
    """How much a model tells of rewards and ends of rows that it has seen, and how much before it sees them.

    Windows cross episodes' ends, so that rows are as frequent as they are: inside episodes few windows reach the last.

    Args:
        learned: rewards as they are learned.

    Returns:
        ``reward_told`` and ``end_told``, from the state that was drawn in a row; ``reward_foreseen`` and
        ``end_foreseen``, from the state before it and the action, as the mean of all draws of the prior would. Each is
        the share of the variance that is told: 1 all, 0 no more than the mean, less than 0 worse. What never varies is
        left out.
    """
    length = min(FILMED, experience.index.stop - experience.index.start)
    if length <= CONTEXT:
        return {}
    rows = StreamWindows(0)(experience.index, FORESEEN, length)
    parts = [foretold(model, experience.gather(rows[i : i + AT_ONCE]), learned) for i in range(0, len(rows), AT_ONCE)]
    whole = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    found = {}
    for what in ("reward", "end"):
        came = whole.get(what, torch.zeros(0))
        if not len(came) or came.max() == came.min():
            continue
        off = (whole[f"{what}_foreseen"].mean(1) - came).square()
        off -= whole[f"{what}_foreseen"].var(1) / DRAWS  # what so few draws are off by chance
        for how, error in (("told", (whole[f"{what}_told"] - came).square()), ("foreseen", off)):
            found[f"{what}_{how}"] = 1 - error.mean() / came.var(correction=0)
    return found


def foretold(
    model: RecurrentModel, batch: Batch, learned: Callable[[Tensor], Tensor] = torch.clone
) -> dict[str, Tensor]:
    """Rewards and ends of rows (R,) that are not an episode's first, what is told (R,) and foreseen (R, DRAWS) of them.

    The first ``CONTEXT`` rows of each window are left out: there a model may not know yet where it is.
    """
    state, z = model.observe(batch), model.dynamics.latents
    before = State(*(x[:, CONTEXT - 1 : -1].flatten(0, 1) for x in state))
    act = model.actions.seen(batch.act)[:, CONTEXT - 1 : -1].flatten(0, 1)  # as rows hold it: chosen there
    deter = model.dynamics.stepper()(before, act).deter
    raw = model.dynamics.prior(deter)
    drawn = [State(deter, z.draw(raw, z.noise(len(raw), device=raw.device))).feat for _ in range(DRAWS)]
    seen = state.feat[:, CONTEXT:].flatten(0, 1)
    counts = (batch.mask & ~batch.is_first)[:, CONTEXT:].flatten()
    heads: dict[str, tuple[Callable[[Tensor], Tensor], Tensor]] = {
        "reward": (lambda feat: learned(model.reading.rew(model.reward(feat)).float()), learned(batch.rew)),
    }
    if model.continuation is not None:
        ends = model.continuation
        heads["end"] = (lambda feat: 1 - model.reading.con(ends(feat)).float(), batch.is_terminal)
    found = {}
    for what, (head, came) in heads.items():
        found[what] = came[:, CONTEXT:].flatten().float()[counts]
        found[f"{what}_told"] = head(seen)[counts]
        found[f"{what}_foreseen"] = torch.stack([head(feat) for feat in drawn], -1)[counts]
    return found


def framed(shown: np.ndarray, context: int) -> np.ndarray:
    """Pictures (B, R, T, C, h, w) as a film (T, 3, H, W): a column each window, thin gaps, a bar over each column.

    The bar is blue while the model sees, orange while it imagines.
    """
    rgb = to_rgb(shown)  # (B, R, T, h, w, 3)
    gap, bar = 1, max(2, rgb.shape[3] // 16)
    b, r, t, h, w, _ = rgb.shape
    film = np.full((t, bar + r * (h + gap), b * (w + gap) - gap, 3), 40, np.uint8)
    for column, row in np.ndindex(b, r):
        top, left = bar + gap + row * (h + gap), column * (w + gap)
        film[:, top : top + h, left : left + w] = rgb[column, row]
        film[:context, :bar, left : left + w] = SEEING
        film[context:, :bar, left : left + w] = IMAGINING
    return np.ascontiguousarray(film.transpose(0, 3, 1, 2))


def grid(image: Float[Tensor, "R N C h w"], gap: int = 1, scale: int = 1) -> UInt8[Tensor, "C H W"]:
    """Images in rows, a thin white line between them, as bytes."""
    image = F.pad(image, (gap, 0, gap, 0), value=1.0)  # (R, N, C, h+gap, w+gap)
    sheet = image.permute(2, 0, 3, 1, 4).flatten(3).flatten(1, 2)  # (C, R*(h+gap), N*(w+gap))
    sheet = F.pad(sheet, (0, gap, 0, gap), value=1.0)
    return sheet.clamp(0, 1).mul(255).round().byte().repeat_interleave(scale, 1).repeat_interleave(scale, 2)


def values(
    model: RecurrentModel,
    experience: Experience,
    value: Callable[[Tensor], Tensor],
    gamma: float,
    reward: Callable[[Tensor], Tensor] = torch.clone,
) -> dict[str, Tensor]:
    """What the critic says of rows of newest episodes, against the discounted rewards that came after them.

    Of an episode that was cut off, what would have come is missing: there the critic's own last word stands for it.
    """
    episodes = experience.index.episodes()
    whole = [i for i in range(len(episodes.start) - 1, -1, -1) if episodes.whole[i]][:SHOWN]
    pairs = []
    for i in whole:
        times = range(int(episodes.start[i]), int(episodes.stop[i]))[-WHOLE:]
        rows = torch.tensor([[t * experience.index.streams + int(episodes.stream[i]) for t in times]])
        batch = experience.gather(rows)
        said = value(model.observe(batch).feat)[0]
        rest = 0.0 if bool(batch.is_terminal[0, -1]) else float(said[-1])
        pairs.append((said[:-1], discounted(reward(batch.rew[0, 1:]), gamma, rest)))
    if not pairs:
        return {}
    said, came = (torch.cat(parts) for parts in zip(*pairs, strict=True))
    return {"value_mae": (said - came).abs().mean(), "value_bias": (said - came).mean(), "real_return": came.mean()}


def discounted(rew: Float[Tensor, " T"], gamma: float, rest: float = 0.0) -> Float[Tensor, " T"]:
    """Sum of rewards from each on, each later one less by gamma; ``rest`` is what comes after the last."""
    total, found = rest, []
    for r in reversed(rew.tolist()):
        total = r + gamma * total
        found.append(total)
    return torch.tensor(found[::-1], device=rew.device)
