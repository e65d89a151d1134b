"""Modules that are imported when they are first used, so that ``--help`` waits for none of them."""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any


class _Lazy(ModuleType):
    """Looks each name up once in the real module, which is imported then."""

    def __getattr__(self, name: str) -> Any:
        value = getattr(importlib.import_module(self.__name__), name)
        self.__dict__[name] = value
        return value


def lazy(name: str) -> ModuleType:
    """A stand-in for the module ``name``. Import the real one under ``TYPE_CHECKING`` beside it."""
    return _Lazy(name)
