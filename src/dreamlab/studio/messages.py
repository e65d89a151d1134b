"""The messages of ``/api/play``: what a page may send, read strictly, and pictures as they are sent.

Whatever is wrong becomes a sentence for the player.
"""

from __future__ import annotations

import json
import math
import struct
from dataclasses import dataclass
from typing import Any

import numpy as np

from dreamlab.core.errors import UserError

LONGEST = 1 << 16
"""bytes of one message"""
DEEPEST = 16
"""lists and dictionaries in one message"""
KINDS = ("open", "act", "set", "step", "restart", "record", "save", "seen")
FPS = (0.5, 60.0)
TEMPERATURE = (0.05, 5.0)


@dataclass(frozen=True)
class Start:
    """Where a dream begins."""

    kind: str
    row: int = 0
    seed: int = 0


@dataclass(frozen=True)
class Opening:
    """What a player wants to play."""

    run: str
    checkpoint: int | None
    start: Start
    temperature: float
    fps: float | None
    reality: bool
    seed: int | None
    """of what the model draws; by chance without"""


def read(text: str) -> dict[str, Any]:
    """One message.

    Raises:
        UserError: it is none.
    """
    if len(text) > LONGEST:
        raise UserError("This message is too long.")
    if text.count("[") + text.count("{") > DEEPEST:
        raise UserError("This message is nested too deeply.")
    try:
        message = json.loads(text)
    except ValueError as error:
        raise UserError("This message is no JSON.") from error
    if not isinstance(message, dict) or message.get("do") not in KINDS:
        raise UserError(f'A message is {{"do": ...}} with one of {", ".join(KINDS)}.')
    return message


def opening(message: dict[str, Any]) -> Opening:
    """What ``open`` asks for.

    Raises:
        UserError: what is wrong in it.
    """
    run = message.get("run")
    if not isinstance(run, str) or not run:
        raise UserError('open names a run: {"do": "open", "run": NAME}.')
    checkpoint = message.get("checkpoint")
    return Opening(
        run,
        None if checkpoint is None else whole(message, "checkpoint", 0, 2**53),
        start(message.get("start")),
        number(message, "temperature", *TEMPERATURE, default=1.0),
        None if message.get("fps") is None else number(message, "fps", *FPS),
        flag(message, "reality", False),
        None if message.get("seed") is None else whole(message, "seed", 0, 2**31 - 1),
    )


def start(given: Any) -> Start:
    """Where to begin; anywhere where nothing is said.

    Raises:
        UserError: what is wrong in it.
    """
    if given is None:
        return Start("any")
    if not isinstance(given, dict) or given.get("kind") not in ("row", "reset", "any"):
        raise UserError('A start is {"kind": "row", "row": ID}, {"kind": "reset", "seed": N} or {"kind": "any"}.')
    if given["kind"] == "row":
        return Start("row", row=whole(given, "row", 0, 2**53))
    if given["kind"] == "reset":
        return Start("reset", seed=whole(given, "seed", 0, 2**31 - 1, default=0))
    return Start("any")


def number(message: dict[str, Any], key: str, low: float, high: float, default: float | None = None) -> float:
    """A number between bounds.

    Raises:
        UserError: it is none, or not there.
    """
    value = message.get(key, default)
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not low <= value <= high:
        raise UserError(f"{key} is a number from {low:g} to {high:g}.")
    return float(value)


def whole(message: dict[str, Any], key: str, low: int, high: int, default: int | None = None) -> int:
    """A whole number between bounds.

    Raises:
        UserError: it is none, or not there.
    """
    value = message.get(key, default)
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise UserError(f"{key} is a whole number from {low} to {high}.")
    return value


def flag(message: dict[str, Any], key: str, default: bool | None = None) -> bool:
    """True or false.

    Raises:
        UserError: it is neither, or not there.
    """
    value = message.get(key, default)
    if not isinstance(value, bool):
        raise UserError(f"{key} is true or false.")
    return value


def text(**parts: Any) -> str:
    """A message of the studio as JSON; what is no finite number is null."""
    return json.dumps(finite(parts))


def picture(head: dict[str, Any], planes: dict[str, np.ndarray | None]) -> bytes:
    """A binary message: the length of the head, the head, and planes uint8 (h, w, 3) one after another."""
    there = {name: plane for name, plane in planes.items() if plane is not None}
    head = {**head, "planes": [[name, *plane.shape[:2]] for name, plane in there.items()]}
    said = text(**head).encode()
    return b"".join([struct.pack("<I", len(said)), said, *(np.ascontiguousarray(p).tobytes() for p in there.values())])


def finite(value: Any) -> Any:
    """Plain JSON of numbers, arrays, lists and dictionaries."""
    if isinstance(value, dict):
        return {key: finite(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(part) for part in value]
    if isinstance(value, np.ndarray):
        return finite(value.tolist())
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        return (round(value, 6) if abs(value) >= 1e-3 else value) if math.isfinite(value) else None
    return value
