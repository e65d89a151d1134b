"""Acting with a recurrent state-space model: see, update the state, choose."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, NamedTuple

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from dreamlab.nn.rssm import State
from dreamlab.nn.traced import Traced
from dreamlab.nn.world_model import COLUMNS, RecurrentModel, packed

if TYPE_CHECKING:
    from dreamlab.core.types import Obs


class Remembered(NamedTuple):
    """What a policy carries (N, ...)."""

    state: State
    act: Tensor
    """what it did last, as networks see it"""


class Looking(nn.Module):
    """See and update the state: what is done alike whichever action is then chosen."""

    def __init__(self, model: RecurrentModel, actor: nn.Module, keys: tuple[str, ...], store: bool) -> None:
        super().__init__()
        self.model, self.actor, self.keys, self.store = model, actor, keys, store

    def forward(self, is_first: Tensor, act: Tensor, deter: Tensor, stoch: Tensor, *seen: Tensor) -> tuple[Tensor, ...]:
        """What the actor says (N, outs), the state, and the columns where they are stored."""
        obs = {key: x.unsqueeze(1) for key, x in zip(self.keys, seen, strict=True)}
        embed = self.model.encoder(obs).squeeze(1)  # (N, E)
        now = self.model.dynamics.obs_step(embed, act, is_first, State(deter, stoch))
        columns = packed(self.model, now) if self.store else {}
        return self.actor(now.feat), now.deter, now.stoch, *(columns[name] for name in COLUMNS if columns)


class Acting:
    """A policy (``core.protocols.Policy``) that acts on posterior states, in batches of any size.

    Args:
        choose: an action (N, A) from what the actor says (N, outs).
        store: whether the states are written beside the rows, in few bytes, for learning to begin from.
        often: it acts for long, so that recording its step pays (``nn.traced``).
    """

    def __init__(
        self,
        model: RecurrentModel,
        actor: nn.Module,
        choose: Callable[[Tensor], Tensor],
        store: bool = False,
        often: bool = False,
    ) -> None:
        self.model, self.actor, self.choose = model, actor, choose
        sight = model.encoder.sight
        self.keys = (*sight.images, *(["vector"] if sight.vector else []))
        look = Looking(model, actor, self.keys, store)
        self.look: Callable[..., tuple[Tensor, ...]] = Traced(look) if often else look

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
        said, deter, stoch, *columns = self.look(is_first, state.act, *state.state, *(obs[key] for key in self.keys))
        act = self.choose(said)  # (N, A)
        emitted = self.model.actions.emit(act)
        if not self.model.actions.groups:
            act = act.clamp(-1, 1)  # as rows hold it
        return emitted, Remembered(State(deter, stoch), act), dict(zip(COLUMNS, columns, strict=False))

    @torch.inference_mode()
    def follow(self, obs: Obs, is_first: Bool[Tensor, " N"], state: Remembered, act: Tensor) -> Remembered:
        """The state where somebody else chose: ``obs`` was seen and ``act`` (N, A), as rows hold it, was done."""
        _, deter, stoch, *_ = self.look(is_first, state.act, *state.state, *(obs[key] for key in self.keys))
        return Remembered(State(deter, stoch), self.model.actions.seen(act))
