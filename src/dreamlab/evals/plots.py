"""Plots as SVG that sits inside a page, or as PNG for anywhere else.

Figures are drawn without pyplot, so nothing global is touched and no display is needed. Lines differ by
colour, dash and marker, so that they stay apart in grey. In SVG the colours are CSS variables with a
fallback (``var(--ink, #2b303b)``): a page that defines them turns its plots dark with itself.
"""

from __future__ import annotations

import functools
import io
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = {
    "ink": "#2b303b",
    "muted": "#6b7385",
    "grid": "#e3e6ec",
    "first": "#2f6fb7",
    "second": "#c8702a",
    "third": "#4a8a5c",
    "fourth": "#8a4f9e",
    "fifth": "#b03a48",
    "sixth": "#20808d",
}
"""by role; the SVG refers to them as ``--plot-<role>``"""

LOOKS: tuple[dict[str, Any], ...] = (
    {"color": COLOURS["first"], "linestyle": "-", "marker": "o"},
    {"color": COLOURS["second"], "linestyle": "--", "marker": "s"},
    {"color": COLOURS["third"], "linestyle": ":", "marker": "^"},
    {"color": COLOURS["fourth"], "linestyle": "-.", "marker": "D"},
    {"color": COLOURS["fifth"], "linestyle": (0, (6, 1.5, 1, 1.5, 1, 1.5)), "marker": "v"},
    {"color": COLOURS["sixth"], "linestyle": (0, (8, 3)), "marker": "P"},
)

POINTS = 300
"""points a curve is thinned to: the mean of each bin"""

STYLE = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9,
    "text.parse_math": False,  # a run may be named $x$
    "text.color": COLOURS["ink"],
    "axes.labelcolor": COLOURS["muted"],
    "axes.edgecolor": COLOURS["grid"],
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.titlepad": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": COLOURS["grid"],
    "grid.linewidth": 0.8,
    "xtick.color": COLOURS["grid"],
    "ytick.color": COLOURS["grid"],
    "xtick.labelcolor": COLOURS["muted"],
    "ytick.labelcolor": COLOURS["muted"],
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "ytick.major.size": 0,
    "lines.linewidth": 1.6,
    "lines.markersize": 3.6,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "legend.handlelength": 2.6,
    "svg.fonttype": "none",
    "svg.hashsalt": "dreamlab",
}


Draw = TypeVar("Draw", bound=Callable)


def styled(draw: Draw) -> Draw:
    """Run a drawing function under STYLE, leaving matplotlib's own settings as they were."""

    @functools.wraps(draw)
    def drawn(*args, **kwargs):
        import matplotlib

        with matplotlib.rc_context(STYLE):  # type: ignore[arg-type]
            return draw(*args, **kwargs)

    return drawn  # type: ignore[return-value]


class Curve(NamedTuple):
    """One metric over steps: equal lengths, finite."""

    steps: Sequence[float]
    values: Sequence[float]


@styled
def curves(panels: Mapping[str, Curve], columns: int = 1) -> Figure:
    """One small panel a metric, titled by it: faint as measured where it is noisy, strong as a running mean."""
    rows = -(-len(panels) // columns)
    figure, axes = _figure(2.5 * columns, 1.6 * rows, rows, columns)
    for ax, (title, curve) in zip(axes, panels.items(), strict=False):
        steps, values = _thin(np.asarray(curve.steps, float), np.asarray(curve.values, float))
        look: dict[str, Any] = {"color": COLOURS["first"]}
        if len(values) > 40:
            ax.plot(steps, values, linewidth=0.8, alpha=0.35, **look)
            values = running_mean(values, len(values) // 20)
        ax.plot(steps, values, marker="o" if len(values) <= 12 else "", **look)
        ax.set_title(title)
        plain_ticks(ax, 4)
    for ax in axes[len(panels) :]:
        ax.set_visible(False)
    return figure


@styled
def horizon(
    title: str, steps: Sequence[float], lines: Mapping[str, Sequence[float]], unit: str = "", legend: bool = True
) -> Figure:
    """A measure by imagined step: the first line is the model's, the others what it has to beat."""
    figure, (ax,) = _figure(3.5, 2.4)
    for look, (name, values) in zip(LOOKS, lines.items(), strict=False):
        every = max(1, len(steps) // 8)
        ax.plot(steps, np.asarray(values, float), label=name.replace("_", " "), markevery=every, **look)
    ax.set_title(title)
    ax.set_xlabel("imagined steps")
    ax.set_ylabel(unit)
    plain_ticks(ax, 5)
    if legend:
        ax.legend(loc="best")
    return figure


@styled
def returns(groups: Mapping[str, Sequence[float]]) -> Figure:
    """Mean return of each group as a bar, its standard error, and every episode as a dot."""
    figure, (ax,) = _figure(4.6, 0.75 + 0.45 * len(groups))
    names = list(groups)
    looks = [COLOURS["first"] if name == names[-1] else COLOURS["muted"] for name in names]
    for y, (name, colour) in enumerate(zip(names, looks, strict=True)):
        values = np.asarray(groups[name], float)
        ax.barh(y, values.mean(), height=0.56, color=colour, alpha=0.35)
        spread = 0.36 * np.linspace(-0.5, 0.5, len(values)) if len(values) > 1 else np.zeros(1)
        ax.scatter(values, y + spread, s=7, color=colour, alpha=0.75, linewidths=0)
        if len(values) > 1:
            error = values.std(ddof=1) / np.sqrt(len(values))
            ax.errorbar(values.mean(), y, xerr=error, color=COLOURS["ink"], capsize=3, linewidth=1.3)
    ax.axvline(0, color=COLOURS["muted"], linewidth=0.8)
    ax.set_yticks(range(len(names)), names)
    ax.tick_params(axis="y", labelcolor=COLOURS["ink"], labelsize=9)
    ax.set_ylim(len(names) - 0.4, -0.6)
    ax.grid(True, axis="x")
    ax.grid(False, axis="y")
    ax.set_xlabel("return of an episode; bar: mean, whisker: standard error")
    return figure


@styled
def svg(figure: Figure) -> str:
    """A figure as one ``<svg>`` element: scalable, no outside reference, colours as CSS variables."""
    file = io.StringIO()
    figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    text = file.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'<g id="[^"]*"', "<g", text)  # figure_1, axes_1: names that another plot has too
    text = re.sub(r"'DejaVu Sans'[^;\"]*", "system-ui, sans-serif", text)
    for role, colour in COLOURS.items():
        text = text.replace(colour, f"var(--plot-{role}, {colour})")
    return text


@styled
def png(figure: Figure, dpi: int = 160) -> bytes:
    """A figure as a PNG on white."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=dpi, facecolor="white")
    return file.getvalue()


def _figure(width: float, height: float, rows: int = 1, columns: int = 1) -> tuple[Figure, list[Axes]]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, list(figure.subplots(rows, columns, squeeze=False).ravel())


def plain_ticks(ax: Axes, count: int) -> None:
    """Few ticks, thousands as k: never an offset or an exponent beside the axis."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    ax.xaxis.set_major_locator(MaxNLocator(count, steps=[1, 2, 5, 10], integer=True))
    ax.yaxis.set_major_locator(MaxNLocator(count, steps=[1, 2, 5, 10]))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _short(value)))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _short(value)))


def _short(value: float) -> str:
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.4g}{letter}"
    return f"{value:.4g}"


def _thin(steps: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """At most POINTS points: means of consecutive bins."""
    if len(steps) <= POINTS:
        return steps, values
    starts = np.linspace(0, len(steps), POINTS, endpoint=False).astype(int)
    sizes = np.diff(np.append(starts, len(steps)))
    return np.add.reduceat(steps, starts) / sizes, np.add.reduceat(values, starts) / sizes


def running_mean(values: np.ndarray, width: int) -> np.ndarray:
    """Centred mean over up to ``width`` points either side; towards the ends over as many as both sides have."""
    total = np.concatenate([[0.0], np.cumsum(values)])
    index = np.arange(len(values))
    reach = np.minimum(width, np.minimum(index, index[::-1]))
    return (total[index + reach + 1] - total[index - reach]) / (2 * reach + 1)
