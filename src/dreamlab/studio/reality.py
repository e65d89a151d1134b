"""The real environment beside a dream: from the same start, stepped with the same actions.

It lives in a worker process of its own, and one thread of its own asks it, so that it steps while the model does.
From a fresh reset it is there at once. A row of the replay is reached by playing its episode again from its seed, and
only where the picture that comes out is exactly the stored one; else a sentence says why there is no reality.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from dreamlab.core.errors import UserError
from dreamlab.envs.recordings import ID as RECORDINGS
from dreamlab.studio import rows, stretches
from dreamlab.studio.dreaming import Moment, Obs

if TYPE_CHECKING:
    from dreamlab.studio.studio import OpenedRun


@dataclass(frozen=True)
class Origin:
    """Where reality begins: a seed, or an own episode of the run after its first actions."""

    seed: int | None = None
    episode: int = 0
    stream: int = 0
    acts: Any = ()
    stored: Obs | None = None
    """what must come out"""


def none_because(opened: OpenedRun) -> str | None:
    """Why there is no real environment at all, in words; None where there may be one."""
    id = opened.spec.env.id
    if id == RECORDINGS:
        return "This run learned from recordings, and there is no environment to step beside the dream."
    if id.startswith("dream:"):
        return "What this run learned from is a dream itself."
    return None


def of_row(opened: OpenedRun, experience: Any, row: int) -> Origin:
    """How to come to a row again.

    Raises:
        UserError: it cannot be, and why.
    """
    found, step = stretches.stored(experience, row)
    if not found.column("is_first", 0, 1)[0]:
        raise UserError(
            "The beginning of this episode is no longer held, so that it cannot be played again up to here."
        )
    number = rows.number(opened, found)
    if number is None or number < 0:
        raise UserError("It is not known any more which of its environment's episodes this was.")
    stored = {key: found.column(key, step, step + 1)[0] for key in experience.obs_space.spaces}
    return Origin(None, number, found.stream, found.column("act", 0, step), stored)


class Reality:
    """An environment of a run, in a worker; every call returns at once what will be known later."""

    def __init__(self, opened: OpenedRun) -> None:
        self._config = dataclasses.replace(opened.spec.env, workers=True)
        self._seed = int(opened.spec.run.seed)
        self._thread = ThreadPoolExecutor(1, "reality")
        self._env: Any = None
        self._stream = 0
        self._over = False
        self._closed = False
        self.ret = 0.0

    def begin(self, origin: Origin, acts: Sequence[Any] = ()) -> Future[Moment]:
        """Go to the start, and play ``acts`` from there.

        Raises (in the future):
            UserError: it cannot be, and why.
            RunError: the environment failed.
        """
        return self._thread.submit(self._begin, origin, list(acts))

    def step(self, act: Any) -> Future[Moment]:
        """One step; after the episode's end the last picture stays."""
        return self._thread.submit(self._step, act)

    def close(self) -> None:
        """End the worker, in its own time."""
        if not self._closed:
            self._closed = True
            with suppress(RuntimeError):
                self._thread.submit(self._end)
            self._thread.shutdown(wait=False)

    def join(self) -> None:
        """Wait until it has ended."""
        self._thread.shutdown(wait=True)

    def _begin(self, origin: Origin, acts: list[Any]) -> Moment:
        if self._env is not None and self._stream != origin.stream:
            self._env.close()
            self._env = None
        if self._env is None:
            self._env, self._stream = self._make(origin.stream), origin.stream
        if origin.seed is not None:
            options: dict[str, Any] = {"seeds": [origin.seed]}
        else:
            options = {"resume": [{"episode": origin.episode, "actions": np.asarray(origin.acts)}]}
        try:
            found, _ = self._env.reset(options=options)
        except UserError as error:
            if getattr(self._env, "closed", False):
                self._env = None
            if origin.seed is None:
                raise UserError(f"This episode could not be played again: {error}.") from error
            raise
        obs = {key: value[0] for key, value in found.items()}
        if origin.stored is not None and not _same(obs, origin.stored):
            raise UserError(
                "Played again from its seed, this episode does not come back to exactly this frame, so that there is "
                "no reality to compare with from here. From a fresh reset there is."
            )
        self._over, self.ret = False, 0.0
        moment = Moment(obs, 0.0, None, False)
        self._last = moment
        for act in acts:
            moment = self._step(act)
        return moment

    def _step(self, act: Any) -> Moment:
        if self._env is None or self._over:
            return self._last._replace(rew=0.0)
        found, rew, terminated, truncated, _ = self._env.step(np.asarray(act)[None])
        self._over = bool(terminated[0] or truncated[0])
        self.ret += float(rew[0])
        self._last = Moment({key: value[0] for key, value in found.items()}, float(rew[0]), None, self._over)
        return self._last

    def _make(self, stream: int) -> Any:
        from dreamlab.envs import build, workers

        spec = build.registered(self._config.id)
        made = build.Build(self._config, self._seed, stream, True, spec)
        return workers.Workers([made], self._config.id, self._config.timeout)

    def _end(self) -> None:
        if self._env is not None:
            self._env.close()
            self._env = None


def apart(dreamt: Moment, real: Moment) -> float | None:
    """How far two moments are from each other: the mean distance of a picture's bytes, from 0 to 1; of numbers alone
    that of the numbers. None where they cannot be compared.
    """
    for key, scale in (("image", 255.0), ("vector", 1.0)):
        a, b = dreamt.obs.get(key), real.obs.get(key)
        if a is not None and b is not None and a.shape == b.shape:
            return float(np.abs(a.astype(np.float32) - b.astype(np.float32)).mean() / scale)
    return None


def _same(a: Obs, b: Obs) -> bool:
    return a.keys() == b.keys() and all(np.array_equal(a[key], b[key], equal_nan=a[key].dtype.kind == "f") for key in a)
