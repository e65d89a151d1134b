"""dreamlab: world models that are trained, measured, watched and played inside their own dream."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dreamlab.cli.api import compare, evaluate, load, make_env, train
    from dreamlab.dream.env import DreamEnv

__version__ = "0.1.0"
__all__ = ["DreamEnv", "__version__", "compare", "evaluate", "load", "make_env", "train"]

_HOMES = {
    "train": "dreamlab.cli.api",
    "load": "dreamlab.cli.api",
    "evaluate": "dreamlab.cli.api",
    "compare": "dreamlab.cli.api",
    "make_env": "dreamlab.cli.api",
    "DreamEnv": "dreamlab.dream.env",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that ``import dreamlab`` stays instant."""
    if name in _HOMES:
        import importlib

        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'dreamlab' has no attribute {name!r}; public names: {', '.join(__all__)}")


def __dir__() -> list[str]:
    return sorted(__all__)
