"""What acts in an environment, and by which keys: from what its suite knows and from the table ``controls.yaml``.

A page is given one of two forms. Keys are ``KeyboardEvent.code``; buttons on the screen stand for the same::

    {"kind": "choice", "rest": 0 or None, "actions": [{"act": 2, "name": "up fire", "keys": ["ArrowUp", "Space"]}]}
    {"kind": "axes", "rest": [0, 0, 0], "buttons": [{"name": "gas", "keys": ["ArrowUp"], "axis": 1, "value": 1.0}],
     "smooth": 0.4, "low": [...], "high": [...]}

``rest`` is what is done while nothing is pressed; None where every action does something (CartPole's). Several choices
at once (MultiDiscrete) are axes whose values are whole numbers.
"""

from __future__ import annotations

import re
from fnmatch import fnmatchcase
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces

from dreamlab import envs
from dreamlab.core.config import read_yaml
from dreamlab.envs.config import EnvConfig

IDLE = ("nothing", "noop", "stay", "none")
SHOWN = 24
"""axes that get buttons"""


def controls(config: EnvConfig, space: spaces.Space) -> dict[str, Any]:
    """The controls of an environment with this action space, with the ``speed`` and ``turns`` that suit it."""
    entry = about(config.id)
    common = {"speed": entry.get("speed", 15), "turns": bool(entry.get("turns", False))}
    if isinstance(space, spaces.Discrete):
        return {**choices(_names(config, entry, int(space.n))), **common}
    if isinstance(space, spaces.MultiDiscrete):
        return {**several([int(n) for n in space.nvec]), **common}
    assert isinstance(space, spaces.Box), space
    return {**axes(space, entry.get("axes"), float(entry.get("smooth", 1.0))), **common}


def about(id: str) -> dict[str, Any]:
    """What the table says of an environment's id."""
    return next(e for e in _table()["environments"] if fnmatchcase(id, e["id"]))


def vector_names(config: EnvConfig, n: int) -> list[str]:
    """Names of the numbers that are seen, ``1`` to ``n`` where they have none."""
    names = about(config.id).get("vector") or []
    return [str(name) for name in names] if len(names) == n else [str(i + 1) for i in range(n)]


def choices(names: list[str]) -> dict[str, Any]:
    """Controls for one of several actions. No two have the same keys."""
    chords = {i: _chord(name, 0) for i, name in enumerate(names)}
    rest = next((i for i, name in enumerate(names) if name in IDLE), None)
    taken: set[frozenset[str]] = set()
    given: dict[int, list[str]] = {}
    for i in sorted(chords, key=lambda i: (chords[i] is None, len(chords[i] or ()), i)):  # single keys before chords
        if i == rest:
            given[i] = []
            continue
        for chord in (chords[i], _chord(names[i], 1)):
            if chord and frozenset(chord) not in taken:
                break
        else:
            used = {key for keys in taken for key in keys} | {key for c in chords.values() for key in c or ()}
            chord = next(([key] for key in _table()["free"] if key not in used), [])
        taken.add(frozenset(chord))
        given[i] = chord
    actions = [{"act": i, "name": name, "keys": given[i]} for i, name in enumerate(names)]
    return {"kind": "choice", "rest": rest, "actions": actions}


def several(widths: list[int]) -> dict[str, Any]:
    """Controls for several choices at once: each rests at 0, and every other value has a button."""
    free = iter(_table()["free"])
    buttons = [
        {"name": f"{k + 1}: {value}", "keys": [key] if (key := next(free, None)) else [], "axis": k, "value": value}
        for k, width in enumerate(widths[:SHOWN])
        for value in range(1, width)
    ]
    high = [width - 1 for width in widths]
    return {
        "kind": "axes",
        "rest": [0] * len(widths),
        "low": [0] * len(widths),
        "high": high,
        "whole": True,
        "smooth": 1.0,
        "buttons": buttons,
    }


def axes(space: spaces.Box, names: list[list[str]] | None, smooth: float) -> dict[str, Any]:
    """Controls for continuous actions: a button for less and one for more, or one alone that rests at the low bound."""
    low, high = (np.nan_to_num(b.astype(float), posinf=1, neginf=-1).tolist() for b in (space.low, space.high))
    named = names is not None and len(names) == len(low)
    rest, buttons = [], []
    words = names if named and names else [[f"{k + 1} less", f"{k + 1} more"] for k in range(len(low))]
    pairs = _table()["axes"]
    for k, pair in enumerate(words):
        rest.append(low[k] if len(pair) == 1 else min(max(0.0, low[k]), high[k]))
        for end, name in enumerate(pair):
            more = end == len(pair) - 1
            keys = (_chord(name, 0) or []) if named else pairs[k][end : end + 1] if k < len(pairs) else []
            if k < SHOWN:
                buttons.append({"name": name, "keys": keys, "axis": k, "value": high[k] if more else low[k]})
    return {
        "kind": "axes",
        "rest": rest,
        "low": low,
        "high": high,
        "whole": False,
        "smooth": smooth,
        "buttons": buttons,
    }


def _names(config: EnvConfig, entry: dict[str, Any], n: int) -> list[str]:
    """A name for each of n actions: the suite's own, else the table's, else numbers."""
    offered = getattr(envs.suite_of(config.id), "action_names", None)
    for names in (offered(config) if offered else None, entry.get("names")):
        if names and len(names) == n:
            instead = entry.get("instead", {})
            return [" ".join(instead.get(word, word) for word in str(name).split()) for name in names]
    return [f"action {i}" for i in range(n)]


def _chord(name: str, which: int) -> list[str] | None:
    """The keys that the words of a name stand for; None where it says nothing that the table knows."""
    words = _table()["words"]
    known = [words[w] for w in re.findall(r"[a-z]+", name.lower()) if w in words]
    return [keys[min(which, len(keys) - 1)] for keys in known if keys] if known else None


@lru_cache(maxsize=1)
def _table() -> dict[str, Any]:
    return read_yaml(Path(__file__).with_name("controls.yaml"))
