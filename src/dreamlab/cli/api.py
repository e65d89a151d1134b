"""The same in Python: ``train``, ``load``, ``evaluate``, ``compare``, ``make_env``."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dreamlab import envs
from dreamlab.cli import options
from dreamlab.cli.compare import compare as compare
from dreamlab.cli.evaluate import evaluate as evaluate
from dreamlab.core.config import merge
from dreamlab.core.errors import RunError

if TYPE_CHECKING:
    from gymnasium.vector import VectorEnv

    from dreamlab.cli.session import Opened


def train(
    agent: str,
    env: str | None = None,
    *,
    preset: str | None = None,
    folder: str | Path | None = None,
    config: dict[str, Any] | None = None,
    env_config: dict[str, Any] | None = None,
    data: str | Path | None = None,
    **run: Any,
) -> Opened:
    """Train an agent, or go on with the run in ``folder``; returns it, ready to act.

    Args:
        agent: ``"world-models"``, or the dotted path of your own agent's module.
        env: an environment's id; may be left out where there is ``data``.
        preset: settings to start from; the agent's for that suite unless named.
        folder: where the run is written; ``runs/...`` named after agent, environment and seed unless told.
        config: the agent's settings, nested: ``{"vision": {"updates": 1000}}``.
        env_config: the environment's settings: ``{"time_limit": 500}``.
        data: recordings to learn from instead of collecting: a folder of files, a dataset, or a run's.
        run: how to run: ``seed=1, envs=4, device="cuda"`` (``dreamlab.run.config.RunConfig``).

    Raises:
        UserError: something unknown, missing or of the wrong type; all mistakes at once.
        RunError: the run could not go on, or was stopped; its last checkpoint is kept.
    """
    from dreamlab.cli.train import home
    from dreamlab.cli.train import train as start

    spec = options.resolve(agent, env, preset, data=data)
    spec = dataclasses.replace(
        spec,
        config=merge(spec.config, config or {}, "config"),
        env=merge(spec.env, env_config or {}, "env_config"),
        run=merge(spec.run, run, ""),
        folder=None if folder is None else Path(folder),
    )
    if start(spec):
        raise RunError(f"the run in {home(spec)} was stopped; the same call goes on with it")
    return load(home(spec))


def load(run: str | Path, checkpoint: int | None = None, device: str = "auto") -> Opened:
    """A trained agent from its run's folder, or a published one: ``load("runs/demo").policy()`` acts.

    Args:
        run: a run's folder, the folder of a published model, or ``user/name`` (``user/name@revision``) on the
            Hugging Face Hub; a path that exists here wins.
        checkpoint: its step; the newest whole one unless told.
        device: where the networks live.

    Raises:
        UserError: no run there, no such checkpoint or model, a pickle in it.
        RunError: every checkpoint is damaged; the Hub cannot be reached.
    """
    from dreamlab.cli import session

    return session.open_run(run, checkpoint, device)


def make_env(id: str, n: int = 1, seed: int = 0, **settings: Any) -> VectorEnv:
    """``n`` environments side by side (``gymnasium.vector.VectorEnv``), preprocessed as agents see them.

    Args:
        id: an environment's id: ``"CarRacing-v3"``, any Gymnasium id, or ``"my_pkg.my_env:make"``.
        n: how many.
        seed: from which the episodes' seeds are derived.
        settings: the environment's settings: ``size=(64, 64), time_limit=500``.
    """
    return envs.make(merge(envs.default_config(id), settings, "settings"), n, seed)
