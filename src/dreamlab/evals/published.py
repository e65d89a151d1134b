"""Scores from papers (``published.yaml``), each with its source and as much of its protocol as the paper says."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any

from dreamlab.envs import atari

TASKS = {r"CarRacing-v\d": "CarRacing", r"VizdoomTakeCover-v\d": "TakeCover"}
"""environment ids by the name that the tables have for them; others are named as they are"""


@dataclass(frozen=True)
class Published:
    """One score of one paper."""

    method: str
    mean: float
    spread: float | None
    """what stands behind ± in the paper"""
    source: str
    table: str
    over: str | None = None
    """what ``spread`` is over: "runs" or "episodes"; None where it is not told"""
    runs: int | None = None
    episodes: int | None = None
    frames: int | None = None
    """frames of the environment that were learned from; None where it is not told"""
    verified: bool = True
    """whether it was found in a primary file"""
    note: str = ""
    protocol: Mapping[str, Any] = field(default_factory=dict)
    """in the form of a stored score's protocol, as far as it is known"""

    @property
    def short(self) -> str:
        """Who said it, without the details."""
        return re.split(r" \(|, arXiv|; ", self.source)[0]

    def to_dict(self) -> dict[str, Any]:
        """As ``results.json`` has it."""
        return {**vars(self), "protocol": dict(self.protocol)}


@dataclass(frozen=True)
class Scale:
    """What a normalised score is 0 and 1 at."""

    name: str
    low: float
    high: float


@functools.cache
def data() -> dict[str, Any]:
    """All of ``published.yaml``."""
    import yaml

    return yaml.safe_load((files("dreamlab.evals") / "published.yaml").read_text(encoding="utf-8"))


def task(env: str) -> tuple[str, str]:
    """Suite and task of an environment's id, as the tables name them: ``("atari", "pong")`` for ALE/Pong-v5."""
    if (rom := atari.rom(env)) is not None:
        return "atari", rom
    if env.startswith("dmc/"):
        return "dmc", env.removeprefix("dmc/")
    named = next((name for pattern, name in TASKS.items() if re.fullmatch(pattern, env)), env)
    return "", named


def scores(env: str, measure: str = "return") -> list[Published]:
    """What papers say of an environment, in the order of the tables; empty where they say nothing."""
    suite, name = task(env)
    found: list[Published] = []
    for table in data()["tables"]:
        if table.get("measure", "return") != measure or (suite and table["suite"] != suite):
            continue
        cells = table["rows"].get(name, ())
        found += [_one(table, *pair) for pair in zip(table["columns"], cells, strict=False) if pair[1] is not None]
    return found


def scale(env: str) -> Scale | None:
    """How scores of an environment are normalised: by random and human play in Atari, by 1000 in DeepMind Control."""
    suite, _ = task(env)
    ends = data()["scales"].get(suite)
    if ends is None:
        return None
    if not isinstance(ends["low"], str):
        return Scale(ends["name"], float(ends["low"]), float(ends["high"]))
    known = {score.method: score.mean for score in scores(env)}
    if ends["low"] not in known or ends["high"] not in known:
        return None  # a game that is in none of the tables
    return Scale(ends["name"], known[ends["low"]], known[ends["high"]])


def _one(table: Mapping[str, Any], column: Mapping[str, Any], cell: Any) -> Published:
    mean, spread = cell if isinstance(cell, list) else (cell, None)
    return Published(
        method=column["method"],
        mean=float(mean),
        spread=None if spread is None else float(spread),
        source=column.get("source", table["source"]),
        table=table["title"],
        over=column.get("spread"),
        runs=column.get("runs"),
        episodes=column.get("episodes"),
        frames=column.get("frames"),
        verified=column.get("verified", True),
        note=" ".join(filter(None, (column.get("note", ""), table.get("notes", "")))),
        protocol=_merged(table.get("protocol", {}), column.get("protocol", {})),
    )


def _merged(outer: Mapping[str, Any], inner: Mapping[str, Any]) -> dict[str, Any]:
    return {**outer, **inner, "env": {**outer.get("env", {}), **inner.get("env", {})}}
