"""Checkpoints: wholly there or not there at all, and nothing in them executes.

::

    checkpoints/<step>/   <part>.safetensors ...   tensors, one file a part
                          state.json               everything else, and the size and SHA-256 of each file

Written to a temporary folder, synced, renamed. A damaged one is passed over for the one before it, with a word.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import re
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from dreamlab.core.errors import NonFinite, RunError, UserError

FORMAT = 1
PICKLED = (".pt", ".pth", ".pkl", ".pickle", ".bin", ".ckpt", ".joblib")


class Damaged(RunError):
    """A checkpoint that is truncated, altered or incomplete."""


class Checkpoints:
    """The checkpoints of one run folder: the newest ``keep``, and the best."""

    def __init__(self, run: Path, keep: int = 2) -> None:
        self.folder, self.keep = Path(run) / "checkpoints", keep

    def steps(self) -> list[int]:
        """Steps of the checkpoints that are there, oldest first."""
        return sorted(int(p.name) for p in self.folder.glob("[0-9]*") if p.name.isdigit() and p.is_dir())

    def best(self) -> dict[str, Any] | None:
        """``{"step", "score"}`` of the best evaluated checkpoint."""
        path = self.folder / "best.json"
        return json.loads(path.read_text()) if path.exists() else None

    def save(self, step: int, parts: Mapping[str, Mapping[str, Any]], score: float | None = None) -> list[int]:
        """Write a checkpoint and drop those that are not kept. Returns the steps kept, oldest first.

        Raises:
            NonFinite: a weight is NaN or infinite; nothing is written.
            OSError: the disk is full; the older checkpoints are untouched.
        """
        tmp = self.folder / f"{step}.tmp"
        shutil.rmtree(tmp, ignore_errors=True)
        tmp.mkdir(parents=True)
        try:
            write(tmp, parts, {"step": step, "score": score})
        except BaseException:
            shutil.rmtree(tmp, ignore_errors=True)
            raise
        final = self.folder / str(step)
        old = self.folder / f"{step}.old"
        if final.exists():  # the same step again (a run gone on): one of the two is there at every instant
            shutil.rmtree(old, ignore_errors=True)
            os.rename(final, old)
        os.rename(tmp, final)
        sync_folder(self.folder)
        shutil.rmtree(old, ignore_errors=True)
        best = self.best()
        if score is not None and (best is None or best["step"] == step or score >= best["score"]):
            write_json(self.folder / "best.json", {"step": step, "score": score})
            best = {"step": step}
        newest = self.steps()[-self.keep :]
        for there in self.steps():
            if there not in newest and not (best and there == best["step"]):
                shutil.rmtree(self.folder / str(there))
        return newest

    def settings(self) -> tuple[int, dict[str, Any]] | None:
        """The newest checkpoint's step, and what the run was started with, as far as it can be read."""
        for step in reversed(self.steps()):
            with suppress(OSError, ValueError, KeyError, TypeError):
                found = json.loads((self.folder / str(step) / "state.json").read_text())["parts"]["run"]["settings"]
                return (step, found) if isinstance(found, dict) and found else None
        return None

    def mend(self) -> None:
        """Put back a checkpoint that was laid aside by a save that was killed. For the process that trains here alone:
        it may be in the middle of one.
        """
        for spare in self._spare():
            if not spare.with_suffix("").exists():
                os.rename(spare, spare.with_suffix(""))

    def _spare(self) -> list[Path]:
        """Checkpoints that a save has laid aside for a moment, or was killed before it could drop them."""
        return [p for p in self.folder.glob("[0-9]*.old") if p.stem.isdigit()]

    def load(self, step: int | None = None) -> tuple[int, dict[str, Any], list[str]]:
        """A checkpoint's step and parts, and words about damaged ones passed over. Default: the newest that is whole.

        Raises:
            UserError: there is none, or not the one asked for, or one holds a pickle.
            Damaged: the one asked for, or every one, is damaged.
        """
        places = {int(p.stem): p for p in self._spare()} | {n: self.folder / str(n) for n in self.steps()}
        there = sorted(places)
        if step is not None:
            if step not in there:
                known = ", ".join(map(str, there)) or "none"
                raise UserError(f"no checkpoint {step} in {self.folder}; available: {known}")
            return step, read(places[step]), []
        words: list[str] = []
        for candidate in reversed(there[-self.keep :]):  # the replay goes back no further, even if the best is there
            try:
                return candidate, read(places[candidate]), words
            except Damaged as error:
                words.append(str(error))
        if words:
            raise Damaged(
                "every checkpoint is damaged:\n  " + "\n  ".join(words) + "\nput back a copy of one, or train in "
                "another folder; what is left of this one is not touched"
            )
        raise UserError(f"no checkpoint in {self.folder}: the run has not saved yet")

    def set_aside_after(self, step: int) -> None:
        """Rename checkpoints newer than ``step`` (they were found damaged), so that none is taken for a good one."""
        for newer in (s for s in self.steps() if s > step):
            shutil.rmtree(self.folder / f"{newer}.damaged", ignore_errors=True)
            os.rename(self.folder / str(newer), self.folder / f"{newer}.damaged")


def write(folder: Path, parts: Mapping[str, Mapping[str, Any]], info: Mapping[str, Any]) -> None:
    """Write parts into an empty folder and sync it. Raises NonFinite where a weight is not finite."""
    files, trees = {}, {}
    for part, tree in parts.items():
        tensors: dict[str, Tensor] = {}
        trees[part] = pack(tree, part, tensors)
        for name, value in tensors.items():
            if value.is_floating_point() and not bool(torch.isfinite(value).all()):
                raise NonFinite(f"{name} is not finite: this state is not saved, the last good checkpoint is kept")
        if tensors:
            path = folder / f"{part}.safetensors"
            try:
                save_file(tensors, path)
            except SafetensorError as error:  # it tells a full disk in words: "... (os error 28)"
                number = re.search(r"os error (\d+)", str(error))
                code = int(number[1]) if number else errno.EIO
                raise OSError(code, os.strerror(code), str(path)) from error
            sync_file(path)
            files[path.name] = {"bytes": path.stat().st_size, "sha256": digest(path)}
    write_json(
        folder / "state.json", {"format": FORMAT, **info, "files": files, "sha256": tree_digest(trees), "parts": trees}
    )
    sync_folder(folder)


def read(folder: Path) -> dict[str, Any]:
    """The parts that ``write`` was given.

    Raises:
        UserError: the folder holds a pickle.
        Damaged: a file is missing, truncated or altered.
    """
    refuse_pickles(folder)
    try:
        state = json.loads((folder / "state.json").read_text())
        tensors: dict[str, Tensor] = {}
        for name, facts in state["files"].items():
            path = folder / name
            if path.parent != folder:
                raise UserError(f"{folder}/state.json names {name!r}, outside its folder: refused")
            if not path.exists():
                raise Damaged(f"checkpoint {folder} lacks {name}")
            if path.stat().st_size != facts["bytes"] or digest(path) != facts["sha256"]:
                raise Damaged(f"checkpoint {folder}: {name} is truncated or altered")
            tensors |= load_file(path)
        if tree_digest(state["parts"]) != state["sha256"]:
            raise Damaged(f"checkpoint {folder}: state.json is altered")
        return {part: unpack(tree, tensors) for part, tree in state["parts"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
        raise Damaged(f"checkpoint {folder} cannot be read ({type(error).__name__}: {error})") from error


def refuse_pickles(folder: Path) -> None:
    """Raise UserError where a file is a pickle by its name or its first bytes: loading one would run its code."""
    for path in folder.rglob("*"):
        if not path.is_file():
            continue
        with open(path, "rb") as file:
            head = file.read(9)
        # safetensors: the length of a JSON header, then that header; a length of 640 looks like protocol 2 of pickle
        ours = head[8:] == b"{" and int.from_bytes(head[:8], "little") <= path.stat().st_size
        pickled = head[:1] == b"\x80" and head[1:2] in b"\2\3\4\5"
        if path.suffix in PICKLED or head.startswith(b"PK\3\4") or (pickled and not ours):  # torch.save writes a zip
            raise UserError(
                f"{path} is a pickle, which can run any code when it is loaded: refused. "
                "dreamlab keeps weights as .safetensors; delete the file if it does not belong there"
            )


def pack(tree: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    """JSON for a nest of dictionaries, lists and scalars; tensors and arrays are put into ``tensors`` by path."""
    if isinstance(tree, Tensor):
        tensors[path] = tree.detach().to("cpu", copy=True).contiguous()
        return {"$tensor": path}
    if isinstance(tree, np.ndarray):
        tensors[path] = torch.from_numpy(np.ascontiguousarray(tree).copy())
        return {"$array": path}
    if isinstance(tree, Mapping):
        if all(isinstance(k, str) and not k.startswith("$") for k in tree):
            return {k: pack(v, f"{path}.{k}", tensors) for k, v in tree.items()}
        return {"$items": [[k, pack(v, f"{path}.{k}", tensors)] for k, v in tree.items()]}
    if isinstance(tree, list | tuple):
        return [pack(v, f"{path}.{i}", tensors) for i, v in enumerate(tree)]
    if isinstance(tree, np.generic):
        tree = tree.item()
    if isinstance(tree, float) and math.isnan(tree):
        raise NonFinite(f"{path} is nan: this state is not saved, the last good checkpoint is kept")
    if tree is None or isinstance(tree, str | int | float | bool):
        return tree
    raise TypeError(f"{path}: a {type(tree).__name__} cannot be saved; make it tensors, numbers, strings or lists")


def unpack(tree: Any, tensors: Mapping[str, Tensor]) -> Any:
    """The nest that ``pack`` was given (tuples come back as lists)."""
    if isinstance(tree, list):
        return [unpack(v, tensors) for v in tree]
    if not isinstance(tree, dict):
        return tree
    if "$tensor" in tree:
        return tensors[tree["$tensor"]]
    if "$array" in tree:
        return tensors[tree["$array"]].numpy()
    if "$items" in tree:
        return {k: unpack(v, tensors) for k, v in tree["$items"]}
    return {k: unpack(v, tensors) for k, v in tree.items()}


def write_json(path: Path, data: Any) -> None:
    """A JSON file that is either wholly there or as it was."""
    tmp = path.with_name(path.name + ".tmp")
    with open(tmp, "w") as file:
        json.dump(data, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    os.replace(tmp, path)


def tree_digest(trees: Mapping[str, Any]) -> str:
    """SHA-256 of packed parts, whatever the order of their keys in a file."""
    return hashlib.sha256(json.dumps(trees, sort_keys=True).encode()).hexdigest()


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync_file(path: Path) -> None:
    """Have the disk hold a file's bytes."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Have the disk hold a folder's entries (a rename is not kept by syncing the files alone)."""
    if os.name == "posix":
        fd = os.open(folder, os.O_RDONLY)
        os.fsync(fd)
        os.close(fd)
