"""A user's own environment: my_pkg.my_env:make names any callable that returns a gymnasium.Env."""

from __future__ import annotations

import importlib
import inspect
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dreamlab.core.errors import UserError, suggest
from dreamlab.envs.config import EnvConfig

if TYPE_CHECKING:
    import gymnasium


@dataclass(frozen=True)
class Config(EnvConfig):
    """An environment of your own."""


def claims(id: str) -> bool:
    """Anything with a colon."""
    return ":" in id


def ids() -> list[str]:
    """None by name."""
    return []


def make(config: EnvConfig, render_mode: str | None = None) -> gymnasium.Env:
    """What the callable returns; it is given ``render_mode`` where it takes one.

    Raises:
        UserError: it cannot be imported, is not callable, or returns no gymnasium.Env.
    """
    import gymnasium

    maker = load(config.id)
    kwargs = {"render_mode": render_mode} if render_mode and _takes(maker, "render_mode") else {}
    env = maker(**kwargs)
    if not isinstance(env, gymnasium.Env):
        raise UserError(f"{config.id} returned {type(env).__name__}, not a gymnasium.Env")
    if render_mode and env.render_mode != render_mode:
        env.close()
        raise UserError(
            f"{config.id} draws no pictures: let it take render_mode='rgb_array' and return frames from render()"
        )
    return env


def load(path: str) -> Callable[..., Any]:
    """The callable at ``package.module:name``; the current folder may be imported from.

    Raises:
        UserError: says which part of the path is wrong.
    """
    module_name, _, name = path.partition(":")
    if not module_name or not name:
        raise UserError(f"{path!r} is not a dotted path; type my_pkg.my_env:make")
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if not error.name or not (module_name + ".").startswith(error.name + "."):
            raise UserError(f"{path!r}: {module_name} needs the package {error.name!r}, which is missing") from error
        where = f"looked in {os.getcwd()} and the installed packages"
        raise UserError(f"{path!r}: there is no module {error.name!r} ({where})") from error
    except Exception as error:
        raise UserError(f"{path!r}: importing {module_name} failed: {type(error).__name__}: {error}") from error
    maker = getattr(module, name, None)
    if not callable(maker):
        public = [k for k, v in vars(module).items() if callable(v) and not k.startswith("_")]
        raise UserError(f"{path!r}: {module_name} has no callable {name!r}.{suggest(name, public)}")
    return maker


def _takes(maker: Callable[..., Any], name: str) -> bool:
    try:
        parameters = inspect.signature(maker).parameters.values()
    except (TypeError, ValueError):
        return False
    return any(p.name == name or p.kind is p.VAR_KEYWORD for p in parameters)
