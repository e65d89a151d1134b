"""Learning curves of groups: runs on one axis, their mean, and how far they lie apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

from dreamlab.evals import statistics
from dreamlab.evals.comparison import Group, Panel
from dreamlab.evals.plots import running_mean

Axis = Literal["steps", "seconds"]
POINTS = 80
"""of a group's curve"""
REACH = 15
"""a running mean reaches over this share of the points either side, 1 in so many"""
REPEATS = 400
"""bootstrap samples of each point of an interval"""


class Line(NamedTuple):
    """One group's curve: (n,) each."""

    label: str
    x: np.ndarray
    y: np.ndarray
    low: np.ndarray | None
    """None where a single run shows no spread"""
    high: np.ndarray | None
    evaluated: list[tuple[np.ndarray, np.ndarray]]
    """of each run: where it was evaluated on the way, and the means"""


def lines(panel: Panel, axis: Axis) -> list[Line]:
    """Of each group with curves: the mean of its runs' running means; with several runs, from lowest to highest."""
    found = []
    for group in panel.groups:
        grid, values = sampled(group, axis)
        if grid is None:
            continue
        at = ["steps", "seconds"].index(axis)
        evaluated = [
            (run.curve.evaluated[at], run.curve.evaluated[2])
            for run in group.runs
            if run.curve and len(run.curve.evaluated[2]) > 1
        ]
        several = len(values) > 1
        found.append(
            Line(
                group.label,
                grid,
                values.mean(0),
                values.min(0) if several else None,
                values.max(0) if several else None,
                evaluated,
            )
        )
    return found


def sampled(group: Group, axis: Axis) -> tuple[np.ndarray | None, np.ndarray]:
    """Running means (runs, POINTS) of a group's runs at shared places (POINTS,), as far as all of them reach."""
    curves = []
    for run in group.runs:
        if run.curve is None or len(run.curve.values) < 2:
            continue
        x, y = getattr(run.curve, axis), run.curve.values
        if x[-1] > x[0]:
            curves.append((x, running_mean(y, len(y) // REACH)))
    if not curves:
        return None, np.zeros((0, 0))
    first, last = max(x[0] for x, _ in curves), min(x[-1] for x, _ in curves)
    if last <= first:
        return None, np.zeros((0, 0))
    grid = np.linspace(first, last, POINTS)
    return grid, np.stack([np.interp(grid, x, y) for x, y in curves])


def efficiency(panels: Sequence[Panel]) -> tuple[str, list[Line]] | None:
    """Interquartile mean by environment steps, with its bootstrap interval over runs, and what it is measured in.

    Over the environments of one scale, or over a single one; only of groups with at least two runs, one seed each, or
    with several environments. None where there is none: an interval over one training would say nothing.
    """
    scales = {panel.scale.name if panel.scale else panel.env for panel in panels}
    if len(scales) > 1:
        return None
    labels = list(dict.fromkeys(group.label for panel in panels for group in panel.groups))
    found = []
    for label in labels:
        groups = [(panel, group) for panel in panels for group in panel.groups if group.label == label]
        if len(groups) < len(panels) or (len(panels) == 1 and len(groups[0][1].runs) < 2):
            continue
        grids, tasks = zip(*(sampled(group, "steps") for _, group in groups), strict=True)
        if any(grid is None for grid in grids):
            continue
        grid = np.linspace(max(g[0] for g in grids), min(g[-1] for g in grids), POINTS // 2)
        if grid[-1] <= grid[0]:
            continue
        placed = [np.stack([np.interp(grid, g, run) for run in task]) for g, task in zip(grids, tasks, strict=True)]
        scaled = [
            task if panel.scale is None else statistics.normalised(task, panel.scale.low, panel.scale.high)
            for (panel, _), task in zip(groups, placed, strict=True)
        ]
        points = [[task[:, i] for task in scaled] for i in range(len(grid))]
        ends = np.array([statistics.interval(point, statistics.iqm, REPEATS) for point in points])
        middle = np.array([float(statistics.iqm(point)) for point in points])
        known = all(len(task) > 1 for task in scaled)  # else the runs of some environments would seem to be certain
        found.append(Line(label, grid, middle, ends[:, 0] if known else None, ends[:, 1] if known else None, []))
    unit = panels[0].scale.name if panels and panels[0].scale else "return"
    return (unit, found) if found else None
