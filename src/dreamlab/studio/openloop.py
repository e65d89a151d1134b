"""The dream from a row on: the model sees no more, and is told the actions that were really chosen."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
from fastapi import Response

from dreamlab.core.errors import UserError
from dreamlab.core.pictures import to_rgb
from dreamlab.dream.env import DreamEnv
from dreamlab.studio import stretches
from dreamlab.studio.readings import Left, go_on
from dreamlab.studio.sheets import message, plain, sheet
from dreamlab.studio.shelf import Place, Shelf
from dreamlab.studio.stretches import VALUES
from dreamlab.studio.studio import Studio

STEPS = 48
"""of a film, at most"""


async def film(studio: Studio, shelf: Shelf, place: Place, steps: int, temperature: float, left: Left) -> Response:
    """Real | dream | difference from a row on under the actions that were really chosen, until either ends."""
    stretch = place.stretch
    steps = min(steps, len(stretch) - 1 - place.at)
    if steps < 1:
        raise UserError("this is the episode's last row: nothing follows that could be dreamt; choose an earlier one")
    reading, here = await shelf.read(place, left=left)
    act = stretch.column("act", place.at, place.at + steps)
    start = reading.latent(here)

    def begin() -> tuple[DreamEnv, dict[str, np.ndarray]]:
        dream = DreamEnv(place.opened.model, start, place.opened.act_space, horizon=steps + 1, temperature=temperature)
        return dream, dream.reset(seed=place.at, options={"start": start})[0]

    dream, obs = await studio.compute(begin)
    seen, rew, over = [obs], [0.0], False
    for k in range(steps):
        await go_on(left)
        obs, r, terminated, _, _ = await studio.compute(dream.step, act[k : k + 1])
        seen.append(obs)
        rew.append(float(r[0]))
        if terminated[0]:
            over = True
            break
    return await asyncio.to_thread(_filmed, place, seen, rew, over)


def _filmed(place: Place, seen: list[Any], rew: list[float], over: bool) -> Response:
    n, at = len(seen), place.at
    head: dict[str, Any] = {
        "frames": n, "at": at, "over": over, "rew": plain(np.array(rew)),
        "real_rew": plain(place.stretch.column("rew", at, at + n)),
    }  # fmt: skip
    planes = {}
    if "image" in seen[0]:
        real = stretches.frames(place.stretch, place.opened.obs_space, at, at + n)
        dreamt = to_rgb(np.concatenate([obs["image"] for obs in seen]))
        difference = np.abs(real.astype(np.int16) - dreamt).astype(np.uint8)
        head["size"] = list(real.shape[1:3])
        head["error"] = plain((difference.astype(np.float64) ** 2).mean((1, 2, 3)) / 255**2)
        planes = {"real": sheet(real), "dream": sheet(dreamt), "difference": sheet(difference)}
    else:
        real, dreamt = place.stretch.column("vector", at, at + n), np.concatenate([obs["vector"] for obs in seen])
        head["error"] = plain(((real - dreamt) ** 2).mean(1))
        head["vector"] = {"real": plain(real[:, :VALUES]), "dream": plain(dreamt[:, :VALUES])}
    return message(head, planes)
