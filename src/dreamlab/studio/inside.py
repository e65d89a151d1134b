"""The page Inside."""

from __future__ import annotations

from fastapi import APIRouter

from dreamlab.studio.shelf import Shelf
from dreamlab.studio.studio import Studio


def router(studio: Studio, shelf: Shelf) -> APIRouter:
    return APIRouter()
