"""A folder of recordings: what lies there, and how it becomes the table that a run learns from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces

from dreamlab.core.errors import UserError
from dreamlab.run import readers
from dreamlab.run.readers import Bad, File
from dreamlab.run.recording import Form, Recording, Span, examine, read_steps, rows
from dreamlab.run.replay import Replay


@dataclass(frozen=True)
class Recordings:
    """What lies in a folder."""

    path: Path
    format: str
    files: tuple[Recording, ...]
    obs_space: spaces.Dict
    """images as large as most of them are"""
    act_space: spaces.Space
    exact: bool
    """``act_space`` is the environment's own, not only the smallest that holds the actions"""
    env: Mapping[str, Any] | None
    """settings of the environment that it was collected in, where that is known"""
    skipped: tuple[str, ...] = ()

    @property
    def rows(self) -> int:
        return sum(file.rows for file in self.files)

    @property
    def spans(self) -> list[Span]:
        return [span for file in self.files for span in file.spans]

    @property
    def returns(self) -> list[float]:
        return [ret for file in self.files for ret in file.returns]

    @property
    def holds(self) -> dict[str, bool]:
        """Which of actions, rewards and ends were recorded."""
        arrays = self.files[0].file.arrays
        return {"actions": "action" in arrays, "rewards": "reward" in arrays, "ends": "terminated" in arrays}

    @property
    def sizes(self) -> Counter[tuple[int, ...]]:
        """Heights and widths of images, and how many files have them."""
        return Counter(shape[1:] for file in self.files for shape in file.shapes.values() if len(shape) == 3)

    @property
    def ignored(self) -> list[str]:
        """Arrays of the files that mean nothing here."""
        return sorted({key for file in self.files for key in file.file.ignored})


def look(
    path: Path,
    known: tuple[spaces.Dict, spaces.Space] | None = None,
    env: Mapping[str, Any] | None = None,
    holds: Mapping[str, bool] | None = None,
    skip_bad: bool = False,
) -> Recordings:
    """See what lies in a folder, from the files' headers and whatever is small in them.

    Args:
        path: the folder, or one file.
        known: the spaces of what is recorded, where more is known than the files say.
        env: the settings of the environment it comes from.
        holds: which of actions, rewards and ends a run's rows know; all unless told.
        skip_bad: leave out what is not in order; each file is read through once to know.

    Raises:
        UserError: nothing is there, or (Bad) a file is not in order.
    """
    format, paths = readers.find(path)
    if format == "run":
        whole = {"actions": True, "rewards": True, "ends": True}
        files: Iterable[File | Path] = readers.open_run(path, holds or whole)
    else:
        files = paths
    good: list[Recording] = []
    skipped: list[str] = []
    for one in files:
        try:
            recording = examine(readers.open_file(one) if isinstance(one, Path) else one)
            if known is not None:
                _refuse_others(recording, *known)
            else:
                _refuse_one_hot(recording)
            if skip_bad:
                for _ in rows(recording, Form.of(recording)):
                    pass
            good.append(recording)
        except Bad as error:
            if not skip_bad:
                raise _how_to_skip(error, path) from None
            skipped.append(str(error))
    good = _alike(good, path, skipped, skip_bad)
    if not good:
        raise UserError("\n  ".join([f"no recording in {path} is in order:", *skipped[:10]]))
    obs_space, act_space = known or (_obs_space(good), _act_space_of(good))
    return Recordings(path, format, tuple(good), obs_space, act_space, known is not None, env, tuple(skipped))


def _refuse_others(recording: Recording, obs_space: spaces.Dict, act_space: spaces.Space) -> None:
    """Raise Bad where a file is not of the spaces that it should be of."""
    name, act, shapes = recording.file.name, recording.act_space, recording.shapes
    if not set(shapes) >= set(obs_space.spaces):
        raise Bad(f"{name}: holds {', '.join(shapes)}, but all of {', '.join(obs_space.spaces)} is recorded")
    for key, space in obs_space.spaces.items():
        if shapes[key] != space.shape:
            raise Bad(f"{name}: {key} is {shapes[key]}, but {space.shape} is recorded (images: channels first)")
    if act is None:
        return
    if type(act) is not type(act_space) or act.shape != act_space.shape:
        raise Bad(f"{name}: its actions are {_kind_of(act)}, but recorded is {_kind_of(act_space)}")
    if isinstance(act, spaces.Discrete) and isinstance(act_space, spaces.Discrete) and act.n > act_space.n:
        raise Bad(f"{name}: has action {act.n - 1}, but there are {act_space.n}, counted from 0")
    if isinstance(act, spaces.MultiDiscrete) and (act.nvec > act_space.nvec).any():  # type: ignore[attr-defined]
        raise Bad(f"{name}: has choices up to {act.nvec - 1}, but there are {act_space.nvec}, counted from 0")  # type: ignore[attr-defined]


def _refuse_one_hot(recording: Recording) -> None:
    """Raise Bad where a file that says nothing of its actions has them as one-hot rows, not as K choices."""
    act = recording.act_space
    if isinstance(act, spaces.MultiDiscrete) and (act.nvec <= 2).all():
        chosen = read_steps(recording.file)["action"]
        if (chosen.sum(1) == 1).all():
            what = f"{recording.file.name}: action {chosen.shape} is one-hot, but one of n is (T,)"
            raise Bad(f"{what}: save action.argmax(1)")


def _kind_of(act: spaces.Space) -> str:
    if isinstance(act, spaces.MultiDiscrete):
        return f"{act.shape[0]} choices"
    return f"{act.shape[0]} numbers" if isinstance(act, spaces.Box) else "one of n"


def _alike(good: list[Recording], path: Path, skipped: list[str], skip_bad: bool) -> list[Recording]:
    """Those of the kind that most are of. Raises UserError at another, unless they are to be skipped."""
    if not good:
        return good
    usual = Counter(recording.kind for recording in good).most_common(1)[0][0]
    for other in (r for r in good if r.kind != usual):
        words = f"{other.file.name}: holds {', '.join(other.kind)}, but most files {', '.join(usual)}"
        if not skip_bad:
            raise _how_to_skip(Bad(words), path)
        skipped.append(words)
    return [recording for recording in good if recording.kind == usual]


def _how_to_skip(error: Bad, path: Path) -> Bad:
    return Bad(f"{path}: {error}. --skip-bad leaves out what is not in order and uses the rest")


def _obs_space(files: Sequence[Recording]) -> spaces.Dict:
    form: dict[str, spaces.Space] = {}
    for key in files[0].shapes:
        shape = Counter(file.shapes[key] for file in files).most_common(1)[0][0]
        image = len(shape) == 3
        form[key] = spaces.Box(0, 255, shape, np.uint8) if image else spaces.Box(-np.inf, np.inf, shape, np.float32)
    return spaces.Dict(form)


def _act_space_of(files: Sequence[Recording]) -> spaces.Space:
    """The smallest that holds all actions; one single action where none were recorded."""
    all_of = [file.act_space for file in files]
    if isinstance(all_of[0], spaces.Box):
        low = np.min([space.low for space in all_of], 0)  # type: ignore[union-attr]
        return spaces.Box(low, np.max([space.high for space in all_of], 0), dtype=np.float32)  # type: ignore[union-attr]
    if isinstance(all_of[0], spaces.MultiDiscrete):
        return spaces.MultiDiscrete(np.max([space.nvec for space in all_of], 0))  # type: ignore[union-attr]
    return spaces.Discrete(max(1 if space is None else int(space.n) for space in all_of))  # type: ignore[attr-defined]


def fill(replay: Replay, recordings: Recordings, form: Form) -> None:
    """Write all rows into an empty table of one stream.

    Raises:
        Bad: a file is damaged; the table is empty again.
    """
    try:
        for recording in recordings.files:
            for piece in rows(recording, form):
                for i in range(len(piece["rew"])):
                    replay.append({name: values[i : i + 1] for name, values in piece.items()})
    except Bad as error:
        replay.clear()
        raise _how_to_skip(error, recordings.path) from None
