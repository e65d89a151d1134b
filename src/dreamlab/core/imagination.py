"""Imagining: a world model stepped on from start latents by a policy, or by actions that are given.

::

    time        0         1         2    ...     H
    latents   start ──▶ step ──▶ step    ...   step       (N, H+1, ...)
    act        a0 ─────┘ a1 ─────┘       a[H-1]           (N, H, A)

``act[:, k]`` is chosen at ``latents[:, k]`` and leads to ``latents[:, k + 1]``. ``predict`` of latent k + 1
gives the reward and the continuation that came with it: the row convention of ``core.types``.

Torch alone: no pictures, no NumPy. Gradients flow where the model and the actor let them; the caller decides
(``torch.no_grad``). What is drawn at random comes from torch's global generator (``core.seeds.forked``).
Nothing stops at a predicted end: ``alive`` says which latents come before one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from dreamlab.core.protocols import State, WorldModel

Actor = Callable[[State], Tensor]
"""latent (N,) -> act (N, A), one-hot where the action is discrete"""


class Imagined(NamedTuple):
    """A rollout of N rows over H steps."""

    latents: State
    """(N, H+1, ...): the start and H imagined ones"""
    act: Tensor
    """(N, H, A)"""


def imagine(
    model: WorldModel, start: State, actor: Actor | Tensor, horizon: int | None = None, temperature: float = 1.0
) -> Imagined:
    """Imagine on from latents (N, ...).

    Args:
        actor: chooses act (N, A) from a latent; or the actions themselves, (N, H, A).
        horizon: H; with actions given, at most as many as there are, and all of them by default.
        temperature: how freely the model draws; what it means exactly is the model's to say.

    Raises:
        ValueError: no horizon with an actor, or more steps than actions.
    """
    if isinstance(actor, Tensor):
        horizon = actor.shape[1] if horizon is None else horizon
        if horizon > actor.shape[1]:
            raise ValueError(f"{actor.shape[1]} actions were given for a horizon of {horizon}")
    if horizon is None or horizon < 1:
        raise ValueError(f"an actor needs a horizon of at least 1, got {horizon}")
    carry, latent = model.begin(start), start
    latents, acts = [start], []
    for k in range(horizon):
        act = actor[:, k] if isinstance(actor, Tensor) else actor(latent)  # (N, A)
        carry, latent = model.step(carry, act, temperature)
        latents.append(latent)
        acts.append(act)
    return Imagined(stack(latents), torch.stack(acts, 1))


def predict_all(model: WorldModel, latents: State) -> Mapping[str, Tensor]:
    """``model.predict`` of latents (N, T, ...): every prediction is (N, T, ...)."""
    first = leaves(latents)[0]
    n, t = first.shape[:2]
    flat = model.predict(tree_map(lambda x: x.flatten(0, 1), latents))  # (N*T, ...)
    return {k: v.unflatten(0, (n, t)) for k, v in flat.items()}


def alive(con: Tensor) -> Tensor:
    """(N, T) bool: True up to and with the first latent that ends the episode (con < 0.5), False after it.

    ``rew`` summed where alive is the return of each row.
    """
    ended = (con < 0.5).cumsum(1)
    return torch.cat([torch.zeros_like(ended[:, :1]), ended[:, :-1]], 1) == 0


# -- states: a tensor, or a (named) tuple of states; all tensors have equal leading axes ---------------------


def leaves(state: State) -> list[Tensor]:
    """The tensors of a state, in order."""
    return [state] if isinstance(state, Tensor) else [leaf for part in state for leaf in leaves(part)]


def tree_map(fn: Callable[..., Tensor], state: State, *others: State) -> State:
    """A state like ``state`` with ``fn`` of the tensors that are in the same place in all of them."""
    if isinstance(state, Tensor):
        return fn(state, *others)
    parts = [tree_map(fn, *same) for same in zip(state, *others, strict=True)]
    return type(state)(*parts) if hasattr(state, "_fields") else tuple(parts)


def stack(states: list[State], dim: int = 1) -> State:
    """States (N, ...) over time: (N, T, ...)."""
    return tree_map(lambda *xs: torch.stack(xs, dim), *states)


def pick(mask: Tensor, chosen: State, other: State) -> State:
    """Rows of ``chosen`` where mask (N,) is set, of ``other`` elsewhere."""
    return tree_map(lambda a, b: torch.where(mask.view(-1, *[1] * (a.ndim - 1)), a, b), chosen, other)
