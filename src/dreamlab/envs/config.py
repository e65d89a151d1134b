"""What every environment can be asked for. Imports nothing heavy: it is the command line's help."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class EnvConfig:
    """An environment and every preprocessing choice."""

    id: str
    """which environment: an id such as CarRacing-v3, or your own as my_pkg.my_env:make"""
    obs: Literal["auto", "pixels", "vector"] = "auto"
    """what the agent sees: auto is what the environment gives, pixels its picture (rendered if need be)"""
    size: tuple[int, int] = (64, 64)
    """height and width of images; resized bilinearly with antialiasing"""
    crop: tuple[int, int, int, int] | None = None
    """rows and columns of a frame to keep, before resizing: top bottom left right"""
    grey: bool = False
    """images in one channel of luminance"""
    repeat: int = 1
    """how often each action is repeated; rewards are summed"""
    time_limit: int | None = None
    """agent steps after which an episode is truncated; none keeps the environment's own limit"""
    actions: Literal["native", "unit"] = "native"
    """bounds of continuous actions: the environment's own, or -1 to 1 for all"""
    workers: bool = True
    """each environment in a worker process; off steps them one after another in this process"""
    fresh: bool = False
    """build the environment anew for each episode, where its reset leaves traces of the last one"""
    timeout: float = 120.0
    """seconds a worker may take for one step before it counts as hung"""

    def __post_init__(self) -> None:
        if not self.id:
            raise ValueError("id must name an environment")
        if min(self.size) < 1:
            raise ValueError(f"size must be at least 1 by 1, got {self.size}")
        if self.crop is not None:
            top, bottom, left, right = self.crop
            if not (0 <= top < bottom and 0 <= left < right):
                raise ValueError(f"crop must be top < bottom, left < right, none negative, got {self.crop}")
        if self.repeat < 1:
            raise ValueError(f"repeat must be at least 1, got {self.repeat}")
        if self.time_limit is not None and self.time_limit < 1:
            raise ValueError(f"time_limit must be at least 1, got {self.time_limit}")
        if self.timeout <= 0:
            raise ValueError(f"timeout must be positive, got {self.timeout}")


EXTENDS = ("timeout",)
"""what may change when a run goes on: it has no part in what happens"""
