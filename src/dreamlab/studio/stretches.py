"""Episodes as pages look at them: those that lie among a run's rows, and those that were played again.

::

    rows on disk ─ Stored ─┐                 frames (n, h, w, 3)
                           ├─ a stretch of ──┤ columns act rew is_*
    played again ─ Held ───┘  times 0 .. T   batch (1, n) for the model

Of an episode that the ring has cut there is what is held: time 0 is its first row that is left.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from gymnasium import spaces

from dreamlab.core.errors import UserError
from dreamlab.core.pictures import to_rgb
from dreamlab.core.types import FLAGS, Batch, is_image

if TYPE_CHECKING:
    from dreamlab.core.protocols import Experience


VALUES = 32
"""numbers of a vector that are shown, at most"""


class Stretch(Protocol):
    """One episode, by times from 0 on."""

    @property
    def key(self) -> str:
        """Tells it from the others of its run."""
        ...

    def __len__(self) -> int: ...
    def row(self, at: int) -> int | None:
        """The id of a row, None where it lies in no table."""
        ...

    def column(self, name: str, start: int, stop: int) -> np.ndarray:
        """Values (n, ...) of times from ``start`` to before ``stop``."""
        ...

    def batch(self, start: int, stop: int) -> Batch:
        """The same rows for the model, (1, n, ...)."""
        ...

    def part(self, start: int, stop: int) -> Stretch:
        """Some of its rows as a stretch of their own."""
        ...


def picture_key(space: spaces.Dict) -> str | None:
    """Which observation is shown as a picture: ``image``, or the first image there is."""
    keys = sorted(k for k, s in space.spaces.items() if is_image(s))
    return "image" if "image" in keys else keys[0] if keys else None


def frames(stretch: Stretch, space: spaces.Dict, start: int, stop: int) -> np.ndarray:
    """What was seen as pictures (n, h, w, 3) uint8.

    Raises:
        UserError: there are no pictures.
    """
    key = picture_key(space)
    if key is None:
        raise UserError("this environment shows no pictures, only numbers")
    return to_rgb(stretch.column(key, start, stop))


@dataclass(frozen=True)
class Stored:
    """An episode among the rows: its stream, and its times there."""

    experience: Experience
    stream: int
    start: int
    stop: int
    whole: bool
    partial: bool = False
    """a part of an episode, not all of it that is held"""

    @property
    def key(self) -> str:
        return f"{self.row(0)}-{self.row(len(self) - 1)}" if self.partial else str(self.row(0))

    def part(self, start: int, stop: int) -> Stored:
        return Stored(self.experience, self.stream, self.start + start, self.start + stop, False, True)

    def __len__(self) -> int:
        return self.stop - self.start

    def row(self, at: int) -> int:
        return (self.start + at) * self.experience.index.streams + self.stream

    def rows(self, start: int, stop: int) -> np.ndarray:
        """Ids (n,)."""
        return (self.start + np.arange(start, stop)) * self.experience.index.streams + self.stream

    def column(self, name: str, start: int, stop: int) -> np.ndarray:
        return self.experience.index.take(name, self.rows(start, stop))  # type: ignore[attr-defined]

    def batch(self, start: int, stop: int) -> Batch:
        return self.experience.gather(self.rows(start, stop)[None])


def stored(experience: Experience, row: int) -> tuple[Stored, int]:
    """The episode that holds a row, and the row's place in it.

    Raises:
        UserError: the row is not held.
    """
    index = experience.index
    held = (index.start * index.streams, index.stop * index.streams)
    if not held[0] <= row < held[1]:
        have = f"{held[0]} to {held[1] - 1} are" if held[1] > held[0] else "none is"
        raise UserError(f"row {row} is not held; {have}")
    time, stream = divmod(row, index.streams)
    episodes = index.episodes()
    found = np.flatnonzero((episodes.stream == stream) & (episodes.start <= time) & (time < episodes.stop))
    if not len(found):
        raise UserError(f"row {row} belongs to no episode")
    there = episode(experience, int(found[0]))
    return there, time - there.start


def episode(experience: Experience, i: int) -> Stored:
    """The i-th episode of those that are held, oldest first."""
    held = experience.index.episodes()
    return Stored(experience, int(held.stream[i]), int(held.start[i]), int(held.stop[i]), bool(held.whole[i]))


@dataclass(frozen=True)
class Held:
    """An episode in memory: columns (T, ...)."""

    key: str
    columns: Mapping[str, np.ndarray]
    act_space: spaces.Space
    device: Any

    def __len__(self) -> int:
        return len(self.columns["rew"])

    def row(self, at: int) -> None:
        return None

    def column(self, name: str, start: int, stop: int) -> np.ndarray:
        return self.columns[name][start:stop]

    def part(self, start: int, stop: int) -> Held:
        columns = {name: values[start:stop] for name, values in self.columns.items()}
        return Held(f"{self.key}-{start}-{stop}", columns, self.act_space, self.device)

    def batch(self, start: int, stop: int) -> Batch:
        import torch

        from dreamlab.core.actions import one_hot

        there = {k: torch.from_numpy(v[start:stop]).to(self.device)[None] for k, v in self.columns.items()}
        n = there["rew"].shape[1]
        return Batch(
            obs={k: v for k, v in there.items() if k not in {"act", "rew", *FLAGS}},
            act=one_hot(there["act"], self.act_space),
            rew=there["rew"],
            is_first=there["is_first"],
            is_last=there["is_last"],
            is_terminal=there["is_terminal"],
            mask=torch.ones(1, n, dtype=torch.bool, device=self.device),
            rows=torch.full((1, n), -1),
            extras={},
        )
