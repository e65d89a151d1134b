"""Runs side by side: grouped by agent, judged by protocol, held against papers, with intervals.

A group is every run of one agent in one environment whose settings differ in the seed alone. Environments are panels
of their own and are never pooled, but for aggregates of normalised scores.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from dreamlab.core.errors import RunError
from dreamlab.evals import protocols, published, statistics
from dreamlab.evals.protocols import Difference
from dreamlab.evals.published import Published, Scale
from dreamlab.evals.scored import Scored, read

REFERENCES = ("random", "human")
"""published methods that are drawn whatever was learned from"""


@dataclass
class Group:
    """Runs of one agent in one environment, one seed each."""

    runs: list[Scored]
    label: str = ""

    @property
    def agent(self) -> str:
        return self.runs[0].agent

    @cached_property
    def returns(self) -> np.ndarray:
        """Of all episodes of all runs."""
        return np.concatenate([run.returns for run in self.runs])

    @property
    def mean(self) -> float:
        """Mean of the runs' means."""
        return float(np.mean([run.mean for run in self.runs]))

    @property
    def std(self) -> float:
        """Standard deviation over all episodes, n in the denominator."""
        return float(self.returns.std())

    def entries(self, over: str) -> np.ndarray:
        """What a bootstrap draws from: the runs' means, or all episodes."""
        return np.asarray([run.mean for run in self.runs]) if over == "runs" else self.returns


@dataclass
class Panel:
    """One environment."""

    env: str
    groups: list[Group]
    scale: Scale | None = None
    published: list[Published] = field(default_factory=list)

    @cached_property
    def differences(self) -> list[Difference]:
        """In what the runs' protocols differ."""
        found = protocols.differences({run.name: run.protocol for group in self.groups for run in group.runs})
        return [d for d in found if d.key != "seed" or not self._seeds_alike()]

    def _seeds_alike(self) -> bool:
        """Whether each group, run by run, was scored over the same episodes' seeds."""
        return len({tuple(sorted(str(run.protocol.get("seed")) for run in group.runs)) for group in self.groups}) == 1

    @property
    def judgement(self) -> str:
        return protocols.judgement(self.differences, sum(len(group.runs) for group in self.groups))

    def drawn(self) -> list[Published]:
        """The published scores that are drawn: random and human play, and those whose budget is nearest to the runs'.

        All of them are in the tables.
        """
        budgets = sorted({score.frames for score in self.published if score.frames})
        frames = max((run.frames or 0 for group in self.groups for run in group.runs), default=0)
        near = min(budgets, key=lambda b: abs(math.log(b / max(frames, 1)))) if budgets else None
        return [
            score
            for score in self.published
            if score.method in REFERENCES or score.frames == near or score.frames is None
        ]

    def against(self, score: Published) -> list[Difference]:
        """In what a paper's protocol differs from the runs', as far as the paper tells."""
        ours = {run.name: run.protocol for group in self.groups for run in group.runs}
        theirs = protocols.differences({**ours, "paper": score.protocol})
        return [d for d in theirs if d.kind != "sample" and any("paper" in names for _, names in d.values)]


@dataclass(frozen=True)
class Aggregate:
    """Statistics over one environment, or over several whose scores are normalised."""

    title: str
    unit: str
    """what a score is measured in"""
    over: str
    """what the intervals are over: "runs" or "episodes" """
    values: Mapping[str, Mapping[str, tuple[float, float, float]]]
    """label -> statistic -> value, low, high"""


@dataclass
class Comparison:
    """What ``dreamlab compare`` has found."""

    panels: list[Panel]
    said: list[str]
    """what was skipped, and why"""

    @property
    def labels(self) -> list[str]:
        """All groups' labels, in the order in which they were named."""
        return list(dict.fromkeys(group.label for panel in self.panels for group in panel.groups))

    @property
    def runs(self) -> list[Scored]:
        """All scores, one a run and environment."""
        return [run for panel in self.panels for group in panel.groups for run in group.runs]

    @cached_property
    def aggregates(self) -> list[Aggregate]:
        return aggregated(self.panels)

    def to_dict(self) -> dict[str, Any]:
        """``results.json``."""
        return {
            "environments": [_panel(panel) for panel in self.panels],
            "aggregates": [
                {
                    "title": a.title,
                    "unit": a.unit,
                    "intervals over": a.over,
                    "values": {
                        label: {
                            name: {"value": v, "low": _none(low), "high": _none(high)}
                            for name, (v, low, high) in of.items()
                        }
                        for label, of in a.values.items()
                    },
                }
                for a in self.aggregates
            ],
            "bootstrap": {"samples": statistics.REPEATS, "level": statistics.LEVEL, "seed": 0},
            "left out": self.said,
        }


def compare(runs: Sequence[Path]) -> Comparison:
    """Read run folders and put them side by side; what is broken is told in ``said`` and harms no other.

    Raises:
        RunError: no run has a score; says why of each.
    """
    scored: list[Scored] = []
    said: list[str] = []
    for run in dict.fromkeys(path.resolve() for path in runs):
        shown = next(path for path in runs if path.resolve() == run)
        try:
            found, words = read(shown)
        except Exception as error:  # anything may lie there, and the others must be compared
            found, words = [], [f"{shown}: {type(error).__name__}: {error}"]
        scored += found
        said += words
    if not scored:
        raise RunError("no run has a score to compare:\n" + "\n".join(f"  {line}" for line in said))
    return Comparison(panels(named_apart(scored)), said)


def named_apart(runs: Sequence[Scored]) -> list[Scored]:
    """Runs whose folders share a name are named with the folder above."""
    homes: dict[str, set[Path]] = {}
    for run in runs:
        homes.setdefault(run.name, set()).add(run.run.resolve())
    return [
        replace(run, name="/".join(run.run.resolve().parts[-2:])) if len(homes[run.name]) > 1 else run for run in runs
    ]


def panels(runs: Sequence[Scored]) -> list[Panel]:
    """One for each environment, each with its groups, their labels, and what papers say."""
    by_env: dict[str, dict[tuple, Group]] = {}
    for run in runs:
        groups = by_env.setdefault(run.env, {})
        key = tuple(sorted(run.settings.items()))
        groups.setdefault(key, Group([])).runs.append(run)
    found = []
    for env, groups in by_env.items():
        members = [part for group in groups.values() for part in _seeds_apart(group)]
        label(members)
        found.append(Panel(env, members, published.scale(env), published.scores(env)))
    return found


def _seeds_apart(group: Group) -> list[Group]:
    """Two runs of one seed are no two seeds: the second becomes a group of its own."""
    parts: list[Group] = []
    for run in group.runs:
        home = next((p for p in parts if run.seed is None or run.seed not in [r.seed for r in p.runs]), None)
        if home is None:
            parts.append(Group([run]))
        else:
            home.runs.append(run)
    return parts


def label(groups: Sequence[Group]) -> None:
    """Name groups of one environment: by their agent; where that is not enough, also by what sets them apart.

    Where all are of one agent, its name is left out.
    """
    for group in groups:
        rivals = [g for g in groups if g.agent == group.agent]
        group.label = "" if len(rivals) == 1 else _apart(group, rivals) or _folder(group)
    seen: dict[tuple[str, str], list[Group]] = {}
    for group in groups:
        seen.setdefault((group.agent, group.label), []).append(group)
    for twins in seen.values():
        for group in twins if len(twins) > 1 else ():
            group.label = _folder(group)
    if len(groups) == 1 or len({group.agent for group in groups}) > 1:
        for group in groups:
            group.label = f"{group.agent} ({group.label})" if group.label else group.agent


def _folder(group: Group) -> str:
    """The name of a group's folder; of several, what they begin with, without the mark of a seed."""
    names = [run.name for run in group.runs]
    alike = os.path.commonprefix(names) if len(names) > 1 else ""  # noqa: RUF071 (characters are meant)
    common = re.sub(r"[-_. ]*(s|seed)?[-_. ]*$|[-_.]\d+$", "", alike)
    return common or names[0]


def _apart(group: Group, rivals: Sequence[Group]) -> str:
    """The one or two settings in which a group differs from others of its agent; empty where there are more."""
    own = group.runs[0].settings
    keys = [key for key in own if any(rival.runs[0].settings.get(key) != own[key] for rival in rivals)]
    if not keys or len(keys) > 2:
        return ""
    return ", ".join(f"{key.rpartition('.')[2]} {own[key]}" for key in keys)


# -- aggregates ----------------------------------------------------------------------------------------------------


def aggregated(panels: Sequence[Panel]) -> list[Aggregate]:
    """Of normalised scores over the environments that all their groups share; of others, for each environment."""
    found: list[Aggregate] = []
    for name in dict.fromkeys(panel.scale.name for panel in panels if panel.scale):
        of_scale = [panel for panel in panels if panel.scale and panel.scale.name == name]
        labels = list(dict.fromkeys(group.label for panel in of_scale for group in panel.groups))
        shared = [panel for panel in of_scale if {g.label for g in panel.groups} == set(labels)]
        if shared:
            title = shared[0].env if len(shared) == 1 else f"{len(shared)} environments"
            found.append(_aggregate(title, name, shared, labels))
    for panel in panels:
        if panel.scale is None:
            found.append(_aggregate(panel.env, "return", [panel], [group.label for group in panel.groups]))
    return found


def _aggregate(title: str, unit: str, panels: Sequence[Panel], labels: Sequence[str]) -> Aggregate:
    members = {name: [next(g for g in panel.groups if g.label == name) for panel in panels] for name in labels}
    several = all(len(group.runs) > 1 for groups in members.values() for group in groups)
    over = "runs" if several else "episodes"
    values = {}
    for name, groups in members.items():
        tasks = [_scaled(group.entries(over), panel.scale) for group, panel in zip(groups, panels, strict=True)]
        chosen = {k: s for k, s in statistics.STATISTICS.items() if k != "optimality_gap" or panels[0].scale}
        values[name] = {
            key: (float(statistic(tasks)), *statistics.interval(tasks, statistic)) for key, statistic in chosen.items()
        }
    return Aggregate(title, unit, over, values)


def _scaled(scores: np.ndarray, scale: Scale | None) -> np.ndarray:
    return scores if scale is None else statistics.normalised(scores, scale.low, scale.high)


# -- for other programs --------------------------------------------------------------------------------------------


def _panel(panel: Panel) -> dict[str, Any]:
    return {
        "env": panel.env,
        "scale": vars(panel.scale) if panel.scale else None,
        "groups": [_group(group, panel.scale) for group in panel.groups],
        "judgement": panel.judgement,
        "differences": [
            {"setting": d.key, "kind": d.kind, "values": {value: list(names) for value, names in d.values}}
            for d in panel.differences
        ],
        "published": [
            {**score.to_dict(), "differs in": [d.words() for d in panel.against(score)]} for score in panel.published
        ],
    }


def _group(group: Group, scale: Scale | None) -> dict[str, Any]:
    means = [run.mean for run in group.runs]
    return {
        "label": group.label,
        "agent": group.agent,
        "mean": group.mean,
        "std": group.std,
        "episodes": len(group.returns),
        "std over runs": float(np.std(means, ddof=1)) if len(means) > 1 else None,
        "normalised": float(_scaled(np.asarray(group.mean), scale)) if scale else None,
        "runs": [
            {
                "run": str(run.run),
                "seed": run.seed,
                "mean": run.mean,
                "std": float(run.returns.std()),
                "returns": run.returns.tolist(),
                "measures": dict(run.measures),
                "env_steps": run.env_steps,
                "frames": run.frames,
                "seconds": run.seconds,
                "evaluation": run.file,
                "protocol": run.protocol,
            }
            for run in group.runs
        ],
    }


def _none(value: float) -> float | None:
    return None if math.isnan(value) else value
