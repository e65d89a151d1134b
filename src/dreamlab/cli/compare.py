"""``dreamlab compare RUN RUN ...``: runs side by side, under which protocols, beside what papers have."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tyro.conf import Positional

from dreamlab.cli import ls, output
from dreamlab.cli.flags import ask
from dreamlab.core.errors import UserError

if TYPE_CHECKING:
    from dreamlab.evals.comparison import Comparison, Panel

ABOUT = "put runs side by side: scores, curves, protocols, and what papers have"
RESULTS, SUMMARY = "results.json", "summary.md"
NUMBERS = ("runs", "episodes", "normalised", "steps", "time")
MOST = 8
"""published scores of one environment that the terminal shows"""


@dataclass(frozen=True)
class Options:
    """Runs side by side: scores and curves, under which protocols, and what papers have. Seeds are grouped."""

    runs: Positional[tuple[str, ...]]
    """folders of runs, or folders that hold runs; each needs an evaluation"""
    out: Path | None = None
    """where pictures, report.html, summary.md and results.json are written"""
    wandb: str | None = None
    """also log table, pictures and films to this W&B project; TEAM/PROJECT for a team's"""


def run(argv: Sequence[str]) -> int:
    """The command."""
    chosen = ask(Options, argv, "dreamlab compare", __doc__ or "")
    compare(chosen.runs, chosen.out, chosen.wandb)
    return 0


def compare(
    runs: str | Path | Sequence[str | Path],
    out: str | Path | None = None,
    wandb: str | None = None,
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Put runs, or all in a folder, side by side; returns what ``results.json`` holds.

    Raises:
        UserError: no run is named, the folder cannot be written, or W&B is not installed.
        RunError: no run has a score.
    """
    from dreamlab.evals import comparison

    named = [runs] if isinstance(runs, str | Path) else runs
    if not named:
        raise UserError("name at least one run: dreamlab compare RUN RUN ...")
    places = [place for name in named for place in _places(Path(name))]
    folder = None if out is None else _writable(Path(out))
    if wandb is not None:
        from dreamlab.logs.wandb import refuse_missing

        refuse_missing("logging a comparison to W&B")
    found = comparison.compare(places)
    for panel in found.panels:
        _tell(panel, say)
    for line in found.said:
        say(f"left out: {line}")
    if folder is not None:
        for path in write(found, folder):
            say(f"written: {path}")
    if wandb is not None:
        _upload(found, wandb, folder or Path(), say)
    return found.to_dict()


def write(found: Comparison, folder: Path) -> list[Path]:
    """Every file of a comparison; returns those to look at first."""
    from dreamlab.evals import comparison_page, comparison_plots, plots

    for name, picture in comparison_plots.pictures(found).items():
        (folder / f"{name}.png").write_bytes(plots.png(picture, dpi=200))
    output.write(str(folder / RESULTS), found.to_dict())
    (folder / SUMMARY).write_text(comparison_page.markdown(found), encoding="utf-8")
    return [comparison_page.write(found, folder), folder / SUMMARY, folder / RESULTS]


def _places(path: Path) -> list[Path]:
    """The folder itself where it is a run, else the runs that it holds; itself again where it holds none."""
    return (ls.find(path)[0] if path.is_dir() else []) or [path]


def _writable(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".dreamlab"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UserError(f"--out {folder} cannot be written: {error.strerror}") from error
    return folder


def _tell(panel: Panel, say: Callable[[str], None]) -> None:
    """One environment: the table, whether its scores can be compared, and what papers have."""
    from dreamlab.evals import comparison_page
    from dreamlab.evals.words import pair

    say(panel.env)
    for line in _columns(comparison_page.rows(panel)):
        say(f"  {line}")
    say(f"  {panel.judgement}")
    for difference in panel.differences:
        say(f"    {difference.words()}")
    drawn = panel.drawn()
    for score in drawn[:MOST]:
        mark = "" if score.verified else " (unverified)"
        differs = comparison_page.differs_in(score, panel)
        protocol = f"; its protocol: {differs}" if differs else ""
        say(f"  published: {score.method} {pair(score.mean, score.spread)}{mark}, {score.short}{protocol}")
    if len(panel.published) > len(drawn[:MOST]):
        say(f"  {len(panel.published)} published scores in all, with sources and protocols: --out DIR")


def _columns(rows: Sequence[Mapping[str, str]]) -> list[str]:
    """Rows, which share their keys, as lines of equal columns."""
    table = [tuple(rows[0]), *(tuple(row.values()) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    aligned = [str.rjust if key in NUMBERS else str.ljust for key in rows[0]]
    lines = (zip(row, widths, aligned, strict=True) for row in table)
    return ["  ".join(align(cell, width) for cell, width, align in line).rstrip() for line in lines]


def _upload(found: Comparison, project: str, place: Path, say: Callable[[str], None]) -> None:
    """Table, pictures and films as one W&B run of the kind "compare"."""
    from dreamlab.evals import comparison_page, comparison_plots, plots
    from dreamlab.logs.wandb import log_once

    drawn = comparison_plots.pictures(found)
    values: dict[str, Any] = {
        f"score/{panel.env}/{group.label}": group.mean for panel in found.panels for group in panel.groups
    }
    values |= {f"comparison/{name}": rows for name, rows in comparison_page.tables(found).items()}
    values |= {f"comparison/{name}": plots.png(picture) for name, picture in drawn.items()}
    values |= {f"{kind}/{name}": path for kind, name, path in comparison_page.media(found)}
    config = {"runs": [str(run.run) for run in found.runs]}
    log_once(project, values, kind="compare", place=place, config=config, say=say)
