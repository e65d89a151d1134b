"""The web application: the guard around it, the routes of each page, and the page itself."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.resources import files
from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.responses import FileResponse, JSONResponse
from fastapi.staticfiles import StaticFiles

from dreamlab.core.errors import RunError, UserError
from dreamlab.studio import guard, looking, play, runs
from dreamlab.studio.studio import Studio

STATIC = Path(str(files("dreamlab.studio") / "static"))


def application(studio: Studio) -> FastAPI:
    """The studio as an ASGI application."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        studio.close()

    app = FastAPI(title="dreamlab studio", docs_url=None, redoc_url=None, openapi_url=None, lifespan=lifespan)
    app.add_middleware(guard.Guard, token=studio.token)
    for page in (runs, play, looking):
        app.include_router(page.router(studio), prefix="/api")

    @app.exception_handler(UserError)
    @app.exception_handler(RunError)
    async def told(request: Request, error: Exception) -> JSONResponse:
        return JSONResponse({"error": str(error)}, 404 if isinstance(error, runs.Unknown) else 400)

    @app.get("/")
    async def page() -> FileResponse:
        return FileResponse(STATIC / "index.html", headers={"Cache-Control": "no-cache"})

    app.mount("/static", StaticFiles(directory=STATIC), name="static")
    return app
