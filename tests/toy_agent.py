"""The toy agent: a world model whose state is its last tokens, and a behaviour learned inside it.

::

    time      t-K+1  ...  t-1   t
    token       q    ...   q    q     what was seen, as one of V codes
    act         a    ...   a    -     what was then chosen; "none" at t, where it is still to be chosen
    latent = both windows of K; V and "none" pad what lies before the episode

It is small enough to run whole in seconds, and uses everything a real agent uses: an own tokenizer, columns
written into rows, all samplers, optimizers, random draws, rollouts, imagination. It exists to prove that an
agent of another kind than World Models fits, and to be killed and resumed in tests.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dreamlab.core.protocols import Phase

SEES = "any"
EXTENDS = ("practice", "run.steps")


@dataclass(frozen=True)
class Config:
    """A token-context agent for tests."""

    collect: int = 300
    """environment steps of random actions at first"""
    practice: int = 300
    """environment steps taken by its own policy; the run's steps, where given, minus those at first"""
    practice_every: int = 30
    """environment steps between two rounds of practice"""
    study: int = 12
    """rounds in which tokens and dynamics are learned before practice"""
    tune: int = 2
    """rounds of trying other actors in whole episodes"""
    codes: int = 32
    """tokens (V)"""
    context: int = 3
    """tokens that the model remembers (K)"""
    width: int = 32
    """units of its layers"""
    batch: int = 16
    """rows or windows in a batch"""
    horizon: int = 8
    """imagined steps per start state (H)"""
    learning_rate: float = 3e-3
    """Adam's step, everywhere"""

    def __post_init__(self) -> None:
        for name in ("collect", "practice_every", "codes", "context", "width", "batch", "horizon"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")


def budget(config: Config, run: Any) -> list[Phase]:
    """Collect, study (learning alone), tune (rollouts), practice (acting and learning interleaved)."""
    practice = config.practice if run.steps is None else max(run.steps - config.collect, 0)
    return [
        Phase("collect", env_steps=config.collect),
        Phase("study", rounds=config.study),
        Phase("tune", rounds=config.tune),
        Phase("practice", env_steps=practice, rounds=practice // config.practice_every),
    ]


def build(config: Config, obs_space: Any, act_space: Any, compute: Any, seed: int, run: Any) -> Any:
    """The agent: Discrete actions; the image where there is one, else the vector."""
    from toy_parts import ToyAgent  # torch comes with it, only when an agent is built

    return ToyAgent(config, obs_space, act_space, compute, seed, run)


def footprint(config: Config, obs_space: Any, act_space: Any, run: Any) -> Any:
    """A toy's: some batches and networks of kilobytes, and one int64 token a row."""
    from dreamlab.agents import Footprint

    return Footprint(memory_bytes=48 * 2**20, row_bytes=8)
