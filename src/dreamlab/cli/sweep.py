"""``dreamlab sweep FILE.yaml``: a list or grid of runs, one after the other or side by side; ends in a comparison.

::

    agent: dreamer-v3            # as typed for train; any of these may also stand in grid and runs
    env: tiny/Catch
    preset: smoke                # the agent's for that environment unless named
    set: {steps: 300}            # options of train without their dashes, for all runs
    grid: {seed: [0, 1, 2]}      # every combination
    runs:                        # each of these in every combination
      base: {}
      no-free-bits: {agent.free_nats: 0}

Each run is a process of its own, ``dreamlab train``, in a folder of its own. What counts is what lies in the folders:
the same command goes on where it was stopped, however that was.
"""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import itertools
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tyro.conf import Positional

from dreamlab import agents
from dreamlab.cli import options
from dreamlab.cli.flags import ask
from dreamlab.cli.options import Spec
from dreamlab.core.config import merge, read_yaml
from dreamlab.core.errors import UserError, suggest

ABOUT = "train a list or grid of runs, resumably, and compare them"
KEYS = ("agent", "env", "preset", "set", "grid", "runs")
COMPARISON = "comparison"
"""in the sweep's folder: what compare writes"""


@dataclass(frozen=True)
class Options:
    """Train the runs of a file, each in its own process and folder. The same command goes on where it was stopped."""

    file: Positional[Path]
    """a YAML file (docs/sweeps.md)"""
    out: Path | None = None
    """the folder of the runs; runs/<name of the file> unless told"""
    jobs: int = 1
    """runs side by side, as far as there are cores"""
    dry_run: bool = False
    """list the runs and what they cost in steps"""


class Run(tuple[str, Spec]):
    """One of a sweep: its name, and all that it is."""

    @property
    def name(self) -> str:
        return self[0]

    @property
    def spec(self) -> Spec:
        return self[1]


def run(argv: Sequence[str]) -> int:
    """The command: 0 where all runs are finished, 1 where one failed, 130 where it was stopped."""
    chosen = ask(Options, argv, "dreamlab sweep", __doc__ or "")
    return sweep(chosen.file, chosen.out, chosen.jobs, chosen.dry_run)


def sweep(
    file: str | Path,
    out: str | Path | None = None,
    jobs: int = 1,
    dry_run: bool = False,
    say: Callable[[str], None] = print,
) -> int:
    """Train the runs of a file; returns the exit code.

    Raises:
        UserError: everything that is wrong in the file, before anything is started.
    """
    if jobs < 1:
        raise UserError(f"--jobs must be at least 1, got {jobs}")
    folder = Path(out) if out else Path("runs") / Path(file).stem
    runs = read(Path(file), folder)
    if dry_run:
        for line in costs(runs):
            say(line)
        return 0
    from dreamlab.cli import side_by_side

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if jobs > cores:
        say(f"there are {cores} cores: {cores} runs side by side")
    specs = dict(runs)
    ended = side_by_side.train_all(specs, folder, min(jobs, cores, len(runs)), cores, say)
    if ended.stopped:
        say(f"stopped: {len(ended.finished)} of {len(runs)} runs are finished; type the same command to go on")
        return 130
    for name, why in ended.failed.items():
        say(f"failed: {name}: {why} (log: {folder / side_by_side.NOTES / name}.log)")
    done = [folder / name for name in specs if name in ended.finished]
    say(f"{len(done)} of {len(runs)} runs are finished")
    if done:
        _compare(done, folder / COMPARISON, say)
    return 1 if ended.failed else 0


def _compare(folders: Sequence[Path], out: Path, say: Callable[[str], None]) -> None:
    """What ``dreamlab compare`` says of finished runs."""
    argv = [*map(str, folders), "--out", str(out)]
    if importlib.util.find_spec("dreamlab.cli.compare") is None:
        say(f"compare them: dreamlab compare {' '.join(argv)}")
        return
    try:
        importlib.import_module("dreamlab.cli.compare").run(argv)
    except UserError as error:  # the runs themselves are in order
        say(f"they were not compared: {error}")


# -- the file --------------------------------------------------------------------------------------------------


def read(file: Path, folder: Path) -> list[Run]:
    """The runs of a file, in the order in which they are trained: by the grid first, then by ``runs``.

    Raises:
        UserError: everything that is wrong in it, each with the run that it is of.
    """
    data = read_yaml(file)
    problems = [f"{file}: {key}: unknown key.{suggest(str(key), KEYS)}" for key in data if key not in KEYS]
    parts: dict[str, Mapping[str, Any]] = {}
    for key in ("set", "grid", "runs"):
        parts[key] = {} if data.get(key) is None else data[key]
        if not isinstance(parts[key], Mapping):
            problems.append(f"{file}: {key}: expected a mapping, got {data[key]!r}")
            parts[key] = {}
    grid = {str(key): values for key, values in parts["grid"].items()}
    for key, values in grid.items():
        if not isinstance(values, list) or not values:
            problems.append(f"{file}: grid.{key}: expected a list of values, got {values!r}")
    for name, own in parts["runs"].items():
        if not isinstance(own, Mapping | None):
            problems.append(f"{file}: runs.{name}: expected a mapping of settings, got {own!r}")
    if problems:
        raise UserError("\n".join(problems))
    base = {key: data[key] for key in ("agent", "env", "preset") if key in data} | dict(parts["set"])
    found: list[Run] = []
    for values in itertools.product(*grid.values()):
        place = dict(zip(grid, values, strict=True))
        for name, own in (parts["runs"] or {"": None}).items():
            called = _slug("-".join([str(name), *_words(place)]).strip("-") or "run")
            try:
                found.append(Run((called, _spec({**base, **place, **(own or {})}, folder / called))))
            except UserError as error:
                problems.append(f"{file}: {called}: {error}")
    names = [one.name for one in found]
    problems += [f"{file}: two runs are called {name!r}" for name in dict.fromkeys(names) if names.count(name) > 1]
    if problems:
        raise UserError("\n".join(dict.fromkeys(problems)))
    return found


def _words(place: Mapping[str, Any]) -> list[str]:
    """A place of the grid as parts of a name: s0 for a seed, the agent and the environment as they are, lr=0.1."""
    plain = {"seed": "s{}", "agent": "{}", "env": "{}", "preset": "{}"}
    return [plain.get(key, f"{key.rpartition('.')[2]}={{}}").format(value) for key, value in place.items()]


def _slug(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._=-]+", "-", name).lstrip(".-")


def _spec(settings: Mapping[str, Any], folder: Path) -> Spec:
    """The run that is asked for by agent, env, preset, and options of train without their dashes."""
    agent = settings.get("agent")
    if not isinstance(agent, str):
        raise UserError(f"agent: name one of {', '.join(agents.names())}")
    spec = options.resolve(agent, settings.get("env"), settings.get("preset"))
    nested: dict[str, dict[str, Any]] = {"agent": {}, "env": {}, "run": {}}
    for key, value in settings.items():
        if key in ("agent", "env", "preset"):
            continue
        room, dot, rest = str(key).replace("-", "_").partition(".")
        inner = nested[room] if dot and room in ("agent", "env") else nested["run"]
        *path, last = (rest if inner is not nested["run"] else str(key).replace("-", "_")).split(".")
        for name in path:
            inner = inner.setdefault(name, {})
        inner[last] = value
    spec = dataclasses.replace(
        spec,
        config=merge(spec.config, nested["agent"], "agent"),
        env=merge(spec.env, nested["env"], "env"),
        run=merge(spec.run, nested["run"], ""),
        folder=folder,
    )
    agents.load(spec.agent).budget(spec.config, spec.run)  # refuses budgets in which nothing is learned
    return spec


def costs(runs: Sequence[Run]) -> list[str]:
    """A table: each run with its environment steps, its rounds of learning, and what sets it apart."""
    rows, total = [], 0
    for one in runs:
        phases = agents.load(one.spec.agent).budget(one.spec.config, one.spec.run)
        steps = sum(phase.env_steps for phase in phases)
        total += steps
        rounds = sum(phase.rounds for phase in phases)
        rows.append((one.name, f"{one.spec.agent} on {one.spec.env.id}", f"{steps:,}", f"{rounds:,}"))
    rows = [("run", "", "env steps", "rounds"), *rows, (f"{len(runs)} runs", "", f"{total:,}", "")]
    wide = [max(len(row[i]) for row in rows) for i in range(4)]
    return [f"{a:{wide[0]}}  {b:{wide[1]}}  {c:>{wide[2]}}  {d:>{wide[3]}}" for a, b, c, d in rows]
