"""The pictures of a comparison: scores, episodes, learning, aggregates; one panel an environment.

A group has the same colour, line, marker and hatch in every picture, and its name beside it, so that nothing
depends on colour. Of published scores only an outline is drawn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dreamlab.evals.comparison import Aggregate, Comparison, Panel
from dreamlab.evals.learning import Axis, Line, efficiency, lines
from dreamlab.evals.plots import COLOURS, LOOKS, plain_ticks, styled
from dreamlab.evals.words import count, figure, pair

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

HATCHES = ("////", "\\\\\\\\", "....", "xxxx", "----", "++++")
INK, MUTED = COLOURS["ink"], COLOURS["muted"]
WIDTH = 4.4
"""inches of one panel: its text is as large on a page as it is drawn"""
ROOM, LETTER = 16, 0.075
"""letters of a name that there is room for, and the inches that each further one widens a panel by"""
TITLES = {"mean": "mean", "median": "median", "iqm": "interquartile mean", "optimality_gap": "optimality gap"}
HOURS = ((172800.0, 86400.0, "days"), (5400.0, 3600.0, "hours"), (180.0, 60.0, "minutes"), (0.0, 1.0, "seconds"))


def pictures(found: Comparison) -> dict[str, Figure]:
    """Every picture by its name: scores, episodes, steps, time, efficiency, aggregates; those that can be drawn."""
    panels = found.panels
    drawn = {
        "scores": scores(panels, found.labels),
        "episodes": episodes(panels, found.labels),
        "steps": learning(panels, found.labels, "steps"),
        "time": learning(panels, found.labels, "seconds"),
        "efficiency": sample_efficiency(panels, found.labels),
        "aggregates": aggregates(found.aggregates, found.labels),
    }
    return {name: picture for name, picture in drawn.items() if picture is not None}


def look(labels: Sequence[str], label: str) -> dict[str, Any]:
    """Colour, line and marker of a group."""
    return LOOKS[labels.index(label) % len(LOOKS)]


@styled
def scores(panels: Sequence[Panel], labels: Sequence[str], titled: bool = True) -> Figure:
    """Means with standard deviations over episodes; a dot for each run; published scores as outlines."""
    heights = [0.55 + 0.3 * (len(panel.groups) + len(panel.drawn())) for panel in panels]
    picture, axes = _stacked(heights, labels)
    for ax, panel in zip(axes, panels, strict=True):
        rows: list[tuple[str, str]] = []
        for y, group in enumerate(panel.groups):
            own = look(labels, group.label)
            hatch = HATCHES[labels.index(group.label) % len(HATCHES)]
            ax.barh(y, group.mean, 0.62, color=own["color"], alpha=0.35, linewidth=0)
            ax.barh(y, group.mean, 0.62, fill=False, edgecolor=own["color"], hatch=hatch, linewidth=1.2)
            ax.errorbar(group.mean, y, xerr=group.std, color=INK, capsize=3, linewidth=1.3)
            if len(group.runs) > 1:
                means = [run.mean for run in group.runs]
                ax.plot(means, np.full(len(means), y), linestyle="", marker=own["marker"], color=INK, markersize=3.4)
            runs = f", {len(group.runs)} seeds" if len(group.runs) > 1 else ""
            rows.append((group.label, f"{pair(group.mean, group.std)}{runs}"))
        for y, score in enumerate(panel.drawn(), len(panel.groups)):
            ax.barh(y, score.mean, 0.5, fill=False, edgecolor=MUTED, linewidth=0.9, linestyle=(0, (3, 1.5)))
            if score.spread is not None:
                ax.errorbar(score.mean, y, xerr=score.spread, color=MUTED, capsize=2, linewidth=0.9)
            rows.append((score.method, pair(score.mean, score.spread) + ("" if score.verified else " ?")))
        _rows(ax, panel.env if titled else "", rows, len(panel.groups))
        ax.axvline(0, color=MUTED, linewidth=0.8)
        doubtful = ", ?: unverified" if not all(score.verified for score in panel.drawn()) else ""
        ax.set_xlabel("mean return" + (f"; dashed: published{doubtful}" if panel.drawn() else ""))
    return picture


@styled
def episodes(panels: Sequence[Panel], labels: Sequence[str], titled: bool = True) -> Figure:
    """A box plot of the episodes' returns: quartiles, median, mean; whiskers reach 1.5 times the box at most."""
    picture, axes = _stacked([0.6 + 0.36 * len(panel.groups) for panel in panels], labels)
    for ax, panel in zip(axes, panels, strict=True):
        for y, group in enumerate(panel.groups):
            own, values = look(labels, group.label), group.returns
            low, middle, high = np.quantile(values, (0.25, 0.5, 0.75))
            inside = values[(values >= low - 1.5 * (high - low)) & (values <= high + 1.5 * (high - low))]
            ax.plot([inside.min(), inside.max()], [y, y], color=own["color"], linewidth=1.2)
            ax.barh(y, high - low, 0.5, left=low, color=own["color"], alpha=0.3, linewidth=0)
            ax.barh(y, high - low, 0.5, left=low, fill=False, edgecolor=own["color"], linewidth=1.2)
            ax.plot([middle, middle], [y - 0.25, y + 0.25], color=INK, linewidth=2)
            ax.plot(group.mean, y, marker="D", color=INK, markersize=4, markerfacecolor="none", clip_on=False)
            outside = np.setdiff1d(values, inside)
            jitter = np.random.default_rng(0).uniform(-0.12, 0.12, len(outside))
            ax.plot(
                outside, y + jitter, linestyle="", marker=own["marker"], color=own["color"], markersize=2.6, alpha=0.7
            )
        _rows(
            ax,
            panel.env if titled else "",
            [(g.label, f"{len(g.returns)} episodes") for g in panel.groups],
            len(panel.groups),
        )
        ax.use_sticky_edges = False
        ax.margins(x=0.04)
        ax.set_xlabel("return of an episode; bar: median, diamond: mean")
    return picture


@styled
def learning(panels: Sequence[Panel], labels: Sequence[str], axis: Axis, titled: bool = True) -> Figure | None:
    """Returns while training against environment steps or wall time; shade: lowest to highest seed."""
    drawn = [(panel, found) for panel in panels if (found := lines(panel, axis))]
    if not drawn:
        return None
    picture, axes = _stacked([2.5] * len(drawn), labels)
    for ax, (panel, found) in zip(axes, drawn, strict=True):
        longest = max(line.x[-1] for line in found)
        _, size, unit = next(step for step in HOURS if longest >= step[0])
        scale = 1.0 if axis == "steps" else size
        _lines(ax, [line._replace(x=line.x / scale) for line in found], labels)
        for line in found:
            own = look(labels, line.label)
            for x, y in line.evaluated:
                ax.plot(x / scale, y, linestyle="", marker=own["marker"], color=own["color"], markerfacecolor="none")
        ax.set_title(panel.env if titled else "")
        hollow = "; hollow: evaluations" if any(line.evaluated for line in found) else ""
        ax.set_xlabel(("environment steps" if axis == "steps" else f"wall time, {unit}") + hollow)
        ax.set_ylabel("return")
    return picture


@styled
def sample_efficiency(panels: Sequence[Panel], labels: Sequence[str], titled: bool = True) -> Figure | None:
    """Interquartile mean by environment steps with its interval: for each scale, and each environment without one."""
    sets: dict[str, list[Panel]] = {}
    for panel in panels:
        sets.setdefault(panel.scale.name if panel.scale else panel.env, []).append(panel)
    drawn = [(members, result) for members in sets.values() if (result := efficiency(members))]
    if not drawn:
        return None
    picture, axes = _stacked([2.5] * len(drawn), labels)
    for ax, (members, (unit, found)) in zip(axes, drawn, strict=True):
        _lines(ax, found, labels)
        if titled or len(drawn) > 1:
            ax.set_title(members[0].env if len(members) == 1 else f"{len(members)} environments, {unit}")
        ax.set_xlabel("environment steps; shade: 95 % bootstrap interval over runs")
        ax.set_ylabel("interquartile mean")
    return picture


@styled
def aggregates(found: Sequence[Aggregate], labels: Sequence[str], titled: bool = True) -> Figure | None:
    """Mean, median, interquartile mean and optimality gap, each with its interval."""
    if not found:
        return None
    heights = [(0.62 + 0.22 * len(a.values)) * 2 for a in found]
    from matplotlib.figure import Figure

    picture = Figure(figsize=(_width(labels), sum(heights)), layout="constrained")
    parts = np.atleast_1d(picture.subfigures(len(found), 1, height_ratios=heights))  # type: ignore[arg-type]
    for part, aggregate in zip(parts, found, strict=True):
        part.set_facecolor("none")
        unit = "" if aggregate.unit == "return" else f", {aggregate.unit}"
        if titled:
            title = f"{aggregate.title}{unit}; 95 % intervals over {aggregate.over}"
            part.suptitle(title, x=0.01, ha="left", fontsize=9.5)
        axes = part.subplots(2, 2, squeeze=False).ravel()
        names = [name for name in TITLES if all(name in of for of in aggregate.values.values())]
        for place, (ax, name) in enumerate(zip(axes, names, strict=False)):
            for y, (label, of) in enumerate(aggregate.values.items()):
                own, (value, low, high) = look(labels, label), of[name]
                if np.isfinite(low):
                    ax.barh(y, high - low, 0.5, left=low, color=own["color"], alpha=0.4, linewidth=0)
                ax.plot(value, y, marker=own["marker"], color=own["color"], markersize=5, clip_on=False)
                _beside(ax, y, figure(value), INK)
            ax.set_title(TITLES[name] + (" ↓" if name == "optimality_gap" else ""), fontsize=8.5)
            ax.set_yticks(range(len(aggregate.values)), list(aggregate.values) if place % 2 == 0 else [])
            ax.tick_params(axis="y", labelcolor=INK)
            ax.set_ylim(len(aggregate.values) - 0.4, -0.6)
            ax.grid(True, axis="x")
            ax.grid(False, axis="y")
            ax.use_sticky_edges = False
            ax.margins(x=0.06)
            _x_ticks(ax, 3)
        for ax in axes[len(names) :]:
            ax.set_visible(False)
    return picture


# -- parts -----------------------------------------------------------------------------------------------------------


def _width(labels: Sequence[str]) -> float:
    """Inches of a panel beside which these names stand."""
    return WIDTH + LETTER * max(0, max(map(len, labels), default=0) - ROOM)


def _stacked(heights: Sequence[float], labels: Sequence[str]) -> tuple[Figure, list[Axes]]:
    """Axes of these heights in inches, one below another."""
    from matplotlib.figure import Figure

    picture = Figure(figsize=(_width(labels), sum(heights)), layout="constrained")
    axes = picture.subplots(len(heights), 1, squeeze=False, gridspec_kw={"height_ratios": list(heights)}).ravel()
    return picture, list(axes)


def _rows(ax: Axes, title: str, rows: Sequence[tuple[str, str]], own: int) -> None:
    """Names at the left, values at the right; the first ``own`` are the user's."""
    ax.set_title(title)
    ax.set_yticks(range(len(rows)), [name for name, _ in rows])
    ax.set_ylim(len(rows) - 0.4, -0.6)
    for y, (tick, (_, value)) in enumerate(zip(ax.get_yticklabels(), rows, strict=True)):
        tick.set_color(INK if y < own else MUTED)
        _beside(ax, y, value, INK if y < own else MUTED)
    ax.grid(True, axis="x")
    ax.grid(False, axis="y")
    _x_ticks(ax, 5)


def _beside(ax: Axes, y: float, text: str, colour: str) -> None:
    """A value at the right of an axes, at a height of its data."""
    places: Any = ("axes fraction", "data")
    ax.annotate(
        text, (1.0, y), (7, 0), xycoords=places, textcoords="offset points", va="center", fontsize=8.5, color=colour
    )


def _x_ticks(ax: Axes, most: int) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    ax.xaxis.set_major_locator(MaxNLocator(most, steps=[1, 2, 5, 10]))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: count(value) if abs(value) >= 1000 else f"{value:g}"))


def _lines(ax: Axes, found: Sequence[Line], labels: Sequence[str]) -> None:
    """Lines with their shades, each with its name at its end."""
    for line in found:
        own = look(labels, line.label)
        ax.plot(line.x, line.y, markevery=max(1, len(line.x) // 8), **own)
        if line.low is not None and line.high is not None:
            ax.fill_between(line.x, line.low, line.high, color=own["color"], alpha=0.18, linewidth=0)
    plain_ticks(ax, 5)
    ax.margins(x=0.02)
    last = max(line.x[-1] for line in found)
    for line in found:  # from where a line ends to its name
        colour = look(labels, line.label)["color"]
        ax.plot([line.x[-1], last], [line.y[-1]] * 2, color=colour, linewidth=0.6, alpha=0.6)
    _names(ax, {line.label: (line.x[-1], line.y[-1]) for line in found}, labels)


def _names(ax: Axes, ends: Mapping[str, tuple[float, float]], labels: Sequence[str], gap: float = 0.085) -> None:
    """Names at the right of an axes at the heights of their lines' ends, moved apart where they would overlap."""
    bottom, top = ax.get_ylim()
    order = sorted(ends, key=lambda label: ends[label][1])
    heights = [(ends[label][1] - bottom) / (top - bottom) for label in order]
    for i in range(1, len(heights)):
        heights[i] = max(heights[i], heights[i - 1] + gap)
    over = max(heights[-1] - 1.0, 0.0)
    heights = [height - over for height in heights]
    for i in range(len(heights) - 2, -1, -1):
        heights[i] = min(heights[i], heights[i + 1] - gap)
    for label, height in zip(order, heights, strict=True):
        own = look(labels, label)
        ax.annotate(
            label, (1.0, height), (6, 0), xycoords="axes fraction", textcoords="offset points",
            va="center", fontsize=8.5, color=own["color"],
        )  # fmt: skip
