"""The runs below a folder: how far each is, what it scores, whether it is running. Little is read, nothing written."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dreamlab.evals.run_folder import RunFolder, is_number
from dreamlab.evals.scored import spent
from dreamlab.run.holding import ERROR, is_training

MARKS = ("config.yaml", "metrics.jsonl", "checkpoints")
"""a folder that holds one of these is a run"""
DEEPEST = 3
"""levels below the folder that are looked through"""
RETURNS = ("mean_return", "return", "ret")
"""metrics that stand for a score while there is none, most telling first"""

TELLING = re.compile(rb'"([^"]*/(mean_return|return|ret)|eval/mean)": ')
"""what a small curve may be of: a return, or else evaluations"""
WINDOW = 1 << 13
"""bytes that are read at each of a long file's samples"""

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


def name(folder: Path, root: Path) -> str:
    """A run's name: its path below the folder that was looked through."""
    return folder.resolve().name if folder == root else folder.relative_to(root).as_posix()


def look(folder: Path, root: Path) -> dict[str, Any]:
    """What is said of one run, by ``KEYS``; what cannot be read is null, with the reason in ``problem``."""
    row = summary(RunFolder(folder))
    row["run"], (row["written"], row["bytes"]) = name(folder, root), _written(folder)
    return row


def summary(files: RunFolder) -> dict[str, Any]:
    """The same without what needs the whole folder: its name, when it was written, and its bytes."""
    row = dict.fromkeys(KEYS)
    for part in (_names, _progress, _results):
        try:
            row |= part(files)
        except Exception as error:  # anything may lie there, and the other runs must be listed
            files.problems.append(f"{type(error).__name__}: {error}")
    row["problem"] = "; ".join(" ".join(problem.split()) for problem in files.problems) or None
    return row


def ends_in(files: RunFolder) -> tuple[float, bool] | None:
    """Seconds from its last line until a run's phase ends at the speed of its last lines, and whether it is the last.

    None while that is not known: before the first checkpoint, and before two lines of the phase.
    """
    phases, lines = _checkpoint(files).get("phases", ()), files.last_metrics[::-1]
    if not phases or not lines:
        return None
    step, before = lines[-1]["step"], 0
    for place, (_, total) in enumerate(phases):
        if step < before + total or place == len(phases) - 1:
            break
        before += total
    names = [f"run/{key}" for key in ("env_steps", "updates", "steps_per_second", "updates_per_second")]
    counted = [line for line in lines if line["step"] > before and all(is_number(line.get(key)) for key in names)]
    if len(counted) < 2:
        return None
    seconds = spent(list(np.array([[line[key] for key in names] for line in counted]).T))[1:].sum()
    moved = counted[-1]["step"] - counted[0]["step"]
    if not (seconds > 0 and moved > 0):
        return None
    return max(0, before + total - step) * float(seconds) / moved, place == len(phases) - 1


def phases(files: RunFolder) -> list[dict[str, Any]]:
    """Of each phase, as the newest checkpoint tells: its name, and where it begins and ends on the run's clock."""
    found, before = [], 0
    for phase, total in _checkpoint(files).get("phases", ()):
        found.append({"name": phase, "begin": before, "end": before + total})
        before += total
    return found


def sparkline(path: Path, points: int = 60) -> list[float]:
    """The course of the metric that stands for a score, in at most ``points`` means; sampled where the file is long."""
    with path.open("rb") as file:
        size = file.seek(0, 2)
        whole = size <= WINDOW * points
        windows = []
        for i in range(1 if whole else points):
            file.seek(0 if whole else (size - WINDOW) * i // (points - 1))
            windows.append(file.read(WINDOW * points if whole else WINDOW))
    found = [pair for text in windows for pair in dict.fromkeys(TELLING.findall(text))]
    if not found:
        return []
    best = min((*RETURNS, "").index(name.decode()) for _, name in found)  # of several, the one of the latest phase
    key = next(key for key, name in reversed(found) if (*RETURNS, "")[best] == name.decode())
    pattern = re.compile(rb'"%s": (-?[0-9][0-9.eE+-]*)' % re.escape(key))
    parts: list[Any] = [[float(text) for text in pattern.findall(window)] for window in windows]
    if whole:
        parts = np.array_split(parts[0], min(points, max(1, len(parts[0]))))
    return [float(f"{np.mean(part):.4g}") for part in parts if len(part)]


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
    failure, saved, lines = files.run / ERROR, _checkpoint(files), files.last_metrics
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
    for line in files.last_metrics:
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
