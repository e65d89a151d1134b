"""``dreamlab envs``: which environments work here; ``dreamlab envs check ID`` tries one."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Sequence
from dataclasses import dataclass

from dreamlab import envs
from dreamlab.cli.flags import Positional, ask
from dreamlab.cli.listing import Flags, show

ABOUT = "list the environments that work here, or check one: envs check ID"


@dataclass(frozen=True, kw_only=True)
class CheckFlags(Flags):
    """Which environment."""

    id: Positional[str]  # type: ignore[misc]
    """an id, or your own as my_pkg.my_env:make"""


def run(argv: Sequence[str]) -> int:
    """List environments by suite, or check one."""
    if argv and argv[0] == "check":
        return _check(argv[1:])
    flags = ask(Flags, argv, "dreamlab envs", "The environments that can be made here and now.")
    rows = []
    for name in envs.suites():
        suite = importlib.import_module(f"dreamlab.envs.{name}")
        about = (inspect.getdoc(suite) or "").partition("\n")[0]
        rows.append({"suite": name, "environments": sorted(suite.ids()), "about": about})
    show(rows, flags.json)
    return 0
