"""Which rows to learn from: small stateful parts that turn an index into row ids.

A sampler is called with the index of an experience and returns int64 row ids (n, length), -1 where padded.
Row id = ``t * streams + stream``. Its random generator is its only state, so a resumed run draws on
where the interrupted one stopped.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from dreamlab.core.errors import RunError
from dreamlab.core.protocols import Index
from dreamlab.core.seeds import numpy_rng
from dreamlab.core.types import Episodes

PAD = -1


class Sampler:
    """A seeded random generator that can be saved: what all samplers share."""

    def __init__(self, seed: int) -> None:
        self.rng = numpy_rng(seed, type(self).__name__)

    def state_dict(self) -> dict[str, Any]:
        return {"rng": self.rng.bit_generator.state}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.rng.bit_generator.state = state["rng"]


class Frames(Sampler):
    """Single rows, uniformly over all that are held."""

    def __call__(self, index: Index, n: int) -> np.ndarray:
        """Row ids (n, 1)."""
        held = _held(index, 1) * index.streams
        return (index.start * index.streams + self.rng.integers(held, size=n))[:, None]


class StreamWindows(Sampler):
    """Windows of a stream, uniform over their starts; they cross episode ends (DreamerV3)."""

    def __call__(self, index: Index, n: int, length: int) -> np.ndarray:
        """Row ids (n, length)."""
        starts = _held(index, length) - length + 1
        time = index.start + self.rng.integers(starts, size=n)[:, None] + np.arange(length)  # (n, length)
        stream = self.rng.integers(index.streams, size=n)[:, None]
        return time * index.streams + stream


class NewestFirst(StreamWindows):
    """What was just written comes once before anything is drawn (DreamerV3's online queue); then ``StreamWindows``.

    Each stream is cut into windows one after another, and they come in the order in which they were finished.
    """

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.seen = 0  # windows that have come, or have gone from the table before they could

    def __call__(self, index: Index, n: int, length: int) -> np.ndarray:
        """Row ids (n, length)."""
        streams = index.streams
        self.seen = max(self.seen, -(-index.start // length) * streams)
        new = np.arange(self.seen, min(self.seen + n, index.stop // length * streams))
        self.seen += len(new)
        time = (new // streams * length)[:, None] + np.arange(length)  # (new, length)
        rows = time * streams + (new % streams)[:, None]
        return np.concatenate([rows, super().__call__(index, n - len(new), length)]) if len(new) < n else rows

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"seen": self.seen}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.seen = int(state.get("seen", 0))  # a run that learned from recordings draws without a queue


class EpisodeWindows(Sampler):
    """Windows inside one episode, episodes drawn in proportion to their length; padded on the right."""

    def __call__(self, index: Index, n: int, length: int) -> np.ndarray:
        """Row ids (n, length)."""
        episodes = _episodes(index)
        size = episodes.stop - episodes.start  # (E,)
        pick = self.rng.choice(len(size), size=n, p=size / size.sum())
        first = self.rng.integers(np.maximum(size[pick] - length, 0) + 1)
        return _window(episodes, pick, first, length, index.streams)


class EpisodePieces(Sampler):
    """Windows that lie inside one episode; where it is shorter, pieces of further ones follow (DreamerV2).

    Episodes are equally likely, whatever their length. Rows are never padded: where a piece begins is where an id
    is not the next one of its stream.

    Args:
        ends: an episode's last window is drawn as often as ``length`` others together: ends are rare otherwise.
        ongoing: take episodes that are not whole too (not yet over, or partly gone); without it only where there
            are no others.
    """

    def __init__(self, seed: int, ends: bool = False, ongoing: bool = False) -> None:
        super().__init__(seed)
        self.ends, self.ongoing = ends, ongoing

    def __call__(self, index: Index, n: int, length: int) -> np.ndarray:
        """Row ids (n, length)."""
        episodes = _episodes(index)
        chosen = np.flatnonzero(episodes.whole | self.ongoing)
        if not len(chosen):
            chosen = np.arange(len(episodes.whole))
        rows, filled = np.full((n, length), PAD), np.zeros(n, np.int64)
        while (filled < length).any():
            pick = chosen[self.rng.integers(len(chosen), size=n)]
            size = (episodes.stop - episodes.start)[pick]
            take = np.minimum(size, length - filled)
            latest = size - take
            first = np.minimum(self.rng.integers(latest + 1 + self.ends * take), latest)
            piece = _window(episodes, pick, first - filled, length, index.streams)
            rows = np.where(np.arange(length) >= filled[:, None], piece, rows)
            filled += take
        return rows


class WholeEpisodes(Sampler):
    """One episode a row, each as likely as any other: its first rows padded right, or its last padded left."""

    def __call__(
        self, index: Index, n: int, length: int, pad: Literal["right", "left"] = "right", replace: bool = True
    ) -> np.ndarray:
        """Row ids (n, length). Without ``replace`` no episode comes twice while there are enough."""
        episodes = _episodes(index)
        size = episodes.stop - episodes.start
        pick = self.rng.choice(len(size), size=n, replace=replace or n > len(size))
        if pad == "right":
            return _window(episodes, pick, np.zeros(n, np.int64), length, index.streams)
        return _window(episodes, pick, size[pick] - length, length, index.streams)


class Segments(Sampler):
    """Windows of an episode, each as likely as any other whatever its length, and as any place in it (IRIS).

    A place is a row that something was done in: all but an episode's last. What lies outside the episode is padding.
    """

    def __call__(self, index: Index, n: int, length: int, pad: Literal["right", "left"] = "right") -> np.ndarray:
        """Row ids (n, length): of windows that begin at the place drawn (pad right), or that end there (pad left).

        Raises:
            RunError: no episode has two rows yet.
        """
        episodes = _episodes(index)
        places = episodes.stop - episodes.start - 1  # (E,)
        chosen = np.flatnonzero(places > 0)
        if not len(chosen):
            raise RunError("no episode has two rows yet: collect more")
        pick = chosen[self.rng.integers(len(chosen), size=n)]
        place = self.rng.integers(places[pick])
        return _window(episodes, pick, place if pad == "right" else place - length + 1, length, index.streams)


def spread(index: Index, n: int) -> np.ndarray:
    """Row ids (n, 1), or fewer, evenly spread over all that are held."""
    held = (index.stop - index.start) * index.streams
    return index.start * index.streams + np.unique(np.linspace(0, held - 1, n).astype(np.int64))[:, None]


def _window(episodes: Episodes, pick: np.ndarray, first: np.ndarray, length: int, streams: int) -> np.ndarray:
    """Rows first .. first+length of the picked episodes; what lies outside the episode is padding."""
    offset = first[:, None] + np.arange(length)  # (n, length)
    size = (episodes.stop - episodes.start)[pick, None]
    rows = (episodes.start[pick, None] + offset) * streams + episodes.stream[pick, None]
    return np.where((offset >= 0) & (offset < size), rows, PAD)


def _held(index: Index, length: int) -> int:
    held = index.stop - index.start
    if held < length:
        raise RunError(f"{held} rows are held in each stream, but windows of {length} are asked for; collect more")
    return held


def _episodes(index: Index) -> Episodes:
    episodes = index.episodes()
    if len(episodes.stream) == 0:
        raise RunError("no rows to learn from: collect some or pass recordings")
    return episodes
