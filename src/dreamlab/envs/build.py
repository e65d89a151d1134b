"""One environment, from its settings to the form that agents see; ``Build`` travels to a worker and builds there."""

from __future__ import annotations

import copy
import sys
from dataclasses import dataclass
from functools import partial
from types import ModuleType
from typing import Any, Literal

import gymnasium
from gymnasium.envs.registration import EnvSpec, registry
from gymnasium.wrappers import AddRenderObservation, HumanRendering, TimeLimit

from dreamlab import envs
from dreamlab.core.errors import UserError
from dreamlab.envs.config import EnvConfig
from dreamlab.envs.wrappers import AsDict, Fresh, Pixels, PlainAction, Repeat, SeededReset, UnitAction, has_images

Render = bool | Literal["human"]


@dataclass(frozen=True)
class Build:
    """Builds environment ``index`` of a run with this seed, in whichever process calls it."""

    config: EnvConfig
    seed: int
    index: int
    render: Render = False
    spec: EnvSpec | None = None
    """how the id was registered, where a worker would not know"""

    @property
    def window(self) -> bool:
        """Whether a window is to be opened."""
        return self.render == "human"

    def __call__(self) -> SeededReset:
        if self.spec is not None:
            registry.setdefault(self.spec.id, self.spec)
        return SeededReset(one(self.config, self.render), self.seed, self.index)


def one(config: EnvConfig, render: Render = False) -> gymnasium.Env:
    """One environment with all preprocessing, but without the reset protocol.

    Raises:
        UserError: it cannot be made like this; says what to type.
    """
    suite = envs.suite_of(config.id)
    try:
        env = _raw(suite, config, "rgb_array" if render else None)
        repeated = config.repeat == 1 or getattr(suite, "REPEATS", False)
        env = PlainAction(env if repeated else Repeat(env, config.repeat))
        if config.actions == "unit":
            env = UnitAction(env)
        if config.time_limit is not None:
            env = TimeLimit(env, config.time_limit)
        if config.obs == "pixels" and not has_images(env.observation_space):
            env = AddRenderObservation(env, render_only=True)
        env = Pixels(AsDict(env, config.obs), config.size, config.crop, config.grey)
    except UserError as error:
        if config.id in str(error):
            raise
        raise UserError(f"{config.id}: {error}") from error
    return HumanRendering(env) if render == "human" else env


def _raw(suite: ModuleType, config: EnvConfig, render_mode: str | None) -> gymnasium.Env:
    """As the suite makes it; able to draw where pixels are wanted and it gives none by itself."""
    env = suite.make(config, render_mode)
    if config.obs == "pixels" and render_mode is None and not has_images(env.observation_space):
        env.close()
        render_mode = "rgb_array"
        env = suite.make(config, render_mode)
    if not config.fresh:
        return env
    env.close()
    return Fresh(partial(suite.make, config, render_mode))


def registered(id: str) -> EnvSpec | None:
    """How this process registered an id that Gymnasium itself does not have; None otherwise."""
    spec = registry.get(id)
    entry: Any = spec.entry_point if spec else None
    if spec is None or (isinstance(entry, str) and entry.startswith("gymnasium.")):
        return None
    if isinstance(entry, str) and entry.startswith("__main__:"):  # a worker has another __main__
        spec = copy.copy(spec)
        spec.entry_point = getattr(sys.modules["__main__"], entry.split(":")[1])
    return spec
