"""Short tables for reading, and the same as JSON for other programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
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
    if not rows:
        print("none")
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for i, key in enumerate(rows[0] if rows else ()):
        table.add_column(key, no_wrap=i == 0, overflow="fold")
    for row in rows:
        table.add_row(*(", ".join(map(str, v)) if isinstance(v, list) else str(v) for v in row.values()))
    wide = None if sys.stdout.isatty() else 160  # a file has no width
    Console(width=wide, highlight=False, markup=False).print(table)
