"""What World Models can be told, and what it will then spend. Imports nothing heavy.

Ha & Schmidhuber 2018, arXiv:1803.10122. Defaults are the paper's CarRacing; where the published text and the
authors' code differ, the field says so.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from dreamlab.core.protocols import Phase

if TYPE_CHECKING:
    from dreamlab.run.config import RunConfig

SEES = "image"
EXTENDS = ("controller.generations",)
TAKES = ("vision", "memory")
"""the parts that ``--from RUN`` takes"""
DRY_RUN = {
    "collect_steps": 400,
    "vision": {"updates": 5},
    "memory": {"updates": 3},
    "controller": {
        "population": 4, "episodes": 1, "generations": 2, "horizon": 50, "evaluate_every": 2, "evaluate_episodes": 2,
    },
}  # fmt: skip
"""what ``--dry-run`` shrinks: budgets, and no size of a network or a batch"""

ENCODE_ROWS = 1000
"""rows that one round of the encode phase is planned for"""


@dataclass(frozen=True)
class VisionConfig:
    """V: the convolutional variational autoencoder."""

    latent: int = 32
    """size of z (D)"""
    kl_floor: float = 0.5
    """nats per latent dimension: an image whose KL sum is below kl_floor * latent pays just that, with no gradient"""
    lr: float = 1e-4
    """Adam's learning rate"""
    batch: int = 100
    """frames of an update"""
    updates: int = 100_000
    """gradient steps; the paper's 1 epoch of 10 million frames is 100 000 (the authors' code runs 10)"""

    def __post_init__(self) -> None:
        _at_least("latent", self.latent, 1)
        _at_least("batch", self.batch, 1)
        _at_least("updates", self.updates, 0)
        _at_least("kl_floor", self.kl_floor, 0)
        _positive("lr", self.lr)


@dataclass(frozen=True)
class MemoryConfig:
    """M: the recurrent network that predicts the next z as a mixture of Gaussians."""

    hidden: int = 256
    """width of the LSTM (H)"""
    mixtures: int = 5
    """Gaussians that each dimension of z mixes (K)"""
    windows: Literal["episodes", "windows"] = "episodes"
    """what a sequence is: an episode from its start, or a window anywhere inside one"""
    sequence: int = 999
    """transitions of a sequence; shorter episodes are padded and masked"""
    batch: int = 100
    """sequences of an update"""
    lr: float = 1e-3
    """Adam's learning rate, constant"""
    clip: float = 1.0
    """each element of the gradient is clipped to this absolute value"""
    updates: int = 4000
    """gradient steps"""
    sigma_floor: float = 1e-3
    """smallest standard deviation of a Gaussian; below it the density of a constant dimension would explode"""
    reward: bool = False
    """predict rewards too; needed to dream of anything but survival"""
    reward_weight: float = 1.0
    """weight of the reward's squared error beside the z loss of weight 1 (ours: the paper has no reward head)"""
    continuation: bool = False
    """predict whether the episode goes on, as in the paper's Doom"""
    terminal_weight: float = 10.0
    """weight of terminal rows in the continuation's loss: they are rare"""

    def __post_init__(self) -> None:
        for name in ("hidden", "mixtures", "sequence", "batch"):
            _at_least(name, getattr(self, name), 1)
        _at_least("updates", self.updates, 0)
        for name in ("lr", "clip", "sigma_floor", "reward_weight", "terminal_weight"):
            _positive(name, getattr(self, name))


@dataclass(frozen=True)
class ControllerConfig:
    """C: the linear controller on [z, h], evolved by CMA-ES."""

    population: int = 64
    """candidates of a generation (P)"""
    episodes: int = 16
    """episodes whose mean return is a candidate's fitness (R)"""
    sigma0: float = 0.1
    """CMA-ES's first step size, around zero weights"""
    generations: int = 1800
    """generations of CMA-ES"""
    train_in: Literal["env", "dream"] = "env"
    """where fitness is measured: in the real environment, or inside the dream"""
    horizon: int = 1000
    """steps after which a dream ends"""
    temperature: float = 1.0
    """of the dream: 1 samples as M predicts, more makes it less certain; the paper's Doom takes 1.15"""
    dream_rows: int = 256
    """dreams that run side by side in one round of learning"""
    shared_seeds: bool = False
    """every candidate meets the same episodes of a generation; off, as the paper: only i and i + population/2 do"""
    evaluate_every: int = 25
    """generations between evaluations of the distribution's mean; 0 for never"""
    evaluate_episodes: int = 64
    """episodes of such an evaluation (the paper: 1024)"""

    def __post_init__(self) -> None:
        _at_least("population", self.population, 4)  # the library cannot do with fewer
        for name in ("episodes", "horizon", "dream_rows", "evaluate_episodes"):
            _at_least(name, getattr(self, name), 1)
        for name in ("generations", "evaluate_every"):
            _at_least(name, getattr(self, name), 0)
        for name in ("sigma0", "temperature"):
            _positive(name, getattr(self, name))


@dataclass(frozen=True)
class Config:
    """World Models: see (V), remember (M), act (C), one after the other."""

    collect_steps: int = 10_000_000
    """environment steps of random data"""
    collect: Literal["cauchy", "brownian", "random"] = "cauchy"
    """who acts in them: a new random controller each episode (the authors' code), a random walk, or pure chance"""
    vision: VisionConfig = field(default_factory=VisionConfig)
    """V, the autoencoder"""
    memory: MemoryConfig = field(default_factory=MemoryConfig)
    """M, the mixture density recurrent network"""
    controller: ControllerConfig = field(default_factory=ControllerConfig)
    """C, the controller"""

    def __post_init__(self) -> None:
        _at_least("collect_steps", self.collect_steps, 0)
        if self.controller.train_in == "dream" and not (self.memory.reward or self.memory.continuation):
            raise ValueError(
                "a controller can only be trained inside the dream if M predicts what to strive for: "
                "set memory.reward true (the sum of rewards) or memory.continuation true (survival), "
                "or controller.train_in env"
            )


def side_by_side(config: ControllerConfig, slots: int) -> int:
    """Episodes of one round: the environments there are, or as many whole candidates as fit the dream's rows."""
    if config.train_in == "env":
        return slots
    return max(1, config.dream_rows // config.episodes) * config.episodes


def generation_rounds(config: ControllerConfig, slots: int) -> int:
    """Rounds (waves of episodes) of all generations, each evaluation of the mean included."""
    wave = side_by_side(config, slots)
    evaluations = config.generations // config.evaluate_every if config.evaluate_every else 0
    each = math.ceil(config.population * config.episodes / wave)
    return config.generations * each + evaluations * math.ceil(config.evaluate_episodes / wave)


def budget(config: Config, run: RunConfig, loaded: Collection[str] = ()) -> list[Phase]:
    """The recipe in numbers; ``loaded`` names the parts that another run has trained already.

    With both V and M loaded and C trained in the real environment, nothing needs to be collected.
    """
    steps = config.collect_steps if run.steps is None else run.steps
    needed = not {"vision", "memory"} <= set(loaded) or config.controller.train_in == "dream"
    return [
        Phase("collect", env_steps=steps if needed else 0),
        Phase("vision", rounds=0 if "vision" in loaded else config.vision.updates),
        Phase("encode", rounds=max(10, math.ceil(steps / ENCODE_ROWS)) if needed else 0),
        Phase("memory", rounds=0 if "memory" in loaded else config.memory.updates),
        Phase("controller", rounds=generation_rounds(config.controller, run.envs)),
    ]


def _at_least(name: str, value: float, least: float) -> None:
    if value < least:
        raise ValueError(f"{name} must be at least {least}, got {value}")


def _positive(name: str, value: float) -> None:
    if value <= 0:
        raise ValueError(f"{name} must be positive, got {value}")
