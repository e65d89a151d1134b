"""The page that plays: who has a seat, and where dreams may begin."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import APIRouter, WebSocket

from dreamlab.studio import rows, runs, stretches
from dreamlab.studio.playing import Player
from dreamlab.studio.studio import Studio


class Seats:
    """So many play at once; whoever comes later waits in line, and is told each new place in it."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.playing: set[Player] = set()
        self.line: list[Player] = []

    async def enter(self, player: Player) -> None:
        """Return when the player has a seat, at once where it has one."""
        if player in self.playing:
            return
        self.line.append(player)
        self._move()
        told = 0
        while player in self.line:
            if (place := self.line.index(player) + 1) != told:
                player.say(**{"is": "waiting", "place": place})
                told = place
            await player.moved.wait()
            player.moved.clear()

    def leave(self, player: Player) -> None:
        """The player is gone, wherever it was."""
        self.playing.discard(player)
        if player in self.line:
            self.line.remove(player)
        self._move()

    def _move(self) -> None:
        while self.line and len(self.playing) < self.count:
            self.playing.add(self.line.pop(0))
            # its own wait below ends, and the others' places are told anew
        for player in (*self.playing, *self.line):
            player.moved.set()


def router(studio: Studio) -> APIRouter:
    """``/api/play`` and ``/api/starts/NAME``."""
    routes = APIRouter()
    seats = Seats(studio.seats)

    @routes.websocket("/play")
    async def play(socket: WebSocket) -> None:
        await socket.accept()
        await Player(studio, seats, socket).run()

    @routes.get("/starts/{name:path}")
    async def starts(name: str, checkpoint: int | None = None, count: int = 12) -> dict[str, Any]:
        folder = await asyncio.to_thread(runs.place, studio, name)
        opened = await studio.opened(folder, checkpoint)

        def found() -> dict[str, Any]:
            experience = opened.rows()
            return {
                "checkpoint": opened.step,
                "starts": rows.starts(experience, max(1, min(count, 48))),
                "pictures": stretches.picture_key(opened.obs_space) is not None,
            }

        return await asyncio.to_thread(found)

    return routes
