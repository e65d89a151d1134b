"""``dreamlab envs``: which environments work here; ``dreamlab envs check ID`` tries one."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from dreamlab import envs
from dreamlab.cli.flags import Positional, ask
from dreamlab.cli.listing import Flags, show

ABOUT = "list the environments that work here, or check one: envs check ID"


@dataclass(frozen=True, kw_only=True)
class CheckFlags(Flags):
    """Which environment."""

    id: Annotated[str, Positional]
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


def _check(argv: Sequence[str]) -> int:
    """Try one environment and say what to do about what is found; 1 where it cannot be used."""
    flags = ask(CheckFlags, argv, "dreamlab envs check", "Try an environment and say what to do about what is found.")
    from dreamlab.envs.check import check

    findings = check(flags.id)
    errors = [f for f in findings if f.severity == "error"]
    if flags.json:
        print(json.dumps([dataclasses.asdict(f) for f in findings], indent=2))
        return 1 if errors else 0
    for finding in findings:
        print(f"{finding.severity}: {finding.what}")
        if finding.todo:
            print(f"  to do: {finding.todo}")
    warnings = sum(f.severity == "warning" for f in findings)
    verdict = "cannot be used as it is" if errors else "can be used"
    print(f"{flags.id} {verdict}: {len(errors)} errors, {warnings} warnings")
    return 1 if errors else 0
