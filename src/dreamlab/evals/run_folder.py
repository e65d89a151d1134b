"""What a run folder holds, read for showing: JSON, metrics, settings, films; each when it is first asked for.

Anyone may have edited or cut short what lies there. What is broken is named in ``problems`` and left out.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any, TypeGuard

ROOM = 24 << 20
"""bytes of films and pictures that a page takes; what does not fit is named, not embedded"""
OPEN_LOOP = "open_loop"
"""films of this name are dreams that were made while training"""
TAIL = 1 << 14
"""bytes at the end of metrics.jsonl that tell how far a run has come"""
SETTINGS = 20_000
"""values of a config.yaml, at most"""
MOST = 6
"""films, dreams and evaluations of one kind that are shown, newest first"""


class RunFolder:
    """Reads a run folder; remembers what was broken, what was missing, and what had no room in a page."""

    def __init__(self, run: Path) -> None:
        self.run = run
        self.problems: list[str] = []
        self.missing: list[str] = []
        self.left_out: list[str] = []
        self.room = ROOM

    @cached_property
    def summary(self) -> dict[str, Any]:
        """What ``dreamlab demo`` has found."""
        return self.json(self.run / "summary.json") or {}

    @cached_property
    def evaluations(self) -> dict[str, dict[str, Any]]:
        """The newest few, by stem."""
        return self.all_json("evaluations")

    def title(self) -> str:
        """``agent on environment``, as its newest evaluation or its configuration names them."""
        sources: list[Mapping] = [*self.evaluations.values(), self.config]
        agent = next((s["agent"] for s in sources if isinstance(s.get("agent"), str)), None)
        env = next((s["env"] for s in sources if isinstance(s.get("env"), str)), None)
        if env is None and isinstance(self.config.get("env"), Mapping):
            env = self.config["env"].get("id")
        return f"{agent} on {env}" if agent and env else self.run.resolve().name

    def guard(self, name: str, make: Callable[..., str], *args: Any) -> str:
        """What ``make(*args)`` gives, or nothing and a notice: files may hold anything, the rest must be shown."""
        try:
            return make(*args)
        except Exception as error:
            self.problems.append(f"{name}: {type(error).__name__}: {error}")
            return ""

    def name(self, path: Path) -> str:
        """A path as the page names it."""
        return path.relative_to(self.run).as_posix()

    def newest(self, pattern: str) -> list[Path]:
        """Files by glob, newest first."""
        return sorted(self.run.glob(pattern), key=lambda p: (p.stat().st_mtime, p.name), reverse=True)

    def films(self) -> list[Path]:
        """Of the agent at work, newest first."""
        return [path for path in self.newest("videos/*.mp4") if not path.stem.endswith(OPEN_LOOP)]

    def dreams(self) -> list[Path]:
        """Films of dreams, newest first: those that were asked for, then those made while training."""
        return [*self.newest("dreams/*.mp4"), *self.newest(f"videos/*{OPEN_LOOP}.mp4")]

    def json(self, path: Path) -> dict[str, Any] | None:
        """A JSON object, or None where it is missing or broken."""
        if not path.is_file():  # nor is a pipe opened, which would wait for ever
            return None
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            if not isinstance(data, dict):
                raise ValueError(f"holds a {type(data).__name__}, not an object")
        except (OSError, ValueError) as error:
            self.problems.append(f"{self.name(path)}: {error}")
            return None
        return data

    def all_json(self, kind: str) -> dict[str, dict[str, Any]]:
        """The newest few JSON objects of a sub-folder, by stem."""
        found = {path.stem: self.json(path) for path in self.newest(f"{kind}/*.json")[:MOST]}
        return {name: data for name, data in found.items() if data is not None}

    def embed(self, path: Path, kind: str) -> str:
        """A file as a data: URI, or an empty string where the page has no room left for it."""
        size = path.stat().st_size
        if size > self.room:
            self.left_out.append(f"{self.name(path)} ({size / (1 << 20):.1f} MiB)")
            return ""
        self.room -= size
        return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"

    @cached_property
    def metrics(self) -> dict[str, tuple[list[float], list[float]]]:
        """Steps and values by key; NaN and what is no number is left out."""
        curves: dict[str, tuple[list[float], list[float]]] = {}
        path, broken = self.run / "metrics.jsonl", []
        if not path.exists():
            return curves
        with path.open(encoding="utf-8", errors="replace") as lines:
            for number, text in enumerate(lines, 1):
                try:
                    line = json.loads(text)
                    step = float(line.pop("step"))
                except (ValueError, KeyError, TypeError, AttributeError):
                    broken.append(number)
                    continue
                for key, value in line.items():
                    if is_number(value):
                        steps, values = curves.setdefault(key, ([], []))
                        steps.append(step)
                        values.append(value)
        if broken:
            self.problems.append(f"metrics.jsonl: {len(broken)} lines are broken, the first is line {broken[0]}")
        return curves

    @cached_property
    def last_metrics(self) -> list[dict[str, Any]]:
        """The whole lines in the last few bytes of metrics.jsonl, newest first; broken ones are left out."""
        found: list[dict[str, Any]] = []
        try:
            with (self.run / "metrics.jsonl").open("rb") as file:
                start = max(0, file.seek(0, 2) - TAIL)
                file.seek(start)
                texts = file.read().split(b"\n")
        except OSError:
            return found
        for text in reversed(texts[1:] if start else texts):
            with suppress(ValueError):
                line = json.loads(text)
                if isinstance(line, dict) and is_number(line.get("step")):
                    found.append(line)
        return found

    @cached_property
    def config(self) -> dict[str, Any]:
        """Its settings; empty where they are missing or broken."""
        import yaml

        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times as fast, where it was built

        path = self.run / "config.yaml"
        if not path.exists():
            return {}
        try:
            data = yaml.load(path.read_text(encoding="utf-8"), loader)
            if not isinstance(data, dict):
                raise ValueError("holds no mapping")
            if not _fits(data):
                raise ValueError(f"holds more than {SETTINGS} settings")
        except (OSError, ValueError, yaml.YAMLError) as error:
            self.problems.append(f"config.yaml: {error}")
            return {}
        return data


def _fits(data: Any) -> bool:
    """Whether it can be written out: YAML's references make a few lines that hold each other endlessly many."""
    left, seen = [data], 0
    while left and seen <= SETTINGS:
        one, seen = left.pop(), seen + 1
        left += list(one.values()) if isinstance(one, Mapping) else one if isinstance(one, list) else []
    return not left


def is_number(value: Any) -> TypeGuard[float]:
    """A finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def numbers(values: Any, length: int | None = None) -> list[float]:
    """A list of numbers of a file; null is NaN. Raises ValueError where it is anything else."""
    if not isinstance(values, list) or (length is not None and len(values) != length):
        raise ValueError(f"expected a list of {'numbers' if length is None else f'{length} numbers'}")
    return [math.nan if value is None else float(value) for value in values]
