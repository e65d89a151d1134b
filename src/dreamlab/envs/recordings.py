"""No environment at all: the id ``recordings`` stands for runs that learn from recordings alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from dreamlab.core.errors import UserError
from dreamlab.envs.config import EnvConfig

if TYPE_CHECKING:
    import gymnasium

ID = "recordings"


@dataclass(frozen=True)
class Config(EnvConfig):
    """Recordings alone; images are resized as an environment's would be."""


def claims(id: str) -> bool:
    """The one id."""
    return id == ID


def ids() -> list[str]:
    """None: nothing can be stepped."""
    return []


def make(config: EnvConfig, render_mode: str | None = None) -> gymnasium.Env:
    """Nothing.

    Raises:
        UserError: always.
    """
    raise UserError(
        "there is no environment: recordings alone can be learned from (--data PATH) and dreamt of; to act, "
        "name an environment with --env ID"
    )
