"""Any environment that is registered with Gymnasium: CartPole-v1, Acrobot-v1, my_pkg:MyEnv-v0."""

from __future__ import annotations

import importlib
import re
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from dreamlab.core.errors import UserError
from dreamlab.envs.config import EnvConfig

if TYPE_CHECKING:
    import gymnasium
    from gymnasium.envs.registration import EnvSpec

NEEDS = {"box2d": "Box2D", "mujoco": "mujoco", "phys2d": "jax", "tabular": "jax"}
"""packages behind Gymnasium's own families"""

OUTDATED = ("Pusher-v4",)
"""registered, but only for MuJoCo below 3, which dreamlab's bounds exclude"""

SUITES = ("ale_py", "minatar", "vizdoom")
"""packages with a suite of their own"""


@dataclass(frozen=True)
class Config(EnvConfig):
    """Any Gymnasium environment."""


def claims(id: str) -> bool:
    """Whether the id is registered; ``module:Name-v0`` imports the module that registers it first."""
    from gymnasium.envs.registration import registry

    module, _, name = id.rpartition(":")
    if module and re.search(r"-v\d+$", name):
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise UserError(f"{id!r} needs the module {module!r}, which cannot be imported: {error}") from error
    if name not in registry or _dropped(registry[name].entry_point):
        return False
    return bool(module) or not _listed(registry[name])  # what a suite has left out: only where it is asked for by name


def ids() -> list[str]:
    """Those registered whose packages are installed."""
    from gymnasium.envs.registration import registry

    return sorted(
        id
        for id, spec in registry.items()
        if not (_dropped(spec.entry_point) or _listed(spec) or needs(spec) or id in OUTDATED)
    )


def needs(spec: EnvSpec) -> str | None:
    """The package that a registered environment needs and that is not installed; None if it has all."""
    if not isinstance(spec.entry_point, str):
        return None
    family = re.match(r"gymnasium\.envs\.(\w+)\.", spec.entry_point)
    package = NEEDS.get(family[1]) if family else re.split(r"[.:]", spec.entry_point)[0]
    return None if package is None or package == "__main__" or find_spec(package) else package


def _listed(spec: EnvSpec) -> bool:
    """Whether a suite of its package's own lists the environment; packages register all theirs when first used."""
    return isinstance(spec.entry_point, str) and re.split(r"[.:]", spec.entry_point)[0] in SUITES


def _dropped(entry: Any) -> bool:
    """Gymnasium keeps ids that it no longer has, with functions that raise."""
    return getattr(entry, "__name__", "").startswith("_raise")


def make(config: EnvConfig, render_mode: str | None = None, **options: Any) -> gymnasium.Env:
    """The environment as Gymnasium makes it; ``time_limit`` replaces its own limit.

    Raises:
        UserError: it cannot be made: a missing package, or an unfit option.
    """
    import gymnasium

    if config.time_limit is not None:
        options["max_episode_steps"] = -1
    if render_mode:  # not every environment takes one
        options["render_mode"] = render_mode
    try:
        env = gymnasium.make(config.id, disable_env_checker=True, **options)
    except (ImportError, gymnasium.error.Error) as error:
        raise UserError(f"{config.id} cannot be made: {error}") from error
    except TypeError as error:
        if "render_mode" not in str(error):
            raise
        raise UserError(f"{config.id} draws no pictures: it does not take render_mode") from error
    if render_mode and render_mode not in (env.metadata.get("render_modes") or ()):
        env.close()
        raise UserError(f"{config.id} draws no pictures (its render modes: {env.metadata.get('render_modes')})")
    return env
