"""Rows of a run's replay as pages need them: a row's picture, its episode, and what a model observes on the way to it.

Everything is read; nothing is written. ``experience`` is what ``OpenedRun.rows`` gives.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from dreamlab.core.errors import UserError
from dreamlab.core.pictures import to_rgb
from dreamlab.core.types import Batch, is_image

if TYPE_CHECKING:
    from dreamlab.studio.studio import OpenedRun


@dataclass(frozen=True)
class Episode:
    """An episode of which rows are held. Row ids: ``t * streams + stream`` for t in [start, stop)."""

    index: int
    """its place among those held, oldest first"""
    stream: int
    start: int
    stop: int
    whole: bool
    streams: int

    def __len__(self) -> int:
        return self.stop - self.start

    @property
    def rows(self) -> np.ndarray:
        """Row ids (T,)."""
        return np.arange(self.start, self.stop) * self.streams + self.stream

    def row(self, step: int) -> int:
        """The id of its row number ``step``, from 0."""
        return (self.start + step) * self.streams + self.stream

    def step(self, row: int) -> int:
        """Where a row of it is, from 0."""
        return row // self.streams - self.start


def episodes(experience: Any) -> list[Episode]:
    """All that are held, oldest first."""
    index = experience.index
    table = zip(*(column.tolist() for column in index.episodes()), strict=True)
    return [
        Episode(i, stream, start, stop, whole, index.streams) for i, (stream, start, stop, whole) in enumerate(table)
    ]


def episode(experience: Any, row: int) -> Episode:
    """The episode that a row belongs to.

    Raises:
        UserError: the row is not held.
    """
    index = experience.index
    time, stream = divmod(int(row), index.streams)
    held = index.episodes()
    found = np.flatnonzero((held.stream == stream) & (held.start <= time) & (time < held.stop))
    if row < 0 or not len(found):
        raise UserError(
            f"row {row} is not held; rows {index.start * index.streams} to {index.stop * index.streams - 1} are"
        )
    i = int(found[0])
    return Episode(i, stream, int(held.start[i]), int(held.stop[i]), bool(held.whole[i]), index.streams)


def image_key(obs_space: Any) -> str | None:
    """Which observation is shown as a picture; None where there are numbers alone."""
    keys = [key for key, space in obs_space.spaces.items() if is_image(space)]
    return "image" if "image" in keys else (keys[0] if keys else None)


def frames(experience: Any, rows: np.ndarray) -> np.ndarray | None:
    """The pictures of rows (T,): uint8 (T, h, w, 3); None where the environment gives numbers alone.

    Raises:
        UserError: a row is not held.
    """
    key = image_key(experience.obs_space)
    if key is None:
        return None
    try:
        return to_rgb(experience.index.take(key, np.asarray(rows)))
    except IndexError as error:
        raise UserError(str(error)) from error


def frame(experience: Any, row: int) -> np.ndarray | None:
    """The picture of one row: uint8 (h, w, 3)."""
    found = frames(experience, np.array([row]))
    return None if found is None else found[0]


def column(experience: Any, name: str, rows: np.ndarray) -> np.ndarray:
    """A column's values at rows (T,), as they are stored: ``rew``, ``act``, ``is_last``, ..."""
    return experience.index.take(name, np.asarray(rows))


def batch(experience: Any, found: Episode, first: int = 0, stop: int | None = None) -> Batch:
    """Rows ``first`` to ``stop`` of an episode as a batch (1, T), for ``WorldModel.observe``."""
    return experience.gather(found.rows[first:stop][None])


def number(opened: OpenedRun, experience: Any, found: Episode) -> int | None:
    """Which of its environment's own episodes this was, by which it can be had again; None where that is not known.

    The checkpoint knows the number of the episode that then ran; those before it are counted back.
    """
    state = opened.parts.get("run", {}).get("experience", {}).get("driver") or {}
    if "episode" not in state or found.stream >= len(state["episode"]):
        return None
    held = experience.index.episodes()
    later = int(((held.stream == found.stream) & (held.start > found.start)).sum())
    running = int(state["episode"][found.stream])
    begun = bool(state["pending"]["is_first"][found.stream])  # the row that was seen last, and is not stored yet
    return running - begun - later


def starts(experience: Any, count: int = 12) -> list[dict[str, Any]]:
    """Rows where a dream begins well, spread over the episodes held: beginnings, and moments in the middle.

    Each says its ``row``, the ``episode`` (from 1, oldest first), the ``step`` in it ``of`` how many, and the return
    ``ret`` until there.
    """
    held = [e for e in episodes(experience) if len(e) > 1]
    if not held:
        return []
    chosen = [held[int(i)] for i in np.linspace(len(held) - 1, 0, count).round()]
    shares = (0.0, 0.35, 0.7, 0.15, 0.0, 0.55, 0.25, 0.85, 0.0, 0.45, 0.1, 0.65)
    out: dict[int, dict[str, Any]] = {}
    for k, e in enumerate(chosen):
        step = min(int(shares[k % len(shares)] * len(e)), len(e) - 2)
        ret = float(column(experience, "rew", e.rows[: step + 1]).sum())
        row = e.row(step)
        out.setdefault(row, {"row": row, "episode": e.index + 1, "step": step, "of": len(e) - 1, "ret": ret})
    return list(out.values())
