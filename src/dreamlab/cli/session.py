"""Opening a run: agent, environments, rows and logs put together from a ``Spec`` or from a run folder."""

from __future__ import annotations

import dataclasses
import functools
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal

from gymnasium import spaces

from dreamlab import agents, envs
from dreamlab.cli import options, recorded, resume
from dreamlab.cli.options import Spec
from dreamlab.core.config import read_yaml
from dreamlab.core.errors import RunError, UserError, suggest
from dreamlab.envs.recordings import ID as NO_ENV
from dreamlab.run.holding import failure_noted, is_training, locked  # noqa: F401 (part of a session)

if TYPE_CHECKING:
    from gymnasium.vector import VectorEnv

    from dreamlab.cli.recorded import Material
    from dreamlab.core.protocols import Agent, Policy, WorldModel
    from dreamlab.logs.logger import Sink
    from dreamlab.nn.compute import Compute
    from dreamlab.run.experience import Experience


@dataclass(frozen=True)
class Opened:
    """A run that was trained, or is being trained: its agent at one checkpoint."""

    folder: Path
    spec: Spec
    step: int
    agent: Agent
    compute: Compute
    obs_space: spaces.Dict
    act_space: spaces.Space
    parts: Mapping[str, Any]
    contexts: Any = None
    """of a published model: its start contexts, in place of rows (``publish.contexts.Contexts``)"""
    own_env: str | None = None
    """of a published model: the environment that is code of somebody's own, and is not built here"""

    def policy(self, explore: bool = False) -> Policy:
        """How the agent acts: as it is evaluated, or as it explores."""
        return self.agent.policy(explore)

    @property
    def model(self) -> WorldModel:
        """Its world model.

        Raises:
            UserError: it has none.
        """
        model = getattr(self.agent, "model", None)
        if model is None:
            raise UserError(f"the agent {self.spec.agent!r} has no world model to dream in")
        return model

    def make_env(self, n: int = 1, render: bool = False) -> VectorEnv:
        """The environment it was trained on, ``n`` side by side."""
        return envs.make(self.spec.env, n, self.spec.run.seed, render=render)

    def rows(self) -> Experience:
        """What it has experienced, for reading."""
        from dreamlab.run.experience import Experience
        from dreamlab.run.replay import Replay

        if self.contexts is not None:
            return Experience(self.contexts, self.obs_space, self.act_space, self.compute.device)
        if "run" not in self.parts:
            raise RunError(f"{self.folder} was published without start contexts: it acts, but has nothing to dream of")
        state = self.parts["run"]["experience"]["replay"]
        replay = Replay.view(self.folder / "replay", state)
        return Experience(replay, self.obs_space, self.act_space, self.compute.device)

    def starts(self, count: int = 64) -> Any:
        """Latents (count, ...) of first rows of its episodes: where a dream may begin.

        Raises:
            UserError: it has no world model.
            RunError: it holds no rows.
        """
        import numpy as np
        import torch

        from dreamlab.core.imagination import tree_map
        from dreamlab.core.sampling import WholeEpisodes

        rows = self.rows()
        first = np.unique(WholeEpisodes(self.spec.run.seed)(rows.index, count, 1, replace=False), axis=0)
        batch = rows.gather(first)
        begins = batch.is_first[:, 0]  # an episode that the ring has cut has lost its first row
        begins = begins if self.contexts is None or bool(begins.any()) else torch.ones_like(begins)
        return tree_map(lambda x: x[begins, 0], self.model.observe(batch))


def stored_spec(folder: Path) -> Spec:
    """The spec of a run folder. Raises UserError with all that is wrong in it."""
    path = folder / "config.yaml"
    return dataclasses.replace(options.from_dict(read_yaml(path), str(path)), folder=folder)


def settle(spec: Spec, found: Material | None = None) -> tuple[Spec, spaces.Dict, spaces.Space, ModuleType]:
    """The spec with what depends on the environment settled, the spaces, and the agent's module.

    An agent that sees images looks at rendered frames where the environment itself gives vectors.
    Where there is no environment, the recordings ``found`` say what is seen, or the run's folder does.
    """
    module = agents.load(spec.agent)
    if spec.env.id == NO_ENV and (found or spec.folder):
        found = found or recorded.remembered(spec.folder)  # type: ignore[arg-type]
        if found is not None:
            return spec, *recorded.spaces_alone(found, spec.env), module
    obs_space, act_space = envs.spaces_of(spec.env)
    if module.SEES == "image" and "image" not in obs_space.spaces and spec.env.obs == "auto":
        spec = dataclasses.replace(spec, env=dataclasses.replace(spec.env, obs="pixels"))
        obs_space, act_space = envs.spaces_of(spec.env)
    return spec, obs_space, act_space, module


def make_agent(
    spec: Spec, module: ModuleType, obs_space: spaces.Dict, act_space: spaces.Space, compute: Compute
) -> Agent:
    """A fresh agent; its weights depend on the seed alone."""
    from dreamlab.core.seeds import forked

    with forked(spec.run.seed, "agent"):
        return module.build(spec.config, obs_space, act_space, compute, spec.run.seed, spec.run)


def environments(spec: Spec, n: int, render: bool | Literal["human"] = False) -> VectorEnv:
    """``n`` of the run's environments side by side."""
    return envs.make(spec.env, n, spec.run.seed, render=render)


def make_experience(
    spec: Spec, folder: Path, obs_space: spaces.Dict, act_space: spaces.Space, compute: Compute
) -> Experience:
    """The table of rows in ``folder/replay``, and environments that start when they are needed."""
    from dreamlab.run.experience import Experience
    from dreamlab.run.replay import Replay

    streams = spec.run.envs if spec.data is None else 1  # recordings come one after another
    replay = Replay(folder / "replay", streams, spec.run.capacity, spec.run.keep)
    make, collect = (functools.partial(environments, spec, n) for n in (spec.run.envs, streams))
    return Experience(replay, obs_space, act_space, compute.device, make, spec.run.envs, collect=collect)


def sinks(spec: Spec, folder: Path) -> list[Sink]:
    """Where a run's metrics go; nothing is written yet.

    Raises:
        UserError: an unknown sink, or one whose package is missing.
    """
    from dreamlab.logs.logger import STANDARD, open_sinks

    names = list(spec.logs or STANDARD)
    if spec.wandb is None:
        return open_sinks(folder, names)
    return open_sinks(folder, dict.fromkeys([*names, "wandb"]), {"wandb": {"project": spec.wandb}})


def prepare(spec: Spec, learns: bool = True) -> Compute:
    """Device, precision and threads for this process, where something is learned or only looked at."""
    from dreamlab.nn import compute

    run = spec.run
    return compute.prepare(run.device, run.precision, run.compile, run.threads, learns)


def open_run(path: str | Path, checkpoint: int | None = None, device: str | None = None) -> Opened:
    """The agent of a run's folder at a checkpoint (the newest whole one unless told), or of a published model.

    Raises:
        UserError: no run there and no such model, no such checkpoint, a pickle in it.
        RunError: every checkpoint is damaged; the Hub cannot be reached.
    """
    from dreamlab.cli import named
    from dreamlab.run.checkpoint import Checkpoints
    from dreamlab.run.trainer import agent_state

    place = named.place(path)
    if place.published:
        from dreamlab.cli.published import open_published

        opened = open_published(place, device)
        if checkpoint not in (None, opened.step):
            raise UserError(f"{path} is a published model of one checkpoint, {opened.step}; leave out --checkpoint")
        return opened
    folder = place.folder
    refuse_no_run(folder)
    spec = stored_spec(folder)
    if device is not None:
        spec = dataclasses.replace(spec, run=dataclasses.replace(spec.run, device=device))  # type: ignore[arg-type]
    step, parts, words = Checkpoints(folder, spec.run.keep).load(checkpoint)
    for word in words:
        print(f"dreamlab: {word}; the one before it is taken, step {step}", file=sys.stderr)
    if made := parts["run"].get("settings"):
        path = folder / "config.yaml"
        resume.refuse_edited(path, read_yaml(path), step, made, only=("agent", "config", "env"))
    spec, obs_space, act_space, module = settle(spec)
    compute = prepare(spec, learns=False)
    agent = make_agent(spec, module, obs_space, act_space, compute)
    load_agent(agent, agent_state(parts), folder)
    return Opened(folder, spec, step, agent, compute, obs_space, act_space, parts)


def refuse_no_run(folder: Path) -> None:
    """Raises UserError, naming the runs beside it, where a folder holds no run."""
    if not (folder / "config.yaml").exists():
        near = sorted(p.parent.name for p in folder.parent.glob("*/config.yaml")) if folder.parent.is_dir() else []
        what = f"there is no folder {folder}" if not folder.exists() else f"{folder} holds no run (no config.yaml)"
        raise UserError(f"{what}; runs in {folder.parent}: {', '.join(near) or 'none'}.{suggest(folder.name, near)}")


def load_agent(agent: Agent, state: Mapping[str, Any], folder: Path) -> None:
    """Give an agent its saved state, or say that the two do not fit."""
    try:
        agent.load_state_dict(state)
    except (RuntimeError, KeyError, ValueError, TypeError) as error:
        raise UserError(
            f"the checkpoint in {folder} does not fit the agent that its config.yaml describes ({_first_line(error)}): "
            "one of the two was edited or belongs to another run"
        ) from error


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {' '.join(lines[:2])[:300]}"
