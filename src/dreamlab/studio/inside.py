"""The page Inside: what a model has in mind at one row, and what becomes of the picture when that is changed.

::

    /inside/NAME      the views of a row; POST another code, and have its picture
    /ranges/NAME      how far the code's numbers go over the data, or how often each token of the codebook is used
    /patches/NAME     what each token that is used looks like
    /forecast/NAME    what would follow each action
    /attention/NAME   where the transformer looks from a row

What there is to see is the model's to say (``core.inside``).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from fastapi import APIRouter, Depends, Query, Request, Response
from gymnasium import spaces
from pydantic import BaseModel, Field

from dreamlab.core.actions import one_hot
from dreamlab.core.errors import UserError
from dreamlab.core.imagination import leaves, stack
from dreamlab.core.inside import Choices, Classes, Code, Mixture, Normals, Spread, Tokens, View
from dreamlab.core.pictures import to_rgb
from dreamlab.core.protocols import State
from dreamlab.core.seeds import forked
from dreamlab.dream.env import pixels
from dreamlab.studio.episodes import about
from dreamlab.studio.ranges import ranges as spread
from dreamlab.studio.readings import Reading, foretold, go_on, kl_by_group
from dreamlab.studio.sheets import message, plain, png, sheet
from dreamlab.studio.shelf import Place, Shelf
from dreamlab.studio.stretches import VALUES
from dreamlab.studio.studio import OpenedRun, Studio

FARTHEST = 1e4
"""numbers of a code beyond this are refused"""
AXES = 4
"""axes of a continuous action whose ends are tried"""


class Changed(BaseModel):
    """Another code at a row."""

    episode: str | None = Field(None, max_length=300)
    row: int | None = None
    at: int | None = None
    checkpoint: int | None = None
    code: list[float] = Field(max_length=8192)


def router(studio: Studio, shelf: Shelf) -> APIRouter:
    """What is inside a model at a row: its views, other codes, what would follow, where it looks."""
    routes = APIRouter()

    async def read(place: Place) -> tuple[Reading, int]:
        offered(place.opened)
        return await shelf.read(place)

    @routes.get("/inside/{name:path}")
    async def inside(request: Request, place: Place = Depends(shelf.asked)) -> dict[str, Any]:
        here = {**about(place.opened), "episode": place.stretch.key, "at": place.at}
        why = nothing(place.opened)
        if why is not None:
            return {**here, "views": [], "why": why}
        reading, at = await shelf.read(place, left=request.is_disconnected)
        return {**here, **await studio.compute(_views, place, reading, at)}

    @routes.post("/inside/{name:path}")
    async def changed(name: str, asked: Changed) -> Response:
        place = await shelf.place(name, asked.checkpoint, asked.episode, asked.row, asked.at)
        reading, at = await read(place)
        return await studio.compute(_changed, place.opened, reading.latent(at), asked.code)

    @routes.get("/ranges/{name:path}")
    async def ranges(name: str, checkpoint: int | None = None) -> dict[str, Any]:
        opened = await shelf.opened(name, checkpoint)
        offered(opened)
        return (await spread(studio, shelf, opened))[0]

    @routes.get("/patches/{name:path}")
    async def patches(name: str, checkpoint: int | None = None) -> Response:
        opened = await shelf.opened(name, checkpoint)
        offered(opened)
        patches = (await spread(studio, shelf, opened))[1]
        if patches is None:
            raise UserError("this model has no codebook of pictures")
        return png(sheet(patches), keep=True)

    @routes.get("/forecast/{name:path}")
    async def forecast(request: Request, place: Place = Depends(shelf.asked)) -> Response:
        reading, at = await read(place)
        latent = reading.latent(at)
        taken = place.stretch.column("act", place.at, place.at + 1)[0]
        told, planes = [], {}
        for n, act in enumerate(candidates(place.opened.act_space, taken)):
            await go_on(request.is_disconnected)
            one, picture = await studio.compute(_follows, place.opened, latent, act, place.at)
            told.append({**one, "act": plain(act), "taken": bool(np.allclose(act, taken, atol=1e-3))})
            if picture is not None:
                planes[str(n)] = picture
        return message({"actions": told}, planes)

    @routes.get("/attention/{name:path}")
    async def attention(query: int | None = Query(None, ge=0), place: Place = Depends(shelf.asked)) -> dict[str, Any]:
        reading, at = await read(place)
        return await studio.compute(_attention, place, reading, at, query)

    return routes


def nothing(opened: OpenedRun) -> str | None:
    """Why there is nothing to look at, in words; None where there is something."""
    agent, model = opened.spec.agent, getattr(opened.agent, "model", None)
    if model is None:
        return f"{agent} has no world model. It learns what to do, and imagines nothing that could be shown here."
    if not hasattr(model, "inside"):
        return f"The world model of {agent} does not say what is inside it."
    return None


def offered(opened: OpenedRun) -> None:
    """Raises UserError where there is nothing to look at."""
    why = nothing(opened)
    if why is not None:
        raise UserError(why)


# ---- the views of a row


def told(view: View) -> dict[str, Any]:
    """A view of one latent, (1, ...), in plain values."""
    if isinstance(view, Code):
        return {"kind": "code", "value": plain(view.value[0]), "std": _first(view.std)}
    if isinstance(view, Tokens):
        return {
            "kind": "tokens", "value": plain(view.value[0]), "grid": list(view.grid), "vocabulary": view.vocabulary
        }  # fmt: skip
    if isinstance(view, Classes | Normals):
        return {
            "kind": "classes" if isinstance(view, Classes) else "normals",
            "value": plain(view.value[0]),
            "prior": plain(view.prior[0], 4),
            "post": _first(view.post, 4),
            "kl": None if view.post is None else plain(kl_by_group(view)[0], 4),
        }
    if isinstance(view, Mixture):
        return {"kind": "mixture", **{k: plain(x[0], 4) for k, x in view._asdict().items()}}
    if isinstance(view, Choices):
        return {"kind": "choices", "probs": [plain(p.reshape(-1, p.shape[-1])[-1]) for p in view.probs]}
    if isinstance(view, Spread):
        last = [None if x is None else plain(x.reshape(-1, x.shape[-1])[-1]) for x in view]
        return {"kind": "spread", "mean": last[0], "std": last[1]}
    return {"kind": "number", "value": plain(view.value.reshape(-1)[-1])}


def _first(x: torch.Tensor | None, digits: int = 5) -> Any:
    return None if x is None else plain(x[0], digits)


def _views(place: Place, reading: Reading, at: int) -> dict[str, Any]:
    model: Any = place.opened.model
    latent, batch = reading.latent(at), place.stretch.batch(place.at, place.at + 1)
    with torch.no_grad(), forked(place.at, "studio", "inside"):
        views = model.inside(latent, {k: v[:, 0] for k, v in batch.obs.items()})
        policy = reading.policy(at)
    attention = None
    if hasattr(model, "attention"):
        attention = {"context": int(model.context)}
    return {
        "why": None,
        "views": [{"name": name, **told(view)} for name, view in views.items()],
        "policy": None if policy is None else told(policy),
        "coded": hasattr(model, "with_code"),
        "attention": attention,
        "first": bool(batch.is_first[0, 0]),
        "said": {key: plain(values[at]) for key, values in reading.series.items()},
    }


# ---- another code


def _changed(opened: OpenedRun, latent: State, code: list[float]) -> Response:
    with torch.no_grad(), forked(0, "studio", "changed"):
        said = opened.model.predict(recoded(opened, latent, code))
    planes = {}
    head: dict[str, Any] = {k: plain(v[0]) for k, v in foretold(opened.model, said).items()}
    picture = pictured(said)
    if picture is not None:
        planes["picture"] = picture[0]
    if "vector" in said:
        head["vector"] = plain(said["vector"][0, :VALUES])
    return message(head, planes)


def recoded(opened: OpenedRun, latent: State, code: list[float]) -> State:
    """A latent (1, ...) with another code.

    Raises:
        UserError: the code does not fit, or the model takes none.
    """
    model: Any = opened.model
    if not hasattr(model, "with_code"):
        raise UserError(f"the world model of {opened.spec.agent} takes no code from outside")
    view = next(iter(model.inside(latent).values()))
    want = view.value[0]
    if len(code) != want.numel():
        raise UserError(f"this model's code has {want.numel()} numbers, got {len(code)}")
    if not all(math.isfinite(x) and abs(x) <= FARTHEST for x in code):
        raise UserError(f"a code's numbers are finite and at most {FARTHEST:g} in size")
    if want.is_floating_point():
        return model.with_code(latent, torch.tensor([code], dtype=want.dtype, device=want.device))
    most = view.vocabulary if isinstance(view, Tokens) else view.prior.shape[-1]
    if not all(x == int(x) and 0 <= x < most for x in code):
        raise UserError(f"this model's code are whole numbers from 0 to {most - 1}")
    return model.with_code(latent, torch.tensor([[int(x) for x in code]], dtype=want.dtype, device=want.device))


def pictured(said: Any) -> np.ndarray | None:
    """Predicted pictures (N, h, w, 3), None where there are none."""
    key = "image" if "image" in said else next((k for k, v in said.items() if v.ndim == 4), None)
    return None if key is None else to_rgb(pixels(said[key].clamp(0, 1)))


# ---- what would follow


def candidates(space: spaces.Space, taken: np.ndarray) -> list[np.ndarray]:
    """Actions worth trying: all where they are few; else what was done, rest, and the ends of the first axes."""
    if isinstance(space, spaces.Discrete):
        return [np.array(i) for i in range(min(int(space.n), 18))]
    if isinstance(space, spaces.MultiDiscrete):
        return [np.asarray(taken)]
    assert isinstance(space, spaces.Box)
    rest = np.clip(np.zeros(space.shape, np.float32), space.low, space.high)
    found = [np.asarray(taken, np.float32), rest]
    for axis in range(min(AXES, len(rest))):
        for end in (space.low[axis], space.high[axis]):
            if np.isfinite(end) and end != rest[axis]:
                tried = rest.copy()
                tried[axis] = end
                found.append(tried)
    return found


def _follows(opened: OpenedRun, latent: State, act: np.ndarray, seed: int) -> tuple[dict[str, Any], np.ndarray | None]:
    """What the model says of the row after an action: its expectation where it tells one, else one draw."""
    model: Any = opened.model
    device = leaves(latent)[0].device
    with torch.no_grad(), forked(seed, "studio", "forecast"):
        encoded = one_hot(torch.from_numpy(np.asarray(act)[None]).to(device), opened.act_space)
        _, after = model.step(model.begin(latent), encoded)
        mixture = next((v for v in model.inside(after).values() if isinstance(v, Mixture)), None)
        if mixture is not None:
            after = model.with_code(after, (mixture.weight * mixture.mean).sum(1))
        said = model.predict(after)
    picture = pictured(said)
    one: dict[str, Any] = {k: plain(said[k][0]) for k in ("rew", "con") if k in said}
    one["mixture"] = None if mixture is None else told(mixture)
    if "vector" in said:
        one["vector"] = plain(said["vector"][0, :VALUES])
    return one, None if picture is None else picture[0]


# ---- where it looks


def _attention(place: Place, reading: Reading, at: int, query: int | None) -> dict[str, Any]:
    model: Any = place.opened.model
    if not hasattr(model, "attention"):
        raise UserError(f"the world model of {place.opened.spec.agent} has no attention to show")
    n = min(int(model.context), at + 1)
    batch = place.stretch.batch(place.at - n + 1, place.at + 1)
    latents = stack([reading.latent(t) for t in range(at - n + 1, at + 1)])  # (1, n, ...)
    found = model.attention(latents, batch.act)
    query = found.block - 1 if query is None else query
    if query >= found.block:
        raise UserError(f"a frame here has {found.block} inputs, from 0 on; got {query}")
    weight = found.weight[0, :, :, (n - 1) * found.block + query]  # (layers, heads, n * block)
    return {
        "query": query,
        "block": found.block,
        "times": list(range(place.at - n + 1, place.at + 1)),
        "weight": plain(weight.unflatten(-1, (n, found.block)), 3),
    }
