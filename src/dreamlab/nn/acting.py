"""Acting with a recurrent state-space model: see, update the state, choose."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, NamedTuple

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from dreamlab.nn.rssm import State
from dreamlab.nn.world_model import RecurrentModel

if TYPE_CHECKING:
    from dreamlab.core.types import Obs


class Remembered(NamedTuple):
    """What a policy carries (N, ...)."""

    state: State
    act: Tensor
    """what it did last, as networks see it"""


class Acting:
    """A policy (``core.protocols.Policy``) that acts on posterior states, in batches of any size.

    Args:
        choose: an action (N, A) from what the actor says (N, outs).
        store: whether the states are written beside the rows, in few bytes, for learning to begin from.
    """

    def __init__(
        self, model: RecurrentModel, actor: nn.Module, choose: Callable[[Tensor], Tensor], store: bool = False
    ) -> None:
        self.model, self.actor, self.choose, self.store = model, actor, choose, store

    def initial(self, n: int) -> Remembered:
        """Zeros."""
        device = next(self.actor.parameters()).device
        return Remembered(
            self.model.dynamics.initial(n, device), torch.zeros(n, self.model.actions.size, device=device)
        )

    @torch.inference_mode()
    def __call__(
        self, obs: Obs, is_first: Bool[Tensor, " N"], state: Remembered
    ) -> tuple[Tensor, Remembered, Mapping[str, Tensor]]:
        now = self._see(obs, is_first, state)
        act = self.choose(self.actor(now.feat))  # (N, A)
        columns = packed(self.model, now) if self.store else {}
        emitted = self.model.actions.emit(act)
        if not self.model.actions.groups:
            act = act.clamp(-1, 1)  # as rows hold it
        return emitted, Remembered(now, act), columns

    @torch.inference_mode()
    def follow(self, obs: Obs, is_first: Bool[Tensor, " N"], state: Remembered, act: Tensor) -> Remembered:
        """The state where somebody else chose: ``obs`` was seen and ``act`` (N, A), as rows hold it, was done."""
        return Remembered(self._see(obs, is_first, state), self.model.actions.seen(act))

    def _see(self, obs: Obs, is_first: Bool[Tensor, " N"], state: Remembered) -> State:
        embed = self.model.encoder({k: v.unsqueeze(1) for k, v in obs.items()}).squeeze(1)  # (N, E)
        return self.model.dynamics.obs_step(embed, state.act, is_first, state.state)


def packed(model: RecurrentModel, state: State) -> dict[str, Tensor]:
    """A state as columns of rows: h in half precision (it lies in [-1, 1]), z as its latents pack it."""
    return {"deter": state.deter.half(), "stoch": model.dynamics.latents.pack(state.stoch)}


def unpacked(model: RecurrentModel, columns: Mapping[str, Tensor], n: int, device: torch.device) -> State:
    """The states (N, ...) that columns hold, or zeros where there are none yet."""
    if "deter" not in columns:
        return model.dynamics.initial(n, device)
    return State(columns["deter"].float(), model.dynamics.latents.unpack(columns["stoch"]))
