"""One client of ``/api/play``: reads what it says, ticks its dream, sends what is newest. Ends when it leaves.

::

    _read   messages ─▶ hand, settings, orders     at once, while a tick is under way
    _play   open, tick, tick, tick, ...            through studio.compute, one call at a time
    Outbox  words in order, the newest picture     a slow client misses pictures, none wait in a line
"""

from __future__ import annotations

import asyncio
import dataclasses
import time
from typing import TYPE_CHECKING, Any

from starlette.websockets import WebSocket, WebSocketDisconnect

from dreamlab.core.errors import UserError
from dreamlab.studio import messages
from dreamlab.studio.film import Recording
from dreamlab.studio.game import Game
from dreamlab.studio.hands import reader
from dreamlab.studio.messages import Opening, Start
from dreamlab.studio.opening import opened_game
from dreamlab.studio.outbox import Outbox
from dreamlab.studio.reality import Reality

if TYPE_CHECKING:
    from dreamlab.studio.play import Seats
    from dreamlab.studio.studio import OpenedRun, Studio

SOONEST = 0.25
"""share of a tick's time after which a changed key may bring the next one"""
STILL = 300.0
"""seconds that a player may stand still while others wait for a seat"""
TOGETHER = 0.8
"""seconds that a dream waits for reality, so that both begin together"""
BUSY = 1500
"""pictures that the agent may be behind before it catches up even where there is no time to spare"""


class Player:
    """One client and its dream."""

    def __init__(self, studio: Studio, seats: Seats, socket: WebSocket) -> None:
        self.studio, self.seats, self.socket = studio, seats, socket
        self.moved = asyncio.Event()  # its place in the line has changed
        self.game: Game | None = None
        self.fps, self.temperature, self.who = 15.0, 1.0, "you"
        self.paused = self.turns = self.reality = False
        self._wanted: Opening | None = None  # the newest open
        self._asked: Opening | None = None  # what is played
        self._opening = False
        self._again: Start | None = None
        self._steps = 0
        self._save = False
        self._env: Reality | None = None
        self._env_of: OpenedRun | None = None
        self._wake = asyncio.Event()
        self._outbox = Outbox(socket)
        self._last = self._next = self._rate = 0.0
        self._urgent = False
        self._look = 0.005  # seconds that the agent takes to look at one picture

    async def run(self) -> None:
        """Until the client leaves."""
        tasks = [asyncio.create_task(part()) for part in (self._read, self._outbox.run, self._play)]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            self._leave()  # nothing in it waits: it is done also where this task is being cancelled itself

    def say(self, **parts: Any) -> None:
        """Words to the client, as soon as it takes them."""
        self._outbox.say(**parts)

    # -- reading

    async def _read(self) -> None:
        while True:
            found = await self.socket.receive()
            if found["type"] == "websocket.disconnect":
                return
            try:
                if found.get("text") is None:
                    raise UserError("Messages are JSON text here.")
                self._hear(messages.read(found["text"]))
            except UserError as error:
                self.say(**{"is": "error", "text": str(error)})

    def _hear(self, message: dict[str, Any]) -> None:
        kind = message["do"]
        if kind == "open":
            self._wanted = messages.opening(message)
        elif kind == "seen":
            self._outbox.seen(messages.whole(message, "sent", 0, 2**53))
            return
        elif kind == "set":
            self._set(message)
        elif self.game is None:
            if kind != "act" and not self._opening and self._wanted is None:
                raise UserError("Nothing is being played; open a run first.")
        elif kind == "act":
            n = messages.whole(message, "n", 0, 2**53)
            act = reader(self.game.opened.act_space)(message.get("act"))
            self._urgent |= self.game.hand.press(act, n, time.monotonic())
        elif kind == "step":
            self._steps = 1
        elif kind == "restart":
            self._again = messages.start(message["start"]) if message.get("start") else self.game.start
        elif kind == "record":
            self._record(messages.flag(message, "on"))
        elif kind == "save":
            self._save = True
        self._wake.set()

    def _set(self, message: dict[str, Any]) -> None:
        if "fps" in message:
            self.fps = messages.number(message, "fps", *messages.FPS)
            self._next = min(self._next, time.monotonic() + 1 / self.fps)
        if "temperature" in message:
            self.temperature = messages.number(message, "temperature", *messages.TEMPERATURE)
            if self.game is not None:
                self.game.dream.env.temperature = self.temperature
        for key in ("paused", "turns", "reality"):
            if key in message:
                setattr(self, key, messages.flag(message, key))
        if message.get("reality") and self.game is not None:
            if self.game.origin is None:
                raise UserError(self.game.why_no_reality)
            self.game.may_be_real = True
        if "who" in message:
            if message["who"] not in ("you", "agent"):
                raise UserError('who is "you" or "agent".')
            if message["who"] == "agent" and self.game is not None and self.game.dream.watching is None:
                raise UserError(self.game.about()["can"]["why"]["agent"])
            self.who = message["who"]
            if self.game is not None:
                self.game.hand.let_go()

    def _record(self, on: bool) -> None:
        assert self.game is not None
        if on and self.game.dream.now.obs.get("image") is None:
            raise UserError("There are no pictures to record: this environment gives numbers.")
        if on:
            self.game.recording = Recording()
            self.game.record()
            seconds = self.game.recording.most / self.fps
            long = f"{seconds / 60:.0f} minutes" if seconds > 100 else f"{seconds:.0f} seconds"
            self.say(**{"is": "told", "text": f"Recording: at most {long} at this speed."})
        elif self.game.recording is not None:
            self._save = True

    def _show(self) -> None:
        game = self.game
        assert game is not None
        self._outbox.show({**game.head(), "rate": self._rate}, game.pictures())

    # -- playing

    async def _play(self) -> None:
        while True:
            self._wake.clear()
            try:
                await self._once()
            except (WebSocketDisconnect, asyncio.CancelledError):
                raise
            except UserError as error:
                self.say(**{"is": "error", "text": str(error), "over": self.game is None})
                if self.game is None:
                    self._leave()
            except Exception as error:  # a model or a folder that fails ends this dream alone
                self._leave()
                words = f"The dream failed: {type(error).__name__}: {str(error)[:300]}"
                self.say(**{"is": "error", "text": words, "over": True})

    async def _once(self) -> None:
        """Whatever is to be done next, or wait for it."""
        if self._wanted is not None:
            self._opening = True
            try:
                await self._open()
            finally:
                self._opening = False
        elif self.game is None:
            await self._wake.wait()
        elif self._again is not None:
            assert self._asked is not None
            start, self._again = self._again, None
            self._wanted = dataclasses.replace(
                self._asked, start=start, temperature=self.temperature, fps=self.fps, reality=self.reality, seed=None
            )
        elif self._save:
            await self._write()
        elif self.game.reality_is_ready or (self.reality and self.game.may_be_real) != self.game.wants_reality:
            await self._settle_reality(self.game)
        elif self.who == "agent" and self.game.dream.watching and self.game.dream.watching.behind:
            await self.studio.compute(self.game.dream.watching.catch_up, 8)
        elif (wait := self._until_tick(self.game, time.monotonic())) is None or wait > 0:
            await self._idle(self.game, wait)
        else:
            await self._tick(self.game)

    def _until_tick(self, game: Game, now: float) -> float | None:
        """Seconds until the next tick is due; None where something must happen first."""
        if game.over:
            self._steps = 0
            return None
        if self._steps:
            return 0
        if self.paused:
            return None
        due = self._next
        if self.who == "you":
            if self.turns and not game.hand.pressing(now):
                return None
            if self._urgent:
                due = min(due, self._last + SOONEST / self.fps)
        return max(0.0, due - now)

    async def _idle(self, game: Game, wait: float | None) -> None:
        watching = game.dream.watching
        if watching is not None and watching.behind and (wait is None or wait > 2 * self._look):
            began = time.monotonic()
            await self.studio.compute(watching.catch_up, 1)
            self._look = 0.8 * self._look + 0.2 * (time.monotonic() - began)
            return
        try:
            await asyncio.wait_for(self._wake.wait(), STILL if wait is None else wait)
        except TimeoutError:
            if wait is None and self.seats.line:
                self._give_up_seat()

    def _give_up_seat(self) -> None:
        """Somebody waits, and nothing has moved here for long."""
        self._leave()
        self.say(**{"is": "away", "text": "Nothing moved here for a while, and somebody waited for the seat."})

    async def _tick(self, game: Game) -> None:
        now = time.monotonic()
        self._steps, self._urgent = 0, False
        interval, pace = now - self._last, 1 / self.fps
        if interval < 2:
            self._rate = 0.9 * self._rate + 0.1 / max(interval, 1e-3) if self._rate else 1 / max(interval, 1e-3)
        early = now < self._next  # a changed key, or a single step
        self._next = now + pace if early else max(now, self._next + pace)  # what is late is made good by one tick
        self._last = now
        game.who, game.key = self.who, game.hand.n
        act = None if self.who == "agent" else game.hand.take(now)
        if act is None and self.who == "you":
            act = _neutral(game)
        watching = game.dream.watching
        if watching is not None and watching.behind > BUSY:
            await self.studio.compute(watching.catch_up, 2)
        moment = await self.studio.compute(game.advance, act)
        game.ret += moment.rew or 0.0
        try:
            await game.meet()
        except Exception as error:
            self._lose_reality(game, error)
        game.record()
        if game.recording is not None and game.recording.full:
            self.say(**{"is": "told", "text": "The recording is as long as one may be; it is saved now."})
            self._save = True
        self._show()

    async def _open(self) -> None:
        asked, self._wanted = self._wanted, None
        assert asked is not None
        await self.seats.enter(self)
        if self._wanted is not None:  # something newer was asked for while it waited
            return
        self.say(**{"is": "opening"})
        before = self.game
        self._drop()
        game = await opened_game(self.studio, asked, before, self._reality_of)
        self.who = "you" if game.dream.watching is None else self.who
        if asked.fps is not None:
            self.fps = asked.fps
        elif self._asked is None or self._asked.run != asked.run:
            self.fps = float(game.controls["speed"])
        self._asked, self.temperature = asked, asked.temperature
        self.reality = asked.reality
        self._steps, self._save, self._urgent, self._again = 0, False, False, None
        self.game = game
        settings = {"fps": self.fps, "temperature": self.temperature, "who": self.who, "paused": self.paused}
        self._outbox.forget()
        if self.reality and game.may_be_real:
            self._show_reality(game)
            await game.wait_for_reality(TOGETHER)
        else:
            self._close_env()
        self.say(**{"is": "ready", "run": asked.run, **settings, "turns": self.turns, **game.about()})
        if game.reality_is_ready:
            await self._settle_reality(game)
        elif game.wants_reality:
            self.say(**{"is": "reality", "state": "coming"})
        self._last, self._next, self._rate = 0.0, time.monotonic() + 1 / self.fps, 0.0
        self._show()

    # -- reality

    async def _settle_reality(self, game: Game) -> None:
        """Show reality, or show it no more, as the player wants it."""
        try:
            if game.reality_is_ready:
                await game.join()
                self.say(**{"is": "reality", "state": "here"})
                self._show()
            elif self.reality and game.may_be_real:
                self._show_reality(game)
                self.say(**{"is": "reality", "state": "coming"})
            else:
                game.hide_reality()
                self._close_env()
                self.say(**{"is": "reality", "state": "away"})
                self._show()
        except Exception as error:
            self._lose_reality(game, error)

    def _show_reality(self, game: Game) -> None:
        loop = asyncio.get_running_loop()
        game.show_reality(self._reality_of(game.opened), lambda: loop.call_soon_threadsafe(self._wake.set))

    def _lose_reality(self, game: Game, error: Exception) -> None:
        """Go on without, and say why; the next start tries again."""
        game.may_be_real = False
        game.hide_reality()
        self._close_env()
        known = isinstance(error, UserError)
        why = str(error) if known else f"The environment failed: {type(error).__name__}: {str(error)[:300]}"
        self.say(**{"is": "reality", "state": "away", "why": why})

    def _reality_of(self, opened: OpenedRun) -> Reality:
        if self._env is None or self._env_of is not opened:
            self._close_env()
            self._env, self._env_of = Reality(opened), opened
        return self._env

    def _close_env(self) -> None:
        if self._env is not None:
            self._env.close()
        self._env = self._env_of = None

    # -- films

    async def _write(self) -> None:
        self._save = False
        game, asked = self.game, self._asked
        assert game is not None
        assert asked is not None
        if game.recording is None:
            raise UserError("Nothing was recorded yet. Start the recording, play, and save then.")
        recording, game.recording = game.recording, None
        name, title = f"play-{game.opened.step}", f"{asked.run}, {game.opened.spec.env.id}"
        path = await asyncio.to_thread(recording.write, game.opened.folder, name, title, self.fps)
        self.say(**{"is": "saved", "path": path.relative_to(game.opened.folder).as_posix(), "run": asked.run})

    def _leave(self) -> None:
        """Nothing is played any more: the seat is for somebody else."""
        self._drop()
        self._close_env()
        self.seats.leave(self)

    def _drop(self) -> None:
        if self.game is not None:
            self.game.close()
        self.game = None
        self._outbox.forget()


def _neutral(game: Game) -> Any:
    """What is done where nothing is pressed, every action does something, and nothing was done yet."""
    return 0 if game.controls["kind"] == "choice" else game.controls["rest"]
