"""Files of recordings, whatever their kind, as named arrays that are read in pieces.

::

    kind   a file is                                its arrays
    npz    NumPy's, of one episode or several       any of obs action reward terminated truncated
    npy    frames (N, H, W, 3) of one episode       obs
    film   frames of one episode                    obs
    run    an episode in the rows of a run          all five

``obs`` may be several arrays: ``obs.image``, ``obs.vector``. Opening a file reads its header alone, and nothing is
ever unpickled: a file larger than memory is read like any other.
"""

from __future__ import annotations

import errno
import math
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from dreamlab.core.errors import RunError, UserError, suggest
from dreamlab.core.pictures import Layout

if TYPE_CHECKING:
    from dreamlab.run.replay import Replay

STEPS = ("action", "reward", "terminated", "truncated")
"""arrays of one entry a step"""
PIECE = 256
"""entries of an array that are read at once"""
ABOUT = "recordings.json"
"""beside a dataset's files, and in the folder of a run that learned from recordings: what they hold"""
KINDS = {".npy": "npy", ".npz": "npz", **dict.fromkeys((".mp4", ".mov", ".mkv", ".webm", ".avi"), "film")}
WORDS = {"npy": "frames as .npy", "npz": ".npz files", "film": "films", "run": "a run's rows"}
TAKEN = "a folder of .npz or .npy files or of films (mp4), a folder that dreamlab collect made, or a run's folder"


class Bad(UserError):
    """A file that cannot be used, and why."""


@dataclass(frozen=True)
class Stored:
    """An array (N, ...) on disk."""

    shape: tuple[int, ...]
    dtype: np.dtype
    pieces: Callable[[], Iterator[np.ndarray]]
    """reads it from its start, ``PIECE`` entries at a time"""
    layout: Layout | None = None
    """where an image's channels are; None: nobody knows, and its shape must tell"""

    def whole(self) -> np.ndarray:
        """All of it: for what is small."""
        return np.concatenate([np.empty((0, *self.shape[1:]), self.dtype), *self.pieces()])


@dataclass(frozen=True)
class File:
    """One file: its arrays by name."""

    name: str
    arrays: Mapping[str, Stored]

    @property
    def ignored(self) -> list[str]:
        """Arrays that mean nothing here."""
        return [key for key in self.arrays if key not in STEPS and key.split(".")[0] != "obs"]


# -- which files there are -----------------------------------------------------------------------------------


def find(path: Path) -> tuple[str, list[Path]]:
    """The kind of recordings at ``path`` (a folder, or one file) and their files, episode2 before episode10.

    Raises:
        UserError: there are none, or of several kinds.
    """
    if not path.exists():
        near = sorted(p.name for p in path.parent.iterdir()) if path.parent.is_dir() else []
        raise UserError(f"there are no recordings at {path}: no such folder.{suggest(path.name, near)}")
    if path.is_file():
        if path.suffix.lower() not in KINDS:
            raise UserError(f"{path} is no recording; what can be read: {TAKEN}")
        return KINDS[path.suffix.lower()], [path]
    if is_run(path):
        return "run", [path]
    try:
        there = sorted((p for p in path.iterdir() if not p.name.startswith(".")), key=_by_number)
    except OSError as error:
        raise UserError(f"the folder {path} cannot be read: {error.strerror}") from error
    files = [p for p in there if p.suffix.lower() in KINDS]
    if (path / ABOUT).exists():  # films beside a dataset show it, and are no part of it
        files = [p for p in files if p.suffix == ".npz"]
    kinds = {KINDS[p.suffix.lower()] for p in files}
    if len(kinds) > 1:
        counts = " and ".join(f"{sum(KINDS[p.suffix.lower()] == k for p in files)} {WORDS[k]}" for k in sorted(kinds))
        raise UserError(f"{path} holds recordings of different kinds, {counts}: put each kind into a folder of its own")
    if not files:
        below = [p.name for p in there if p.is_dir() and (is_run(p) or any(f.suffix in KINDS for f in p.iterdir()))]
        hint = f" Recordings are in its folders {', '.join(below[:5])}: name one of them" if below else ""
        holds = f"holds none ({', '.join(p.name for p in there[:5])})" if there else "is empty"
        raise UserError(f"{path} {holds}; recordings are {TAKEN}.{hint}")
    return kinds.pop(), files


def is_run(path: Path) -> bool:
    """Whether a folder is a run's."""
    return (path / "config.yaml").exists() and (path / "checkpoints").is_dir()


def _by_number(path: Path) -> list[Any]:
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in re.split(r"(\d+)", path.name) if part]


# -- opening them --------------------------------------------------------------------------------------------


def open_file(path: Path) -> File:
    """A file's arrays.

    Raises:
        Bad: it cannot be read; says why.
    """
    with told(path.name):
        if path.is_dir():
            raise Bad(f"{path.name}: is a folder")
        if path.stat().st_size == 0:
            raise Bad(f"{path.name}: is empty (0 bytes)")
        arrays = OPEN[KINDS[path.suffix.lower()]](path)
        if (path.parent / ABOUT).exists():  # as ``run.dataset`` writes them
            arrays = {name: replace(stored, layout="last") for name, stored in arrays.items()}
        return File(path.name, arrays)


@contextmanager
def told(name: str) -> Iterator[None]:
    """Whatever goes wrong while a file is read names it. Raises Bad.

    Bytes from anywhere pass through the decoders of zip, of NumPy's headers and of films here. Each fails in ways of
    its own, so no list of them is whole.
    """
    try:
        yield
    except (UserError, ImportError):
        raise
    except PermissionError as error:
        raise Bad(f"{name}: cannot be read (no permission)") from error
    except MemoryError as error:
        raise Bad(f"{name}: needs more memory than there is: it is damaged, or too large to be read") from error
    except Exception as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        words = (isinstance(error, OSError) and error.strerror) or str(error).strip() or type(error).__name__
        reason = words.splitlines()[0]
        if "pickle" in reason or "Python objects" in reason:
            reason = "holds Python objects, which are never unpickled here: save plain arrays of numbers"
        raise Bad(f"{name}: damaged or cut short ({reason})") from error


def _npy(path: Path) -> dict[str, Stored]:
    with open(path, "rb") as stream:
        shape, _, dtype = _header(stream, f"{path.name}:", path.stat().st_size)
    if not shape:
        raise Bad(f"{path.name}: holds a single number")
    return {"obs": Stored(shape, dtype, partial(_mapped, path, shape[0]))}


def _mapped(path: Path, length: int) -> Iterator[np.ndarray]:
    """An array of a .npy, mapped anew for each piece: what was read does not stay in memory."""
    with told(path.name):
        for start in range(0, length, PIECE):
            yield np.array(np.load(path, mmap_mode="r", allow_pickle=False)[start : start + PIECE])


def _npz(path: Path) -> dict[str, Stored]:
    with zipfile.ZipFile(path) as file:
        members = [name for name in file.namelist() if name.endswith(".npy")]
        if not members:
            raise Bad(f"{path.name}: holds no arrays")
        found = {}
        for member in members:
            with file.open(member) as stream:
                name = f"{path.name}: {member.removesuffix('.npy')}"
                shape, fortran, dtype = _header(stream, name, file.getinfo(member).file_size)
            found[member.removesuffix(".npy")] = Stored(shape, dtype, partial(_unzip, path, member, fortran))
    return found


def _header(stream: IO[bytes], name: str, size: int) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, whether in Fortran's order, and type of an array whose file is of ``size`` bytes."""
    version = np.lib.format.read_magic(stream)  # type: ignore[no-untyped-call]
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"an array of NumPy's format {version}")
    reader = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = reader(stream)  # type: ignore[no-untyped-call]
    if dtype.hasobject:
        raise Bad(f"{name} holds Python objects, which are never unpickled here: save plain arrays of numbers")
    need, there = math.prod(shape) * dtype.itemsize, size - stream.tell()
    if min(shape, default=0) < 0 or need > there:  # before anything of that size is asked for
        raise ValueError(f"its header says {shape} of {dtype}, {need:,} bytes, but there are {there:,}")
    return shape, fortran and len(shape) > 1, dtype


def _unzip(path: Path, member: str, fortran: bool) -> Iterator[np.ndarray]:
    """An array of an npz, decompressed as it is needed; one in Fortran's order is read whole."""
    with told(path.name), zipfile.ZipFile(path) as file, file.open(member) as stream:
        shape, _, dtype = _header(stream, path.name, file.getinfo(member).file_size)
        length, *rest = shape or (1,)
        width = math.prod(rest) * dtype.itemsize
        piece = length if fortran else PIECE
        for start in range(0, length, max(piece, 1)):
            n = min(piece, length - start)
            data = stream.read(n * width)
            if len(data) < n * width:
                raise EOFError(f"{member.removesuffix('.npy')} ends after {start} of {length} entries")
            array = np.frombuffer(data, dtype).reshape(n, *rest, order="F" if fortran else "C")
            yield from (array[i : i + PIECE] for i in range(0, n, PIECE))
        stream.read(1)  # the checksum is looked at when the end is met


def _film(path: Path) -> dict[str, Stored]:
    import av

    with av.open(str(path)) as file:
        if not file.streams.video:
            raise Bad(f"{path.name}: has no pictures (no video stream)")
        stream = file.streams.video[0]
        if stream.codec_context is None:
            raise Bad(f"{path.name}: its pictures are coded in a way that is not known here; save it anew as H.264")
        packets = [p.is_discard for p in file.demux(stream) if p.size]
        if len(packets) < stream.frames:
            raise Bad(f"{path.name}: cut short: {len(packets)} of its {stream.frames} frames are there")
        shape = (packets.count(False), stream.height, stream.width, 3)

    def pieces() -> Iterator[np.ndarray]:
        """The film's frames, so many at a time."""
        with told(path.name), av.open(str(path)) as file:
            found: list[np.ndarray] = []
            seen = 0
            for frame in file.decode(video=0):
                found.append(frame.to_ndarray(format="rgb24"))
                if found[-1].shape != shape[1:]:
                    raise ValueError(f"frame {seen} is {found[-1].shape}, but {shape[1:]} was announced")
                seen += 1
                if len(found) == PIECE:
                    yield np.stack(found)
                    found = []
            if found:
                yield np.stack(found)
            if seen != shape[0]:
                raise EOFError(f"{seen} of its {shape[0]} frames can be decoded")

    return {"obs": Stored(shape, np.dtype(np.uint8), pieces, "last")}


OPEN: dict[str, Callable[[Path], dict[str, Stored]]] = {"npy": _npy, "npz": _npz, "film": _film}


# -- a run's rows --------------------------------------------------------------------------------------------


def open_run(folder: Path, holds: Mapping[str, bool]) -> list[File]:
    """The episodes of a run's rows, at its newest whole checkpoint.

    Args:
        folder: the run's.
        holds: which of actions, rewards, ends its rows know: one that itself learned from recordings may lack some.

    Raises:
        UserError: it holds no rows.
    """
    from dreamlab.run.checkpoint import Checkpoints
    from dreamlab.run.replay import Replay

    state = Checkpoints(folder).load()[1]["run"]["experience"]["replay"]
    if not state["stop"]:
        raise UserError(f"the run in {folder} holds no rows to learn from (its parts came from another run)")
    try:
        replay = Replay.view(folder / "replay", state)
    except RunError as error:
        raise UserError(f"the rows of the run in {folder} cannot be read: {error}") from error
    episodes = replay.episodes()
    found = []
    for i, (stream, start, stop) in enumerate(zip(episodes.stream, episodes.start, episodes.stop, strict=True)):
        if stop - start > 1:  # an episode that has just begun has no step
            rows = np.arange(start, stop) * replay.streams + stream
            found.append(File(f"episode {i}", _rows(replay, rows, holds)))
    return found


def _rows(replay: Replay, rows: np.ndarray, holds: Mapping[str, bool]) -> dict[str, Stored]:
    """An episode's rows as arrays in Gymnasium's convention: T + 1 observations and T of all else."""
    arrays = {}
    for name, column in replay.columns.items():
        if name == "vector" or (column.dtype == np.uint8 and len(column.shape) == 3):  # columns that agents added: no
            arrays[f"obs.{name}"] = _taken(replay, name, rows)
    if holds["actions"]:
        arrays["action"] = _taken(replay, "act", rows[:-1])
    if holds["rewards"]:
        arrays["reward"] = _taken(replay, "rew", rows[1:])
    if holds["ends"]:
        arrays["terminated"] = _taken(replay, "is_terminal", rows[1:])
    return arrays


def _taken(replay: Replay, name: str, rows: np.ndarray) -> Stored:
    column = replay.columns[name]

    def pieces() -> Iterator[np.ndarray]:
        for start in range(0, len(rows), PIECE):
            yield replay.take(name, rows[start : start + PIECE])

    return Stored((len(rows), *column.shape), column.dtype, pieces, "first")
