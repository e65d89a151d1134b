"""The recurrent state-space model (PlaNet, arXiv:1811.04551; DreamerV1 to V3), for any cell and any latents.

::

    act[t-1] ─┐                       embed[t] ─┐
    h[t-1] ───┼─ cell ─▶ h[t] ─┬────────────────┴─ post ─▶ z[t]      observe: what was seen decides z
    z[t-1] ───┘                └─ prior ─▶ z[t]                      imagine: the prior does

    is_first[t]: h, z and act of t-1 are zeros

Actions here are those that *led to* t: the agents shift theirs in one named function. In the scan there is only
what must be: the embedding's and the action's shares of every product, and the prior, are made for all times at
once, before and after it; so are the gradients of its weights (``scan.Lent``).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from dreamlab.nn.blocks import MLP, Init, Linear, glorot
from dreamlab.nn.cells import Cell
from dreamlab.nn.latents import Latents
from dreamlab.nn.scan import Lent, columns


class State(NamedTuple):
    """Of N sequences, (N, ...), or over time, (N, T, ...)."""

    deter: Tensor
    """h (..., D) float32"""
    stoch: Tensor
    """z (..., W) float32, flat"""

    @property
    def feat(self) -> Float[Tensor, "*batch F"]:
        """[h, z]: what every head sees."""
        return torch.cat([self.deter, self.stoch], -1)


FEW = 1 << 20
"""weights of a cell up to which a scan on a CPU is no faster in bf16: casting so few rows takes longer than it saves"""


class Observed(NamedTuple):
    """What observing T steps of N sequences gives."""

    state: State
    """(N, T, ...) posterior states"""
    raw: Tensor
    """(N, T, R): the posterior's numbers; ``latents.stats`` makes log-probabilities or means of them"""


class RSSM(nn.Module):
    """Cell, latents, and the two networks that say what z is: the prior from h, the posterior from h and embed.

    Args:
        embed: width of what is seen.
        hidden: units of prior and posterior.
        prior_layers: hidden layers of the prior (the posterior has one).
        after: what follows a hidden dense layer (norm, activation).
        init: of these dense layers' weights.
    """

    def __init__(
        self,
        cell: Cell,
        latents: Latents,
        embed: int,
        hidden: int,
        prior_layers: int,
        after: Callable[[int], nn.Module],
        init: Init = glorot,
    ) -> None:
        super().__init__()
        self.cell, self.latents = cell, latents
        self.prior = MLP(cell.size, hidden, prior_layers, latents.raw, after, init)
        self.posterior = Linear(cell.size + embed, hidden, init)
        self.posterior_after = after(hidden)
        self.posterior_out = Linear(hidden, latents.raw, init)

    def initial(self, n: int, device: torch.device) -> State:
        """Zeros (N, ...)."""
        return State(torch.zeros(n, self.cell.size, device=device), torch.zeros(n, self.latents.width, device=device))

    def observe(
        self,
        embed: Float[Tensor, "N T E"],
        act: Float[Tensor, "N T A"],
        is_first: Bool[Tensor, "N T"],
        state: State,
        noise: Tensor | None = None,
    ) -> Observed:
        """Posterior states of T steps on from ``state`` (N, ...).

        Args:
            act: what led to each step; whatever it is where ``is_first``.
            noise: (N, T, ...) of ``latents.noise``; fresh without it.
        """
        dtype, size = self.precision(embed), self.cell.size
        embed = embed.to(dtype)
        noise = self.latents.noise(*embed.shape[:2], device=embed.device) if noise is None else noise
        keep = (~is_first).unsqueeze(-1).to(dtype)  # (N, T, 1)
        acts = self.cell.acts(act.to(dtype), keep).transpose(0, 1).unbind()  # T of (N, ...)
        seen = columns(self.posterior, embed, slice(size, None)).transpose(0, 1).unbind()
        step, from_h = self.cell.begin(dtype), Lent(self.posterior, dtype, slice(0, size))
        out, keeps = Lent(self.posterior_out, dtype), keep.float().transpose(0, 1).unbind()
        h, z = state
        deter, stoch, raws = [], [], []
        for t, draw in enumerate(noise.transpose(0, 1).unbind()):
            h = step(h * keeps[t], z * keeps[t], acts[t])  # (N, D)
            raw = out(self.posterior_after(from_h(h) + seen[t]))  # (N, R)
            z = self.latents.draw(raw, draw)  # (N, W)
            deter.append(h)
            stoch.append(z)
            raws.append(raw)
        return Observed(State(torch.stack(deter, 1), torch.stack(stoch, 1)), torch.stack(raws, 1))

    def precision(self, embed: Tensor) -> torch.dtype:
        """What a scan multiplies in: float32 on a CPU where weights are few."""
        few = sum(p.numel() for p in self.cell.parameters()) <= FEW
        return torch.float32 if few and embed.device.type == "cpu" else embed.dtype

    def obs_step(self, embed: Tensor, act: Tensor, is_first: Tensor, state: State) -> State:
        """The posterior state one step on (N, ...), as ``observe`` finds it."""
        dtype = embed.dtype
        keep = (~is_first).unsqueeze(-1).to(dtype)  # (N, 1)
        h, z = (x * keep.to(x.dtype) for x in state)
        h = self.cell.begin(dtype)(h, z, self.cell.acts(act.to(dtype), keep))  # (N, D)
        return self.see(h, embed)

    def see(self, h: Float[Tensor, "N D"], embed: Float[Tensor, "N E"]) -> State:
        """The posterior state (N, ...) where h is known already: what is seen decides z."""
        raw = self.post(h, embed)
        noise = self.latents.noise(len(h), 1, device=h.device)[:, 0]  # as many numbers as a window of one draws
        return State(h, self.latents.draw(raw, noise))

    def post(self, h: Float[Tensor, "N D"], embed: Float[Tensor, "N E"]) -> Float[Tensor, "N R"]:
        """The posterior's numbers, of h and of what was seen there."""
        seen = torch.cat([h.to(embed.dtype), embed], -1)
        return self.posterior_out(self.posterior_after(self.posterior(seen)))

    def imagine(
        self, state: State, actor: Callable[[Tensor, int], Tensor], horizon: int, dtype: torch.dtype = torch.float32
    ) -> tuple[Float[Tensor, "K N F"], Float[Tensor, "H N A"]]:
        """H steps on from ``state`` (N, ...) by the prior; ``actor(feat, k)`` gives the action chosen at step k.

        Returns:
            [h, z] of H + 1 states, time first, the start included; and the actions.
        """
        take = self.stepper(dtype)
        feats, acts = [state.feat], []
        for k in range(horizon):
            acts.append(actor(feats[-1], k))
            state = take(state, acts[-1])
            feats.append(state.feat)
        return torch.stack(feats), torch.stack(acts)

    def stepper(self, dtype: torch.dtype = torch.float32) -> Callable[..., State]:
        """One imagined step ``(state, act, temperature=1.0) -> state``; the cell's weights are lent for a rollout."""
        step = self.cell.begin(dtype)

        def take(state: State, act: Tensor, temperature: float = 1.0) -> State:
            keep = torch.ones_like(act[:, :1], dtype=dtype)
            h = step(state.deter, state.stoch, self.cell.acts(act.to(dtype), keep))
            noise = self.latents.noise(len(h), device=h.device)
            return State(h, self.latents.draw(self.prior(h.to(dtype)), noise, temperature))

        return take
