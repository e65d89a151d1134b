"""``metrics.jsonl``: one JSON object a line, with ``step`` and flat ``group/name`` keys.

Its state is a byte offset. A resumed run cuts the file back to it, so that no line is there twice;
a run that begins without a checkpoint begins the file anew.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dreamlab.logs import logger

NAME = "metrics.jsonl"


class Sink(logger.Sink):
    """Appends lines, each with one unbuffered write: a line is wholly there or cut off at the next start."""

    vital = True

    def __init__(self, run: Path) -> None:
        self.path = run / NAME
        self.offset = 0
        self._file: int | None = None

    def write(self, step: int, scalars: Mapping[str, float], media: logger.Media) -> None:
        if not scalars:
            return
        line = json.dumps({"step": step, **scalars}).encode() + b"\n"
        file = self._open()
        try:
            while line:
                written = os.write(file, line)  # a nearly full disk takes a part, then raises
                line, self.offset = line[written:], self.offset + written
        except OSError as error:
            error.filename = str(self.path)
            raise

    def state_dict(self) -> dict[str, Any]:
        """The byte offset, once the bytes before it are safely on the disk."""
        self.flush()
        return {"offset": self.offset}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.close()
        self.offset = int(state["offset"])
        if self.path.exists():
            self._open()  # cut back at once, so that readers see it too

    def flush(self) -> None:
        if self._file is not None:
            os.fsync(self._file)

    def close(self) -> None:
        if self._file is not None:
            self.flush()
            os.close(self._file)
            self._file = None

    def _open(self) -> int:
        """The open file, cut back to the offset. A file that lost lines keeps its whole ones."""
        if self._file is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
            if os.fstat(self._file).st_size < self.offset:  # edited or lost: cutting would fill up with zeros
                self.offset = self.path.read_bytes().rfind(b"\n") + 1
            os.ftruncate(self._file, self.offset)
        return self._file
