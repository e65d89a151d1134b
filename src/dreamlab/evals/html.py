"""Pieces of a page: every text from a run's folder is escaped here, and nothing is fetched from anywhere."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

from dreamlab.evals.run_folder import RunFolder


def write_page(
    path: Path, *, kicker: str, title: str, facts: str, notices: str, sections: Iterable[str], foot: str
) -> Path:
    """Write a whole page, wholly or not at all; ``title`` and ``kicker`` are text, the rest is HTML."""
    from dreamlab import __version__

    style = (files("dreamlab.evals") / "report.css").read_text()
    page = Template((files("dreamlab.evals") / "report.html").read_text()).substitute(
        title=escape(title),
        kicker=escape(kicker),
        style=style,
        facts=facts,
        sections="\n".join(filter(None, sections)),
        notices=notices,
        missing=foot,
        version=escape(__version__),
    )
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(page, encoding="utf-8")
    os.replace(temporary, path)
    return path


def section(title: str, lead: str, body: str) -> str:
    """A section; ``title`` and ``lead`` are ours."""
    return f"<section><h2>{title}</h2>{f'<p>{lead}</p>' if lead else ''}\n{body}</section>"


def figure(title: str, note: str, body: str) -> str:
    """A card with a caption; ``body`` is HTML, the rest is not."""
    caption = f"<figcaption><b>{words(title)}</b><span>{escape(note)}</span></figcaption>"
    return f'<figure class="card">{caption}{body}</figure>'


def shown(folder: RunFolder, path: Path, name: str = "") -> str:
    """A film or a picture in the page with its name, or nothing where it does not fit."""
    film = path.suffix == ".mp4"
    uri = folder.embed(path, "video/mp4" if film else "image/png")
    if not uri:
        return ""
    name = name or path.stem
    body = (
        f'<video controls loop muted playsinline preload="metadata" src="{uri}"></video>'
        if film
        else f'<img alt="{words(name)}" src="{uri}">'
    )
    return figure(name, "", body)


def table(head: Sequence[str], rows: Iterable[Sequence[str]], best: int = -1) -> str:
    """A table whose cells are text; the row ``best`` is marked."""
    lines = ""
    for i, (name, *cells) in enumerate(rows):
        mark = ' class="best"' if i == best else ""
        tail = "".join(f"<td>{escape(cell)}</td>" for cell in cells)
        lines += f'<tr{mark}><th scope="row">{escape(name)}</th>{tail}</tr>'
    heads = "".join(f'<th scope="col">{escape(name)}</th>' for name in head)
    return f'<div class="scroll"><table><thead><tr>{heads}</tr></thead><tbody>{lines}</tbody></table></div>'


def facts_list(rows: Mapping[str, str]) -> str:
    """Names and values in a line; empty values are left out."""
    items = "".join(f"<div><dt>{words(k)}</dt><dd>{escape(v)}</dd></div>" for k, v in rows.items() if v)
    return f'<dl class="facts">{items}</dl>' if items else ""


def settings_table(flat: Mapping[str, str]) -> str:
    """Two columns of text."""
    rows = "".join(f'<tr><th scope="row">{escape(k)}</th><td>{escape(v)}</td></tr>' for k, v in flat.items())
    return f'<table class="settings"><tbody>{rows}</tbody></table>'


def notices(problems: Sequence[str], lead: str = "Left out, because it could not be read") -> str:
    """What is not in the page, and why, at its top."""
    items = "".join(f"<li>{escape(problem)}</li>" for problem in problems)
    return f'<div class="notices"><p>{escape(lead)}:</p><ul>{items}</ul></div>' if items else ""


def left_out(names: Sequence[str]) -> str:
    """What had no room, at the foot of a page."""
    listed = escape(", ".join(names))
    return f"<p>Not embedded, to keep the page small; to be found in the run's folder: {listed}.</p>" if names else ""


def command(verb: str, folder: RunFolder, *more: str) -> str:
    """A command that is to be typed."""
    return f"<code>{escape(' '.join(('dreamlab', verb, str(folder.run), *more)))}</code>"


def words(name: str) -> str:
    """A name as words, escaped."""
    return escape(name.replace("_", " ").replace("-", " "))


def flat(data: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested settings as dotted keys and short texts."""
    found: dict[str, str] = {}
    for key, value in data.items():
        if isinstance(value, Mapping) and value:
            found.update(flat(value, f"{prefix}{key}."))
        else:
            text = ", ".join(map(str, value)) if isinstance(value, list) else value
            found[f"{prefix}{key}"] = "–" if text is None or text == "" else str(text)
    return found


def number(value: Any) -> str:
    """Four digits that count, thousands apart; empty where there is no number."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    value = float(value)
    if value == int(value) and abs(value) < 1e9:
        return f"{int(value):,}"
    return f"{value:,.1f}" if abs(value) >= 100 else f"{value:.4g}"


def column(*values: float) -> tuple[str, ...]:
    """Numbers that are compared with each other: as many decimals as give the largest four digits."""
    largest = max((abs(float(v)) for v in values if math.isfinite(v)), default=0.0)
    decimals = min(max(3 - math.floor(math.log10(largest)), 0), 6) if largest else 0
    return tuple(f"{float(v):,.{decimals}f}".replace("-", "−") if math.isfinite(v) else "–" for v in values)


def error(returns: Sequence[float]) -> float:
    """Standard error of a mean; NaN for a single episode."""
    n = len(returns)
    if n < 2:
        return math.nan
    mean = sum(returns) / n
    return math.sqrt(sum((r - mean) ** 2 for r in returns) / (n - 1) / n)
