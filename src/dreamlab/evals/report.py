"""``report.html``: one page of everything a run has made, in a single file that asks nobody for anything.

It reads what lies in the run folder and nothing else. What is not there yet is left out and named at the
foot, with the command that makes it; what cannot be read is named at the top.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from dreamlab.evals import comparison, comparison_page, html, plots
from dreamlab.evals.run_folder import MOST, RunFolder, is_number, numbers
from dreamlab.evals.scored import read, wall_time
from dreamlab.evals.words import span

NAME = "report.html"
POLICIES = ("random", "untrained", "trained")
HORIZONS = (1, 5, 10, 15, 20, 30, 50, 100)
OPEN = ("train", "controller")
"""groups of curves that are shown at once; the others are a click away"""
MEASURES = {
    "mse": ("Squared error", "lower is better"),
    "psnr": ("Signal to noise, dB", "higher is better"),
    "ssim": ("Structural similarity", "higher is better"),
}
RIVALS = ("model", "repeat_last", "mean_frame")


def write_report(run: Path, path: Path | None = None) -> Path:
    """Write ``report.html`` into a run folder (or to ``path``) and return its path.

    Missing and broken files never stop it.
    """
    folder = RunFolder(run)
    makers = (_score, _policies, _agent_films, _dreams, _pictures, _curves, _evaluations, _settings)
    sections = [folder.guard(make.__name__.strip("_").replace("_", " "), make, folder) for make in makers]
    missing = f"<p>Not here yet: {'; '.join(folder.missing)}.</p>" if folder.missing else ""
    return html.write_page(
        path or run / NAME,
        kicker="dreamlab · report of a run",
        title=folder.title(),
        facts=folder.guard("facts", _facts, folder),
        notices=html.notices(folder.problems),
        sections=sections,
        foot=missing + html.left_out(folder.left_out),
    )


# -- sections: each returns HTML, or an empty string where there is nothing ------------------------------------


def _facts(folder: RunFolder) -> str:
    """What the run has spent, in one line under the title."""

    def last(key: str) -> float | None:
        return folder.metrics[key][1][-1] if key in folder.metrics else None

    memory = folder.summary.get("peak_memory_mib", last("run/memory_mib"))
    seconds = folder.summary.get("wall_seconds") or wall_time(folder.metrics)
    rows = {
        "Run": folder.run.resolve().name,
        "Environment steps": html.number(last("run/env_steps")),
        "Updates": html.number(last("run/updates")),
        "Wall time": span(seconds) if is_number(seconds) else "",
        "Peak memory": f"{memory:,.0f} MiB" if is_number(memory) and memory else "",
    }
    return html.facts_list(rows)


def _score(folder: RunFolder) -> str:
    """What it scores where it was evaluated, beside what papers have, and how it got there."""
    scored, _ = read(folder.run)  # what is broken is told by the sections that show it all
    if not scored:
        folder.missing.append(f"a score ({html.command('evaluate', folder)})")
        return ""
    found = comparison.panels(scored)
    labels = list(dict.fromkeys(group.label for panel in found for group in panel.groups))
    return "".join(comparison_page.environment(panel, labels) for panel in found)


def _policies(folder: RunFolder) -> str:
    scores = {p: folder.summary[p] for p in POLICIES if isinstance(folder.summary.get(p), Mapping)}
    if not scores:
        return ""
    returns = {name: numbers(score["returns"]) for name, score in scores.items()}
    best = max(scores, key=lambda name: scores[name]["mean"])
    means = html.column(*(score["mean"] for score in scores.values()))
    spreads = html.column(*(score["std"] for score in scores.values()))
    errors = html.column(*(html.error(values) for values in returns.values()))
    counts = [str(len(values)) for values in returns.values()]
    rows = list(zip(scores, means, spreads, errors, counts, strict=True))
    table = html.table(("policy", "mean return", "std", "std. error", "episodes"), rows, best=list(scores).index(best))
    bars = plots.svg(plots.returns(returns)) if all(returns.values()) else ""
    return html.section(
        "Beside a random and an untrained policy",
        "Undiscounted returns of whole episodes.",
        f'<div class="pair"><div class="card">{table}</div><div class="card">{bars}</div></div>',
    )


def _agent_films(folder: RunFolder) -> str:
    def place(path: Path) -> int:
        names = [p for p in ("untrained", "trained", "random") if p in path.stem]
        return ("trained", "untrained", "random").index(names[0]) if names else len(POLICIES)

    films = _shown(folder, sorted(folder.films(), key=place))
    if not films:
        folder.missing.append(f"films of the agent ({html.command('evaluate', folder, '--video')})")
        return ""
    return html.section("The agent at work", "", f'<div class="wide">{films}</div>')


def _shown(folder: RunFolder, paths: Sequence[Path]) -> str:
    """The first few films or pictures; the others are named at the foot."""
    folder.left_out += [folder.name(path) for path in paths[MOST:]]
    return "".join(folder.guard(folder.name(path), html.shown, folder, path) for path in paths[:MOST])


def _dreams(folder: RunFolder) -> str:
    films = _shown(folder, folder.dreams())
    errors = "".join(
        folder.guard(f"dreams/{name}.json", _dream_errors, name, data)
        for name, data in folder.all_json("dreams").items()
    )
    if not films and not errors:
        folder.missing.append(f"dreams beside reality ({html.command('dream', folder)})")
        return ""
    return html.section(
        "The dream beside reality",
        "The model sees the first frames, then dreams on with its eyes shut, under the actions that were really "
        "taken. What it has to beat: repeating the last frame it saw, and showing the mean frame of the data.",
        (f'<div class="wide">{films}</div>' if films else "") + errors,
    )


def _dream_errors(name: str, data: dict[str, Any]) -> str:
    """Plots and a table of one dream's error by horizon."""
    steps = numbers(data["horizon"])
    figures = []
    for measure, (title, sense) in MEASURES.items():
        lines = {r: numbers(data[r][measure], len(steps)) for r in RIVALS if measure in data.get(r, {})}
        if lines:
            figures.append(html.figure(title, sense, plots.svg(plots.horizon("", steps, lines))))
    latent = data.get("latent") or {}
    lines = {r: numbers(latent[r], len(steps)) for r in RIVALS if r in latent}
    if lines:
        figures.append(
            html.figure("Error in the latent", "lower is better", plots.svg(plots.horizon("", steps, lines)))
        )
    for key, title in (("reward_mae", "Reward, absolute error"), ("continue_accuracy", "Continuation, accuracy")):
        if data.get(key):
            lines = {"model": numbers(data[key], len(steps))}
            figures.append(html.figure(title, "", plots.svg(plots.horizon("", steps, lines, legend=False))))

    reached = numbers(next(iter(data["model"].values())), len(steps))
    shown = [i for i, step in enumerate(steps) if step in HORIZONS and math.isfinite(reached[i])]
    rows = []
    for measure, (title, _) in MEASURES.items():
        for rival in RIVALS:
            if measure in data.get(rival, {}):
                values = numbers(data[rival][measure], len(steps))
                rows.append((f"{title} · {rival.replace('_', ' ')}", *html.column(*(values[i] for i in shown))))
    table = html.table(("imagined steps", *(f"{steps[i]:g}" for i in shown)), rows) if rows else ""
    return (
        f'<h3>Error by horizon · {html.words(name)}</h3><div class="wide">{"".join(figures)}</div>'
        f'<div class="card">{table}</div>'
    )


def _pictures(folder: RunFolder) -> str:
    paths = sorted(folder.run.glob("pictures/*.png"))
    body = _shown(folder, paths)
    return html.section("What the model sees", "", f'<div class="wide">{body}</div>') if body else ""


def _curves(folder: RunFolder) -> str:
    if not folder.metrics:
        folder.missing.append("curves (metrics.jsonl is written while training)")
        return ""
    groups: dict[str, list[str]] = {}
    for key in folder.metrics:
        groups.setdefault(key.partition("/")[0], []).append(key)
    body = ""
    for group in sorted(groups, key=lambda g: g == "run"):  # in the order of the run; its own counters last
        panels, singles = "", {}
        for key in groups[group]:
            curve, name = plots.Curve(*folder.metrics[key]), key.partition("/")[2] or key
            if len(curve.steps) == 1:
                singles[name] = html.number(curve.values[0])
            else:
                panels += html.figure(name, html.number(curve.values[-1]), plots.svg(plots.curves({"": curve})))
        count = f'<span class="count">{len(groups[group])}</span>'
        body += (
            f"<details{' open' if group in OPEN else ''}><summary><b>{html.words(group)}</b> {count}</summary>"
            f'{html.facts_list(singles)}<div class="grid">{panels}</div></details>'
        )
    lead = (
        "Metrics of each phase over the steps of the whole run, with the last value; what was measured once, as "
        "a number. Faint: as measured; strong: a running mean."
    )
    return html.section("Curves", lead, body)


def _evaluations(folder: RunFolder) -> str:
    rows, protocols = [], ""
    for name, data in folder.evaluations.items():
        try:
            rows.append(_evaluation(name, data))
        except (KeyError, ValueError, TypeError, AttributeError) as error:
            folder.problems.append(f"evaluations/{name}.json: {type(error).__name__}: {error}")
            continue
        settings = html.settings_table(html.flat(data.get("protocol") or {}))
        protocols += f"<details><summary>Protocol of {escape(name)}</summary>{settings}</details>"
    if not rows:
        return ""
    table = html.table(("evaluation", "mean return", "std", "std. error", "episodes", "mean length"), rows)
    lead = f"The newest {MOST}, each with its protocol." if len(rows) == MOST else "Each with its protocol."
    return html.section("Evaluations", lead, f'<div class="card">{table}{protocols}</div>')


def _evaluation(name: str, data: dict[str, Any]) -> tuple[str, ...]:
    returns, lengths = numbers(data["returns"]), numbers(data.get("lengths", []))
    length = html.number(sum(lengths) / len(lengths)) if lengths else "–"
    return (name, *html.column(data["mean"], data["std"], html.error(returns)), str(len(returns)), length)


def _settings(folder: RunFolder) -> str:
    if not folder.config:
        return ""
    top = {key: value for key, value in folder.config.items() if not isinstance(value, Mapping)}
    groups: dict[str, Mapping[str, Any]] = {"": top} if top else {}
    groups.update({key: value for key, value in folder.config.items() if isinstance(value, Mapping) and value})
    cards = "".join(
        f'<div class="card">{name and f"<b>{escape(str(name))}</b>"}{html.settings_table(html.flat(group))}</div>'
        for name, group in groups.items()
    )
    return html.section(
        "Settings", "", f'<details><summary>All of config.yaml</summary><div class="pair">{cards}</div></details>'
    )
