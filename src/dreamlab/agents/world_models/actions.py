"""From the controller's A real numbers to an action, one part for each kind of action space.

Networks see an action as float32 (N, A), one-hot where discrete; environments take int64 (N,) there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from gymnasium import spaces
from jaxtyping import Float
from torch import Tensor

from dreamlab.core.errors import UserError
from dreamlab.core.inside import Choices, Spread, View


class Actions(Protocol):
    """What an action space needs: ``size`` numbers in, an action out."""

    size: int

    def __call__(self, raw: Float[Tensor, "*batch A"]) -> Float[Tensor, "*batch A"]:
        """The action as the networks see it, from numbers without bounds."""
        ...

    def uniform(self, n: int, rng: torch.Generator) -> Float[Tensor, "N A"]:
        """Actions by pure chance."""
        ...

    def drift(self, act: Float[Tensor, "N A"], amount: float, rng: torch.Generator) -> Float[Tensor, "N A"]:
        """The actions after one step of a random walk (kept in bounds)."""
        ...

    def emit(self, act: Float[Tensor, "N A"]) -> Tensor:
        """The action as the environment takes it."""
        ...

    def seen(self, act: Float[Tensor, "*batch E"], extras: Mapping[str, Tensor]) -> Float[Tensor, "*batch A"]:
        """The action as M sees it, from the one that is stored (one-hot where discrete) and what is noted beside it."""
        ...

    def note(self, act: Float[Tensor, "N A"]) -> Mapping[str, Tensor]:
        """What is to be stored beside the action, so that ``seen`` can give back what was chosen."""
        ...


class Direct:
    """What is stored is what M sees."""

    def seen(self, act: Tensor, extras: Mapping[str, Tensor]) -> Tensor:
        return act

    def note(self, act: Tensor) -> Mapping[str, Tensor]:
        return {}


class CarRacing(Direct):
    """Steer tanh, gas (tanh + 1) / 2, brake tanh cut at 0: half of the brake's range is dead (the authors' code)."""

    size = 3

    def __call__(self, raw: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3"]:
        steer, gas, brake = raw.tanh().unbind(-1)
        return torch.stack([steer, (gas + 1) / 2, brake.clamp(min=0)], -1)

    def uniform(self, n: int, rng: torch.Generator) -> Float[Tensor, "N 3"]:
        return Bounded(spaces.Box(*CAR)).uniform(n, rng)

    def drift(self, act: Float[Tensor, "N 3"], amount: float, rng: torch.Generator) -> Float[Tensor, "N 3"]:
        return Bounded(spaces.Box(*CAR)).drift(act, amount, rng)

    def emit(self, act: Float[Tensor, "N 3"]) -> Float[Tensor, "N 3"]:
        return act


class Bounded(Direct):
    """A Box with bounds: tanh, stretched over them."""

    def __init__(self, space: spaces.Box) -> None:
        self.size = int(space.shape[0])
        self.low, self.high = torch.as_tensor(space.low), torch.as_tensor(space.high)

    def __call__(self, raw: Float[Tensor, "*batch A"]) -> Float[Tensor, "*batch A"]:
        low, high = self.low.to(raw), self.high.to(raw)
        return low + (raw.tanh() + 1) / 2 * (high - low)

    def uniform(self, n: int, rng: torch.Generator) -> Float[Tensor, "N A"]:
        share = torch.rand(n, self.size, generator=rng, device=rng.device)
        low, high = self.low.to(share), self.high.to(share)
        return low + share * (high - low)

    def drift(self, act: Float[Tensor, "N A"], amount: float, rng: torch.Generator) -> Float[Tensor, "N A"]:
        """``amount`` is the step's standard deviation where the widest bounds are -1 and 1."""
        noise = torch.randn(act.shape, generator=rng, device=rng.device)
        low, high = self.low.to(noise), self.high.to(noise)
        return (act + amount * (high - low).max() / 2 * noise).clamp(low, high)

    def emit(self, act: Float[Tensor, "N A"]) -> Float[Tensor, "N A"]:
        return act


class Choice(Direct):
    """Discrete: the largest number wins. A random walk redraws the action now and then."""

    def __init__(self, space: spaces.Discrete) -> None:
        self.size, self.start = int(space.n), int(space.start)

    def __call__(self, raw: Float[Tensor, "*batch A"]) -> Float[Tensor, "*batch A"]:
        return F.one_hot(raw.argmax(-1), self.size).to(raw.dtype)

    def uniform(self, n: int, rng: torch.Generator) -> Float[Tensor, "N A"]:
        drawn = torch.randint(self.size, (n,), generator=rng, device=rng.device)
        return F.one_hot(drawn, self.size).float()

    def drift(self, act: Float[Tensor, "N A"], amount: float, rng: torch.Generator) -> Float[Tensor, "N A"]:
        """A new action with probability ``amount``, otherwise the same: held 7 steps on average at 1/7."""
        redraw = torch.rand(len(act), 1, generator=rng, device=rng.device) < amount
        return torch.where(redraw, self.uniform(len(act), rng), act)

    def emit(self, act: Float[Tensor, "N A"]) -> Tensor:
        return act.argmax(-1) + self.start


class Thirds:
    """Doom's TakeCover: one tanh; below -0.3333 left, above 0.3333 right, else still (the authors' code).

    M sees the number itself, not the button. Where only buttons are known, as in recordings, they stand for -1, 0, 1.
    """

    size = 1
    STILL, RIGHT, LEFT = 0, 1, 2  # the order of VizdoomTakeCover-v1
    EDGE = 0.3333

    def __call__(self, raw: Float[Tensor, "*batch 1"]) -> Float[Tensor, "*batch 1"]:
        return raw.tanh()

    def uniform(self, n: int, rng: torch.Generator) -> Float[Tensor, "N 1"]:
        return 2 * torch.rand(n, 1, generator=rng, device=rng.device) - 1

    def drift(self, act: Float[Tensor, "N 1"], amount: float, rng: torch.Generator) -> Float[Tensor, "N 1"]:
        return (act + amount * torch.randn(act.shape, generator=rng, device=rng.device)).clamp(-1, 1)

    def emit(self, act: Float[Tensor, "N 1"]) -> Tensor:
        left, right = act[:, 0] < -self.EDGE, act[:, 0] > self.EDGE
        return self.LEFT * left.long() + self.RIGHT * right.long()

    def seen(self, act: Float[Tensor, "*batch 3"], extras: Mapping[str, Tensor]) -> Float[Tensor, "*batch 1"]:
        button = act[..., self.RIGHT, None] - act[..., self.LEFT, None]
        analog = extras.get("analog", torch.zeros_like(button))  # 0 where nothing was noted, or still was chosen
        return torch.where(analog != 0, analog, button)

    def note(self, act: Float[Tensor, "N 1"]) -> Mapping[str, Tensor]:
        return {"analog": act}


def plain(actions: Actions, raw: Float[Tensor, "*batch A"]) -> View:
    """The action that raw numbers stand for, to be looked at: certain where it is one of several."""
    act = actions(raw)
    if isinstance(actions, Choice):
        return Choices((act,))
    if isinstance(actions, Thirds):
        return Choices((F.one_hot(actions.emit(act.flatten(0, -2)), 3).unflatten(0, act.shape[:-1]).to(raw),))
    return Spread(act)


CAR = (np.array([-1, 0, 0], np.float32), np.array([1, 1, 1], np.float32))


def actions_for(space: spaces.Space, kind: str = "auto") -> Actions:
    """The part for an action space; ``kind`` "thirds" for Doom's map onto three actions.

    Raises:
        UserError: a linear controller has no way to act there.
    """
    if kind == "thirds":
        if isinstance(space, spaces.Discrete) and space.n == 3:
            return Thirds()
        raise UserError(f"thirds choose among three actions, but the environment has {space}; type: actions auto")
    if isinstance(space, spaces.Discrete):
        return Choice(space)
    if isinstance(space, spaces.Box) and len(space.shape) == 1:
        if space.shape == (3,) and np.array_equal(space.low, CAR[0]) and np.array_equal(space.high, CAR[1]):
            return CarRacing()
        if space.is_bounded():
            return Bounded(space)
    raise UserError(
        f"world-models acts in Discrete spaces and in flat Boxes with bounds, got {space}; "
        "wrap the environment so that its actions are one of these"
    )
