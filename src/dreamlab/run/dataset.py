"""The one form in which recordings are written: a folder of one ``.npz`` an episode, and ``recordings.json``.

::

    DATA/episode-00000.npz   obs action reward terminated truncated, as ``run.recording`` describes them
    DATA/recordings.json     {"format": 1,
                              "observations": {"image": {"shape": [3, 64, 64]},
                                               "vector": {"low": [...], "high": [...]}},
                              "action": {"n": 4}, {"n": [3, 2]} or {"low": [...], "high": [...]}
                              "holds": {"actions": true, "rewards": true, "ends": true},
                              "env": {"id": ..., ...} or null,
                              "request": what was typed to make it, so that the same can be gone on with
                              "episodes": 12, "rows": 1200}

Readable by plain NumPy: ``np.load("DATA/episode-00000.npz")["obs"]``. Images are (T + 1, H, W, C). A bound that is
infinite is null.
"""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces

from dreamlab.core.errors import UserError
from dreamlab.core.types import is_image
from dreamlab.run.checkpoint import write_json
from dreamlab.run.readers import ABOUT, Bad
from dreamlab.run.recording import Row

FORMAT = 1


class About(NamedTuple):
    """What ``recordings.json`` says."""

    obs_space: spaces.Dict
    act_space: spaces.Space
    holds: Mapping[str, bool]
    """which of actions, rewards, ends are known"""
    env: Mapping[str, Any] | None = None
    """settings of the environment they come from"""
    request: Mapping[str, Any] | None = None
    episodes: int = 0
    rows: int = 0


def read_about(folder: Path) -> About | None:
    """What a folder says of its recordings; None where it says nothing.

    Raises:
        UserError: the file is damaged, or of a later version.
    """
    path = folder / ABOUT
    if not path.exists():
        return None
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
        if said["format"] > FORMAT:
            raise UserError(
                f"{path} was written by a later dreamlab (format {said['format']}); this one reads {FORMAT}"
            )
        obs_space = spaces.Dict({key: read_space(space) for key, space in said["observations"].items()})
        act_space = read_space(said["action"])
        holds = {name: bool(said["holds"][name]) for name in ("actions", "rewards", "ends")}
        return About(
            obs_space, act_space, holds, said["env"], said["request"], int(said["episodes"]), int(said["rows"])
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, AssertionError) as error:
        raise UserError(
            f"{path} is damaged ({type(error).__name__}: {error}); without it the .npz files beside it can still be "
            "read, but the bounds of observations and actions are not known: delete it for that"
        ) from error


def write_about(folder: Path, about: About) -> None:
    """Write ``recordings.json``."""
    said = {
        "format": FORMAT,
        "observations": {key: written_space(space) for key, space in about.obs_space.spaces.items()},
        "action": written_space(about.act_space),
        "holds": dict(about.holds),
        "env": about.env,
        "request": about.request,
        "episodes": about.episodes,
        "rows": about.rows,
    }
    write_json(folder / ABOUT, said)


def written_space(space: spaces.Space) -> dict[str, Any]:
    if isinstance(space, spaces.Discrete):
        return {"n": int(space.n)}
    if isinstance(space, spaces.MultiDiscrete):
        return {"n": [int(n) for n in space.nvec]}
    if is_image(space):
        return {"shape": list(space.shape or ())}
    assert isinstance(space, spaces.Box)
    return {side: [_finite(v) for v in getattr(space, side).reshape(-1).tolist()] for side in ("low", "high")}


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None


def read_space(said: Mapping[str, Any]) -> spaces.Space:
    if "n" in said:
        return spaces.MultiDiscrete(said["n"]) if isinstance(said["n"], list) else spaces.Discrete(said["n"])
    if "shape" in said:
        return spaces.Box(0, 255, tuple(said["shape"]), np.uint8)
    low, high = (
        np.array([end if v is None else v for v in said[side]], np.float32)
        for side, end in (("low", -np.inf), ("high", np.inf))
    )
    return spaces.Box(low, high, dtype=np.float32)


class Dataset:
    """A dataset that is being written: each episode is wholly there or not at all."""

    def __init__(self, folder: Path, about: About) -> None:
        """Begin in a new folder, or go on with the same request.

        Raises:
            UserError: the folder holds something else, or cannot be written.
        """
        self.folder, self.about = Path(folder), about
        there = read_about(self.folder) if self.folder.is_dir() else None
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if there is None:
                if next(self.folder.iterdir(), None) is not None:
                    raise UserError(f"{folder} is not empty, and what is there is no dataset: name another --out")
                write_about(self.folder, about)
        except OSError as error:
            raise UserError(
                f"cannot write to {folder} ({error.strerror}: {error.filename}); name another --out"
            ) from error
        if there is not None and there.request != about.request:
            was, now = there.request or {}, about.request or {}
            differ = [
                f"  {k}: {was.get(k)!r} there, {now.get(k)!r} now" for k in {**was, **now} if was.get(k) != now.get(k)
            ]
            raise UserError("\n".join([f"{folder} holds other recordings:", *differ, "name another --out"]))
        if there is not None:
            self.about = there
            for left in self.folder.glob("*.tmp"):
                left.unlink()

    def path(self, episode: int) -> Path:
        """The file of an episode, counted from 0."""
        return self.folder / f"episode-{episode:05d}.npz"

    def has(self, episode: int) -> bool:
        """Whether it is there already."""
        return self.path(episode).exists()

    def write(self, episode: int, length: int, pieces: Iterable[Row]) -> None:
        """Write an episode of ``length`` rows, which come in pieces.

        Raises:
            Bad: its source is damaged; nothing of it is left.
        """
        path = self.path(episode)
        temporary = path.with_name(path.name + ".tmp")
        try:
            _write(temporary, length, pieces, self.about)
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise

    def finish(self, episodes: int, rows: int) -> None:
        """Have ``recordings.json`` say how much there is."""
        self.about = self.about._replace(episodes=episodes, rows=rows)
        write_about(self.folder, self.about)


def _write(path: Path, length: int, pieces: Iterable[Row], about: About) -> None:
    """One episode: its first observation key as it comes, all else, which is small, after it."""
    first, *others = about.obs_space.spaces
    beside: dict[str, list[np.ndarray]] = {}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as file:
        space = about.obs_space[first]
        with file.open(f"{_array(first, others)}.npy", "w", force_zip64=True) as stream:
            count = 0
            for piece in pieces:
                values = _on_disk(piece[first], space)
                if not count:
                    header = {"descr": values.dtype.str, "fortran_order": False, "shape": (length, *values.shape[1:])}
                    np.lib.format.write_array_header_1_0(stream, header)  # type: ignore[no-untyped-call]
                stream.write(np.ascontiguousarray(values).data)
                count += len(values)
                for name, column in piece.items():
                    if name != first:
                        beside.setdefault(name, []).append(column)
        if count != length:
            raise Bad(f"{path.name}: {count} of its {length} frames could be read")
        rows = {name: np.concatenate(columns) for name, columns in beside.items()}
        arrays = {f"obs.{key}": _on_disk(rows[key], about.obs_space[key]) for key in others}
        if about.holds["actions"]:
            arrays["action"] = rows["act"][:-1]
        if about.holds["rewards"]:
            arrays["reward"] = rows["rew"][1:]
        if about.holds["ends"]:
            arrays["terminated"] = rows["is_terminal"][1:]
            arrays["truncated"] = (rows["is_last"] & ~rows["is_terminal"])[1:]
        for name, values in arrays.items():
            with file.open(f"{name}.npy", "w", force_zip64=True) as stream:
                np.lib.format.write_array(stream, values, allow_pickle=False)  # type: ignore[no-untyped-call]


def _array(key: str, others: list[str]) -> str:
    """``obs`` where there is one alone, of a kind that says its name; else ``obs.NAME``."""
    return "obs" if not others and key in ("image", "vector") else f"obs.{key}"


def _on_disk(values: np.ndarray, space: spaces.Space) -> np.ndarray:
    """Images channels-last."""
    return np.moveaxis(values, 1, -1) if is_image(space) else values


def episodes(pieces: Iterable[Row], lengths: Iterable[int]) -> Iterator[tuple[int, Iterator[Row]]]:
    """Cut a stream of rows into episodes of these lengths: each must be read to its end before the next."""
    source, left = iter(pieces), {}  # type: ignore[var-annotated]

    def take(n: int) -> Iterator[Row]:
        nonlocal left
        while n:
            if not left or not len(left["rew"]):
                left = next(source)
            some = {name: values[:n] for name, values in left.items()}
            left = {name: values[n:] for name, values in left.items()}
            n -= len(some["rew"])
            yield some

    for length in lengths:
        yield length, take(length)
