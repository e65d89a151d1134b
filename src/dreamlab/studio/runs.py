"""The page of runs: which there are, how far each is, what it scores."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fastapi import APIRouter

from dreamlab.core.errors import UserError
from dreamlab.studio.studio import Studio


class Unknown(UserError):
    """There is no such run."""


def place(studio: Studio, name: str) -> Path:
    """The folder of a run by its name, which is its path below the root.

    Raises:
        Unknown: no run of that name.
    """
    found = {p.parent.relative_to(studio.root).as_posix(): p.parent for p in studio.root.glob("*/config.yaml")}
    if name not in found:
        raise Unknown(f"no run {name!r} here")
    return found[name]


def router(studio: Studio) -> APIRouter:
    routes = APIRouter()

    @routes.get("/runs")
    def runs() -> list[dict[str, Any]]:
        return [{"run": p.parent.name} for p in sorted(studio.root.glob("*/config.yaml"))]

    return routes
