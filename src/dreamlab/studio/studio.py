"""What all pages share: the runs, the models that are open, and the thread in which they step."""

from __future__ import annotations

import asyncio
import functools
from collections import OrderedDict
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

from gymnasium import spaces

from dreamlab.core.protocols import Agent, Experience, Policy, WorldModel
from dreamlab.studio.catalogue import Catalogue
from dreamlab.studio.curves import Curves

T = TypeVar("T")
MODELS = 3
"""opened runs that are kept, the last ones used"""


class OpenedRun(Protocol):
    """A run's agent at one checkpoint, as ``cli.session.Opened`` is."""

    folder: Path
    step: int
    agent: Agent
    obs_space: spaces.Dict
    act_space: spaces.Space
    parts: Mapping[str, Any]
    spec: Any
    compute: Any

    @property
    def model(self) -> WorldModel: ...
    def policy(self, explore: bool = False) -> Policy: ...
    def make_env(self, n: int = 1, render: bool = False) -> Any: ...
    def rows(self) -> Experience: ...


Opener = Callable[[Path, int | None], OpenedRun]


@dataclass
class Studio:
    """The runs below ``root``. ``opener`` opens one; this room cannot know agents."""

    root: Path
    opener: Opener
    cache: Path
    """where summaries and pages that were made are kept, outside the runs"""
    token: str | None = None
    """what a link must hold; None where only this machine can reach the page"""
    seats: int = 8
    """clients who may play at once"""
    threads: int = 1
    """threads in which one model steps: a single row is too little work to share, and two that wait for busy cores
    take many times as long"""
    dreams: Callable[[str], bool] = lambda agent: True
    """whether an agent, by its name, learns a world model"""
    catalogue: Catalogue = field(init=False)
    curves: Curves = field(init=False)
    _engine: ThreadPoolExecutor = field(init=False)
    _loader: ThreadPoolExecutor = field(init=False)
    _models: OrderedDict[tuple[Path, int | None], tuple[OpenedRun, Any]] = field(default_factory=OrderedDict)

    def __post_init__(self) -> None:
        self.catalogue = Catalogue(self.root, self.dreams)
        self.curves = Curves(self.cache)
        self._engine = ThreadPoolExecutor(1, "engine", initializer=self._begin)
        self._loader = ThreadPoolExecutor(1, "loader")

    async def compute(self, fn: Callable[..., T], *args: Any) -> T:
        """Run ``fn`` in the thread in which models step: whoever asks has one call waiting, so all come in turn."""
        return await asyncio.get_running_loop().run_in_executor(self._engine, functools.partial(fn, *args))

    async def opened(self, folder: Path, checkpoint: int | None = None) -> OpenedRun:
        """A run's agent at a checkpoint, the newest unless told; those last used stay open.

        Raises:
            UserError, RunError: as ``opener``.
        """
        return await asyncio.get_running_loop().run_in_executor(self._loader, self._open, folder, checkpoint)

    def close(self) -> None:
        """Let the threads end."""
        self.curves.close()
        self._engine.shutdown(wait=False, cancel_futures=True)
        self._loader.shutdown(wait=False, cancel_futures=True)

    def _open(self, folder: Path, checkpoint: int | None) -> OpenedRun:
        newest = _newest(folder) if checkpoint is None else None
        found, at = self._models.get((folder, checkpoint), (None, None))
        if found is None or newest != at:
            found = self.opener(folder, checkpoint)
            self._models[folder, checkpoint] = found, newest
        self._models.move_to_end((folder, checkpoint))
        while len(self._models) > MODELS:
            self._models.popitem(last=False)
        return found

    def _begin(self) -> None:
        import torch

        torch.get_num_threads()  # a thread takes over the process's number when it first asks for it, and not later
        torch.set_num_threads(self.threads)


def _newest(folder: Path) -> tuple[int, int] | None:
    """The newest checkpoint and when it was written, whole or not: one that is damaged is tried once."""
    steps = (int(p.name) for p in folder.glob("checkpoints/[0-9]*") if p.name.isdigit())
    newest = max(steps, default=None)
    if newest is None:
        return None
    with suppress(OSError):
        return newest, (folder / "checkpoints" / str(newest)).stat().st_mtime_ns
    return newest, 0
