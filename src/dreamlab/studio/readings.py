"""What a run's model makes of an episode, found in small pieces so that whoever plays meanwhile is not kept waiting.

::

    rows       0 ... 7 | 8 ... 21 | 22 ...        a piece takes about PIECE seconds
    latents    ────────▶──────────▶               each piece goes on from the last latent of the one before
    series     value, reward, ... of every row

A model that cannot go on from a latent (no ``observe_after``) sees ``WARM`` rows before each piece instead.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from fastapi import HTTPException

from dreamlab.core.errors import UserError
from dreamlab.core.imagination import tree_map
from dreamlab.core.inside import Classes, Normals, Number
from dreamlab.core.pictures import to_rgb
from dreamlab.core.seeds import forked
from dreamlab.dream.env import pixels
from dreamlab.studio.stretches import Stretch, picture_key

if TYPE_CHECKING:
    from dreamlab.core.protocols import State
    from dreamlab.studio.studio import OpenedRun, Studio

PIECE = 0.03
"""seconds that a piece is to take"""
WARM = 48


Left = Callable[[], Awaitable[bool]]
"""whether the client that asked is gone, as ``Request.is_disconnected``"""


async def stays() -> bool:
    """Nobody leaves."""
    return False


async def go_on(left: Left) -> None:
    """Give up where whoever asked has left: others wait for the models."""
    if await left():
        raise HTTPException(499, "the client has left")


class Reading:
    """Latents, reconstructions and series of one episode, as far as it has been read."""

    def __init__(self, opened: OpenedRun, stretch: Stretch) -> None:
        self.opened, self.stretch, self.model = opened, stretch, opened.model
        self.key = picture_key(opened.obs_space)
        self.latents: list[State] = []  # of pieces (n, ...)
        self.pictures: list[np.ndarray] = []  # of pieces (n, h, w, 3)
        self.vectors: list[np.ndarray] = []
        self.series: dict[str, list[float]] = {}
        self.done = 0
        self._memory: Any = None
        self._size = 4
        self._lock = threading.Lock()

    def latent(self, at: int) -> State:
        """The latent (1, ...) of a row that has been read."""
        for piece in self.latents:
            n = len(_first(piece))
            if at < n:
                return tree_map(lambda x, at=at: x[at : at + 1], piece)
            at -= n
        raise IndexError(at)

    def reconstruction(self, start: int, stop: int) -> np.ndarray:
        """Pictures (n, h, w, 3) of rows that have been read.

        Raises:
            UserError: the model draws none.
        """
        if self.key is None or not self.pictures:
            raise UserError("this model predicts no pictures")
        with self._lock:  # a piece that comes meanwhile, in another thread, must not be lost
            if len(self.pictures) > 1:
                self.pictures = [np.concatenate(self.pictures)]
            return self.pictures[0][start:stop]

    def vector(self, start: int, stop: int) -> np.ndarray | None:
        """What the model makes of the vector (n, D), where it predicts one."""
        return np.concatenate(self.vectors)[start:stop] if self.vectors else None

    def on(self) -> None:
        """Read one piece more. For the thread in which models step."""
        if self.done >= len(self.stretch):
            return
        began = time.perf_counter()
        start, stop = self.done, min(self.done + self._size, len(self.stretch))
        with torch.no_grad(), forked(start, "studio", "read"):
            latents, obs = self._observe(start, stop)
            said = self.model.predict(latents)
            series = foretold(self.model, said) | self._surprise(latents, obs)
            series |= self._judged(latents)
        self.latents.append(latents)
        if self.key in said:
            pictures = to_rgb(pixels(said[self.key].clamp(0, 1)))  # type: ignore[index]
            with self._lock:
                self.pictures.append(pictures)
        if "vector" in said:
            self.vectors.append(said["vector"].float().cpu().numpy())
        for name, values in series.items():
            self.series.setdefault(name, []).extend(values.float().cpu().tolist())
        self.done = stop
        took = time.perf_counter() - began
        self._size = int(
            np.clip(self._size * PIECE / max(took, 1e-4), max(1, self._size // 2), min(64, 2 * self._size))
        )

    def _observe(self, start: int, stop: int) -> tuple[State, Mapping[str, torch.Tensor]]:
        """Latents (n, ...) of rows and what was seen there."""
        if not start:
            batch = self.stretch.batch(0, stop)
            skip, found = 0, self.model.observe(batch)
        elif hasattr(self.model, "observe_after"):
            batch = self.stretch.batch(start - 1, stop)
            skip, found = 1, self.model.observe_after(self.latent(start - 1), batch)
        else:
            skip = min(WARM, start)
            batch = self.stretch.batch(start - skip, stop)
            found = self.model.observe(batch)
        return tree_map(lambda x: x[0, skip:], found), {k: v[0, skip:] for k, v in batch.obs.items()}

    def _surprise(self, latents: State, obs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """``kl``: how much what was seen told the model beyond what it expected, in nats, where it can be said."""
        inside = getattr(self.model, "inside", None)
        if inside is None:
            return {}
        view = next(iter(inside(latents, obs).values()))
        if isinstance(view, Classes | Normals) and view.post is not None:
            return {"kl": kl_by_group(view).sum(-1)}
        return {}

    def _judged(self, latents: State) -> dict[str, torch.Tensor]:
        judge = getattr(self.opened.agent, "judge", None)
        if judge is None:
            return {}
        views, self._memory = judge(tree_map(lambda x: x[None], latents), self._memory)
        return {name: view.value[0] for name, view in views.items() if isinstance(view, Number)}

    def policy(self, at: int) -> Any:
        """What the agent would do at a row: the view, for one latent by itself. None where nothing is said."""
        judge = getattr(self.opened.agent, "judge", None)
        if judge is None:
            return None
        with torch.no_grad(), forked(at, "studio", "judge"):
            start = max(0, at - WARM)
            found = [self.latent(t) for t in range(start, at + 1)]
            views, _ = judge(tree_map(lambda *xs: torch.cat(xs)[None], *found))
        return views.get("policy")


def foretold(model: Any, said: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """``rew`` and ``con`` that ``predict`` says of observed latents, but for those that came with them (``given``)."""
    return {key: said[key] for key in ("rew", "con") if key in said and key not in getattr(model, "given", ())}


def kl_by_group(view: Classes | Normals) -> torch.Tensor:
    """KL(post || prior) in nats of each group or number (N, S)."""
    assert view.post is not None
    if isinstance(view, Classes):
        return (view.post * (view.post.clamp(min=1e-12).log() - view.prior.clamp(min=1e-12).log())).sum(-1)
    (m1, s1), (m2, s2) = view.post.unbind(-1), view.prior.unbind(-1)
    return (s2 / s1).log() + (s1.square() + (m1 - m2).square()) / (2 * s2.square()) - 0.5


async def read(studio: Studio, reading: Reading, upto: int, left: Left = stays) -> None:
    """Have the first ``upto`` rows read, piece by piece, unless whoever asked has ``left``."""
    upto = min(upto, len(reading.stretch))

    def piece() -> None:
        if reading.done < upto:  # another request may have read on meanwhile
            reading.on()

    while reading.done < upto:
        await go_on(left)
        await studio.compute(piece)


def _first(state: State) -> torch.Tensor:
    while not isinstance(state, torch.Tensor):
        state = state[0]
    return state
