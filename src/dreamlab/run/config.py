"""How a run is run: what is the same for every agent. Imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class RunConfig:
    """How to run: seeds, budget, device, clocks."""

    seed: int = 0
    """everything random in the run is derived from it"""
    envs: int = 2
    """environments stepped side by side, each in a worker process"""
    steps: int | None = None
    """environment steps to collect in all; none takes the preset's"""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """where the networks live; auto takes a GPU where there is one"""
    precision: Literal["fp32", "bf16"] = "fp32"
    """bf16: matrix products and convolutions in bfloat16 over fp32 weights"""
    compile: bool = False
    """torch.compile World Models' losses and IRIS's dreams; on a GPU, V3's update or IRIS's dream as one CUDA graph"""
    threads: int = 0
    """CPU threads for torch; 0 takes all cores"""
    log_every: int = 50
    """steps between lines of metrics"""
    report_every: int = 0
    """steps between pictures and costlier measures; 0: at the end of each phase only"""
    eval_every: int = 0
    """steps between evaluations in the environment; 0: at the end only"""
    eval_episodes: int = 16
    """episodes of each evaluation while training"""
    save_minutes: float = 5.0
    """minutes between checkpoints; phases' ends are saved too"""
    keep: int = 2
    """checkpoints kept, besides the best"""
    capacity: int = 0
    """rows the replay keeps; 0 keeps all that is collected"""

    def __post_init__(self) -> None:
        for name in ("envs", "log_every", "eval_episodes", "keep"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("seed", "threads", "report_every", "eval_every", "capacity"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        if self.steps is not None and self.steps < 1:
            raise ValueError(f"steps must be at least 1, got {self.steps}")
        if self.save_minutes <= 0:
            raise ValueError(f"save_minutes must be positive, got {self.save_minutes}")


EXTENDS = ("log_every", "report_every", "eval_every", "eval_episodes", "save_minutes")
"""what may change when any run goes on; agents name budgets of their own, and the rest would make it another run"""
