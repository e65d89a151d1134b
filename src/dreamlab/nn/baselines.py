"""What the model-free agents share beside the library: spaces, rows drawn for learning, acting, and keeping."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from dreamlab.core import sampling, seeds
from dreamlab.core.errors import UserError
from dreamlab.core.types import is_image
from dreamlab.nn import optim, tianshou
from dreamlab.nn.actions import Bounded, Classes
from dreamlab.nn.frames import Frames

if TYPE_CHECKING:
    from dreamlab.core.protocols import Experience, Phase
    from dreamlab.core.types import Obs
    from dreamlab.nn.compute import Compute

LIBRARY_BYTES = 85 << 20
"""memory of the library and of what it imports (pandas, numba, h5py), and of a small update"""


def actions(agent: str, space: spaces.Space, continuous: bool = True) -> Classes | Bounded:
    """How an agent acts in a space.

    Raises:
        UserError: it cannot; says which spaces it can act in.
    """
    if isinstance(space, spaces.Discrete):
        return Classes((int(space.n),), single=True)
    if isinstance(space, spaces.Box) and len(space.shape) == 1 and continuous:
        low, high = space.low.astype(np.float32), space.high.astype(np.float32)
        if np.isfinite(low).all() and np.isfinite(high).all() and (low < high).all():
            return Bounded(low, high)
        raise UserError(
            f"{agent} acts between bounds, but those of this environment are {low} and {high}: give its action space "
            "finite ones (a Box), or wrap it in a function of your own, as my_pkg.my_env:make"
        )
    if isinstance(space, spaces.Box):
        raise UserError(
            f"{agent} chooses one of n actions (Discrete), and this environment takes {space}; ppo and sac act there. "
            "CarRacing-v3 has five actions to choose from with --env.no-continuous"
        )
    raise UserError(
        f"{agent} chooses one of n actions (Discrete)"
        + (" or a vector between bounds (Box)" if continuous else "")
        + f", and this environment takes {space}; the Dreamers choose several at once (MultiDiscrete)"
    )


def refuse_precision(agent: str, compute: Compute) -> None:
    """Raises UserError where anything but fp32 is asked for."""
    if compute.bf16:
        raise UserError(f"{agent} learns in fp32 alone; leave --precision out")


def library_act(acts: Classes | Bounded, act: Tensor) -> Tensor:
    """Actions of rows (..., A) as the library has them: int64 (...), or [-1, 1] (..., A)."""
    return act.argmax(-1) if acts.groups else acts.seen(act)


class Drawn:
    """Steps drawn from everything that is held, each as likely as any other, with those that follow.

    Args:
        following: how many steps a return is made of.
    """

    def __init__(self, frames: Frames, acts: Classes | Bounded, following: int, seed: int) -> None:
        self.frames, self.acts, self.following = frames, acts, following
        self.windows = sampling.StreamWindows(seeds.derive(seed, "windows"))

    def __call__(self, experience: Experience, n: int) -> tianshou.Transitions:
        """n of them, each with ``following`` rows behind it."""
        index, length = experience.index, self.following + 1
        ids = self.windows(index, n, length)
        while (ends := experience.gather(ids[:, :1], obs=(), extras=()).is_last[:, 0].cpu().numpy()).any():
            ids[ends] = self.windows(index, int(ends.sum()), length)  # nothing was done in an episode's last row
        batch = experience.gather(self.frames.rows(ids, index.start, index.streams), extras=())
        now = slice(self.frames.stack - 1, None)
        return tianshou.Transitions(
            self.frames.of_rows(batch),
            library_act(self.acts, batch.act[:, now]),
            batch.rew[:, now],
            batch.is_last[:, now],
            batch.is_terminal[:, now],
            all_of_them=False,
        )


class Acting:
    """A policy (``core.protocols.Policy``) over one of the library's.

    Args:
        act: actions as the library has them, (N,) or (N, A), of what is seen.
        keep: write what was drawn beside the row, before it is cut to the bounds.
    """

    def __init__(
        self, frames: Frames, acts: Classes | Bounded, device: torch.device, act: Callable[[Tensor], Tensor], keep: bool
    ) -> None:
        self.frames, self.acts, self.device, self.act, self.keep = frames, acts, device, act, keep

    def initial(self, n: int) -> Any:
        """No pictures yet."""
        return self.frames.initial(n, self.device)

    @torch.no_grad()
    def __call__(self, obs: Obs, is_first: Tensor, state: Any) -> tuple[Tensor, Any, Mapping[str, Tensor]]:
        seen, state = self.frames.push(obs, is_first, state)
        act = self.act(seen)
        if self.acts.groups:
            return act.long(), state, {}
        return self.acts.emit(act), state, {"raw": act} if self.keep else {}


def annealed(lr: float, updates: int, phases: Sequence[Phase]) -> float:
    """A learning rate that falls to 0 over all rounds of the phases."""
    return lr * optim.left(updates, sum(phase.rounds for phase in phases), 1.0)


def on_device(compute: Compute, *networks: nn.Module) -> None:
    """Move networks to where they live; those that are only counted stay where they are."""
    for network in networks:
        if not any(p.is_meta for p in network.parameters()):
            network.to(compute.device)


def saved(parts: Mapping[str, nn.Module], optimizers: Mapping[str, tianshou.Adam], **learning: Any) -> dict[str, Any]:
    """Everything that a resumed run needs to go on as if nothing had happened."""
    state: dict[str, Any] = {name: dict(part.state_dict()) for name, part in parts.items()}
    moments = {name: optim.optimizer_state(adam.made) for name, adam in optimizers.items()}
    return state | {"optimizers": moments, "learning": learning}


def restore(
    state: Mapping[str, Any], parts: Mapping[str, nn.Module], optimizers: Mapping[str, tianshou.Adam]
) -> Mapping[str, Any]:
    """Take up what was ``saved``; returns what was learning's."""
    for name, part in parts.items():
        part.load_state_dict(state[name])
    for name, adam in optimizers.items():
        optim.load_optimizer(adam.made, state["optimizers"][name])
    return state["learning"]


def memory(space: spaces.Dict, stack: int, hidden: tuple[int, ...], held: int, learned: int) -> int:
    """Bytes of learning beyond process and weights: transitions held at once, and those in one gradient step."""
    pictures = sum(int(np.prod(s.shape or ())) for s in space.spaces.values() if is_image(s)) * stack
    vector = sum(int(np.prod(s.shape or ())) for s in space.spaces.values() if not is_image(s))
    maps = 4 * pictures  # of three convolutions, with their gradients
    return LIBRARY_BYTES + held * (3 * pictures + 8 * vector) + 4 * learned * (2 * pictures + maps + 6 * sum(hidden))
