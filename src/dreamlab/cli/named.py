"""What a RUN names: a run's folder, the folder of a published model, or a model on the Hugging Face Hub."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from dreamlab.core.errors import RunError, UserError

HUB = re.compile(r"(?P<repo>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:@(?P<revision>[\w./-]+))?")
"""user/name, or user/name@revision"""


class Place(NamedTuple):
    """Where a model lies, and where what is made of it is written."""

    folder: Path
    home: Path
    """scores and films go here: the folder itself, or for a model of the Hub ``runs/user--name``"""
    root: Path
    """links in the folder lead nowhere but here"""
    published: bool


def place(run: str | Path) -> Place:
    """Find what is named: a local path that exists wins; then ``user/name`` is looked for on the Hub.

    Raises:
        UserError: it is neither; says what lies beside it.
        RunError: the Hub cannot be reached.
    """
    folder = Path(run)
    found = hub_name(run)
    if found is None:
        published = not (folder / "checkpoints").exists() and _is_published(folder)
        return Place(folder, folder, folder, published)
    from dreamlab.publish import huggingface_hub

    repo, revision = found
    try:
        fetched = huggingface_hub.download(repo, revision)
    except RunError:
        raise
    except UserError as error:
        raise UserError(f"there is no folder {folder} here, so the Hub was asked: {error}") from error
    return Place(fetched.folder, Path("runs") / repo.replace("/", "--"), fetched.root, True)


def hub_name(run: str | Path) -> tuple[str, str | None] | None:
    """Repository and revision where a RUN names a model of the Hub; None where it is a path.

    ``runs/demo`` is a path wherever there is a folder ``runs``.
    """
    path, found = Path(run), HUB.fullmatch(str(run))
    if found is None or path.exists() or path.parent.exists():
        return None
    return found["repo"], found["revision"]


def _is_published(folder: Path) -> bool:
    return (folder / "config.yaml").is_file() and (folder / "state.json").is_file()
