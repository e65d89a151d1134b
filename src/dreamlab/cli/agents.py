"""``dreamlab agents``: which agents there are."""

from __future__ import annotations

import inspect
from collections.abc import Sequence

from dreamlab import agents
from dreamlab.cli.flags import ask
from dreamlab.cli.listing import Flags, show

ABOUT = "list the agents"


def run(argv: Sequence[str]) -> int:
    """List agents with what they see and their presets."""
    flags = ask(Flags, argv, "dreamlab agents", "The agents that can be trained.")
    rows = []
    for name in agents.names():
        module = agents.load(name)
        about = (inspect.getdoc(module.Config) or "").partition("\n")[0]
        rows.append({"agent": name, "sees": module.SEES, "presets": list(agents.presets(name)), "about": about})
    show(rows, flags.json)
    return 0
