"""From what a player asks for to a game: the run, the start, what is seen on the way to it, and the dream."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from dreamlab.core.errors import RunError, UserError
from dreamlab.core.protocols import State
from dreamlab.studio import dreaming, reality, rows, runs
from dreamlab.studio.dreaming import Context, Dream
from dreamlab.studio.game import Game
from dreamlab.studio.messages import Opening, Start
from dreamlab.studio.reality import Origin, Reality

if TYPE_CHECKING:
    from dreamlab.studio.studio import OpenedRun, Studio


async def opened_game(
    studio: Studio, asked: Opening, before: Game | None, env_of: Callable[[OpenedRun], Reality]
) -> Game:
    """A game as it was asked for.

    Args:
        before: the game that it follows; the same start again is had from it at once.
        env_of: the real environment of a run, for starts that are its resets.

    Raises:
        UserError, RunError: why it cannot be played.
    """
    folder = await asyncio.to_thread(runs.place, studio, asked.run)
    opened = await studio.opened(folder, asked.checkpoint)
    _ = opened.model  # raises where there is none
    start, experience = await asyncio.to_thread(resolve, opened, asked.start)
    origin: Origin | str
    latent: State = None
    if before is not None and before.opened is opened and before.start == start and asked.seed is None:
        context, origin, latent = before.dream.context, before.origin or before.why_no_reality, before.dream.start
    elif start.kind == "row":
        context, origin = await asyncio.to_thread(begin_at, opened, experience, start)
    else:
        if (none := reality.none_because(opened)) is not None:
            raise UserError(f"{none} Start from a stored frame.")
        origin = Origin(seed=start.seed)
        first = await asyncio.wrap_future(env_of(opened).begin(origin))
        context = dreaming.of_reset(first.obs, opened.act_space, opened.compute.device)
    seed = secrets.randbits(31) if asked.seed is None else asked.seed
    pieces = dreaming.observe(opened.model, context.batch, seed)
    while latent is None:
        latent = await studio.compute(next, pieces)
    dream = await studio.compute(Dream, opened, context, latent, asked.temperature, seed)
    return await asyncio.to_thread(Game, opened, start, dream, origin, seed, before)


def resolve(opened: OpenedRun, start: Start) -> tuple[Start, Any]:
    """Where "any" is, and the rows that are held, None where there are none or none are needed. It reads files."""
    if start.kind == "reset":
        return start, None
    try:
        experience = opened.rows()
        found = rows.starts(experience) if start.kind == "any" else []
    except (RunError, KeyError, OSError) as error:
        if start.kind == "row":
            raise UserError(f"The rows of this run cannot be read ({error}). Start from a fresh reset.") from error
        return Start("reset"), None
    if start.kind == "row":
        return start, experience
    if not found:
        return Start("reset"), None
    return Start("row", row=found[min(1, len(found) - 1)]["row"]), experience  # the second is in mid-episode


def begin_at(opened: OpenedRun, experience: Any, start: Start) -> tuple[Context, Origin | str]:
    """What is seen on the way to a row, and how reality comes there or why it does not. It reads files."""
    context = dreaming.of_row(experience, start.row)
    none = reality.none_because(opened)
    if none is not None:
        return context, none
    try:
        return context, reality.of_row(opened, experience, start.row)
    except UserError as error:
        return context, str(error)
