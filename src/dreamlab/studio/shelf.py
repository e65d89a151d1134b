"""What the pages of episodes keep between requests: a run's rows, a few episodes' readings, and those played again."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from dreamlab.core.errors import UserError
from dreamlab.core.protocols import Experience
from dreamlab.studio import runs
from dreamlab.studio.readings import Left, Reading, read, stays
from dreamlab.studio.stretches import Held, Stretch, stored
from dreamlab.studio.studio import OpenedRun, Studio

T = TypeVar("T")
CONTEXT, BLOCK = 64, 4096
"""rows before one that the model sees where it does not see all; rows of an episode that are read as one"""
TABLES, READINGS, REPLAYED, KNOWN = 4, 4, 4, 8
"""runs whose rows stay open; episodes that were read; that were played again; ranges and codebooks"""


class Place(NamedTuple):
    """A row that is asked for: its run, its episode, and its time there."""

    opened: OpenedRun
    stretch: Stretch
    at: int


class Shelf:
    """Belongs to the studio; every entry belongs to a run at a checkpoint."""

    def __init__(self, studio: Studio) -> None:
        self.studio = studio
        self.tables: OrderedDict[tuple[Path, int], Experience] = OrderedDict()
        self.readings: OrderedDict[tuple[Path, int, str], Reading] = OrderedDict()
        self.replayed: OrderedDict[tuple[Path, str], Held] = OrderedDict()
        self.told: dict[tuple[Path, str], dict[str, Any]] = {}  # what was said of those
        self.known: OrderedDict[tuple[Path, int, str], asyncio.Future[Any]] = OrderedDict()  # ranges, codebooks

    async def opened(self, name: str, checkpoint: int | None) -> OpenedRun:
        """A run by its name.

        Raises:
            runs.Unknown: there is none.
        """
        folder = await asyncio.to_thread(runs.place, self.studio, name)
        return await self.studio.opened(folder, checkpoint)

    async def rows(self, opened: OpenedRun) -> Experience:
        """Its rows, as the checkpoint saw them."""
        key = (opened.folder, opened.step)
        if key not in self.tables:
            self.tables[key] = await asyncio.to_thread(opened.rows)
        return _used(self.tables, key, TABLES)

    async def asked(
        self,
        name: str,
        episode: str | None = None,
        row: int | None = None,
        at: int | None = None,
        checkpoint: int | None = None,
    ) -> Place:
        """``place`` of a request's parameters (``fastapi.Depends``)."""
        return await self.place(name, checkpoint, episode, row, at)

    async def place(
        self, name: str, checkpoint: int | None, episode: str | None, row: int | None, at: int | None
    ) -> Place:
        """Where a request looks: ``episode`` and ``at`` in it, or a ``row`` by itself.

        Raises:
            UserError: neither, or there is no such episode or row.
        """
        opened = await self.opened(name, checkpoint)
        if episode is not None and not episode.isdigit():
            held = self.replayed.get((opened.folder, episode))
            if held is None:
                raise UserError("this episode is not in memory any more: play it again from the list of episodes")
            return Place(opened, held, _within(at or 0, held))
        if episode is not None:
            row = int(episode)
        if row is None:
            raise UserError("name an episode, or a row")
        stretch, found = stored(await self.rows(opened), row)
        return Place(opened, stretch, _within(found if at is None else at, stretch))

    async def read(self, place: Place, stop: int | None = None, left: Left = stays) -> tuple[Reading, int]:
        """A reading that holds the row ``place.at``, up to before ``stop`` if told, and the row's time in it.

        It is of the whole episode, but an episode of more than ``BLOCK`` rows is read in blocks, and for a single row
        that lies far ahead of what has been read the model sees but some ``CONTEXT`` rows before it.

        Raises:
            UserError: there is no world model.
        """
        whole, at = place.stretch, place.at
        begin, end = max(0, at // BLOCK * BLOCK - CONTEXT), min(len(whole), (at // BLOCK + 1) * BLOCK)
        found = self._reading(place, begin, end)
        if stop is None and at - begin - found.done > 2 * CONTEXT:
            begin = (at // CONTEXT - 1) * CONTEXT  # the same for rows nearby: walking on reads on
            found = self._reading(place, begin, end)
        await read(self.studio, found, (at + 1 if stop is None else stop) - begin, left)
        return found, at - begin

    def _reading(self, place: Place, start: int, stop: int) -> Reading:
        whole = place.stretch
        stretch = whole if (start, stop) == (0, len(whole)) else whole.part(start, stop)
        key = (place.opened.folder, place.opened.step, stretch.key)
        if key not in self.readings:
            self.readings[key] = Reading(place.opened, stretch)
        return _used(self.readings, key, READINGS)

    async def once(self, opened: OpenedRun, what: str, make: Callable[[], Awaitable[T]]) -> T:
        """What ``make`` finds of a run at a checkpoint, kept; whoever asks meanwhile waits for the same."""
        key = (opened.folder, opened.step, what)
        if key not in self.known:
            self.known[key] = asyncio.ensure_future(make())
        found = _used(self.known, key, KNOWN)
        try:
            return await asyncio.shield(found)
        except asyncio.CancelledError:
            raise
        except BaseException:
            self.known.pop(key, None)
            raise

    def hold(self, folder: Path, held: Held, told: dict[str, Any]) -> None:
        """Keep an episode that was played again, and what is to be said of it."""
        self.replayed[folder, held.key] = held
        self.told[folder, held.key] = told
        _used(self.replayed, (folder, held.key), REPLAYED)
        self.told = {key: told for key, told in self.told.items() if key in self.replayed}


def _within(at: int, stretch: Stretch) -> int:
    if not 0 <= at < len(stretch):
        raise UserError(f"row {at} of this episode was asked for, but it has {len(stretch)}, from 0 on")
    return at


def _used(shelf: OrderedDict[Any, Any], key: Any, most: int) -> Any:
    shelf.move_to_end(key)
    while len(shelf) > most:
        shelf.popitem(last=False)
    return shelf[key]
