"""The page of a comparison, its Markdown and its rows for a terminal: one account of the same scores."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path

from dreamlab.evals import comparison_plots, html, plots, protocols
from dreamlab.evals.comparison import Aggregate, Comparison, Group, Panel
from dreamlab.evals.comparison_plots import TITLES
from dreamlab.evals.learning import lines
from dreamlab.evals.published import Published
from dreamlab.evals.run_folder import ROOM, RunFolder
from dreamlab.evals.words import count, figure, pair, span

NAME = "report.html"
COLUMNS = ("agent", "mean ± std", "normalised", "runs", "episodes", "steps", "time")
PAPERS = ("published", "score", "frames", "source", "protocol differs in")
OVER = {
    "runs": "95 % bootstrap intervals over runs, one seed each.",
    "episodes": "95 % bootstrap intervals over episodes, as not every agent has several seeds: they say how well these "
    "runs' scores are known, not how another training would end.",
}


# -- rows ------------------------------------------------------------------------------------------------------------


def rows(panel: Panel) -> list[dict[str, str]]:
    """One row a group: the summary that terminal, Markdown and page share."""
    every = [_row(group, panel) for group in panel.groups]
    return every if panel.scale else [{k: v for k, v in row.items() if k != "normalised"} for row in every]


def _row(group: Group, panel: Panel) -> dict[str, str]:
    scale = panel.scale
    normalised = figure((group.mean - scale.low) / (scale.high - scale.low)) if scale else "–"
    values = (
        group.label,
        pair(group.mean, group.std),
        normalised,
        str(len(group.runs)),
        count(len(group.returns)),
        _most([run.env_steps for run in group.runs], count),
        _most([run.seconds for run in group.runs], span),
    )
    return dict(zip(COLUMNS, values, strict=True))


def _most(values: Sequence[float | None], told) -> str:
    known = [value for value in values if value is not None]
    return told(max(known)) if known else "–"


def paper_row(score: Published, panel: Panel) -> tuple[str, str, str, str, str]:
    """Method, score, budget, source, and in what its protocol differs, of a published score."""
    spread = f" (± over {score.over})" if score.spread is not None and score.over else ""
    source = score.source + ("" if score.verified else " (unverified)") + (f". {score.note}" if score.note else "")
    differs = differs_in(score, panel) or "nothing that the paper tells"
    return score.method, pair(score.mean, score.spread) + spread, count(score.frames), source, differs


def differs_in(score: Published, panel: Panel) -> str:
    """``sticky actions 0, here 0.25``: in what a paper's protocol is not the runs'; empty where nothing is known."""
    return "; ".join(_theirs(d.values, d.words()) for d in panel.against(score))


def _theirs(values: Sequence[tuple[str, tuple[str, ...]]], words: str) -> str:
    theirs = next(value for value, names in values if "paper" in names)
    ours = [value for value, names in values if names != ("paper",) and value != theirs]
    return f"{words.partition(':')[0]} {theirs}, here {' and '.join(ours)}"


def budget_words(panel: Panel) -> str:
    """What is drawn of the published scores, where that is not all."""
    left = len(panel.published) - len(panel.drawn())
    return f"Of the published scores, {left} of other budgets are in the table only." if left else ""


# -- Markdown --------------------------------------------------------------------------------------------------------


def markdown(found: Comparison) -> str:
    """``summary.md``."""
    parts = ["# Comparison", ""]
    for panel in found.panels:
        body = rows(panel)
        parts += [f"## {_md(panel.env)}", "", *_md_table(tuple(body[0]), [tuple(row.values()) for row in body]), ""]
        parts += [panel.judgement, *(f"- {_md(d.words())}" for d in panel.differences), ""]
        if panel.published:
            parts += [*_md_table(PAPERS, [paper_row(score, panel) for score in panel.published]), ""]
    for aggregate in found.aggregates:
        parts += [f"## {_md(aggregate.title)}: {aggregate.unit}", "", *_md_table(*aggregate_table(aggregate)), ""]
        parts += [OVER[aggregate.over], ""]
    parts += ["± is the standard deviation over all episodes of a group.", ""]
    if found.said:
        parts += ["## Left out", "", *(f"- {_md(line)}" for line in found.said), ""]
    return "\n".join(parts)


def aggregate_table(aggregate: Aggregate) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Head and rows: each statistic with its interval."""
    names = [name for name in TITLES if all(name in of for of in aggregate.values.values())]
    body = [(label, *(_ends(*of[name]) for name in names)) for label, of in aggregate.values.items()]
    return ("agent", *(TITLES[name] for name in names)), body


def _ends(value: float, low: float, high: float) -> str:
    return f"{figure(value)} [{figure(low)}, {figure(high)}]" if low == low else figure(value)


def _md_table(head: Sequence[str], body: Sequence[Sequence[str]]) -> list[str]:
    lines = [" | ".join(head), " | ".join("---" for _ in head), *(" | ".join(map(_md, row)) for row in body)]
    return [f"| {line} |" for line in lines]


def _md(text: str) -> str:
    """Text of a run's folder in Markdown: no cell, tag or link of its own."""
    for mark in "\\`*_{}[]<>#|":
        text = text.replace(mark, "\\" + mark)
    return " ".join(text.split())


# -- page ------------------------------------------------------------------------------------------------------------


def write(found: Comparison, out: Path) -> Path:
    """Write ``report.html`` of a comparison into a folder and return its path."""
    films, left = _media(found)
    each = [_environment(panel, found.labels, heading=True) for panel in found.panels]
    over_all = _aggregates(found)
    pooled = len(found.aggregates) < len(found.panels)  # over several environments: the shortest answer comes first
    sections = [
        *((over_all, *each) if pooled else (*each, over_all)),
        films,
        _settings(found.panels),
    ]
    facts = html.facts_list(
        {
            "Environments": str(len(found.panels)),
            "Agents": str(len(found.labels)),
            "Runs": str(len(found.runs)),
            "Episodes": count(sum(len(group.returns) for panel in found.panels for group in panel.groups)),
        }
    )
    return html.write_page(
        out / NAME,
        kicker="dreamlab · comparison",
        title=" · ".join(panel.env for panel in found.panels[:4]) + (" and more" if len(found.panels) > 4 else ""),
        facts=facts,
        notices=html.notices(found.said, "Left out"),
        sections=sections,
        foot=html.left_out(left),
    )


def environment(panel: Panel, labels: Sequence[str]) -> str:
    """The scores of one run in one environment, for its own page."""
    return _environment(panel, labels, heading=False)


def _environment(panel: Panel, labels: Sequence[str], heading: bool) -> str:
    alone = sum(len(group.runs) for group in panel.groups) == 1
    figures = [
        html.figure("Score" if alone else "Scores", "", plots.svg(comparison_plots.scores([panel], labels, False))),
        html.figure("Episodes", "", plots.svg(comparison_plots.episodes([panel], labels, False))),
    ]
    for axis, title in (("steps", "Learning by environment steps"), ("seconds", "Learning by wall time")):
        picture = comparison_plots.learning([panel], labels, axis, False)  # type: ignore[arg-type]
        if picture is not None:
            figures.append(html.figure(title, "", plots.svg(picture)))
    body = rows(panel)
    means = [group.mean for group in panel.groups]
    best = means.index(max(means)) if means.count(max(means)) == 1 and len(means) > 1 else -1
    summary = html.table(tuple(body[0]), [tuple(row.values()) for row in body], best)
    table = f'<div class="card">{summary}{"" if alone else _judged(panel)}</div>'
    title = escape(panel.env) if heading else f"Score in {escape(panel.env)}"
    lead = f"{_protocol(panel) if alone else ''} ± is the standard deviation over episodes. {budget_words(panel)}"
    drawn = f'<div class="pair figures">{"".join(figures)}</div>'
    return html.section(title, escape(lead.strip()), f"{table}{drawn}{_curveless(panel)}{_papers(panel)}")


def _protocol(panel: Panel) -> str:
    """The protocol of a single run's score in a sentence; all of it is below its evaluations."""
    run = panel.groups[0].runs[0]
    said = run.protocol
    policy = protocols.POLICIES.get(str(said.get("policy")))
    parts = [
        f"{len(run.returns)} episodes" + (f" of seed {said['seed']}" if "seed" in said else ""),
        f"checkpoint {said['checkpoint']:,}" if isinstance(said.get("checkpoint"), int) else "",
        f"actions {policy}" if policy else "",
        run.file,
    ]
    return ", ".join(filter(None, parts)) + "."


def _judged(panel: Panel) -> str:
    items = "".join(f"<li>{escape(d.words())}</li>" for d in panel.differences)
    return f'<p class="judgement">{escape(panel.judgement)}</p>' + (f"<ul>{items}</ul>" if items else "")


def _curveless(panel: Panel) -> str:
    """Whose learning is not drawn."""
    drawn = {line.label for line in lines(panel, "steps")}
    names = [group.label for group in panel.groups if group.label not in drawn]
    if not names:
        return ""
    why = "met too few real episodes while learning; what was dreamt is not drawn"
    return f'<p class="note">Without a curve: {escape(", ".join(names))} ({why}).</p>'


def _papers(panel: Panel) -> str:
    if not panel.published:
        return ""
    head = ("published", "score", "frames", "protocol differs in", "source")
    cells = [(m, s, f, d, source) for m, s, f, source, d in (paper_row(score, panel) for score in panel.published)]
    return (
        f"<details><summary>{len(cells)} published scores of {escape(panel.env)}, with their sources</summary>"
        f'<div class="card prose">{html.table(head, cells)}</div></details>'
    )


def _aggregates(found: Comparison) -> str:
    if not found.aggregates:
        return ""
    figures, tables, notes = "", "", ""
    for over in dict.fromkeys(aggregate.over for aggregate in found.aggregates):
        notes += f"<p>{OVER[over]}</p>"
    for aggregate in found.aggregates:
        drawn = comparison_plots.aggregates([aggregate], found.labels, titled=False)
        figures += (
            html.figure(aggregate.title, f"{aggregate.unit}, over {aggregate.over}", plots.svg(drawn)) if drawn else ""
        )
        tables += f"<h3>{escape(aggregate.title)}</h3>{html.table(*aggregate_table(aggregate))}"
    efficiency = comparison_plots.sample_efficiency(found.panels, found.labels, titled=False)
    if efficiency is not None:
        figures += html.figure("Sample efficiency", "", plots.svg(efficiency))
    else:
        notes += "<p>Sample efficiency with intervals needs several seeds of an agent, or several environments.</p>"
    folded = f'<details><summary>The same as numbers</summary><div class="card">{tables}</div></details>'
    return html.section("Aggregates", "", f'{notes}<div class="pair figures">{figures}</div>{folded}')


def _settings(panels: Sequence[Panel]) -> str:
    """Where the groups' settings differ, one column a group."""
    parts = []
    for panel in panels:
        of: Mapping[str, Mapping[str, str]] = {group.label: group.runs[0].settings for group in panel.groups}
        keys = list(dict.fromkeys(key for settings in of.values() for key in settings))
        differ = [key for key in keys if key != "agent" and len({own.get(key) for own in of.values()}) > 1]
        if differ:
            body = [(key, *(settings.get(key, "–") for settings in of.values())) for key in differ]
            parts.append(
                f"<details><summary>{escape(panel.env)}: settings that differ ({len(differ)})</summary>"
                f'<div class="card prose">{html.table(("setting", *of), body)}</div></details>'
            )
    files = [
        (run.name, str(run.run), run.file, str(run.seed) if run.seed is not None else "–", figure(run.mean))
        for panel in panels
        for group in panel.groups
        for run in group.runs
    ]
    table = html.table(("run", "folder", "evaluation", "seed", "mean"), files)
    parts.append(f'<details><summary>All runs</summary><div class="card prose">{table}</div></details>')
    return html.section("Runs and settings", "", "".join(parts))


def _media(found: Comparison) -> tuple[str, list[str]]:
    """The newest film, dream and reconstructions of each group, as far as the page has room, and what had none."""
    cards, left, room = [], [], ROOM
    for kind, name, path in media(found):
        folder = RunFolder(path.parent.parent)
        folder.room = room
        cards.append(folder.guard(name, html.shown, folder, path, f"{name} · {kind}"))
        room = folder.room
        left += [f"{folder.run.name}/{text}" for text in folder.left_out]
    body = "".join(cards)
    return html.section("At work and dreaming", "", f'<div class="wide">{body}</div>') if body else "", left


def media(found: Comparison) -> Iterator[tuple[str, str, Path]]:
    """Kind, name and file of what there is to see of each group's first run: the newest of each kind."""
    for panel in found.panels:
        for group in panel.groups:
            folder = RunFolder(group.runs[0].run)
            kinds = {
                "film": folder.films(),
                "dream": folder.dreams(),
                "reconstructions": folder.newest("pictures/*recon*.png"),
            }
            for kind, paths in kinds.items():
                if paths:
                    yield kind, f"{group.label} · {panel.env}", paths[0]


Table = tuple[Sequence[str], Sequence[Sequence[str]]]


def tables(found: Comparison) -> dict[str, Table]:
    """Head and rows of every table, with the environment as first column."""
    summary: list[tuple[str, ...]] = [
        (panel.env, *_row(group, panel).values()) for panel in found.panels for group in panel.groups
    ]
    papers = [(panel.env, *paper_row(score, panel)) for panel in found.panels for score in panel.published]
    words = [(panel.env, panel.judgement, d.words()) for panel in found.panels for d in panel.differences or ()]
    parts: dict[str, Table] = {
        "summary": (("env", *COLUMNS), summary),
        "published": (("env", *PAPERS), papers),
        "protocols": (("env", "judgement", "difference"), words),
    }
    return {name: (head, body) for name, (head, body) in parts.items() if body}
