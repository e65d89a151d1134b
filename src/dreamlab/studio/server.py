"""How the application is served: which limits hold before a request is whole, what the terminal hears, how it ends."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import threading
import time
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from dreamlab.studio import traffic

CONNECTIONS = 256
"""sockets at a time"""
PATIENCE = 15.0
"""seconds that a request's head may take to arrive"""
LONGEST_HEAD = 1 << 14
"""bytes of a request's head"""
FAREWELL = 1.0
"""seconds that what is under way has when the studio ends"""


class Patient(H11Protocol):
    """A connection that is closed where there are too many, or where no whole request arrives in time."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.waiting: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        if len(self.connections) > CONNECTIONS:
            transport.abort()
        self._wait()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        if self.waiting is not None:
            self.waiting.cancel()
        super().connection_lost(exc)

    def _wait(self) -> None:
        if self.conn.their_state is h11.IDLE and self.waiting is None:
            self.waiting = self.loop.call_later(PATIENCE, self._tired)

    def _tired(self) -> None:
        self.waiting = None
        if self.conn.their_state is h11.IDLE and self.transport.get_protocol() is self:  # it is no WebSocket by now
            self.transport.close()


def serve(application: Any, listening: socket.socket) -> None:
    """Serve on a socket until SIGINT or SIGTERM, which is raised again at the end; nobody's visit holds it up."""
    _speak()
    try:
        uvicorn.Server(settings(application)).run(sockets=[listening])
    finally:
        logging.disable()  # whatever is cut off now is no news


def settings(application: Any) -> uvicorn.Config:
    """How uvicorn serves it."""
    return uvicorn.Config(
        application,
        http=Patient,
        ws="websockets-sansio",
        ws_max_size=traffic.LONGEST,
        ws_per_message_deflate=False,  # small pictures, often, mostly to this machine: the delay costs more
        h11_max_incomplete_event_size=LONGEST_HEAD,
        timeout_graceful_shutdown=1,
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
    )


def ended() -> bool:
    """Whether threads that were at work have ended; they are given a moment."""
    until = time.monotonic() + FAREWELL
    begun = [thread for thread in threading.enumerate() if not thread.daemon and thread is not threading.main_thread()]
    for thread in begun:
        thread.join(max(0.0, until - time.monotonic()))
    return not any(thread.is_alive() for thread in begun)


def _speak() -> None:
    """What goes wrong is one line in the terminal; with DREAMLAB_DEBUG set, with its traceback."""

    class Short(logging.Formatter):
        def format(self, record: logging.LogRecord) -> str:
            line = f"studio: {record.getMessage()}"
            if record.exc_info and os.environ.get("DREAMLAB_DEBUG"):
                line += "\n" + self.formatException(record.exc_info)
            return line

    to_terminal = logging.StreamHandler()
    to_terminal.setFormatter(Short())
    for name in ("dreamlab.studio", "uvicorn", "asyncio", "concurrent.futures"):
        log = logging.getLogger(name)
        log.handlers, log.propagate = [to_terminal], False
        log.setLevel(logging.ERROR if name == "uvicorn" else logging.WARNING)
    to_terminal.addFilter(lambda record: not record.getMessage().startswith("Cancel"))  # at the end, what is under way
