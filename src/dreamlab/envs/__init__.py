"""Environments: any id as one vector environment of the form that agents see.

A suite is one module here, found by its name::

    Config(EnvConfig)                              its settings; ``Config(id=...)`` is the default of an id
    claims(id) -> bool                             whether the id is one of its own
    ids() -> list[str]                             those that can be made here and now
    make(config, render_mode=None) -> Env          one environment as it comes
    make_vec(config, n, seed) -> VectorEnv | None  optional: a native engine, or None where it does not serve
    default(id) -> Config                          optional: an id's default, where ``Config(id=id)`` is not
    evaluation(config) -> EnvConfig                optional: the settings under which a score is taken
    measures(infos) -> dict[str, float]            optional: what a score tells of episodes beside their returns
    action_names(config) -> list[str]              optional: what each discrete action means, for who plays by hand
    REPEATS = True                                 optional: ``make`` gives environments that repeat actions themselves

Imports nothing heavy.
"""

from __future__ import annotations

import importlib
import pkgutil
from typing import TYPE_CHECKING, Literal

from dreamlab.core.errors import UserError
from dreamlab.envs.config import EnvConfig

if TYPE_CHECKING:
    from types import ModuleType

    from gymnasium import spaces
    from gymnasium.vector import VectorEnv

    from dreamlab.core.types import Outcome

__all__ = ["EnvConfig", "default_config", "evaluation", "make", "measures", "spaces_of", "suite_of", "suites"]

LAST = ("gym", "dotted")
"""suites that claim whatever nobody else does"""


def suites() -> list[str]:
    """The names of all suites, in the order in which they are asked whether an id is theirs."""
    packages = {"ale_py", "craftground", "dm_control", "envpool", "minerl"}
    parts = packages | {"build", "check", "config", "foreign", "processes", "wrappers", "workers"}
    names = sorted({m.name for m in pkgutil.iter_modules(__path__)} - parts)
    return [n for n in names if n not in LAST] + [n for n in LAST if n in names]


def suite_of(id: str) -> ModuleType:
    """The suite that an id belongs to.

    Raises:
        UserError: there is no such environment here; says what to type.
    """
    for name in suites():
        suite = importlib.import_module(f"{__name__}.{name}")
        if suite.claims(id):
            return suite
    from dreamlab.envs import foreign

    known = [i for name in suites() for i in importlib.import_module(f"{__name__}.{name}").ids()]
    answer = foreign.answer(id, known)
    if answer:
        raise UserError(answer)
    raise UserError(
        f"unknown environment {id!r}.{foreign.nearest(id, known)} Type dreamlab envs for those that work here; "
        "your own goes by its maker, as my_pkg.my_env:make"
    )


def default_config(id: str) -> EnvConfig:
    """The settings that an id starts from.

    Raises:
        UserError: there is no such environment here; says what to type.
    """
    suite = suite_of(id)
    return suite.default(id) if hasattr(suite, "default") else suite.Config(id=id)


def evaluation(config: EnvConfig) -> EnvConfig:
    """The settings under which a score is taken: those of training, without what only helps learning."""
    suite = suite_of(config.id)
    return suite.evaluation(config) if hasattr(suite, "evaluation") else config


def measures(id: str, outcome: Outcome) -> dict[str, float]:
    """What the suite of an id tells of episodes beside their returns, by name; nothing where it tells no more."""
    suite = suite_of(id)
    return suite.measures(outcome.infos) if hasattr(suite, "measures") and outcome.infos else {}


def make(config: EnvConfig, n: int, seed: int, render: bool | Literal["human"] = False) -> VectorEnv:
    """n environments side by side: NEXT_STEP autoreset, Dict observations.

    The attribute ``seeded`` says whether ``reset(options=...)`` follows ``wrappers.SeededReset``; a native
    engine ignores the options and starts fresh episodes.

    Args:
        config: the environment and its preprocessing.
        n: how many.
        seed: episode k of environment i has the seed ``derive(seed, "episode", i, k)``.
        render: True gives frames by ``render()``; "human" opens a window for each environment.

    Raises:
        UserError: it cannot be made like this; says what to type.
        RunError: it crashed while it was built, or later while it was stepped.
    """
    suite = suite_of(config.id)
    if not render and hasattr(suite, "make_vec"):
        envs = suite.make_vec(config, n, seed)
        if envs is not None:
            return envs
    from dreamlab.envs import build, workers

    spec = build.registered(config.id)
    builders = [build.Build(config, seed, i, render, spec) for i in range(n)]
    if config.workers:
        return workers.Workers(builders, config.id, config.timeout)
    return workers.InProcess(builders, config.id, window=render == "human")


def spaces_of(config: EnvConfig) -> tuple[spaces.Dict, spaces.Space]:
    """Observation and action space, as agents see them; one environment is built here and closed.

    Raises:
        UserError: it cannot be made like this; says what to type.
        RunError: it crashed.
    """
    from dreamlab.envs import build, processes

    with processes.told(config.id):
        env = build.one(config)
        try:
            return env.observation_space, env.action_space  # type: ignore[return-value]
        finally:
            env.close()
