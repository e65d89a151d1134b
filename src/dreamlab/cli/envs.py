"""``dreamlab envs``: which environments work here; ``envs SUITE`` lists one suite, ``envs check ID`` tries one."""

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
SHOWN = 8
"""ids of one suite in the table; a longer list is told by ``envs SUITE``"""


@dataclass(frozen=True, kw_only=True)
class CheckFlags(Flags):
    """Which environment."""

    id: Annotated[str, Positional]
    """an id, or your own as my_pkg.my_env:make"""


def run(argv: Sequence[str]) -> int:
    """List environments by suite, or check one."""
    if argv and argv[0] == "check":
        return _check(argv[1:])
    if argv and argv[0] in envs.suites():
        flags = ask(Flags, argv[1:], f"dreamlab envs {argv[0]}", "The environments of one suite.")
        ids = sorted(importlib.import_module(f"dreamlab.envs.{argv[0]}").ids())
        print(json.dumps(ids, indent=2) if flags.json else "\n".join(ids))
        return 0
    flags = ask(Flags, argv, "dreamlab envs", "The environments that can be made here and now.")
    rows = []
    for name in envs.suites():
        suite = importlib.import_module(f"dreamlab.envs.{name}")
        about = (inspect.getdoc(suite) or "").partition("\n")[0]
        ids = sorted(id for id in suite.ids() if envs.suite_of(id) is suite)
        if not flags.json and len(ids) > SHOWN:
            few = [id for id in getattr(suite, "KNOWN", ids[:SHOWN]) if id in ids]
            ids = [*few, f"and {len(ids) - len(few)} more: dreamlab envs {name}"]
        rows.append({"suite": name, "environments": ids, "about": about})
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
