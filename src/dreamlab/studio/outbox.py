"""What goes to one client: words in their order, and of pictures the newest alone, so that none wait in a line."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any

import numpy as np
from starlette.websockets import WebSocket

from dreamlab.studio import messages

WINDOW = 4
"""pictures that may be on their way to a client that says which it has seen"""
WORDS = 64
"""messages that wait for a client; of more the oldest are forgotten"""


class Outbox:
    """``say`` and ``show`` return at once; ``run`` sends."""

    def __init__(self, socket: WebSocket) -> None:
        self._socket = socket
        self._words: deque[str] = deque(maxlen=WORDS)
        self._picture: bytes | None = None
        self._sent, self._seen = 0, -1  # numbers of pictures; -1: this client does not say what it has seen
        self._wake = asyncio.Event()

    def say(self, **parts: Any) -> None:
        """Words."""
        self._words.append(messages.text(**parts))
        self._wake.set()

    def show(self, head: dict[str, Any], planes: dict[str, np.ndarray | None]) -> None:
        """A picture, in place of one that still waits."""
        self._picture = messages.picture({**head, "sent": self._sent + 1}, planes)
        self._wake.set()

    def forget(self) -> None:
        """Whatever picture waits is of no interest any more."""
        self._picture = None

    def seen(self, number: int) -> None:
        """The client has the picture of this number."""
        self._seen = max(self._seen, number)
        self._wake.set()

    async def run(self) -> None:
        """Send, until the client is gone."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._words:
                await self._socket.send_text(self._words.popleft())
            if self._picture is not None and (self._seen < 0 or self._sent - self._seen < WINDOW):
                picture, self._picture = self._picture, None
                self._sent += 1
                await self._socket.send_bytes(picture)
