"""``dreamlab presets [AGENT]``: which presets there are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from dreamlab import agents
from dreamlab.cli.flags import Argument, Positional, ask
from dreamlab.cli.listing import Flags, show

ABOUT = "list the presets of an agent, or of all"


@dataclass(frozen=True)
class PresetFlags(Flags):
    """Which presets."""

    agent: Annotated[str | None, Positional, Argument(metavar="[AGENT]", help_behavior_hint="")] = None
    """of this agent; without it, of all"""


def run(argv: Sequence[str]) -> int:
    """List presets with the environments that they are the default for."""
    flags = ask(PresetFlags, argv, "dreamlab presets", "What dreamlab train AGENT --preset NAME can be told.")
    rows = []
    for agent in [agents.canonical(flags.agent)] if flags.agent else agents.names():
        for name, preset in agents.presets(agent).items():
            default = [preset["env"]["id"]] if preset["suites"] and "id" in preset["env"] else preset["suites"]
            rows.append({"preset": name, "agent": agent, "default for": default, "about": preset["about"]})
    show(rows, flags.json)
    return 0
