"""Dreams as environments: what ``--env dream:RUN`` opens, and the environment that was dreamt of."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dreamlab.core.errors import UserError
from dreamlab.envs import dream

if TYPE_CHECKING:
    import gymnasium

    from dreamlab.cli.session import Opened
    from dreamlab.envs.config import EnvConfig


def wire() -> None:
    """Let ``envs`` open runs."""
    dream.opener = make


def make(config: dream.Config, render_mode: str | None = None) -> gymnasium.Env:
    """The dream of a run's world model as one environment.

    Where the model predicts no reward, each step that is lived through earns 1, as in World Models' VizDoom.

    Raises:
        UserError: the run has no world model, or nothing can be earned in its dream.
    """
    from gymnasium.wrappers import TransformReward

    from dreamlab.dream.env import DreamEnv

    opened, starts, said = _opened(dream.folder(config.id).resolve(), config.checkpoint, config.starts)
    env = DreamEnv.single(
        opened.model,
        starts,
        opened.act_space,
        horizon=config.time_limit or dream.LIMIT,
        temperature=config.temperature,
        render_mode=render_mode,
    )
    if "rew" in said:
        return env
    if "con" not in said:
        raise UserError(f"{config.id}: its model predicts neither rewards nor ends: there is nothing to earn in it")
    return TransformReward(env, lambda rew: 1.0)


@functools.lru_cache(maxsize=2)
def _opened(folder: Path, checkpoint: int | None, count: int) -> tuple[Opened, Any, frozenset[str]]:
    """The run, the latents that its dreams begin from, and what it predicts; a process's environments share them."""
    import torch

    from dreamlab.cli import session

    threads = torch.get_num_threads()
    opened = session.open_run(folder, checkpoint)
    torch.set_num_threads(threads)  # the dreamer's own setting does not count here
    if not hasattr(opened.agent, "model"):
        raise UserError(f"{folder} was trained by {opened.spec.agent}, which has no world model to dream in")
    with torch.no_grad():
        starts = opened.starts(count)
        return opened, starts, frozenset(opened.model.predict(starts))


def reality(opened: Opened, id: str) -> EnvConfig:
    """The environment ``id`` as the run saw it that ``opened`` was trained in the dream of.

    Another environment is seen at the same size, with its own settings.
    """
    from dreamlab import envs
    from dreamlab.cli import session

    dreamt = session.stored_spec(dream.folder(opened.spec.env.id)).env
    if dreamt.id == id:
        return dataclasses.replace(dreamt, size=opened.spec.env.size)
    return dataclasses.replace(envs.default_config(id), size=opened.spec.env.size)
