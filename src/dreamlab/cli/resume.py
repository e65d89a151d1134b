"""Whether a folder's run is the one that is asked for: what was typed, ``config.yaml`` and the checkpoints agree."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from dreamlab import agents
from dreamlab.cli import options
from dreamlab.cli.options import Spec
from dreamlab.core.config import differences, read_yaml, write_yaml
from dreamlab.core.errors import UserError
from dreamlab.envs.config import EXTENDS as ENV_EXTENDS
from dreamlab.run.config import EXTENDS as RUN_EXTENDS

Change = tuple[str, Any, Any]
"""dotted path, value then, value now"""


def goes_on(spec: Spec, folder: Path) -> bool:
    """Whether the folder holds this run already. A larger budget is written down and goes on.

    Where nothing was ever saved there is no run yet: it begins with what was typed.

    Raises:
        UserError: it holds another run, or one with other settings; or its config.yaml was edited.
    """
    from dreamlab.run.checkpoint import Checkpoints

    checkpoints, path, new = Checkpoints(folder), folder / "config.yaml", options.to_dict(spec)
    if not checkpoints.steps():
        return False
    saved = checkpoints.settings()
    if path.exists():
        old = _readable(path, mended_by_deleting=saved is not None)
        if saved:
            refuse_edited(path, old, *saved)
    elif saved:
        old = saved[1]
    else:
        raise UserError(
            f"{folder} holds checkpoints of an unknown run (no config.yaml); name another folder with --run"
        )
    free = may_change(spec.agent)
    changed = [change for change in differences(_whole(old, path), new) if change[0] not in free]
    if changed:
        raise UserError(
            f"{folder} holds another run:\n{table(changed, 'there', 'now')}\n"
            "name another folder with --run, or type the settings it was started with. "
            f"What may change when a run goes on: {', '.join(sorted(free - {'preset'}))}"
        )
    if old != new or not path.exists():
        write_yaml(path, new)
    return True


def refuse_edited(
    path: Path, now: Mapping[str, Any], step: int, then: Mapping[str, Any], only: Collection[str] = options.STORED
) -> None:
    """Refuse a config.yaml that does not describe its checkpoints any more; ``only`` these of its keys.

    Raises:
        UserError: lists what to put back.
    """
    free = may_change(str(then.get("agent")))
    changed = [
        c
        for c in differences(_whole(then, path), _whole(now, path))
        if c[0] not in free and c[0].partition(".")[0] in only
    ]
    if changed:
        raise UserError(
            f"{path} was edited after checkpoint {step} was made with it:\n"
            f"{table(changed, 'in the checkpoint', 'in the file')}\n"
            "put these back; for a run with other settings, name another folder with --run"
        )


def may_change(agent: str) -> set[str]:
    """Dotted paths of what may change when a run goes on; the preset is a label."""
    own = {name if name.startswith("run.") else f"config.{name}" for name in agents.load(agent).EXTENDS}
    return {f"run.{name}" for name in RUN_EXTENDS} | {f"env.{name}" for name in ENV_EXTENDS} | own | {"preset"}


def table(changes: list[Change], then: str, now: str) -> str:
    """One line a change."""
    return "\n".join(f"  {path}: {was!r} {then}, {is_now!r} {now}" for path, was, is_now in changes)


def _whole(settings: Mapping[str, Any], path: Path) -> Mapping[str, Any]:
    """Settings with those that have come since they were written, at their defaults; as they are if they do not fit."""
    try:
        return options.to_dict(options.from_dict(settings, str(path)))
    except UserError:
        return settings


def _readable(path: Path, mended_by_deleting: bool) -> dict[str, Any]:
    try:
        return read_yaml(path)
    except UserError as error:
        if not mended_by_deleting:
            raise
        raise UserError(
            f"{error}\nthe checkpoints know the settings too: delete the file and type the whole command again"
        ) from error
