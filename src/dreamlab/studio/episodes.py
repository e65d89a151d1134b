"""The page of episodes: those among a run's rows and those that were evaluated, frame by frame.

::

    /episodes/NAME     which there are                    /strip/NAME     many frames as one sheet
    /episode/NAME      one: actions, rewards, ends        /read/NAME      what the model says of its rows
    /frame/NAME        a single frame                     /film/NAME      the dream from a frame on
    /evaluated/NAME    play an evaluated one again

An episode is named by the id of its first row, or as FILE:INDEX of an evaluation.
"""

from __future__ import annotations

import asyncio
import math
import time
from typing import Any, Literal

import numpy as np
from fastapi import APIRouter, Depends, Query, Request, Response
from gymnasium import spaces

from dreamlab.core.errors import UserError
from dreamlab.core.types import is_image
from dreamlab.studio import controls, openloop, replayed, stretches
from dreamlab.studio.openloop import STEPS
from dreamlab.studio.sheets import FRAMES, plain, png, sheet
from dreamlab.studio.shelf import BLOCK, Place, Shelf
from dreamlab.studio.stretches import VALUES
from dreamlab.studio.studio import OpenedRun, Studio

Kind = Literal["real", "reconstruction"]
PLAYING = 2
"""episodes that are played again at once"""
LEFT = 10.0
"""seconds after which one that nobody asks for gives way to another"""


def router(studio: Studio, shelf: Shelf) -> APIRouter:
    """Stored episodes: which there are, their frames and reconstructions, what the model reads in them, films."""
    routes = APIRouter()

    @routes.get("/episodes/{name:path}")
    async def episodes(
        name: str,
        checkpoint: int | None = None,
        page: int = Query(0, ge=0, le=10**7),
        count: int = Query(40, ge=1, le=200),
    ) -> dict[str, Any]:
        opened = await shelf.opened(name, checkpoint)
        why: str | None = None
        listed: list[dict[str, Any]] = []
        total = 0
        try:
            rows = await shelf.rows(opened)
            listed, total = await asyncio.to_thread(_listed, rows, page, count)
        except (UserError, RuntimeError) as error:
            why = str(error)
        evaluated = await asyncio.to_thread(replayed.scores, opened.folder)
        return {
            **about(opened), "total": total, "page": page, "count": count, "episodes": listed, "evaluated": evaluated,
            "why": why,
        }  # fmt: skip

    @routes.get("/episode/{name:path}")
    async def episode(place: Place = Depends(shelf.asked)) -> dict[str, Any]:
        return {**about(place.opened), **await asyncio.to_thread(_one, place)}

    @routes.get("/frame/{name:path}")
    async def frame(request: Request, kind: Kind = "real", place: Place = Depends(shelf.asked)) -> Response:
        if kind == "real":
            return png((await asyncio.to_thread(_real, place, place.at, place.at + 1))[0])
        reading, here = await shelf.read(place, left=request.is_disconnected)
        return png(reading.reconstruction(here, here + 1)[0])

    @routes.get("/strip/{name:path}")
    async def strip(
        request: Request,
        name: str,
        episode: str,
        start: int = Query(0, ge=0),
        count: int = Query(FRAMES, ge=1, le=FRAMES),
        kind: Kind = "real",
        checkpoint: int | None = None,
    ) -> Response:
        place = await shelf.place(name, checkpoint, episode, None, start)
        stop = min(start + count, len(place.stretch))
        if kind == "real":
            return png(sheet(await asyncio.to_thread(_real, place, start, stop)), keep=True)
        reading, at = await shelf.read(place, stop, request.is_disconnected)
        return png(await asyncio.to_thread(lambda: sheet(reading.reconstruction(at, at + stop - start))), keep=True)

    @routes.get("/read/{name:path}")
    async def reads(
        request: Request,
        name: str,
        episode: str,
        start: int = Query(0, ge=0),
        count: int = Query(FRAMES, ge=1, le=4 * FRAMES),
        checkpoint: int | None = None,
    ) -> dict[str, Any]:
        place = await shelf.place(name, checkpoint, episode, None, start)
        stop = min(start + count, len(place.stretch), (start // BLOCK + 1) * BLOCK)
        reading, at = await shelf.read(place, stop, request.is_disconnected)
        end = at + stop - start
        series = {key: plain(np.array(values[at:end])) for key, values in reading.series.items()}
        vector = reading.vector(at, end)
        return {"start": start, "stop": stop, "series": series, "vector": None if vector is None else plain(vector)}

    @routes.get("/film/{name:path}")
    async def film(
        request: Request,
        steps: int = Query(STEPS, ge=1, le=STEPS),
        temperature: float = Query(1.0, gt=0, le=10),
        place: Place = Depends(shelf.asked),
    ) -> Response:
        return await openloop.film(studio, shelf, place, steps, temperature, request.is_disconnected)

    routes.include_router(evaluations(studio, shelf))
    return routes


def evaluations(studio: Studio, shelf: Shelf) -> APIRouter:
    """Evaluated episodes, played again from their seeds: the page asks until one is done."""
    routes = APIRouter()
    playing: dict[tuple[Any, str], replayed.Again] = {}

    @routes.get("/evaluated/{name:path}")
    async def evaluated(name: str, file: str, index: int = Query(ge=0)) -> dict[str, Any]:
        opened, words = await _scored(shelf, name, file)
        key = (opened.folder, f"{file}:{index}")
        if key not in shelf.replayed:
            game = playing.get(key)
            if game is None:
                replayed.refuse_recordings(opened)
                made = await asyncio.to_thread(replayed.Again, opened, file, index)
                if key not in playing and not await _room(studio, playing):
                    await asyncio.sleep(1.0)  # the page asks again
                    return {"done": False, "steps": 0}
                game = playing.setdefault(key, made)
            try:
                await _play_on(studio, game)
            except Exception:
                playing.pop(key, None)
                await studio.compute(game.close)
                raise
            if not game.done:
                return {"done": False, "steps": game.steps}
            playing.pop(key, None)
            shelf.hold(opened.folder, game.held(), _compared(game, words))
        return {"done": True, "episode": key[1], "checkpoint": opened.step, **shelf.told[key]}

    return routes


async def _scored(shelf: Shelf, name: str, file: str) -> tuple[OpenedRun, str | None]:
    """The run at the checkpoint that was scored, or, with a word that it is so, at the newest one."""
    newest = await shelf.opened(name, None)
    known = next((s for s in await asyncio.to_thread(replayed.scores, newest.folder) if s["file"] == file), None)
    if known is None or known["checkpoint"] in (None, newest.step):
        return newest, None
    try:
        return await shelf.opened(name, known["checkpoint"]), None
    except UserError:
        gone = f"checkpoint {known['checkpoint']} is not kept any more, and {newest.step} played instead"
        return newest, gone


async def _room(studio: Studio, playing: dict[tuple[Any, str], replayed.Again]) -> bool:
    """Whether one more may be played again; those that nobody asks for any more make room."""
    for key in [key for key, game in playing.items() if time.monotonic() - game.asked > LEFT]:
        await studio.compute(playing.pop(key).close)
    return len(playing) < PLAYING


async def _play_on(studio: Studio, game: replayed.Again) -> None:
    """For about a second: the page asks again until it is done."""
    until = time.monotonic() + 1.0
    game.asked = math.inf
    try:
        while not game.done and time.monotonic() < until:
            await studio.compute(game.on)
    finally:
        game.asked = time.monotonic()


def about(opened: OpenedRun) -> dict[str, Any]:
    """What every page says of a run: who acted where, and what can be seen of it."""
    model = getattr(opened.agent, "model", None)
    agent = opened.spec.agent
    return {
        "agent": agent,
        "env": opened.spec.env.id,
        "checkpoint": opened.step,
        "model": model is not None,
        "unmodelled": None if model is not None else f"{agent} has no world model, so there is nothing of one to show.",
        "foretold": [key for key in ("rew", "con") if model is not None and key not in getattr(model, "given", ())],
        "judges": hasattr(opened.agent, "judge"),
        "space": {**space_of(opened.act_space), **_names(opened)},
        "pictures": _size(opened),
    }


def space_of(space: spaces.Space) -> dict[str, Any]:
    """An action space in plain values."""
    if isinstance(space, spaces.Discrete):
        return {"kind": "discrete", "n": int(space.n)}
    if isinstance(space, spaces.MultiDiscrete):
        return {"kind": "several", "n": [int(n) for n in space.nvec.reshape(-1)]}
    return {"kind": "box", "low": plain(space.low), "high": plain(space.high)}  # type: ignore[attr-defined]


def _names(opened: OpenedRun) -> dict[str, Any]:
    """What actions and observed numbers are called: ``names`` of actions, ``axes`` as [less, more], ``vector``."""
    config, numbers = opened.spec.env, opened.obs_space.spaces.get("vector")
    told: dict[str, Any] = {}
    if numbers is not None:
        told["vector"] = controls.vector_names(config, int(np.prod(numbers.shape or (1,))))[:VALUES]
    try:
        found = controls.controls(config, opened.act_space)
    except (AssertionError, KeyError):
        return told
    if found["kind"] == "choice":
        return {**told, "names": [action["name"] for action in found["actions"]]}
    if isinstance(opened.act_space, spaces.Box):
        ends = [["", ""] for _ in range(int(np.prod(opened.act_space.shape)))]
        for button in found["buttons"]:
            ends[button["axis"]][int(button["value"] > found["rest"][button["axis"]])] = button["name"]
        told["axes"] = ends
    return told


def _size(opened: OpenedRun) -> list[int] | None:
    """Height and width of frames, None where there are none."""
    key = stretches.picture_key(opened.obs_space)
    return None if key is None else [int(n) for n in opened.obs_space[key].shape[1:]]  # type: ignore[index]


def _listed(rows: Any, page: int, count: int) -> tuple[list[dict[str, Any]], int]:
    """One page of the stored episodes, newest first, and how many there are."""
    total = len(rows.index.episodes().start)
    out = []
    for i in range(total - 1 - page * count, max(-1, total - 1 - (page + 1) * count), -1):
        one = stretches.episode(rows, i)
        rew = one.column("rew", 0, len(one))
        out.append(
            {"episode": one.key, "number": i, "length": len(one) - 1, "return": float(rew.astype(np.float64).sum()),
             "whole": one.whole}
        )  # fmt: skip
    return out, total


def _one(place: Place) -> dict[str, Any]:
    stretch, opened = place.stretch, place.opened
    n = len(stretch)
    first, second = stretch.row(0), stretch.row(1)
    numbers = [k for k, s in opened.obs_space.spaces.items() if not is_image(s)]
    vector = None
    if numbers and n * VALUES <= 1 << 18:
        values = stretch.column(numbers[0], 0, n).reshape(n, -1)
        vector = plain(values[:, :VALUES])
    return {
        "episode": stretch.key,
        "at": place.at,
        "length": n,
        "first": first,
        "stride": None if first is None or second is None else second - first,
        "whole": getattr(stretch, "whole", True),
        "act": plain(stretch.column("act", 0, n)),
        "rew": plain(stretch.column("rew", 0, n)),
        "is_last": bool(stretch.column("is_last", n - 1, n)[0]),
        "is_terminal": bool(stretch.column("is_terminal", n - 1, n)[0]),
        "vector": vector,
    }


def _real(place: Place, start: int, stop: int) -> np.ndarray:
    return stretches.frames(place.stretch, place.opened.obs_space, start, stop)


def _compared(game: replayed.Again, words: str | None) -> dict[str, Any]:
    """What is to be said of an episode that was played again."""
    told = [words] if words else []
    if game.cut:
        told.append(f"it is long: the first {game.steps} steps are shown")
    elif abs(game.ret - game.expected) > 1e-3 * max(1.0, abs(game.expected)):
        told.append(
            f"it returned {game.ret:.6g}, and {game.expected:.6g} when it was scored: the policy draws its actions, or "
            "the environment is not the same for the same seed"
        )
    return {"steps": game.steps, "return": float(game.ret), "scored": float(game.expected), "told": told}
