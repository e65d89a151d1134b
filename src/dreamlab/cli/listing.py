"""Short tables for reading, and the same as JSON for other programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Flags:
    """How to list."""

    json: bool = False
    """print JSON"""


def show(rows: Sequence[Mapping[str, Any]], as_json: bool) -> None:
    """Print rows, which share their keys, as a table or as a JSON list."""
    if as_json:
        print(json.dumps(rows, indent=2))
        return
    if rows:
        table(rows)
    else:
        print("none")


def table(rows: Sequence[Mapping[str, Any]], numbers: Collection[str] = (), whole: Collection[str] = ()) -> None:
    """Print rows, which share their keys: ``numbers`` to the right; ``whole`` columns (or the first) never wrap.

    A cell may be a ``rich.text.Text``, for its colour.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    grid = Table(box=None, pad_edge=False, header_style="bold")
    for i, key in enumerate(rows[0]):
        grid.add_column(
            key,
            no_wrap=key in whole if whole else i == 0,
            overflow="fold",
            justify="right" if key in numbers else "left",
        )
    for row in rows:
        cells = (", ".join(map(str, v)) if isinstance(v, list) else v for v in row.values())
        grid.add_row(*(cell if isinstance(cell, Text) else str(cell) for cell in cells))
    wide = None if sys.stdout.isatty() else 160  # a file has no width
    Console(width=wide, highlight=False, markup=False).print(grid)
