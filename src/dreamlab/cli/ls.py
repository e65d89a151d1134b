"""``dreamlab ls [RUNS]``: the runs below a folder: how far each is, what it scores, whether it is running."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tyro.conf import Positional

from dreamlab.cli import listing
from dreamlab.cli.flags import ask
from dreamlab.cli.plan import size
from dreamlab.core.errors import UserError
from dreamlab.evals.catalogue import find, look

ABOUT = "list the runs below a folder: how far, which score, running or not"

COLOURS = {"running": "green", "failed": "red", "stopped": "yellow"}


@dataclass(frozen=True)
class Options:
    """The runs below a folder, newest first: how far each is, what it scores, whether it is running."""

    runs: Positional[Path] = Path("runs")
    """the folder"""
    json: bool = False
    """print JSON"""


def run(argv: Sequence[str]) -> int:
    """The command."""
    chosen = ask(Options, argv, "dreamlab ls", __doc__ or "")
    if not chosen.runs.is_dir():
        what = "is no folder" if chosen.runs.exists() else "does not exist"
        raise UserError(f"{chosen.runs} {what}; name a folder that holds runs: dreamlab ls RUNS")
    places, foreign = find(chosen.runs)
    rows = sorted((look(place, chosen.runs) for place in places), key=lambda row: row["written"], reverse=True)
    if chosen.json:
        listing.show(rows, as_json=True)
        return 0
    if rows:
        _print(rows)
    else:
        print(f"no runs in {chosen.runs}; dreamlab train starts one")
    for row in rows:
        if row["problem"]:
            print(f"{row['run']}: {row['problem']}")
    if foreign:
        print(f"no runs in: {', '.join(foreign)}")
    return 0


# -- for reading -------------------------------------------------------------------------------------------------


def _print(rows: Sequence[Mapping[str, Any]]) -> None:
    """The table. Agent and environment are left out where every run's name says them, as the standard names do."""
    from rich.text import Text

    said = all(row["run"].startswith(f"{row['agent']}-") for row in rows if row["agent"])
    now = time.time()
    shown = []
    for row in rows:
        names = {} if said else {"agent": row["agent"] or "?", "environment": row["env"] or "?"}
        progress = {
            "state": Text(row["state"] or "?", COLOURS.get(row["state"], "")),
            "phase": _phase(row),
            "step": "" if row["step"] is None else _number(row["step"]),
            "score": _score(row),
            "age": _age(now - row["written"]),
            "size": _short(size(row["bytes"])),
        }
        shown.append({"run": row["run"], **names, **progress})
    listing.table(shown, numbers=("step", "age", "size"), whole=("state", "phase", "step", "score", "age", "size"))


def _phase(row: Mapping[str, Any]) -> str:
    if row["state"] == "finished" or row["phase"] is None:
        return ""
    percent = "" if row["done"] is None else f" {math.floor(100 * row['done'])}%"
    return f"{row['phase']}{percent}"


def _score(row: Mapping[str, Any]) -> str:
    """An evaluation with its episodes, or the last return while training."""
    if row["mean"] is not None:
        spread = f"{row['std']:.0f}" if abs(row["mean"]) >= 100 else _number(row["std"])
        return f"{_number(row['mean'])} ± {spread} ({row['episodes']})"
    return "" if row["last_return"] is None else f"{_number(row['last_return'])} training"


def _number(value: float) -> str:
    """As many digits as are read at a glance."""
    if abs(value) >= 1e6:
        return f"{value / 1e6:.2f}M"
    return f"{value:,.0f}" if abs(value) >= 100 or isinstance(value, int) else f"{value:.1f}"


def _short(amount: str) -> str:
    """``8.26 MiB`` as ``8.26M``."""
    number, unit = amount.split()
    return number + unit[0]


def _age(seconds: float) -> str:
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= length:
            return f"{seconds // length:.0f}{unit}"
    return "now"
