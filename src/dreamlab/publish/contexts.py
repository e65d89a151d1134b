"""Start contexts: a few stretches of real experience, from which a model dreams where its replay is not.

::

    64 contexts   8 long ones (up to 64 rows) from anywhere, the others 8 rows from episodes' first rows on
    on disk       one column a file's tensor, contexts one after another; and how long each is

They stand for the rows of a run: one stream, whose episodes are the contexts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from gymnasium import spaces

from dreamlab.core.errors import UserError
from dreamlab.core.sampling import EpisodeWindows, WholeEpisodes
from dreamlab.core.seeds import derive
from dreamlab.core.types import FLAGS, Episodes

if TYPE_CHECKING:
    from dreamlab.run.experience import Experience

COUNT = 64
SHORT = 8
"""rows of a context"""
LONG, REACH = 8, 64
"""so many contexts go on for so many rows, to be compared with dreams"""
ROOM = 16 << 20
"""bytes that the long ones take at most"""


class Contexts:
    """Rows in memory, in place of a run's replay (``core.protocols.Index``, and ``take``)."""

    streams, start = 1, 0

    def __init__(self, columns: Mapping[str, np.ndarray], lengths: np.ndarray) -> None:
        self.columns, self.lengths = dict(columns), np.asarray(lengths, np.int64)
        self.stop = int(self.lengths.sum())

    def take(self, name: str, rows: np.ndarray) -> np.ndarray:
        """A column's values at ids (...): (..., *shape), zeros where the id is -1."""
        out = self.columns[name][np.maximum(rows, 0)]
        out[rows < 0] = 0
        return out

    def episodes(self) -> Episodes:
        """One a context."""
        stop = self.lengths.cumsum()
        start = stop - self.lengths
        whole = self.columns["is_first"][start] & self.columns["is_last"][stop - 1]
        return Episodes(np.zeros(len(stop), np.int64), start, stop, whole)

    def state_dict(self) -> dict[str, Any]:
        return {"columns": self.columns, "lengths": self.lengths}


def choose(rows: Experience, seed: int) -> Contexts:
    """Contexts of what a run has experienced; those of a published model as they are."""
    index: Any = rows.index
    if isinstance(index, Contexts):
        return index
    observations = rows.obs_space.spaces.values()
    width = sum(int(np.prod(space.shape or ())) * np.dtype(space.dtype).itemsize for space in observations)
    reach = int(np.clip(ROOM // (LONG * width), SHORT, REACH))
    rng = derive(seed, "contexts")
    long = EpisodeWindows(rng)(index, LONG, reach)
    first = np.unique(WholeEpisodes(rng)(index, COUNT - LONG, SHORT, replace=False), axis=0)
    more = EpisodeWindows(derive(rng, "more"))(index, COUNT - LONG - len(first), SHORT)
    ids = [row[row >= 0] for part in (long, first, more) for row in part]
    names = [*rows.obs_space.spaces, "act", "rew", *FLAGS]
    return Contexts(
        {name: index.take(name, np.concatenate(ids)) for name in names}, np.array([len(piece) for piece in ids])
    )


def restore(state: Any, obs_space: spaces.Dict, act_space: spaces.Space) -> Contexts:
    """The contexts that ``state_dict`` gave.

    Raises:
        UserError: they are not in order, or do not fit what the model sees and does.
    """
    forms = {key: (space.shape, space.dtype) for key, space in obs_space.spaces.items()}
    forms |= {
        "act": (act_space.shape, act_space.dtype),
        "rew": ((), None),
        **dict.fromkeys(FLAGS, ((), np.dtype(bool))),
    }
    try:
        columns, lengths = dict(state["columns"]), np.asarray(state["lengths"])
        wrong = sorted(columns.keys() ^ forms.keys())
        rows = int(lengths.sum())
        for name, (shape, dtype) in forms.items():
            there = columns.get(name)
            if there is None or there.shape != (rows, *(shape or ())) or (dtype is not None and there.dtype != dtype):
                wrong.append(name)
        if wrong or not len(lengths) or lengths.min() < 1 or lengths.dtype != np.int64:
            raise ValueError(", ".join(dict.fromkeys(wrong)) or "lengths")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"the start contexts do not fit what the model sees and does ({error}): starts.safetensors was edited or "
            "belongs to another model"
        ) from error
    return Contexts(columns, lengths)
