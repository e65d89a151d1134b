"""A recurrent state-space model with its senses and heads, as everything outside learning takes it.

It is ``core.protocols.WorldModel``: dreams, films, errors by horizon and the studio need no more. What differs from
paper to paper is how numbers are read (``Reading``); how they are learned is in the agents' own files.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from dreamlab.core.inside import View
from dreamlab.core.types import Batch
from dreamlab.nn.actions import Actions
from dreamlab.nn.rssm import RSSM, State
from dreamlab.nn.senses import Decoder, Encoder

if TYPE_CHECKING:
    from dreamlab.core.types import Obs


class Reading(NamedTuple):
    """What heads say, in the units of the rows."""

    image: Callable[[Tensor], Tensor]
    """into [0, 1]"""
    vector: Callable[[Tensor], Tensor]
    rew: Callable[[Tensor], Tensor]
    con: Callable[[Tensor], Tensor]
    """the probability that the episode goes on"""


class RecurrentModel(nn.Module):
    """Encoder, dynamics, decoder, reward and continuation: observes rows, imagines on, predicts."""

    def __init__(
        self,
        encoder: Encoder,
        dynamics: RSSM,
        decoder: Decoder,
        reward: nn.Module,
        continuation: nn.Module | None,
        actions: Actions,
        reading: Reading,
    ) -> None:
        super().__init__()
        self.encoder, self.dynamics, self.decoder = encoder, dynamics, decoder
        self.reward, self.continuation = reward, continuation
        self.actions, self.reading = actions, reading

    @torch.no_grad()
    def observe(self, batch: Batch) -> State:
        """Posterior states (N, T, ...) of rows, each window from the h in its first row on where it ``remembers``
        one, else from a state of zeros.

        The h beside rows is that of the agent that stored it: gather another run's rows with ``extras=()``.
        """
        act = led_to(self.actions.seen(batch.act))
        start, known = self.dynamics.initial(len(act), act.device), self.remembers(batch)
        if not known.any():
            return self.dynamics.observe(self.encoder(batch.obs), act, batch.is_first, start).state
        embed = self.encoder({k: v[:, :1] for k, v in batch.obs.items()}).squeeze(1)  # (N, E)
        fresh = self.dynamics.obs_step(embed, act[:, 0], batch.is_first[:, 0], start).deter
        h = torch.where(known.unsqueeze(-1), batch.extras["deter"][:, 0].float(), fresh)
        return self.observe_after(self.dynamics.see(h, embed), batch)  # z is of what is seen, not what was stored

    def remembers(self, batch: Batch) -> Bool[Tensor, " N"]:
        """Windows (N, T) that begin within an episode, at a row with the state that was once reached there."""
        deter = batch.extras.get("deter")
        if deter is None or deter.shape[2:] != (self.dynamics.cell.size,):
            return torch.zeros_like(batch.is_first[:, 0])
        return deter[:, 0].any(-1) & ~batch.is_first[:, 0]  # zeros: nobody wrote it

    @torch.no_grad()
    def observe_after(self, before: State, batch: Batch) -> State:
        """Posterior states (N, T, ...) of rows where those of the first one are known to be ``before`` (N, ...)."""
        known = State(*(x.unsqueeze(1) for x in before))
        rest = later(batch)
        if not rest.rew.shape[1]:
            return known
        act = led_to(self.actions.seen(batch.act))[:, 1:]
        found = self.dynamics.observe(self.encoder(rest.obs), act, rest.is_first, before).state
        return State(*(torch.cat(both, 1) for both in zip(known, found, strict=True)))

    def begin(self, latent: State) -> State:
        """Imagining needs nothing more than the state."""
        return latent

    @torch.no_grad()
    def step(self, carry: State, act: Float[Tensor, "N A"], temperature: float = 1.0) -> tuple[State, State]:
        """One imagined step; a higher temperature flattens the prior's classes."""
        state = self.dynamics.stepper()(carry, self.actions.seen(act), temperature)
        return state, state

    @torch.no_grad()
    def predict(self, latent: State) -> Mapping[str, Tensor]:
        """Images by key, ``vector``, ``rew``, and ``con`` where it is learned, of states (N, ...)."""
        feat, read = latent.feat, self.reading
        lead = feat.shape[:-1]
        said = self.decoder(feat.flatten(0, -2))
        seen: dict[str, Tensor] = {}
        if "image" in said:
            seen |= self.encoder.sight.split(read.image(said["image"]).unflatten(0, lead))
        if "vector" in said:
            seen["vector"] = read.vector(said["vector"]).unflatten(0, lead)
        seen["rew"] = read.rew(self.reward(feat))
        if self.continuation is not None:
            seen["con"] = read.con(self.continuation(feat))
        return seen

    @torch.no_grad()
    def inside(self, latent: State, obs: Obs | None = None) -> Mapping[str, View]:
        """z of states (N, ...): what the prior said, and what the posterior said where something was seen."""
        z, post = self.dynamics.latents, None
        if obs is not None:
            embed = self.encoder({k: v.unsqueeze(1) for k, v in obs.items()}).squeeze(1)  # (N, E)
            post = z.stats(self.dynamics.post(latent.deter, embed))
        return {"z": z.view(latent.stoch, z.stats(self.dynamics.prior(latent.deter)), post)}

    def with_code(self, latent: State, code: Tensor) -> State:
        """The states with another z, as ``inside`` tells it."""
        return latent._replace(stoch=self.dynamics.latents.coded(code).to(latent.stoch))

    def compare(self, latent: State) -> Float[Tensor, "*batch D"]:
        """h: what is seen changes it only by way of z, so imagined and observed ones may be compared."""
        return latent.deter


# ---- states beside rows

COLUMNS = ("deter", "stoch")
"""their names, where an agent stores them"""


def packed(model: RecurrentModel, state: State) -> dict[str, Tensor]:
    """A state as columns of rows: h in half precision (it lies in [-1, 1]), z as its latents pack it."""
    return {"deter": state.deter.half(), "stoch": model.dynamics.latents.pack(state.stoch)}


def unpacked(model: RecurrentModel, columns: Mapping[str, Tensor], n: int, device: torch.device) -> State:
    """The states (N, ...) that columns hold, or zeros where there are none yet."""
    if "deter" not in columns:
        return model.dynamics.initial(n, device)
    return State(columns["deter"].float(), model.dynamics.latents.unpack(columns["stoch"]))


def stored(model: RecurrentModel, batch: Batch) -> State:
    """The states (N, ...) beside the first row of each window."""
    return unpacked(model, {k: v[:, 0] for k, v in batch.extras.items()}, len(batch.rew), batch.rew.device)


# ---- rows


def led_to(act: Float[Tensor, "N T A"]) -> Float[Tensor, "N T A"]:
    """The actions that led to each row, where rows hold those that were then chosen; zeros lead to the first."""
    return torch.cat([torch.zeros_like(act[:, :1]), act[:, :-1]], 1)


def later(batch: Batch) -> Batch:
    """A batch without its first row."""
    return window(batch, 1)


def masked_mean(x: Float[Tensor, "*lead"], mask: Tensor | None = None) -> Float[Tensor, ""]:
    """The mean where ``mask`` is set (it broadcasts to x); over all without one."""
    if mask is None:
        return x.mean()
    mask = mask.to(x.dtype).expand_as(x)
    return (x * mask).sum() / mask.sum().clamp(min=1)


def window(batch: Batch, start: int) -> Batch:
    """A batch from row ``start`` of each window on."""
    parts: dict[str, Any] = {
        name: {k: v[:, start:] for k, v in part.items()} if isinstance(part, Mapping) else part[:, start:]
        for name, part in batch._asdict().items()
    }
    return Batch(**parts)
