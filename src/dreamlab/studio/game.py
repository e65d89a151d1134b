"""A dream that is played: the dream, reality beside it, what was done in it, and what is recorded of it."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import Future
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np

from dreamlab.core.errors import UserError
from dreamlab.core.pictures import to_rgb
from dreamlab.studio import controls, reality
from dreamlab.studio.dreaming import Dream, Moment
from dreamlab.studio.film import Recording
from dreamlab.studio.hands import Hand, as_taken
from dreamlab.studio.messages import Start

if TYPE_CHECKING:
    from dreamlab.studio.reality import Origin, Reality
    from dreamlab.studio.studio import OpenedRun

HISTORY = 20_000
"""acts that are remembered, so that reality may join later"""
PATIENCE = 2.0
"""seconds that a tick waits for reality, before it goes on without"""


class Game:
    """One dream of one player. ``advance`` runs in the engine's thread, all else in the event loop."""

    def __init__(
        self, opened: OpenedRun, start: Start, dream: Dream, origin: Origin | str, seed: int, before: Game | None = None
    ) -> None:
        """``before``: the game that this one follows."""
        self.opened, self.start, self.dream, self.seed = opened, start, dream, seed
        self.origin = origin if not isinstance(origin, str) else None
        self.why_no_reality = origin if isinstance(origin, str) else ""
        before = before if before is not None and before.opened is opened else None
        self.controls: dict[str, Any] = (
            controls.controls(opened.spec.env, opened.act_space) if before is None else before.controls
        )
        self.hand = Hand(self.controls["rest"])
        self.may_be_real = self.origin is not None  # until it fails
        self.recording: Recording | None = before.recording if before is not None else None
        self.ret = 0.0
        self.ms = 0.0
        self.act: Any = None
        self.who = "you"
        self.key = -1
        self.real: Moment | None = None  # at the same time as the dream's
        self.real_ret = 0.0
        self._real_over = False  # it had ended before this tick: nothing is to be compared any more
        self._acts: list[Any] = []
        self._reality: Reality | None = None
        self._begun: Future[Moment] | None = None  # until reality is there
        self._last: Future[Moment] | None = None  # reality at this tick

    # -- the engine's thread

    def advance(self, act: Any) -> Moment:
        """One tick by a hand's act, or by the agent's where that is None."""
        began = time.perf_counter()
        own = act is None
        taken = self.dream.decide() if own else as_taken(act, self.opened.act_space)
        if self._reality is not None:
            self._last = self._reality.step(taken)
        if len(self._acts) <= HISTORY:
            self._acts.append(taken)
        moment = self.dream.step(taken, own)
        self.act, self.ms = taken.tolist(), 1e3 * (time.perf_counter() - began)
        return moment

    # -- the event loop

    @property
    def over(self) -> bool:
        """Whether the dream has ended."""
        return self.dream.now.ended

    @property
    def wants_reality(self) -> bool:
        return self._reality is not None

    async def wait_for_reality(self, seconds: float) -> None:
        """Until it is there or has failed, or for so long."""
        if self._begun is not None:
            await asyncio.wait({_heard(self._begun)}, timeout=seconds)

    @property
    def reality_is_ready(self) -> bool:
        """Whether reality has just come to where the dream is, and ``join`` is due."""
        return self._begun is not None and self._begun.done()

    def show_reality(self, env: Reality, wake: Any) -> None:
        """Bring reality to where the dream is; ``wake`` is called, in another thread, when it has come or failed.

        Raises:
            UserError: it cannot be, and why.
        """
        assert self.origin is not None
        if len(self._acts) > HISTORY:
            raise UserError("This dream has gone on for too long for reality to join it. Start again with it.")
        self._reality, self._real_over = env, False
        self._begun = self._last = env.begin(self.origin, self._acts)
        self._begun.add_done_callback(lambda _: wake())

    def hide_reality(self) -> None:
        """No more of it."""
        self._reality = self._begun = self._last = self.real = None

    async def join(self) -> None:
        """Reality is there, or has failed.

        Raises:
            UserError, RunError: why it is not.
        """
        assert self._begun is not None
        begun, self._begun = self._begun, None
        begun.result()
        await self.meet()

    async def meet(self) -> None:
        """Wait for reality's side of this tick.

        Raises:
            RunError: the environment failed.
        """
        self._real_over |= self.real is not None and self.real.ended
        self.real = None
        if self._last is None or self._begun is not None:
            return
        wrapped = _heard(self._last)
        done, _ = await asyncio.wait({wrapped}, timeout=PATIENCE)
        if done:
            self.real = wrapped.result()
            self.real_ret = self._reality.ret if self._reality else 0.0

    def pictures(self) -> dict[str, np.ndarray | None]:
        """What is shown now, uint8 (h, w, 3) each."""
        return {"dream": _rgb(self.dream.now), "real": None if self.real is None else _rgb(self.real)}

    def head(self) -> dict[str, Any]:
        """The numbers of now."""
        now, real = self.dream.now, self.real
        head: dict[str, Any] = {
            "tick": self.dream.steps,
            "rew": now.rew,
            "con": now.con,
            "ret": self.ret,
            "act": self.act,
            "who": self.who,
            "ended": now.ended,
            "ms": round(self.ms, 2),
            "key": self.key,
        }
        if "vector" in now.obs:
            head["vector"] = {"dream": now.obs["vector"], "real": None if real is None else real.obs.get("vector")}
        if real is not None:
            head["real"] = {"rew": real.rew, "ended": real.ended, "ret": self.real_ret}
            head["error"] = None if self._real_over else reality.apart(now, real)
        return head

    def record(self) -> None:
        """Take this tick into the film, if one is made."""
        if self.recording is not None:
            shown = self.pictures()
            if shown["dream"] is not None:
                words = f"step {self.dream.steps}   return {self.ret:.4g}"
                self.recording.add(shown["dream"], shown["real"], words)

    def about(self) -> dict[str, Any]:
        """What a page must know before the first picture."""
        opened, dream = self.opened, self.dream
        shown = _rgb(dream.now)
        vector = dream.now.obs.get("vector")
        agent = dream.watching is not None
        why = {
            "reality": self.why_no_reality,
            "agent": "" if agent else "This agent has learned no behaviour yet.",
            "picture": "" if shown is not None else "This environment gives numbers, and no pictures.",
            "rew": "" if "rew" in dream.says else "This model predicts no rewards.",
            "con": "" if "con" in dream.says else "This model does not predict where episodes end.",
        }
        return {
            "agent": opened.spec.agent,
            "env": opened.spec.env.id,
            "checkpoint": opened.step,
            "keys": self.controls,
            "space": str(opened.act_space),
            "size": None if shown is None else list(shown.shape[:2]),
            "vector": [] if vector is None else controls.vector_names(opened.spec.env, len(vector)),
            "start": {"kind": self.start.kind, "row": self.start.row, "seed": self.start.seed},
            "seed": self.seed,
            "recording": self.recording is not None,
            "can": {**{key: not reason for key, reason in why.items()}, "why": why},
        }

    def close(self) -> None:
        """Forget reality; what is still asked of it is not waited for."""
        for future in (self._begun, self._last):
            if future is not None:
                with suppress(Exception):
                    future.cancel()
        self.hide_reality()


def _heard(future: Future[Moment]) -> asyncio.Future[Moment]:
    """A future of another thread, in the event loop; whether it fails is nobody's loss who does not ask."""
    wrapped = asyncio.wrap_future(future)
    wrapped.add_done_callback(lambda done: done.cancelled() or done.exception())
    return wrapped


def _rgb(moment: Moment) -> np.ndarray | None:
    image = moment.obs.get("image")
    return None if image is None else to_rgb(image)
