"""``report.html``: one page of everything a run has made, in a single file that asks nobody for anything.

It reads what lies in the run folder and nothing else. What is not there yet is left out and named at the
foot, with the command that makes it; what cannot be read is named at the top.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

from dreamlab.evals import plots
from dreamlab.evals.run_folder import MOST, RunFolder, is_number, numbers

NAME = "report.html"
POLICIES = ("random", "untrained", "trained")
HORIZONS = (1, 5, 10, 15, 20, 30, 50, 100)
MEASURES = {
    "mse": ("Squared error", "lower is better"),
    "psnr": ("Signal to noise, dB", "higher is better"),
    "ssim": ("Structural similarity", "higher is better"),
}
RIVALS = ("model", "repeat_last", "mean_frame")


def write_report(run: Path) -> Path:
    """Write ``report.html`` into a run folder and return its path. Missing and broken files never stop it."""
    from dreamlab import __version__

    folder = RunFolder(run)
    makers = (_scores, _agent_films, _dreams, _pictures, _curves, _evaluations, _settings)
    sections = [folder.guard(make.__name__.strip("_").replace("_", " "), make, folder) for make in makers]
    style = (files("dreamlab.evals") / "report.css").read_text()
    page = Template((files("dreamlab.evals") / "report.html").read_text()).substitute(
        title=escape(folder.title()),
        style=style,
        facts=folder.guard("facts", _facts, folder),
        sections="\n".join(filter(None, sections)),
        notices=_notices(folder.problems),
        missing=f"<p>Not here yet: {'; '.join(folder.missing)}.</p>" if folder.missing else "",
        version=escape(__version__),
    )
    path = run / NAME
    temporary = path.with_name(NAME + ".tmp")
    temporary.write_text(page, encoding="utf-8")
    os.replace(temporary, path)
    return path


# -- sections: each returns HTML, or an empty string where there is nothing ------------------------------------


def _facts(folder: RunFolder) -> str:
    """What the run has spent, in one line under the title."""

    def last(key: str) -> float | None:
        return folder.metrics[key][1][-1] if key in folder.metrics else None

    seconds, memory = folder.summary.get("wall_seconds"), folder.summary.get("peak_memory_mib")
    rows = {
        "Run": folder.run.resolve().name,
        "Environment steps": _number(last("run/env_steps")),
        "Updates": _number(last("run/updates")),
        "Wall time": f"{seconds / 60:.1f} min" if is_number(seconds) else "",
        "Peak memory": f"{memory:,.0f} MiB" if is_number(memory) else "",
    }
    return _facts_list(rows)


def _scores(folder: RunFolder) -> str:
    scores = {p: folder.summary[p] for p in POLICIES if isinstance(folder.summary.get(p), Mapping)}
    if not scores:
        folder.missing.append("scores beside a random and an untrained policy (<code>make demo</code> takes them)")
        return ""
    returns = {name: numbers(score["returns"]) for name, score in scores.items()}
    best = max(scores, key=lambda name: scores[name]["mean"])
    means = _column(*(score["mean"] for score in scores.values()))
    spreads = _column(*(score["std"] for score in scores.values()))
    errors = _column(*(_error(values) for values in returns.values()))
    counts = [str(len(values)) for values in returns.values()]
    rows = list(zip(scores, means, spreads, errors, counts, strict=True))
    table = _table(("policy", "mean return", "std", "std. error", "episodes"), rows, best=list(scores).index(best))
    bars = plots.svg(plots.returns(returns)) if all(returns.values()) else ""
    return _section(
        "Scores",
        "Undiscounted returns of whole episodes.",
        f'<div class="pair"><div class="card">{table}</div><div class="card">{bars}</div></div>',
    )


def _agent_films(folder: RunFolder) -> str:
    def place(path: Path) -> int:
        names = [p for p in ("untrained", "trained", "random") if p in path.stem]
        return ("trained", "untrained", "random").index(names[0]) if names else len(POLICIES)

    paths = sorted(folder.newest("videos/*.mp4"), key=place)[:MOST]
    films = [folder.guard(folder.name(path), _film, folder, path) for path in paths]
    if not any(films):
        folder.missing.append(f"films of the agent ({_command('evaluate', folder, '--video')})")
        return ""
    return _section("The agent at work", "", f'<div class="wide">{"".join(films)}</div>')


def _dreams(folder: RunFolder) -> str:
    films = "".join(
        folder.guard(folder.name(path), _film, folder, path) for path in folder.newest("dreams/*.mp4")[:MOST]
    )
    errors = "".join(
        folder.guard(f"dreams/{name}.json", _dream_errors, name, data)
        for name, data in folder.all_json("dreams").items()
    )
    if not films and not errors:
        folder.missing.append(f"dreams beside reality ({_command('dream', folder)})")
        return ""
    return _section(
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
            figures.append(_figure(title, sense, plots.svg(plots.horizon("", steps, lines))))
    latent = data.get("latent") or {}
    lines = {r: numbers(latent[r], len(steps)) for r in RIVALS if r in latent}
    if lines:
        figures.append(_figure("Error in the latent", "lower is better", plots.svg(plots.horizon("", steps, lines))))
    for key, title in (("reward_mae", "Reward, absolute error"), ("continue_accuracy", "Continuation, accuracy")):
        if data.get(key):
            lines = {"model": numbers(data[key], len(steps))}
            figures.append(_figure(title, "", plots.svg(plots.horizon("", steps, lines, legend=False))))

    shown = [i for i, step in enumerate(steps) if step in HORIZONS]
    rows = []
    for measure, (title, _) in MEASURES.items():
        for rival in RIVALS:
            if measure in data.get(rival, {}):
                values = numbers(data[rival][measure], len(steps))
                rows.append((f"{title} · {rival.replace('_', ' ')}", *_column(*(values[i] for i in shown))))
    table = _table(("imagined steps", *(f"{steps[i]:g}" for i in shown)), rows) if rows else ""
    return (
        f'<h3>Error by horizon · {_words(name)}</h3><div class="wide">{"".join(figures)}</div>'
        f'<div class="card">{table}</div>'
    )


def _pictures(folder: RunFolder) -> str:
    paths = sorted(folder.run.glob("pictures/*.png"))
    body = "".join(folder.guard(folder.name(path), _picture, folder, path) for path in paths)
    return _section("What the model sees", "", f'<div class="wide">{body}</div>') if body else ""


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
                singles[name] = _number(curve.values[0])
            else:
                panels += _figure(name, _number(curve.values[-1]), plots.svg(plots.curves({"": curve})))
        body += f'<h3>{_words(group)}</h3>{_facts_list(singles)}<div class="grid">{panels}</div>'
    lead = (
        "Metrics of each phase over the steps of the whole run, with the last value; what was measured once, as "
        "a number. Faint: as measured; strong: a running mean."
    )
    return _section("Curves", lead, body)


def _evaluations(folder: RunFolder) -> str:
    cards = [
        folder.guard(f"evaluations/{name}.json", _evaluation, name, data) for name, data in folder.evaluations.items()
    ]
    if not any(cards):
        return ""
    return _section("Evaluations", "Newest first, each with the protocol under which it was made.", "".join(cards))


def _evaluation(name: str, data: dict[str, Any]) -> str:
    returns, lengths = numbers(data["returns"]), numbers(data.get("lengths", []))
    length = _number(sum(lengths) / len(lengths)) if lengths else "–"
    row = (name, *_column(data["mean"], data["std"], _error(returns)), str(len(returns)), length)
    table = _table(("evaluation", "mean return", "std", "std. error", "episodes", "mean length"), [row])
    details = _settings_table(_flat(data.get("protocol") or {}))
    return f'<div class="card">{table}<details><summary>Protocol</summary>{details}</details></div>'


def _settings(folder: RunFolder) -> str:
    if not folder.config:
        return ""
    top = {key: value for key, value in folder.config.items() if not isinstance(value, Mapping)}
    groups: dict[str, Mapping[str, Any]] = {"": top} if top else {}
    groups.update({key: value for key, value in folder.config.items() if isinstance(value, Mapping) and value})
    cards = "".join(
        f'<div class="card">{f"<b>{escape(str(name))}</b>" if name else ""}{_settings_table(_flat(group))}</div>'
        for name, group in groups.items()
    )
    return _section(
        "Settings", "", f'<details><summary>All of config.yaml</summary><div class="pair">{cards}</div></details>'
    )


# -- pieces of HTML -------------------------------------------------------------------------------------------


def _section(title: str, lead: str, body: str) -> str:
    """A section; ``title`` and ``lead`` are ours."""
    return f"<section><h2>{title}</h2>{f'<p>{lead}</p>' if lead else ''}\n{body}</section>"


def _figure(title: str, note: str, body: str) -> str:
    caption = f"<figcaption><b>{_words(title)}</b><span>{escape(note)}</span></figcaption>"
    return f'<figure class="card">{caption}{body}</figure>'


def _film(folder: RunFolder, path: Path) -> str:
    uri = folder.embed(path, "video/mp4")
    return _figure(path.stem, "", f'<video controls loop muted playsinline src="{uri}"></video>') if uri else ""


def _picture(folder: RunFolder, path: Path) -> str:
    uri = folder.embed(path, "image/png")
    return _figure(path.stem, "", f'<img alt="{_words(path.stem)}" src="{uri}">') if uri else ""


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], best: int = -1) -> str:
    lines = ""
    for i, (name, *cells) in enumerate(rows):
        mark = ' class="best"' if i == best else ""
        tail = "".join(f"<td>{escape(cell)}</td>" for cell in cells)
        lines += f'<tr{mark}><th scope="row">{escape(name)}</th>{tail}</tr>'
    heads = "".join(f'<th scope="col">{escape(name)}</th>' for name in head)
    return f'<div class="scroll"><table><thead><tr>{heads}</tr></thead><tbody>{lines}</tbody></table></div>'


def _facts_list(rows: Mapping[str, str]) -> str:
    items = "".join(f"<div><dt>{_words(k)}</dt><dd>{escape(v)}</dd></div>" for k, v in rows.items() if v)
    return f'<dl class="facts">{items}</dl>' if items else ""


def _settings_table(flat: Mapping[str, str]) -> str:
    rows = "".join(f'<tr><th scope="row">{escape(k)}</th><td>{escape(v)}</td></tr>' for k, v in flat.items())
    return f'<table class="settings"><tbody>{rows}</tbody></table>'


def _notices(problems: Sequence[str]) -> str:
    items = "".join(f"<li>{escape(problem)}</li>" for problem in problems)
    return f'<div class="notices"><p>Left out, because it could not be read:</p><ul>{items}</ul></div>' if items else ""


def _command(verb: str, folder: RunFolder, *more: str) -> str:
    return f"<code>{escape(' '.join(('dreamlab', verb, str(folder.run), *more)))}</code>"


def _words(name: str) -> str:
    return escape(name.replace("_", " ").replace("-", " "))


def _flat(data: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested settings as dotted keys and short texts."""
    flat: dict[str, str] = {}
    for key, value in data.items():
        if isinstance(value, Mapping) and value:
            flat.update(_flat(value, f"{prefix}{key}."))
        else:
            text = ", ".join(map(str, value)) if isinstance(value, list) else value
            flat[f"{prefix}{key}"] = "–" if text is None or text == "" else str(text)
    return flat


def _number(value: Any) -> str:
    """Four digits that count, thousands apart; empty where there is no number."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    value = float(value)
    if value == int(value) and abs(value) < 1e9:
        return f"{int(value):,}"
    return f"{value:,.1f}" if abs(value) >= 100 else f"{value:.4g}"


def _column(*values: float) -> tuple[str, ...]:
    """Numbers that are compared with each other: as many decimals as give the largest four digits."""
    largest = max((abs(float(v)) for v in values if math.isfinite(v)), default=0.0)
    decimals = min(max(3 - math.floor(math.log10(largest)), 0), 6) if largest else 0
    return tuple(f"{float(v):,.{decimals}f}".replace("-", "−") if math.isfinite(v) else "–" for v in values)


def _error(returns: Sequence[float]) -> float:
    """Standard error of a mean; NaN for a single episode."""
    n = len(returns)
    if n < 2:
        return math.nan
    mean = sum(returns) / n
    return math.sqrt(sum((r - mean) ** 2 for r in returns) / (n - 1) / n)
