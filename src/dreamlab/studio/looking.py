"""The pages Episodes and Inside, which share what they keep between requests."""

from __future__ import annotations

from fastapi import APIRouter

from dreamlab.studio import episodes, inside
from dreamlab.studio.shelf import Shelf
from dreamlab.studio.studio import Studio


def router(studio: Studio) -> APIRouter:
    """Both."""
    routes, shelf = APIRouter(), Shelf(studio)
    for page in (episodes, inside):
        routes.include_router(page.router(studio, shelf))
    return routes
