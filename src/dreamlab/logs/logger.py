"""Collects metrics on the device and hands them to sinks: console, files, TensorBoard, W&B.

Between two writes, values are only summed, so that learning never waits for them; a write fetches all
means at once. A sink is one file in this folder that offers ``Sink(run)``; its module's name is its name.
"""

from __future__ import annotations

import errno
import importlib
import math
import pkgutil
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dreamlab.core.errors import NonFinite, RunError, unknown

if TYPE_CHECKING:
    from torch import Tensor

Media = Mapping[str, np.ndarray]
"""pictures uint8 (C, h, w) and films uint8 (T, C, h, w) by ``group/name``"""

STANDARD = ("console", "jsonl", "tensorboard", "pictures")
"""the sinks that a run has unless told otherwise"""

NOT_SINKS = ("logger", "video")


class Sink:
    """Where metrics go. Every method may be left as it is: nothing happens."""

    vital = False
    """whether a full disk must stop the run rather than switch the sink off"""
    say: Callable[[str], None] = staticmethod(lambda text: None)
    """shows whoever watches a line of the sink's own; the logger sets it"""

    def write(self, step: int, scalars: Mapping[str, float], media: Media) -> None:
        """Take finite means by ``group/name``, and pictures and films, at one step."""

    def progress(self, phase: str, done: int, total: int, unit: str, note: str) -> None:
        """Learn how far a phase has come."""

    def message(self, text: str) -> None:
        """Take a line for whoever watches."""

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs in order to go on exactly here."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Forget all that was written after ``state`` was taken."""

    def flush(self) -> None:
        """Bring what was written to where others can read it."""

    def close(self) -> None:
        """Flush and let go; called once."""


def open_sinks(
    run: Path, names: Iterable[str] = STANDARD, settings: Mapping[str, Mapping[str, Any]] | None = None
) -> list[Sink]:
    """The sinks of a run folder, by module name; ``settings`` are keyword arguments for some, by the same name.

    Raises:
        UserError: no sink has that name, or it needs a package that is missing.
    """
    folder = str(Path(__file__).parent)
    known = [m.name for m in pkgutil.iter_modules([folder]) if m.name not in NOT_SINKS]
    sinks = []
    for name in names:
        if name not in known:
            raise unknown("log sink", name, known)
        sinks.append(importlib.import_module(f"dreamlab.logs.{name}").Sink(run, **(settings or {}).get(name, {})))
    return sinks


class Logger:
    """Running sums of metrics and the sinks that take their means.

    ``add`` never waits for the device; ``write`` waits once. A sink that fails is switched off with one
    warning; only a full disk under a vital sink stops the run.
    """

    def __init__(self, sinks: Sequence[Sink]) -> None:
        self.sinks = list(sinks)
        for sink in self.sinks:
            sink.say = self.message
        self.step = 0
        self._sums: dict[str, Tensor | float] = {}
        self._counts: dict[str, int] = {}
        self._media: dict[str, Tensor | np.ndarray] = {}

    def add(self, group: str, metrics: Mapping[str, Any]) -> None:
        """Add values under ``group/``: scalars to their running means, pictures and films for the next write.

        Scalars are 0-d tensors or numbers. uint8 (C, h, w) is a picture, uint8 (T, C, h, w) a film; of
        several under one key the last is kept.

        Raises:
            TypeError: neither a scalar, a picture nor a film.
        """
        for name, value in metrics.items():
            key = f"{group}/{name}"
            if _is_media(value):
                self._media[key] = value
                continue
            value = _scalar(key, value)
            self._sums[key] = self._sums[key] + value if key in self._sums else value
            self._counts[key] = self._counts.get(key, 0) + 1

    def write(self, step: int, /, **extra: float) -> dict[str, float]:
        """Hand the means since the last write to the sinks, with ``extra`` scalars under their own keys.

        Returns what was handed over: ``{group/name: mean}``. Nothing new writes nothing.

        Raises:
            NonFinite: a value is NaN or infinite. The sinks have got the rest by then.
            RunError: the disk is full.
        """
        sums, counts = _fetch(self._sums), self._counts
        means = {key: total / counts[key] for key, total in sums.items()}
        means.update({key: float(value) for key, value in extra.items()})
        media = {key: _array(value) for key, value in self._media.items()}
        self._sums, self._counts, self._media = {}, {}, {}
        self.step = step
        finite = {key: value for key, value in means.items() if math.isfinite(value)}
        if finite or media:
            self._each("write", step, finite, media)
        _refuse_non_finite(means, f"at step {step}")
        return finite

    def progress(self, phase: str, done: int, total: int, unit: str, note: str = "") -> None:
        """Say how far a phase has come: ``done`` of ``total`` ``unit``s ("updates", "steps")."""
        self._each("progress", phase, done, total, unit, note)

    def message(self, text: str) -> None:
        """Show a plain line to whoever watches."""
        self._each("message", text)

    def state_dict(self) -> dict[str, Any]:
        """Sums under way and the sinks' offsets, as JSON. Pictures not yet written are not kept.

        Raises:
            NonFinite: a value under way is NaN or infinite, so what would be saved beside it is spoilt too.
        """
        sums = _fetch(self._sums)
        _refuse_non_finite(sums, f"after step {self.step}")
        sinks: dict[str, dict] = {}
        for sink in list(self.sinks):
            state = self._call(sink, "state_dict")
            if state:
                sinks[_name(sink)] = state
        return {"step": self.step, "sums": sums, "counts": dict(self._counts), "sinks": sinks}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state; what the sinks wrote after it is taken back."""
        self.step = int(state["step"])
        self._sums = {key: float(value) for key, value in state["sums"].items()}
        self._counts = {key: int(value) for key, value in state["counts"].items()}
        self._media = {}
        for sink in list(self.sinks):
            if _name(sink) in state["sinks"]:
                self._call(sink, "load_state_dict", state["sinks"][_name(sink)])

    def flush(self) -> None:
        """Bring everything written to where others can read it."""
        self._each("flush")

    def close(self) -> None:
        """Flush and let the sinks go. Values not yet written are dropped."""
        self._each("close")
        self.sinks = []

    def _each(self, method: str, *args: Any) -> None:
        for sink in list(self.sinks):
            self._call(sink, method, *args)

    def _call(self, sink: Sink, method: str, *args: Any) -> Any:
        """One call to one sink, which is switched off where it fails: logging must not end a run."""
        try:
            return getattr(sink, method)(*args)
        except Exception as error:
            if sink.vital and isinstance(error, OSError) and error.errno == errno.ENOSPC:
                raise RunError(
                    f"the disk is full: {error.filename or _name(sink)} could not be written. "
                    "Free some space and type the same command again: the run goes on from its last checkpoint."
                ) from error
            self.sinks = [s for s in self.sinks if s is not sink]
            self._warn(f"the log sink {_name(sink)!r} failed and is off from here on: {type(error).__name__}: {error}")
            return None

    def _warn(self, text: str) -> None:
        if any(_name(sink) == "console" for sink in self.sinks):
            self.message(f"warning: {text}")
        else:
            warnings.warn(text, RuntimeWarning, stacklevel=2)


def _name(sink: Sink) -> str:
    return type(sink).__module__.rpartition(".")[2]


def _is_media(value: Any) -> bool:
    return getattr(value, "ndim", 0) in (3, 4) and str(value.dtype).removeprefix("torch.") == "uint8"


def _scalar(key: str, value: Any) -> Tensor | float:
    """A value as it is summed: a detached float tensor where it lives, or a float."""
    if isinstance(value, int | float | np.generic) or (isinstance(value, np.ndarray) and value.ndim == 0):
        return float(value)
    if not hasattr(value, "detach") or value.ndim != 0:
        shape = tuple(getattr(value, "shape", ()))
        raise TypeError(
            f"the metric {key!r} is a {type(value).__name__} of shape {shape}; "
            "a metric is a 0-d tensor, a number, or a uint8 picture (C, h, w) or film (T, C, h, w)"
        )
    value = value.detach()
    return value if str(value.dtype) == "torch.float64" else value.float()  # half precision would not sum


def _fetch(sums: Mapping[str, Tensor | float]) -> dict[str, float]:
    """All sums on the host: one transfer for each device and dtype there is, in practice one."""
    fetched = {key: value for key, value in sums.items() if isinstance(value, float)}
    places: dict[Any, list[str]] = {}
    for key, value in sums.items():
        if not isinstance(value, float):
            places.setdefault((value.device, value.dtype), []).append(key)
    for keys in places.values():
        import torch

        values = torch.stack([sums[key] for key in keys]).tolist()  # type: ignore[misc]
        fetched.update(zip(keys, values, strict=True))
    return {key: fetched[key] for key in sums}


def _array(value: Tensor | np.ndarray) -> np.ndarray:
    return value if isinstance(value, np.ndarray) else value.detach().cpu().numpy()


def _refuse_non_finite(values: Mapping[str, float], when: str) -> None:
    spoilt = [key for key, value in values.items() if not math.isfinite(value)]
    if spoilt:
        raise NonFinite(
            f"{' and '.join(f'{key} became {values[key]}' for key in spoilt)} {when}; "
            "a smaller learning rate or --precision fp32 are the usual remedies"
        )
