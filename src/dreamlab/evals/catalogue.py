"""The runs below a folder: how far each is, what it scores, whether it is running. Little is read, nothing written."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from dreamlab.evals.run_folder import RunFolder, is_number
from dreamlab.run.holding import ERROR, is_training

MARKS = ("config.yaml", "metrics.jsonl", "checkpoints")
"""a folder that holds one of these is a run"""
DEEPEST = 3
"""levels below the folder that are looked through"""
RETURNS = ("mean_return", "return", "ret")
"""metrics that stand for a score while there is none, most telling first"""

SCORE = ("mean", "std", "episodes", "last_return")
KEYS = ("run", "agent", "env", "state", "phase", "done", "step", *SCORE, "written", "bytes", "problem")
"""what is said of a run, in this order"""


def find(folder: Path) -> tuple[list[Path], list[str]]:
    """The runs in and below a folder, and the names of sub-folders in which there are none."""
    if _is_run(folder):
        return [folder], []
    runs: dict[Path, Path] = {}  # by where they really are: links may lead in circles
    foreign = []
    for child in _folders(folder):
        below = list(_below(child, DEEPEST - 1))
        foreign += [] if below else [child.name]
        for place in below:
            runs.setdefault(place.resolve(), place)
    return list(runs.values()), foreign


def look(folder: Path, root: Path) -> dict[str, Any]:
    """What is said of one run, by ``KEYS``; what cannot be read is null, with the reason in ``problem``."""
    files = RunFolder(folder)
    row = dict.fromkeys(KEYS) | {"run": folder.name if folder == root else folder.relative_to(root).as_posix()}
    row["written"], row["bytes"] = _written(folder)
    for part in (_names, _progress, _results):
        try:
            row |= part(files)
        except Exception as error:  # anything may lie there, and the other runs must be listed
            files.problems.append(f"{type(error).__name__}: {error}")
    row["problem"] = "; ".join(" ".join(problem.split()) for problem in files.problems) or None
    return row


def _names(files: RunFolder) -> dict[str, Any]:
    agent, env = files.config.get("agent"), files.config.get("env")
    env = env.get("id") if isinstance(env, Mapping) else None
    if not (files.run / "config.yaml").exists():
        files.problems.append("there is no config.yaml")
    elif files.config and not (isinstance(agent, str) and isinstance(env, str)):
        files.problems.append("config.yaml: names no agent or no environment")
    return {"agent": agent if isinstance(agent, str) else None, "env": env if isinstance(env, str) else None}


def _progress(files: RunFolder) -> dict[str, Any]:
    """State, phase, how much of that phase is done, and step.

    The phases' budgets are in the newest checkpoint; the metrics say how far the run has come since.
    """
    if (published := files.json(files.run / "state.json")) is not None:  # a model without its run
        return {"state": "published", "step": int(published["step"])}
    failure, saved, lines = files.run / ERROR, _checkpoint(files), files.last_metrics()
    steps = [s for s in (lines[0]["step"] if lines else None, saved.get("step")) if is_number(s)]
    step = int(max(steps)) if steps else None
    if is_training(files.run):
        state = "running"
    elif failure.exists():
        state = "failed"
        files.problems.append(failure.read_text(encoding="utf-8", errors="replace"))
    else:
        state = "finished" if step is not None and saved.get("final") == step else "stopped"
    phase, done = _place(saved.get("phases", ()), step)
    if phase is None:  # no checkpoint yet
        groups = (key.partition("/")[0] for line in lines for key in line if "/" in key)
        phase = next((group for group in groups if group not in ("run", "eval")), None)
    return {"state": state, "phase": phase, "done": done, "step": step}


def _checkpoint(files: RunFolder) -> dict[str, Any]:
    """Of the newest checkpoint: its step, its phases as (name, size on the run's clock), the step of the last end."""
    places = (files.run / "checkpoints").glob("[0-9]*/state.json")
    newest = max((p for p in places if p.parent.name.isdigit()), key=lambda p: int(p.parent.name), default=None)
    data = files.json(newest) if newest else None
    if data is None:
        return {}
    saved = data["parts"]["run"]
    phases = [(str(name), int(env_steps or rounds)) for name, env_steps, rounds in saved.get("phases", ())]
    return {"step": data["step"], "phases": phases, "final": saved["clocks"]["final"]}


def _place(phases: Sequence[tuple[str, int]], step: int | None) -> tuple[str | None, float | None]:
    """The phase in which a step lies, and how much of it (0 to 1) is done: phases follow one another."""
    before = 0
    for name, total in phases:
        if (step or 0) < before + total:
            return name, ((step or 0) - before) / total
        before += total
    return (phases[-1][0], 1.0) if phases else (None, None)


def _results(files: RunFolder) -> dict[str, Any]:
    """The newest evaluation, and the last return while training."""
    row: dict[str, Any] = {}
    for data in filter(None, map(files.json, files.newest("evaluations/*.json"))):
        if is_number(data.get("mean")) and is_number(data.get("std")) and isinstance(data.get("returns"), list):
            row = {"mean": data["mean"], "std": data["std"], "episodes": len(data["returns"])}
            break
    for line in files.last_metrics():
        found = [line[key] for name in RETURNS for key in line if key.endswith(f"/{name}") and is_number(line[key])]
        if found:
            return row | {"last_return": found[0]}
    return row


def _is_run(folder: Path) -> bool:
    return any((folder / mark).exists() for mark in MARKS)


def _folders(folder: Path) -> list[Path]:
    try:
        return sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    except OSError:
        return []


def _below(folder: Path, depth: int) -> Iterator[Path]:
    if _is_run(folder):
        yield folder
    elif depth:
        for child in _folders(folder):
            yield from _below(child, depth - 1)


def _written(folder: Path) -> tuple[float, int]:
    """When something was last written in a folder, and the bytes that it takes on the disk."""
    newest, held, left = 0.0, 0, [str(folder)]
    while left:
        try:
            with os.scandir(left.pop()) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        left.append(entry.path)
                        continue
                    found = entry.stat(follow_symlinks=False)
                    newest = max(newest, found.st_mtime)
                    held += getattr(found, "st_blocks", -(-found.st_size // 512)) * 512
        except OSError:  # it went while it was looked at, or is not ours to read
            continue
    return newest, held
