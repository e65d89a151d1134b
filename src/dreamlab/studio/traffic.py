"""What is sent to the studio: short, one JSON object at a time of numbers that are numbers, and not too often."""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

LONGEST = 1 << 16
"""bytes of a request's body, and of a WebSocket's message"""
MESSAGES = 300
"""messages of one WebSocket in a second"""
PATIENCE = 15.0
"""seconds that a body may take to arrive"""


class Line:
    """One WebSocket: not too many messages come through, and it is silent once it is closed. Routes read them."""

    def __init__(self, receive: Receive, send: Send) -> None:
        self._receive, self._send = receive, send
        self.closed = False
        self.second, self.count = 0.0, 0

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] == "websocket.disconnect":
            self.closed = True
        elif message["type"] == "websocket.receive":
            now = time.monotonic()
            if now - self.second >= 1:
                self.second, self.count = now, 0
            self.count += 1
            if self.count > MESSAGES:
                await self.close(1008, "too many messages")
                return {"type": "websocket.disconnect", "code": 1008}
        return message

    async def send(self, message: Message) -> None:
        if self.closed:
            return
        self.closed |= message["type"] == "websocket.close"
        await self._send(message)

    async def close(self, code: int, words: str) -> None:
        """Say why, and end it."""
        await self.send({"type": "websocket.close", "code": code, "reason": words})


async def whole(receive: Receive) -> bytes | None:
    """The body of a request; None where it is too long.

    Raises:
        TimeoutError: it did not arrive in time.
    """
    body = b""
    async with asyncio.timeout(PATIENCE):
        while True:
            message = await receive()
            body += message.get("body", b"")
            if len(body) > LONGEST:
                return None
            if not message.get("more_body"):
                return body


def again(body: bytes, receive: Receive) -> Receive:
    """``receive`` of a request whose body was read already."""
    given = False

    async def replay() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay


def is_object(text: str | bytes) -> bool:
    """Whether it is one JSON object, of numbers that are numbers."""
    try:
        found = json.loads(text, parse_constant=_no_number, parse_float=_finite, parse_int=_fitting)
    except (ValueError, RecursionError):
        return False
    return isinstance(found, dict)


def _no_number(text: str) -> float:
    raise ValueError(text)


def _finite(text: str) -> float:
    value = float(text)
    return value if math.isfinite(value) else _no_number(text)


def _fitting(text: str) -> float:
    return int(text) if len(text) < 19 else _no_number(text)
