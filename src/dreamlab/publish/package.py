"""A published model: a folder that says all of itself, in which nothing executes.

::

    README.md             the model card
    config.yaml           the run's settings, without paths of the machine that it was trained on
    state.json            everything that is no tensor: spaces, step, size and SHA-256 of each file
    <part>.safetensors    weights, a file a part
    starts.safetensors    start contexts (contexts.py)
    evaluations/*.json    scores of this checkpoint, each with its protocol
    replay.mp4, dream.mp4 films

``state.json`` and the tensors are a checkpoint (``run/checkpoint.py``) of the agent alone, without what only learning
needs.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces

from dreamlab.core.config import read_yaml, write_yaml
from dreamlab.core.errors import UserError
from dreamlab.publish import contexts
from dreamlab.publish.contexts import Contexts
from dreamlab.run import checkpoint
from dreamlab.run.dataset import read_space, written_space

FORMAT = 1
STARTS = "starts"
NEEDED = ("config.yaml", "state.json", "*.safetensors")
"""what loading a model reads, by pattern; none of them in a folder below"""
KNOWN = (*NEEDED, "README.md", "*.mp4", "evaluations/*.json")
LARGEST = 1 << 26
"""numbers in one observation or action, at most"""


class Package(NamedTuple):
    """What a published folder holds."""

    config: Mapping[str, Any]
    """the stored settings, not yet looked at"""
    step: int
    obs_space: spaces.Dict
    act_space: spaces.Space
    state: Mapping[str, Any]
    """of the agent, without what only learning needs"""
    starts: Contexts | None


def left_out(key: str) -> bool:
    """Whether a key of an agent's state serves learning alone."""
    return "optim" in key or key == "learning"


def without_learning(state: Any) -> Any:
    """An agent's state without what only learning needs."""
    if not isinstance(state, Mapping):
        return state
    return {k: without_learning(v) for k, v in state.items() if not (isinstance(k, str) and left_out(k))}


def filled(state: Any, fresh: Any) -> Any:
    """A published state, with what was left out as a fresh agent has it."""
    if not (isinstance(state, Mapping) and isinstance(fresh, Mapping)):
        return state
    whole = {k: filled(v, fresh.get(k)) for k, v in state.items()}
    return {**{k: v for k, v in fresh.items() if isinstance(k, str) and left_out(k)}, **whole}


def write(folder: Path, package: Package, files: Mapping[str, Path | str]) -> list[tuple[str, int]]:
    """Write a model into a new folder; ``files`` are texts, or files to copy, by name.

    Returns:
        What lies there: names and bytes.

    Raises:
        UserError: the folder holds something.
        NonFinite: a weight is not finite.
    """
    if folder.exists() and next(folder.iterdir(), None) is not None:
        raise UserError(f"{folder} is not empty; delete it or name another folder with --out")
    folder.mkdir(parents=True, exist_ok=True)
    about = {
        "published": FORMAT,
        "step": package.step,
        "observations": {key: written_space(space) for key, space in package.obs_space.spaces.items()},
        "action": written_space(package.act_space),
    }
    parts: dict[str, Any] = {name: {"value": value} for name, value in package.state.items()}
    if package.starts is not None:
        parts[STARTS] = package.starts.state_dict()
    checkpoint.write(folder, parts, about)
    write_yaml(folder / "config.yaml", dict(package.config))
    for name, source in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        if isinstance(source, Path):
            shutil.copyfile(source, folder / name)
        else:
            (folder / name).write_text(source, encoding="utf-8")
    return listing(folder)


def listing(folder: Path) -> list[tuple[str, int]]:
    """Files below a folder and their bytes."""
    return [(p.relative_to(folder).as_posix(), p.stat().st_size) for p in sorted(folder.rglob("*")) if p.is_file()]


def read(folder: Path, root: Path | None = None) -> Package:
    """A published model. Nothing of it is executed; links may lead nowhere but inside ``root`` (the folder itself).

    Raises:
        UserError: a pickle, a file outside, or something that is not in order, with the reason.
        RunError: a file is truncated or altered.
    """
    refuse_outside(folder, root or folder)
    checkpoint.refuse_pickles(folder)
    config = read_yaml(folder / "config.yaml")
    try:
        about = json.loads((folder / "state.json").read_text(encoding="utf-8"))
        if about["published"] != FORMAT:
            raise UserError(
                f"{folder} was published in form {about['published']}, this dreamlab reads form {FORMAT}: "
                "take the dreamlab that its README.md names"
            )
        refuse_names([*about["files"]], str(folder))
        obs_space = spaces.Dict({str(k): _space(v) for k, v in about["observations"].items()})
        act_space, step = _space(about["action"]), int(about["step"])
    except (ValueError, KeyError, TypeError, AttributeError, AssertionError) as error:
        raise UserError(
            f"{folder}/state.json is not in order ({type(error).__name__}: {error}); is it a published model?"
        ) from error
    parts = checkpoint.read(folder)
    starts = parts.pop(STARTS, None)
    try:
        state = {name: part["value"] for name, part in parts.items()}
    except (KeyError, TypeError) as error:
        raise UserError(f"{folder}/state.json is not in order: a part has no value") from error
    held = None if starts is None else contexts.restore(starts, obs_space, act_space)
    return Package(config, step, obs_space, act_space, state, held)


def _space(said: Mapping[str, Any]) -> spaces.Space:
    """A space that a stranger wrote down. Raises ValueError before a large one is made."""
    shape = said.get("shape", ())
    if not all(isinstance(n, int) and n > 0 for n in shape) or np.prod([float(n) for n in shape]) > LARGEST:
        raise ValueError(f"a space of shape {shape}")
    if any(not 0 < int(n) <= LARGEST for n in np.atleast_1d(said.get("n", 1))):
        raise ValueError(f"a space of {said['n']} choices")
    return read_space(said)


def refuse_outside(folder: Path, root: Path) -> None:
    """Raises UserError where a file of a folder lies outside ``root``, by a link."""
    real = root.resolve()
    for path in folder.rglob("*"):
        if not path.resolve().is_relative_to(real):
            raise UserError(f"{path} is a link that leads outside its folder, to {path.resolve()}: refused")


def refuse_names(names: Sequence[str], where: str) -> None:
    """Raises UserError where a file's name leads out of its folder, or is that of a pickle."""
    for name in names:
        path = Path(name)
        if path.is_absolute() or ".." in path.parts or "\\" in name or ":" in name:
            raise UserError(f"{where} names the file {name!r}, outside its folder: refused")
        if path.suffix in checkpoint.PICKLED:
            raise UserError(
                f"{where} holds {name}, a pickle by its name, which can run any code when it is loaded: refused. "
                "dreamlab's models hold their weights as .safetensors"
            )
