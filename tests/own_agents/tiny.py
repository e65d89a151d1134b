"""The smallest agent module that trains something: what a user's own looks like to the command line."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from dreamlab.agents import Footprint
from dreamlab.core.protocols import Phase

EXTENDS = ("epochs",)
SEES = "any"


@dataclass(frozen=True)
class VisionConfig:
    """The eyes."""

    latent: int = 8
    """size of what is seen"""
    lr: float = 1e-4
    """learning rate"""
    kind: Literal["plain", "deep"] = "plain"
    """which eyes"""
    sizes: tuple[int, ...] = (16, 16)
    """widths of layers"""
    floor: float | None = None
    """smallest loss; none for none"""
    shared: bool = False
    """one for all"""

    def __post_init__(self) -> None:
        if self.latent < 1:
            raise ValueError(f"latent must be at least 1, got {self.latent}")


@dataclass(frozen=True)
class Config:
    """A tiny agent."""

    epochs: int = 3
    """rounds of learning"""
    vision: VisionConfig = field(default_factory=lambda: VisionConfig(latent=9))
    """the eyes"""


def budget(config: Config, run: Any) -> list[Phase]:
    return [Phase("collect", env_steps=run.steps or 1000), Phase("learn", rounds=config.epochs)]


def build(config: Config, obs_space: Any, act_space: Any, compute: Any, seed: int, run: Any) -> Any:
    from torch import nn

    class Agent:
        def __init__(self) -> None:
            eyes = nn.Linear(4, config.vision.latent)
            self.parts = {"vision": eyes, "all": nn.Sequential(eyes, nn.Linear(config.vision.latent, 2))}

    return Agent()


def footprint(config: Config, obs_space: Any, act_space: Any, run: Any) -> Footprint:
    return Footprint(memory_bytes=1000, row_bytes=4 * config.vision.latent)
