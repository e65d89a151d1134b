"""How a model's codes are spread over a run's data: how far each number goes, or how often each token is used."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from dreamlab.core.errors import UserError
from dreamlab.core.imagination import tree_map
from dreamlab.core.inside import Tokens
from dreamlab.core.pictures import to_rgb
from dreamlab.core.sampling import EpisodeWindows
from dreamlab.core.seeds import forked
from dreamlab.studio.sheets import plain
from dreamlab.studio.shelf import Shelf
from dreamlab.studio.stretches import picture_key
from dreamlab.studio.studio import OpenedRun, Studio

WINDOWS, LENGTH, TOGETHER = 64, 8, 8
"""stretches of the data that are looked at, their length, and how many are observed in one piece"""


async def ranges(studio: Studio, shelf: Shelf, opened: OpenedRun) -> tuple[dict[str, Any], np.ndarray | None]:
    """``low``, ``high``, ``mean`` and ``std`` of the code's numbers and their ``order``, or ``counts`` of tokens.

    Of tokens beside it the patches (V, h, w, 3) of the frames where they stand, on average; black for unused ones.
    """
    return await shelf.once(opened, "ranges", lambda: measured(studio, shelf, opened))


async def measured(studio: Studio, shelf: Shelf, opened: OpenedRun) -> tuple[dict[str, Any], np.ndarray | None]:
    """``ranges``, taken anew from windows of the run's rows, piece by piece in the engine's thread."""
    model: Any = opened.model
    experience = await shelf.rows(opened)
    if experience.index.stop <= experience.index.start:
        raise UserError("this run holds no rows from which ranges could be taken")
    rows = EpisodeWindows(0)(experience.index, WINDOWS, LENGTH)
    key = picture_key(opened.obs_space)

    def piece(start: int) -> tuple[Any, np.ndarray | None]:
        batch = experience.gather(rows[start : start + TOGETHER])
        with torch.no_grad(), forked(start, "studio", "ranges"):
            latents = model.observe(batch)
            view = next(iter(model.inside(tree_map(lambda x: x.flatten(0, 1)[batch.mask.flatten()], latents)).values()))
        if not isinstance(view, Tokens) or key is None:
            return view, None
        return view, to_rgb(batch.obs[key].flatten(0, 1)[batch.mask.flatten()].cpu().numpy())

    found = [await studio.compute(piece, start) for start in range(0, len(rows), TOGETHER)]
    views = [view for view, _ in found]
    code = torch.cat([view.value for view in views])
    if isinstance(views[0], Tokens):
        counts = torch.bincount(code.flatten(), minlength=views[0].vocabulary).cpu().numpy()
        seen = [picture for _, picture in found if picture is not None]
        patches = patches_of(np.concatenate(seen), code.cpu().numpy(), views[0].grid, counts) if seen else None
        return {"counts": counts.tolist(), "rows": len(code)}, patches
    if not code.is_floating_point():
        return {"rows": len(code)}, None
    low, high = code.amin(0), code.amax(0)
    return {
        "rows": len(code), "low": plain(low), "high": plain(high), "mean": plain(code.mean(0)),
        "std": plain(code.std(0)), "order": code.var(0).argsort(descending=True).tolist(),
    }, None  # fmt: skip


def patches_of(frames: np.ndarray, tokens: np.ndarray, grid: tuple[int, int], counts: np.ndarray) -> np.ndarray:
    """What frames (N, h, w, 3) show on average where each token (N, K) stands: (V, h / rows, w / columns, 3)."""
    n, h, w, _ = frames.shape
    rows, columns = grid
    size = (h // rows, w // columns)
    cells = frames.reshape(n, rows, size[0], columns, size[1], 3).swapaxes(2, 3).reshape(n * rows * columns, *size, 3)
    total = np.zeros((len(counts), *size, 3))
    np.add.at(total, tokens.reshape(-1), cells)
    return (total / np.maximum(counts, 1)[:, None, None, None]).round().astype(np.uint8)
