"""``dreamlab report RUN``: one page of everything a run has made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from dreamlab.cli.flags import ask
from dreamlab.core.errors import UserError

ABOUT = "write one page of everything a run has made: scores, curves, films, dreams"


@dataclass(frozen=True)
class Options:
    """Write report.html: a run's scores, curves, films, dreams and settings in one file that opens from the disk."""

    run: Positional[str]
    """the run's folder"""
    out: Path | None = None
    """the file; report.html in the run's folder unless told"""


def run(argv: Sequence[str]) -> int:
    """The command."""
    chosen = ask(Options, argv, "dreamlab report", __doc__ or "")
    from dreamlab.cli import session
    from dreamlab.evals.report import write_report

    folder = Path(chosen.run)
    session.refuse_no_run(folder)
    out = chosen.out
    if out is not None and out.is_dir():
        raise UserError(f"--out {out} is a folder; name a file in it")
    try:
        if out is not None:
            out.parent.mkdir(parents=True, exist_ok=True)
        path = write_report(folder, out)
    except OSError as error:
        raise UserError(
            f"the report cannot be written ({error.strerror}: {error.filename}); name another place: "
            f"dreamlab report {folder} --out report.html"
        ) from error
    print(f"{path}  (open it in a browser)")
    return 0
