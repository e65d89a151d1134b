"""``dreamlab plan``: what a run would cost, without running it; ``train`` says the same at its start."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Annotated, Any

from dreamlab import agents, envs
from dreamlab.cli.flags import Argument
from dreamlab.cli.options import PlanFlags, Spec, parse
from dreamlab.cli.recorded import refuse_unable, taken
from dreamlab.core.errors import UserError

if TYPE_CHECKING:
    from gymnasium import spaces

    from dreamlab.core.protocols import Agent, Phase
    from dreamlab.core.types import Recorded

ABOUT = "what a run would cost: steps, parameters, memory, disk"

MIB = 1 << 20

# Constants of the estimate, measured on Linux with CPU torch as anonymous and shared memory, each page counted once
# (run.memory.held), and as blocks on disk.
PROCESS_BYTES = 255 * MIB
"""a process with all of dreamlab imported after three steps of Adam on a small network (271, less 16 for it)"""
WORKER_BYTES = 12 * MIB
"""a worker process with an environment of numbers; a suite whose worlds are bigger says so (``WORKER_BYTES``)"""
WEIGHT_COPIES = 4
"""in memory: weights, gradients, and Adam's two moments"""
SAVED_COPIES = 3
"""in a checkpoint: weights and Adam's two moments"""
RESET_ROWS = 0.01
"""rows that begin an episode take no step: one in a hundred rows, unless the agent's episodes are shorter"""
EXTRA_DISK_BYTES = 2 * MIB
"""metrics, pictures, films"""
REWRITTEN_ROWS = 3_000_000
"""rows that learning writes anew between two checkpoints, at most: 10 updates of 1024 rows a second for 5 minutes"""
MARGIN = 0.95
"""share of what is free that a run may take"""


@dataclass(frozen=True)
class Flags(PlanFlags):
    """What only planning asks for."""

    json: Annotated[bool, Argument(help_behavior_hint="")] = False
    """print JSON"""


@dataclass(frozen=True)
class Plan:
    """What a run would cost."""

    agent: str
    env: str
    phases: tuple[Phase, ...]
    repeat: int
    """frames of the environment in one step"""
    parameters: Mapping[str, int]
    """optimised ones by part; one that two parts share counts for the first"""
    memory_bytes: int
    disk_bytes: int
    copies: Mapping[str, int] = field(default_factory=dict)
    """parameters that follow others and are not optimised (slow and target networks), by part"""

    @property
    def env_steps(self) -> int:
        return sum(phase.env_steps for phase in self.phases)

    @property
    def frames(self) -> int:
        return self.env_steps * self.repeat

    def to_dict(self) -> dict[str, Any]:
        """The shape that ``--json`` prints."""
        return {
            "agent": self.agent,
            "env": self.env,
            "phases": [{"name": p.key, "env_steps": p.env_steps, "rounds": p.rounds} for p in self.phases],
            "frames": self.frames,
            "parameters": {**self.parameters, "total": sum(self.parameters.values())},
            **({"copies": dict(self.copies)} if self.copies else {}),
            "memory_bytes": self.memory_bytes,
            "disk_bytes": self.disk_bytes,
        }


def run(argv: Sequence[str]) -> int:
    """Print a plan."""
    spec, flags = parse(argv, "dreamlab plan", Flags, "What a run would cost, without running it.")
    from dreamlab.cli import recorded, session

    material = recorded.find(spec, spec.folder)
    spec, obs_space, act_space, _ = session.settle(spec, material)
    if material is not None:
        recorded.refuse_unfit(material, spec, obs_space, act_space)
    found = plan(spec, spaces=(obs_space, act_space), recorded=recorded.told(material, spec.env))
    if flags.json:
        print(json.dumps(found.to_dict(), indent=2))
    else:
        print(f"{spec.agent} on {spec.env.id}: {spec.said}")
        for line in recorded.words(material, spec.env, obs_space) if material else []:
            print(line)
        print("\n".join(lines(found)))
    return 0


def _recipe(spec: Spec, module: ModuleType, recorded: Recorded | None) -> Sequence[Phase]:
    """The agent's budget; parts taken from another run are not trained again, and recordings not collected."""
    loaded = taken(spec)
    if recorded is not None:
        return module.budget(spec.config, spec.run, loaded, recorded)
    return module.budget(spec.config, spec.run, loaded) if loaded else module.budget(spec.config, spec.run)


def plan(
    spec: Spec,
    phases: Sequence[Phase] | None = None,
    spaces: tuple[spaces.Dict, spaces.Space] | None = None,
    recorded: Recorded | None = None,
) -> Plan:
    """What ``spec`` would cost. Networks are built at full size on the meta device, which takes no memory.

    Args:
        spec: the run.
        phases: its recipe where it differs from the agent's ``budget``.
        spaces: of observations and actions; without them, an environment is built to see.
        recorded: the recordings that it learns from.

    Raises:
        UserError: the agent cannot be built for this environment, cannot learn from these recordings, or takes no
            parts of another run where it is to.
    """
    module = agents.load(spec.agent)
    obs_space, act_space = spaces or envs.spaces_of(spec.env)
    agent = imagined(module, spec, obs_space, act_space)
    refuse_unable(agent, spec, recorded)
    if spec.source is not None and not hasattr(agent, "load_parts"):
        raise UserError(
            f"this agent cannot take parts from another run: leave out --from {spec.source}; world-models and the "
            "Dreamers can"
        )
    recipe = tuple(phases if phases is not None else _recipe(spec, module, recorded))
    counts, parameters = count(agent.parts), count(agent.parts, but=getattr(agent, "copies", ()))
    copies = {name: n for name, n in counts.items() if name not in parameters}
    footprint = module.footprint(spec.config, obs_space, act_space, spec.run)
    weights, followers = (4 * sum(c.values()) for c in (parameters, copies))
    worker = getattr(envs.suite_of(spec.env.id), "WORKER_BYTES", WORKER_BYTES)
    rolls = 2 if any(phase.rounds for phase in recipe) else 1
    if recorded is not None:  # whole episodes at the end alone, unless some are collected on top
        rolls = (1 + any(phase.env_steps for phase in recipe)) * recorded.env
    return Plan(
        agent=spec.agent,
        env=spec.env.id,
        phases=recipe,
        repeat=spec.env.repeat,
        parameters=parameters,
        copies=copies,
        memory_bytes=PROCESS_BYTES
        + rolls * spec.run.envs * worker * spec.env.workers
        + footprint.memory_bytes
        + weights * WEIGHT_COPIES
        + followers,
        disk_bytes=replay_bytes(spec, recipe, obs_space, act_space, footprint.row_bytes, recorded, footprint.rewritten)
        + spec.run.keep * (weights * SAVED_COPIES + followers)
        + EXTRA_DISK_BYTES,
    )


def lines(found: Plan) -> list[str]:
    """A plan in a few lines for reading."""
    wide = max(len(name) for name in ("phase", *(p.key for p in found.phases)))
    table = [f"  {'phase':{wide}}  {'env steps':>12}  {'frames':>12}  {'rounds':>9}"]
    for p in found.phases:
        table.append(f"  {p.key:{wide}}  {p.env_steps:>12,}  {p.env_steps * found.repeat:>12,}  {p.rounds:>9,}")
    if len(found.phases) > 1:
        rounds = sum(p.rounds for p in found.phases)
        table.append(f"  {'in all':{wide}}  {found.env_steps:>12,}  {found.frames:>12,}  {rounds:>9,}")
    parts, copies = (", ".join(f"{name} {n:,}" for name, n in c.items()) for c in (found.parameters, found.copies))
    apart = f"; copies beside them: {copies}" if copies else ""
    return [
        *table,
        f"  parameters: {sum(found.parameters.values()):,}{f' ({parts}){apart}' if parts else ''}",
        f"  expected: memory {size(found.memory_bytes)}, disk {size(found.disk_bytes)}",
    ]


def refuse_if_too_big(found: Plan, folder: Path) -> None:
    """Raise UserError where the run needs more memory or disk than is free; says what would fit."""
    memory, disk = free_memory(), free_disk(folder)
    wrong = []
    if found.memory_bytes > MARGIN * memory:
        wrong.append(
            f"needs about {size(found.memory_bytes)} of memory, but {size(memory)} are free: "
            "fewer --envs, or smaller batches and networks (--agent options), would fit"
        )
    one_more = sum(found.parameters.values()) * 4 * SAVED_COPIES  # a checkpoint is written before an older one goes
    if found.disk_bytes + one_more > MARGIN * disk:
        fits = int(found.env_steps * MARGIN * disk / found.disk_bytes)
        less = (
            f"about {_round(fits):,} of its {found.env_steps:,} steps would fit (--steps {_round(fits)}), "
            "or keep the newest rows only (--capacity)"
            if found.env_steps
            else "fewer recordings or smaller images (--env.size) would fit"
        )
        wrong.append(
            f"needs about {size(found.disk_bytes)} of disk, but {size(disk)} are free at {folder}: "
            f"{less}, or --run on another disk"
        )
    if wrong:
        raise UserError(f"this run {'; and it '.join(wrong)}")


def replay_bytes(
    spec: Spec,
    phases: Iterable[Phase],
    obs_space: spaces.Dict,
    act_space: spaces.Space,
    annotations: int,
    recorded: Recorded | None = None,
    rewritten: bool = False,
) -> int:
    """Bytes on disk of the rows that will be held, as the replay reserves them column by column.

    Annotations that are ``rewritten`` are kept once more for each checkpoint, as far as learning comes between two.
    """
    import numpy as np

    from dreamlab.run.columns import RESERVE_BYTES

    steps, streams = sum(phase.env_steps for phase in phases), spec.run.envs if recorded is None else 1
    rows = steps * (1 + RESET_ROWS) + (recorded.rows if recorded is not None else 0)
    if not rows:
        return 0
    if spec.run.capacity:
        rows = min(rows, spec.run.capacity + spec.run.keep * max(64 * streams, spec.run.capacity / 8))
    times = math.ceil(rows / streams)
    spaces_of_row = [*obs_space.spaces.values(), act_space]
    widths = [int(np.prod(space.shape, dtype=np.int64)) * np.dtype(space.dtype).itemsize for space in spaces_of_row]  # type: ignore[arg-type]
    widths += [4, 1, 1, 1]  # rew, is_first, is_last, is_terminal
    held = times * streams * (sum(widths) + annotations)
    if rewritten:
        held += spec.run.keep * min(times * streams, REWRITTEN_ROWS) * annotations
    return held + sum(min(RESERVE_BYTES, max(1 << 16, times * streams * width // 16)) // 2 for width in widths)


def count(parts: Mapping[str, Any], but: Container[str] = ()) -> dict[str, int]:
    """Parameters of each part that has any, ``but`` of some; shared ones count once."""
    seen: set[int] = set()
    counts = {}
    for name, part in parts.items():
        if name in but or not hasattr(part, "parameters"):
            continue
        new = {id(p): p.numel() for p in part.parameters() if id(p) not in seen}
        seen |= new.keys()
        counts[name] = sum(new.values())
    return counts


def imagined(module: Any, spec: Spec, obs_space: spaces.Dict, act_space: spaces.Space) -> Agent:
    """The agent at full size, taking no memory."""
    import torch

    from dreamlab.nn.compute import Compute

    meta = torch.device("meta")
    with meta:
        return module.build(spec.config, obs_space, act_space, Compute(meta), spec.run.seed, spec.run)


# -- what there is -------------------------------------------------------------------------------------------


def free_memory() -> int:
    """Bytes that this process may still take: what the machine has free, or its control group's limit leaves."""
    import psutil

    return max(0, min([psutil.virtual_memory().available, *_limits()]))


def _limits() -> Iterable[int]:
    """What the limits of control groups (containers, batch systems) leave; pages of files do not count as taken."""
    root = Path("/sys/fs/cgroup")
    for folder, limit, usage, files in (
        (root, "memory.max", "memory.current", "file"),
        (root / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_cache"),
    ):
        try:
            allowed, taken = (folder / limit).read_text().strip(), int((folder / usage).read_text())
            stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        except (OSError, ValueError):
            continue
        if allowed.isdigit():
            yield int(allowed) - taken + int(stat.get(files, 0))


def free_disk(folder: Path) -> int:
    """Bytes free where ``folder`` is, or will be."""
    there = folder.absolute()
    while not there.exists():
        there = there.parent
    return shutil.disk_usage(there).free + _held(folder)


def _held(folder: Path) -> int:
    """Bytes that a run which goes on has taken already."""
    total = 0
    for path, _, files in os.walk(folder):
        for file in files:
            try:
                total += os.lstat(os.path.join(path, file)).st_blocks * 512
            except OSError:
                continue
    return total


def size(n: float) -> str:
    """Bytes for reading: 3.2 GiB."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if n < 1000:
            return f"{n:.3g} {unit}"
        n /= 1024
    return f"{n:,.3g} TiB"


def _round(n: int) -> int:
    """Two leading digits, rounded down."""
    digits = 10 ** max(0, len(str(n)) - 2)
    return n // digits * digits
