"""The web application: the guard around it, the routes of each page, and the page itself."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.resources import files
from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException

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

    @app.exception_handler(RequestValidationError)
    async def not_understood(request: Request, error: RequestValidationError) -> JSONResponse:
        wrong = error.errors()[0]
        return JSONResponse({"error": f"{'.'.join(str(at) for at in wrong['loc'][1:])}: {wrong['msg']}"}, 400)

    @app.exception_handler(HTTPException)
    async def refused(request: Request, error: HTTPException) -> JSONResponse:
        return JSONResponse({"error": str(error.detail)}, error.status_code, headers=dict(error.headers or {}))

    @app.get("/")
    async def front() -> FileResponse:
        return FileResponse(STATIC / "index.html", headers={"Cache-Control": "no-cache"})

    app.mount("/static", StaticFiles(directory=STATIC), name="static")
    return app
