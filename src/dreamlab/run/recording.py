"""One file of recordings: whether it is in order, and the rows of ``core.types`` made of it.

The arrays of an episode of T steps, in Gymnasium's convention (any but ``obs`` may be missing):

=============  ==========================  ===========================================================
``obs``        (T + 1, H, W, C) uint8      images, or (T + 1, C, H, W), or (T + 1, H, W); or vectors
                                           (T + 1, n); ``obs.NAME`` where there are several
``action``     (T,) int or (T, A) float    chosen at ``obs[t]``; (T, K) int where K are chosen at once
``reward``     (T,)                        what it earned: came with ``obs[t + 1]``
``terminated`` (T,) bool                   whether ``obs[t + 1]`` is terminal
``truncated``  (T,) bool                   whether the episode was broken off there
=============  ==========================  ===========================================================

T observations are accepted too: the frame after the last action was not recorded. Where a reward or an end came with
it, the last frame that there is stands in for it. A file of several episodes is cut after each step that is terminated
or truncated::

    obs     o0  o1  o2 | o3  o4          row of the table   0   1   2   3     4   5   6
    reward  r0  r1  r2 | r3  r4     ->   obs                o0  o1  o2  o2    o3  o4  o4
    term.    0   0   1 |  0   0          rew                0   r0  r1  r2    0   r3  r4
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from gymnasium import spaces

from dreamlab.core.pictures import Crop, channels_last, pictures
from dreamlab.core.types import is_image
from dreamlab.run.readers import STEPS, Bad, File, Stored

Row = dict[str, np.ndarray]
MOST_ACTIONS = 1 << 20
"""more than any environment has: numbers beyond are no choice of one of n"""


class Span(NamedTuple):
    """One episode of a file: its observations and steps begin at ``start``."""

    start: int
    observations: int
    stands_in: bool
    """the last frame is there a second time: the one that came with the last reward was not recorded"""
    terminated: bool

    @property
    def rows(self) -> int:
        return self.observations + self.stands_in


@dataclass(frozen=True)
class Recording:
    """One file that is in order."""

    file: File
    obs: Mapping[str, Stored]
    """by the name that agents know: image, vector"""
    spans: tuple[Span, ...]
    act_space: spaces.Space | None
    """the smallest that holds its actions; None: none were recorded"""
    returns: tuple[float, ...]
    """of its episodes, where rewards were recorded"""

    @property
    def rows(self) -> int:
        return sum(span.rows for span in self.spans)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """By observation: images (C, H, W) as they are on disk, vectors (n,)."""
        return {key: _shape(stored) for key, stored in self.obs.items()}

    @property
    def kind(self) -> tuple[str, ...]:
        """What files of one folder must agree on: all but heights, widths and lengths."""
        forms = [
            f"{k} of {s[0]} channel{'s' * (s[0] > 1)}" if len(s) == 3 else f"{k} of {s[0]} numbers"
            for k, s in self.shapes.items()
        ]
        act = self.act_space
        acts = ["action as one of n"] if isinstance(act, spaces.Discrete) else []
        acts += [f"action of {act.shape[0]} choices"] if isinstance(act, spaces.MultiDiscrete) else []
        acts += [f"action of {act.shape[0]} numbers"] if isinstance(act, spaces.Box) else []
        return (*sorted(forms), *acts, *(name for name in ("reward", "terminated") if name in self.file.arrays))


# -- looking at it ---------------------------------------------------------------------------------------------


def examine(file: File) -> Recording:
    """Look at a file's arrays: shapes, kinds, alignment, and all values but those of observations.

    Raises:
        Bad: it cannot be used; says why.
    """
    arrays, name = file.arrays, file.name
    obs: dict[str, Stored] = {}
    for key, stored in arrays.items():
        if key.split(".")[0] == "obs":
            if (known := _obs_name(key, stored)) in obs:
                raise Bad(f"{name}: its arrays {', '.join(arrays)} hold {known} twice: rename one to obs.NAME")
            obs[known] = stored
    for key in file.ignored:  # one that is merely misspelt would be missed
        if near := difflib.get_close_matches(key, ("obs", *STEPS), 1, 0.7):
            raise Bad(f"{name}: its array {key!r} is not known; rename it to {near[0]!r} if it is that")
    if not obs:
        raise Bad(f"{name}: has no array 'obs'; it has: {', '.join(arrays)}")
    for key, stored in obs.items():
        _check_obs(f"{name}: {key}", stored)
    for key in (key for key in STEPS if key in arrays):
        _check_steps(f"{name}: {key}", arrays[key])
    lengths = {key: stored.shape[0] for key, stored in arrays.items() if key in STEPS}
    counts = {stored.shape[0] for stored in obs.values()}
    steps = set(lengths.values())
    if len(counts) > 1 or len(steps) > 1 or (steps and counts.copy().pop() - min(steps) not in (0, 1)):
        seen = {**{f"obs {k}": s.shape[0] for k, s in obs.items()}, **lengths}
        raise Bad(
            f"{name}: lengths do not fit: {', '.join(f'{k} {n}' for k, n in seen.items())}; "
            "an episode of T steps has T + 1 observations (or T) and T of all else"
        )
    beside = read_steps(file)
    spans = tuple(_spans(counts.pop(), beside))
    if min(span.rows for span in spans) < 2:
        raise Bad(f"{name}: has an episode of a single frame, in which nothing happens")
    act = _act_space(name, beside["action"]) if "action" in beside else None
    rew = beside.get("reward")
    returns = [] if rew is None else [float(rew[s.start : s.start + s.rows - 1].sum(dtype=float)) for s in spans]
    return Recording(file, obs, spans, act, tuple(returns))


def read_steps(file: File) -> Row:
    """What a file holds beside observations: actions as ``_actions`` gives them, reward float32, ends bool."""
    found = {}
    for key in STEPS:
        if key not in file.arrays:
            continue
        value = file.arrays[key].whole()
        if key == "action":
            found[key] = _actions(file.name, value)
            continue
        if value.size != len(value):
            raise Bad(f"{file.name}: {key} is {value.shape}, but has one number a step: ({len(value)},)")
        value = value.reshape(-1)
        if key == "reward":
            found[key] = _floats(file.name, key, value)
            continue
        if not np.isin(value, (0, 1)).all():
            raise Bad(f"{file.name}: {key} says yes or no (1 or 0), but holds {value[~np.isin(value, (0, 1))][0]}")
        found[key] = value.astype(bool)
    return found


def _actions(name: str, value: np.ndarray) -> np.ndarray:
    """int64 (T,) where one of n was chosen, (T, K) where K at once, float32 (T, A) where numbers were."""
    if value.dtype.kind == "f":
        return _floats(name, "action", value.reshape(len(value), -1))
    if value.min() < 0:
        raise Bad(f"{name}: action {value.min()} is below 0; actions are counted from 0")
    if value.max() >= MOST_ACTIONS:
        raise Bad(f"{name}: action {value.max()} is none of a set that could be counted; save numbers as floats")
    return (value.reshape(-1) if value.size == len(value) else value).astype(np.int64)


def _floats(name: str, key: str, value: np.ndarray, begin: int = 0) -> np.ndarray:
    """(T, ...), of which the first is step ``begin``, as float32; what is too large for that is not finite either."""
    with np.errstate(over="ignore"):
        cast = value.astype(np.float32)
    bad = np.argwhere(~np.isfinite(cast))
    if len(bad):
        raise Bad(f"{name}: {key} of step {begin + bad[0, 0]} is not finite as float32: {value[tuple(bad[0])]}")
    return cast


def _act_space(name: str, value: np.ndarray) -> spaces.Space:
    """The smallest space that holds actions, its bounds whole numbers."""
    if value.ndim == 1:
        return spaces.Discrete(int(value.max()) + 1)
    if value.dtype == np.int64:
        return spaces.MultiDiscrete(value.max(0) + 1)
    low, high = np.floor(value.min(0)), np.ceil(value.max(0))
    return spaces.Box(low, np.maximum(high, low + 1), dtype=np.float32)


def _spans(observations: int, beside: Row) -> Iterator[Span]:
    """The episodes of a file, by where its steps ended one."""
    if not beside:
        yield Span(0, observations, False, False)
        return
    steps = len(next(iter(beside.values())))
    over = np.zeros(steps, bool)
    for key in ("terminated", "truncated"):
        over |= beside.get(key, False)
    stops = [*(np.flatnonzero(over) + 1).tolist()]
    if not stops or stops[-1] < steps or not steps:
        stops.append(steps)
    arrived = "reward" in beside or "terminated" in beside  # something came with the frame that is missing
    start = 0
    for stop in stops:
        extra = observations - steps if stop == steps else 0
        ended = bool(stop > start and beside.get("terminated", over & False)[stop - 1])
        yield Span(start, stop - start + extra, arrived and not extra, ended)
        start = stop


def _check_obs(what: str, stored: Stored) -> None:
    """Raise Bad where an array of observations has another shape or other numbers than images or vectors have."""
    if not stored.shape:
        raise Bad(f"{what} is a single number; images are (N, H, W, 3), vectors (N, n)")
    if 0 in stored.shape:
        raise Bad(f"{what} is empty: {stored.shape}")
    if stored.dtype.kind not in "biuf":
        raise Bad(f"{what} holds no numbers ({stored.dtype})")
    if len(stored.shape) > 4:
        raise Bad(f"{what} is {stored.shape}; images are (N, H, W, 3), vectors (N, n)")
    if _pictorial(stored) and stored.dtype != np.uint8:
        how = "(255 * x).round().astype(np.uint8) if they go from 0 to 1, else " if stored.dtype.kind == "f" else ""
        raise Bad(
            f"{what} holds images {stored.shape} of {stored.dtype}; images are bytes: save {how}x.astype(np.uint8)"
        )


def _check_steps(what: str, stored: Stored) -> None:
    """Raise Bad where an array of one entry a step has no entries, or entries that are no numbers."""
    if not stored.shape:
        raise Bad(f"{what} is a single number, but has one entry a step: (T,)")
    if 0 in stored.shape:
        raise Bad(f"{what} is empty: {stored.shape}; what was not recorded is left out")
    if len(stored.shape) > 2:
        raise Bad(f"{what} is {stored.shape}, but is (T,), or where an action is several numbers (T, A)")
    if stored.dtype.kind not in "biuf":
        raise Bad(f"{what} holds no numbers ({stored.dtype})")


def _obs_name(key: str, stored: Stored) -> str:
    return key.partition(".")[2] or ("image" if _pictorial(stored) else "vector")


def _pictorial(stored: Stored) -> bool:
    return len(stored.shape) > 2


def _shape(stored: Stored) -> tuple[int, ...]:
    """(C, H, W) of an image, (n,) of a vector."""
    if not _pictorial(stored):
        return (int(np.prod(stored.shape[1:], dtype=np.int64)),)
    blank = np.broadcast_to(np.zeros((), np.uint8), (1, *stored.shape[1:]))
    h, w, channels = channels_last(blank, stored.layout).shape[1:]
    return channels, h, w


# -- rows ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Form:
    """What rows are to look like."""

    keys: tuple[str, ...]
    sizes: Mapping[str, tuple[int, int]]
    """height and width by image; one that is not named stays as large as it is"""
    act_space: spaces.Space = field(default_factory=lambda: spaces.Discrete(1))
    crop: Crop | None = None
    grey: bool = False

    @staticmethod
    def of(recording: Recording) -> Form:
        """As it was recorded."""
        return Form(tuple(recording.obs), {}, recording.act_space or spaces.Discrete(1))

    @staticmethod
    def to(obs_space: spaces.Dict, act_space: spaces.Space, crop: Crop | None = None, grey: bool = False) -> Form:
        """As an agent with these spaces sees it."""
        sizes = {k: s.shape[1:] for k, s in obs_space.spaces.items() if is_image(s)}  # type: ignore[index]
        return Form(tuple(obs_space.spaces), sizes, act_space, crop, grey)  # type: ignore[arg-type]


def rows(recording: Recording, form: Form) -> Iterator[Row]:
    """All rows of a file in pieces: images uint8 (n, C, h, w), vectors float32 (n, k), act, rew and flags (n, ...).

    Raises:
        Bad: what is read is damaged or not finite.
    """
    source, beside = _steps(recording, form)
    streams = [(key, recording.obs[key].pieces()) for key in form.keys]
    begin = 0  # the observation that the next piece starts with
    for pieces in zip(*(stream for _, stream in streams), strict=True):
        end = begin + len(pieces[0])
        low, high = np.searchsorted(source, (begin, end))
        at = source[low:high] - begin
        seen = {
            key: _converted(recording, key, piece, form, begin)[at]
            for (key, _), piece in zip(streams, pieces, strict=True)
        }
        yield {**seen, **{name: column[low:high] for name, column in beside.items()}}
        begin = end


def _steps(recording: Recording, form: Form) -> tuple[np.ndarray, Row]:
    """For every row of a file its observation's number, and its action, reward and flags."""
    steps, n = read_steps(recording.file), recording.rows
    source = np.empty(n, np.int64)
    act = np.zeros((n, *form.act_space.shape), form.act_space.dtype)  # type: ignore[misc]
    rew = np.zeros(n, np.float32)
    flags = {name: np.zeros(n, bool) for name in ("is_first", "is_last", "is_terminal")}
    row = 0
    for span in recording.spans:
        stop, last = row + span.rows, span.start + span.rows - 1
        source[row:stop] = np.minimum(span.start + np.arange(span.rows), span.start + span.observations - 1)
        if "action" in steps:  # the last row's is never taken
            act[row : stop - 1] = steps["action"][span.start : last]
        if "reward" in steps:
            rew[row + 1 : stop] = steps["reward"][span.start : last]
        flags["is_first"][row] = flags["is_last"][stop - 1] = True
        flags["is_terminal"][stop - 1] = span.terminated
        row = stop
    return source, {"act": act, "rew": rew, **flags}


def _converted(recording: Recording, key: str, piece: np.ndarray, form: Form, begin: int) -> np.ndarray:
    """Observations as agents see them; the first is number ``begin``."""
    if _pictorial(stored := recording.obs[key]):
        return pictures(piece, form.sizes.get(key), form.crop, form.grey, stored.layout)
    return _floats(recording.file.name, key, piece.reshape(len(piece), -1), begin)
