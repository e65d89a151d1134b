"""``--json FILE``: checked before the work is done, so that a mistyped path does not cost it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from dreamlab.core.errors import UserError


def refuse_unwritable(path: str | None) -> None:
    """Nothing for None and ``-`` (standard output). Makes the file's folder.

    Raises:
        UserError: the file could not be written.
    """
    if path is None or path == "-":
        return
    file = Path(path)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--json {path} cannot be written: {error.strerror}: {error.filename}") from error
    if file.is_dir():
        raise UserError(f"--json {path} is a folder; name a file in it")
    if not os.access(file if file.exists() else file.parent, os.W_OK):
        raise UserError(f"--json {path} cannot be written: no permission")


def write(path: str | None, data: Any) -> None:
    """Write ``data`` as JSON to a file, or print it for ``-``."""
    if path == "-":
        print(json.dumps(data))
    elif path:
        Path(path).write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
