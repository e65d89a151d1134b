"""dream:RUN is the dream of a run's world model, in which any agent can act and learn.

An episode begins at the first row of one that the run has experienced, and ends where the model predicts its end, or
at the time limit. It depends on its seed alone. What is seen is what the model draws: pictures of the size that it was
trained on, or numbers. Every agent is scored in the dream; ``dreamlab evaluate RUN --env ID`` scores it in the
environment that was dreamt of.

The model is opened by whoever may open runs (``opener``); this room knows settings alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dreamlab.core.config import read_yaml
from dreamlab.core.errors import UserError
from dreamlab.envs.config import EnvConfig

if TYPE_CHECKING:
    import gymnasium

PREFIX = "dream:"
LIMIT = 1000
"""steps of an episode where the run's environment has no limit of its own"""

opener: Callable[[Config, str | None], gymnasium.Env] | None = None
"""makes one dream; the command line puts it here"""


@dataclass(frozen=True)
class Config(EnvConfig):
    """The dream of a run's world model."""

    time_limit: int | None = LIMIT
    """steps after which a dream is truncated"""
    workers: bool = False
    """dreams are dreamt in this process"""
    checkpoint: int | None = None
    """step of the run whose model is dreamt in; its newest when this run begins"""
    temperature: float = 1.0
    """how freely the model draws"""
    starts: int = 256
    """episodes of the run, at most, from whose first rows dreams begin"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.workers:
            raise ValueError("dreams are dreamt in this process; leave workers off")
        if self.fresh:
            raise ValueError("a dream depends on its seed alone; leave fresh off")
        if self.time_limit is None:
            raise ValueError("a dream needs a time_limit: nothing else may ever end it")
        if not self.temperature > 0:
            raise ValueError(f"temperature must be positive, got {self.temperature}")
        if self.starts < 1:
            raise ValueError(f"starts must be at least 1, got {self.starts}")


def claims(id: str) -> bool:
    """dream:RUN."""
    return id.startswith(PREFIX)


def ids() -> list[str]:
    """None by name: each run with a world model has one."""
    return []


def folder(id: str) -> Path:
    """The run that is dreamt of.

    Raises:
        UserError: there is none.
    """
    path = Path(id.removeprefix(PREFIX))
    if not (path / "config.yaml").is_file():
        raise UserError(f"{id}: {path} holds no run (no config.yaml); type dream:RUN with the folder of a run")
    return path


def default(id: str) -> Config:
    """Pictures as large as the model's, the run's time limit, and its newest checkpoint, where there is such a run."""
    path = Path(id.removeprefix(PREFIX))
    if not (path / "config.yaml").is_file():
        return Config(id=id)
    stored = read_yaml(path / "config.yaml").get("env")
    env: dict[str, Any] = stored if isinstance(stored, dict) else {}
    steps = [int(p.name) for p in path.glob("checkpoints/[0-9]*") if p.name.isdigit()]
    return Config(
        id=id,
        size=tuple(env.get("size") or EnvConfig.size),  # type: ignore[arg-type]
        time_limit=env.get("time_limit") or LIMIT,
        checkpoint=max(steps, default=None),
    )


def make(config: EnvConfig, render_mode: str | None = None) -> gymnasium.Env:
    """One dream.

    Raises:
        UserError: no such run, one without a world model, or nobody here opens runs.
    """
    folder(config.id)
    if not isinstance(config, Config):
        raise UserError(f"{config.id} takes the settings dreamlab.envs.default_config({config.id!r})")
    if opener is None:
        raise UserError(f"{config.id}: use dreamlab.make_env or the dreamlab command, which can open a run")
    return opener(config, render_mode)
