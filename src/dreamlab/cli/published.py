"""Opening a published model: nothing of it is executed, and no environment is built."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from dreamlab import agents
from dreamlab.cli import options, plan, session
from dreamlab.cli.named import Place
from dreamlab.core.config import merge
from dreamlab.core.errors import UserError, unknown
from dreamlab.envs.config import EnvConfig
from dreamlab.envs.recordings import ID as NO_ENV
from dreamlab.publish import package


def open_published(place: Place, device: str | None = None) -> session.Opened:
    """A published model, ready to act and to dream.

    Raises:
        UserError: a pickle, a file outside its folder, an unknown agent, weights of another shape.
        RunError: a file is truncated or altered.
    """
    found = package.read(place.folder, place.root)
    stored, own_env = _harmless(found.config, place)
    spec = options.from_dict(stored, str(place.folder / "config.yaml"))
    run = merge(spec.run, {"device": device or "auto"}, "run")
    spec = dataclasses.replace(spec, run=run, folder=place.home)
    module = agents.load(spec.agent)
    _refuse_unfit(plan.imagined(module, spec, found.obs_space, found.act_space), found.state, place)
    compute = session.prepare(spec, learns=False)
    agent = session.make_agent(spec, module, found.obs_space, found.act_space, compute)
    session.load_agent(agent, package.filled(found.state, agent.state_dict()), place.folder)
    return session.Opened(
        place.home, spec, found.step, agent, compute, found.obs_space, found.act_space, {}, found.starts, own_env
    )


def _harmless(stored: Mapping[str, Any], place: Place) -> tuple[dict[str, Any], str | None]:
    """Settings that name no code of a stranger's choice, and the environment that was taken out of them.

    Raises:
        UserError: an agent that is none of dreamlab's.
    """
    agent, env = stored.get("agent"), stored.get("env")
    if not isinstance(agent, str) or agents.canonical(agent) not in agents.names():
        error = unknown("agent", str(agent), agents.names())
        raise UserError(f"{place.folder}: {error} Code that a downloaded model names is not run")
    id = env.get("id") if isinstance(env, Mapping) else None
    if not isinstance(id, str) or ":" not in id:
        return dict(stored), None
    shared = {field.name for field in dataclasses.fields(EnvConfig)}  # an id with a colon imports a module
    return {**stored, "env": {**{k: v for k, v in env.items() if k in shared}, "id": NO_ENV}}, id  # type: ignore[union-attr]


def _refuse_unfit(agent: Any, state: Mapping[str, Any], place: Place) -> None:
    """Compare shapes before anything of that size is made. Raises UserError with the first that does not fit."""
    for name, part in agent.parts.items():
        there = state.get(name)
        if not hasattr(part, "state_dict") or not isinstance(there, Mapping):
            continue
        for key, expected in part.state_dict().items():
            shape = getattr(there.get(key), "shape", None)
            if shape is not None and shape != expected.shape:
                raise UserError(
                    f"{place.folder}: {name}.{key} has the shape {tuple(shape)}, but the agent that config.yaml "
                    f"describes has {tuple(expected.shape)} there: refused"
                )
