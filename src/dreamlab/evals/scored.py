"""The scores of one run as a comparison takes them: one evaluation for each environment, its settings, its curve."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from dreamlab.evals.run_folder import RunFolder, is_number, numbers

ASIDE = {
    "run": (
        *("seed", "device", "threads", "compile", "log_every", "report_every"),
        *("eval_every", "eval_episodes", "save_minutes", "keep"),
    ),
    "env": ("id", "workers", "timeout"),
}
"""settings that do not make it another agent; the environment's id has a place of its own"""


@dataclass(frozen=True)
class Curve:
    """Returns of real episodes while it trained, (n,) each."""

    steps: np.ndarray
    """environment steps"""
    seconds: np.ndarray
    """wall time, evaluations included"""
    values: np.ndarray
    evaluated: tuple[np.ndarray, np.ndarray, np.ndarray] = (np.zeros(0),) * 3
    """the same of evaluations on the way"""


@dataclass(frozen=True)
class Scored:
    """One run's score in one environment."""

    run: Path
    name: str
    agent: str
    env: str
    seed: int | None
    returns: np.ndarray
    """of the evaluation's episodes"""
    protocol: Mapping[str, Any]
    file: str
    """the evaluation, below the run's folder"""
    settings: Mapping[str, str]
    """all that makes it this agent, flat and in words"""
    curve: Curve | None
    env_steps: float | None
    """that it learned from, in all"""
    frames: float | None
    seconds: float | None
    measures: Mapping[str, float] = field(default_factory=dict)

    @property
    def mean(self) -> float:
        return float(self.returns.mean())


def read(run: Path) -> tuple[list[Scored], list[str]]:
    """A run's scores, one for each environment it was evaluated in, and what is wrong with its folder, in words.

    Of several evaluations in one environment the one of the latest checkpoint counts, and of those the one of the
    most episodes; how an agent explores counts only where there is nothing else.
    """
    folder = RunFolder(run)
    if not run.is_dir() or not folder.config:
        why = "; ".join(folder.problems) or ("holds no run (no config.yaml)" if run.is_dir() else "is no folder")
        return [], [f"{run}: {why}"]
    agent = folder.config.get("agent")
    if not isinstance(agent, str):
        return [], [f"{run}: config.yaml names no agent"]
    best: dict[str, tuple[tuple, Path, dict[str, Any]]] = {}
    for path in sorted(run.glob("evaluations/*.json")):
        data = _evaluation(folder, path)
        if data is None or data["agent"] != agent:
            continue
        protocol = data["protocol"]
        rank = (protocol.get("policy") != "exploring", _step(protocol), len(data["returns"]), path.name)
        if data["env"] not in best or rank > best[data["env"]][0]:
            best[data["env"]] = (rank, path, data)
    found = [_scored(folder, agent, path, data) for _, path, data in best.values()]
    said = [f"{run}: {problem}" for problem in folder.problems]
    if not found:
        said.append(f"{run}: has no evaluation; type: dreamlab evaluate {run}")
    return found, said


def _evaluation(folder: RunFolder, path: Path) -> dict[str, Any] | None:
    """A stored score with what is needed of it, or None and a word in ``folder.problems``."""
    data = folder.json(path)
    if data is None:
        return None
    try:
        returns = numbers(data["returns"])
        if not returns or not all(map(math.isfinite, returns)):
            raise ValueError("returns must be finite numbers, at least one")
        if not isinstance(data["agent"], str) or not isinstance(data["env"], str):
            raise ValueError("agent and env must be names")
        if not isinstance(data["protocol"], dict):
            raise ValueError("it has no protocol")
    except (KeyError, ValueError, TypeError) as error:
        what = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        folder.problems.append(f"{folder.name(path)}: no score that can be compared ({what})")
        return None
    return data


def _step(protocol: Mapping[str, Any]) -> float:
    step = protocol.get("checkpoint")
    return step if is_number(step) else -1


def _scored(folder: RunFolder, agent: str, path: Path, data: Mapping[str, Any]) -> Scored:
    clock = _clock(folder.metrics)
    trained = folder.config.get("env")
    at_home = isinstance(trained, Mapping) and trained.get("id") == data["env"]
    how = folder.config.get("run")
    seed = how.get("seed") if isinstance(how, Mapping) else None
    last = {key: folder.metrics[key][1][-1] for key in ("run/env_steps", "run/frames") if key in folder.metrics}
    steps = last.get("run/env_steps")
    repeat = trained.get("repeat", 1) if isinstance(trained, Mapping) else 1
    frames = last.get("run/frames", steps * repeat if is_number(steps) and is_number(repeat) else None)
    return Scored(
        run=folder.run,
        name=folder.run.resolve().name,
        agent=agent,
        env=data["env"],
        seed=seed if isinstance(seed, int) else None,
        returns=np.asarray(data["returns"], float),
        protocol=data["protocol"],
        file=folder.name(path),
        settings=settings(folder.config),
        curve=_curve(folder, clock) if at_home else None,
        env_steps=steps,
        frames=frames,
        seconds=wall_time(folder.metrics),
        measures={k: v for k, v in (data.get("measures") or {}).items() if is_number(v)},
    )


def settings(config: Mapping[str, Any]) -> dict[str, str]:
    """What makes a run this agent, by dotted key: all of ``config.yaml`` but seeds, devices, clocks and labels."""
    found: dict[str, str] = {"agent": str(config.get("agent"))}
    for key in ("from", "data"):
        if config.get(key):
            found[key] = Path(str(config[key])).name
    for part in ("config", "env", "run"):
        value = config.get(part)
        if isinstance(value, Mapping):
            kept = {k: v for k, v in value.items() if k not in ASIDE.get(part, ())}
            found.update(_flat(kept, "" if part == "config" else f"{part}."))
    return found


def _flat(data: Mapping[str, Any], prefix: str) -> dict[str, str]:
    flat: dict[str, str] = {}
    for key, value in data.items():
        if isinstance(value, Mapping):
            flat.update(_flat(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value if isinstance(value, str) else json.dumps(value)
    return flat


# -- curves --------------------------------------------------------------------------------------------------------

Series = Mapping[str, tuple[Sequence[float], Sequence[float]]]


def wall_time(metrics: Series) -> float | None:
    """Seconds that a run took, as far as its metrics know."""
    seconds = _clock(metrics)[2]
    return float(seconds[-1]) if len(seconds) else None


def _clock(metrics: Series) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Run's steps, environment steps and seconds at each line of counters, (n,) each.

    A line has the speed since the line before, so that the time between the two is what was done by that speed.
    """
    names = ("env_steps", "updates", "steps_per_second", "updates_per_second")
    columns = [metrics.get(f"run/{name}", ((), ())) for name in names]
    at, counted = np.asarray(columns[0][0], float), [np.asarray(values, float) for _, values in columns]
    if not len(at) or len({len(values) for values in counted}) > 1:  # some lines are broken
        return (np.zeros(0),) * 3
    return at, counted[0], np.cumsum(spent(counted))


def spent(counted: Sequence[np.ndarray], before: tuple[float, float] = (0.0, 0.0)) -> np.ndarray:
    """Seconds between each line of counters and the one before it, (n,).

    Args:
        counted: environment steps, updates, and the speeds of both, (n,) each.
        before: environment steps and updates at the line before the first.
    """
    env_steps, updates, steps_per_second, updates_per_second = counted
    seconds = np.zeros(len(env_steps))
    for done, speed, first in ((updates, updates_per_second, before[1]), (env_steps, steps_per_second, before[0])):
        moved = np.maximum(np.diff(done, prepend=first), 0)  # environment steps, where any were taken
        known = (speed > 0) & (moved > 0)
        seconds[known] = moved[known] / speed[known]
    return seconds


def _curve(folder: RunFolder, clock: tuple[np.ndarray, np.ndarray, np.ndarray]) -> Curve | None:
    """Returns of real episodes while it trained; of an agent that only evaluates, its evaluations."""
    at, steps, seconds = clock
    keys = [key for key in folder.metrics if key.endswith("/ret")]
    if "controller/return" in folder.metrics and _in_reality(folder.config):
        keys.append("controller/return")
    if not len(at):
        return None
    points = sorted(pair for key in keys for pair in zip(*folder.metrics[key], strict=True))
    evaluated = tuple(zip(*folder.metrics["eval/mean"], strict=True)) if "eval/mean" in folder.metrics else ()

    def placed(pairs: Sequence[tuple[float, float]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        x, y = (np.asarray(column, float) for column in zip(*pairs, strict=True)) if pairs else (np.zeros(0),) * 2
        return np.interp(x, at, steps), np.interp(x, at, seconds), y

    if not points and not evaluated:
        return None
    return Curve(*placed(points or evaluated), evaluated=placed(evaluated))


def _in_reality(config: Mapping[str, Any]) -> bool:
    """Whether a controller's candidates play in the real environment: elsewhere their returns are dreamt."""
    own = config.get("config")
    controller = own.get("controller") if isinstance(own, Mapping) else None
    return isinstance(controller, Mapping) and controller.get("train_in") == "env"
