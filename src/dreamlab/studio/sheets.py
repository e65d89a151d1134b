"""Pictures as replies: single PNGs, sheets of many frames, and messages that the page's ``unpack`` reads.

::

    sheet      0  1  2 ...  15      COLUMNS frames side by side, row by row;
              16 17 ...             a page draws from it without asking again
"""

from __future__ import annotations

import io
import json
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np
from fastapi import Response

COLUMNS = 16
FRAMES = 128
"""on one sheet, at most"""


def sheet(frames: np.ndarray, columns: int = COLUMNS) -> np.ndarray:
    """Frames (n, h, w, 3) as one picture, row by row; black where there are none."""
    n, h, w, c = frames.shape
    columns = max(1, min(columns, n))
    rows = -(-n // columns)
    cells = np.zeros((rows * columns, h, w, c), np.uint8)
    cells[:n] = frames
    return np.ascontiguousarray(cells.reshape(rows, columns, h, w, c).swapaxes(1, 2).reshape(rows * h, columns * w, c))


def png(picture: np.ndarray, keep: bool = False) -> Response:
    """A picture (h, w, 3) as a reply. ``keep``: the browser may keep it for a while."""
    from PIL import Image

    out = io.BytesIO()
    Image.fromarray(picture).save(out, "png", compress_level=1)
    return Response(out.getvalue(), media_type="image/png", headers={"Cache-Control": _age(keep)})


def message(head: Mapping[str, Any], planes: Mapping[str, np.ndarray]) -> Response:
    """uint32 length of a JSON head, the head, then the bytes of the planes (h, w, 3) that its ``planes`` lists."""
    told = {**head, "planes": [[name, *p.shape[:2]] for name, p in planes.items()]}
    text = json.dumps(told, allow_nan=False).encode()
    body = struct.pack("<I", len(text)) + text + b"".join(np.ascontiguousarray(p).tobytes() for p in planes.values())
    return Response(body, media_type="application/octet-stream", headers={"Cache-Control": "no-store"})


def plain(x: Any, digits: int = 5) -> Any:
    """A tensor or an array as lists of numbers that JSON knows: rounded, and None where they are not finite."""
    values = np.asarray(x.detach().cpu() if hasattr(x, "detach") else x)
    if values.dtype.kind in "biu":
        return values.tolist()
    rounded = np.array([float(f"{v:.{digits}g}") for v in values.astype(np.float64).reshape(-1)])
    out = rounded.reshape(values.shape).astype(object)
    out[~np.isfinite(rounded.reshape(values.shape))] = None
    return out.tolist()


def _age(keep: bool) -> str:
    return "private, max-age=600" if keep else "no-store"
