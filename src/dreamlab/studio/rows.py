"""Rows where a dream begins well, and which of its environment's own episodes a stored one was."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from dreamlab.studio import stretches
from dreamlab.studio.stretches import Stored

if TYPE_CHECKING:
    from dreamlab.studio.studio import OpenedRun

SHARES = (0.0, 0.35, 0.7, 0.15, 0.0, 0.55, 0.25, 0.85, 0.0, 0.45, 0.1, 0.65)
"""how far into its episode each start lies, in turn"""


def number(opened: OpenedRun, found: Stored) -> int | None:
    """Which of its environment's own episodes this was, by which it can be had again; None where that is not known.

    The checkpoint knows the number of the episode that then ran; those before it are counted back.
    """
    state = opened.parts.get("run", {}).get("experience", {}).get("driver") or {}
    if "episode" not in state or found.stream >= len(state["episode"]):
        return None
    held = found.experience.index.episodes()
    later = int(((held.stream == found.stream) & (held.start > found.start)).sum())
    running = int(state["episode"][found.stream])
    begun = bool(state["pending"]["is_first"][found.stream])  # the row that was seen last, and is not stored yet
    return running - begun - later


def starts(experience: Any, count: int = 12) -> list[dict[str, Any]]:
    """Rows where a dream begins well, spread over the episodes held: beginnings, and moments in the middle.

    Each says its ``row``, the ``episode`` (from 1, oldest first), the ``step`` in it ``of`` how many, and the return
    ``ret`` until there.
    """
    held = experience.index.episodes()
    long = np.flatnonzero(held.stop - held.start > 1)
    if not len(long):
        return []
    out: dict[int, dict[str, Any]] = {}
    for k, i in enumerate(long[np.linspace(len(long) - 1, 0, count).round().astype(int)]):
        found = stretches.episode(experience, int(i))
        step = min(int(SHARES[k % len(SHARES)] * len(found)), len(found) - 2)
        ret = float(found.column("rew", 0, step + 1).sum())
        row = found.row(step)
        out.setdefault(row, {"row": row, "episode": int(i) + 1, "step": step, "of": len(found) - 1, "ret": ret})
    return list(out.values())
