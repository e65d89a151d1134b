"""DeepMind Control (Tassa et al. 2018, arXiv:1801.00690): dmc/walker_walk and every other task of its suite.

The agent sees a picture of a camera, rendered without a display at the size that it is seen in, or the task's own
numbers, one after another in the order of their names. Rewards of a simulated step are between 0 and 1, and an
episode has 1000 of them. It is truncated then; only a task that says so itself (its discount is 0) terminates.

Episodes depend on their seed alone. What a task draws as it is built (lqr: its springs) is the same in all of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Literal

from dreamlab.core.errors import UserError, missing_package
from dreamlab.envs.config import EnvConfig

if TYPE_CHECKING:
    import gymnasium

TASKS = {
    "acrobot": "swingup swingup_sparse",
    "ball_in_cup": "catch",
    "cartpole": "balance balance_sparse swingup swingup_sparse three_poles two_poles",
    "cheetah": "run",
    "dog": "fetch run stand trot walk",
    "finger": "spin turn_easy turn_hard",
    "fish": "swim upright",
    "hopper": "hop stand",
    "humanoid": "run run_pure_state stand walk",
    "humanoid_CMU": "run stand walk",
    "lqr": "lqr_2_1 lqr_6_2",
    "manipulator": "bring_ball bring_peg insert_ball insert_peg",
    "pendulum": "swingup",
    "point_mass": "easy hard",
    "quadruped": "escape fetch run walk",
    "reacher": "easy hard",
    "stacker": "stack_2 stack_4",
    "swimmer": "swimmer15 swimmer6",
    "walker": "run stand walk",
}
"""the tasks of each domain"""
PAIRS = {f"dmc/{domain}_{task}": (domain, task) for domain, tasks in TASKS.items() for task in tasks.split()}
IDS = list(PAIRS)
PAIRS["dmc/cup_catch"] = PAIRS["dmc/ball_in_cup_catch"]  # as Dreamer's papers call it
KNOWN = ("dmc/cartpole_balance", "dmc/cartpole_swingup", "dmc/cheetah_run", "dmc/reacher_easy", "dmc/walker_walk")
"""named where not all ids are"""
STEPS = 1000
"""steps of an episode"""
REPEATS = True
"""only what an agent sees is rendered, so that repeated steps must be taken in here"""


@dataclass(frozen=True)
class Config(EnvConfig):
    """A task of DeepMind Control."""

    id: str = "dmc/walker_walk"
    """which environment: dmc/DOMAIN_TASK"""
    obs: Literal["auto", "pixels", "vector"] = "pixels"
    """what the agent sees: a camera's picture, the task's numbers (vector), or both (auto)"""
    size: tuple[int, int] = (64, 64)
    """height and width of images, rendered at this size; where ``crop`` is given, cut out of 240x320 and resized"""
    camera: int | None = None
    """which of the model's cameras; none is the papers' choice: 0, for quadruped 2; -1 can move freely, but does not"""
    actions: Literal["native", "unit"] = "unit"
    """bounds of actions: the task's own, or -1 to 1 for all"""
    time_limit: int | None = None
    """agent steps after which an episode is truncated; none is the suite's own: 1000 steps, divided by ``repeat``"""

    def __post_init__(self) -> None:
        if self.camera is None:
            object.__setattr__(self, "camera", 2 if self.id.startswith("dmc/quadruped_") else 0)
        super().__post_init__()
        if self.time_limit is None:
            object.__setattr__(self, "time_limit", -(-STEPS // self.repeat))
        if self.camera < -1:  # type: ignore[operator]
            raise ValueError(f"camera must be a camera's number, or -1, got {self.camera}")


def claims(id: str) -> bool:
    """Every task of the suite, and cup_catch for ball_in_cup_catch."""
    return id in PAIRS


def ids() -> list[str]:
    """All, where dm_control is installed."""
    return list(IDS) if find_spec("dm_control") else []


def default(id: str) -> Config:
    """LQR's actions have no bounds that others could be scaled to."""
    return Config(id=id, actions="native") if id.startswith("dmc/lqr_") else Config(id=id)


def make(config: EnvConfig, render_mode: str | None = None) -> gymnasium.Env:
    """A task.

    Raises:
        UserError: dm_control is not installed, nothing can render here, or there is no such camera.
    """
    if not isinstance(config, Config):
        raise UserError(f"{config.id} takes the settings dreamlab.envs.default_config({config.id!r})")
    if not (find_spec("dm_control") and find_spec("mujoco")):
        raise missing_package("dm_control", "dmc", config.id)
    from dreamlab.envs.dm_control import Task

    return Task(config, *PAIRS[config.id], render_mode)
