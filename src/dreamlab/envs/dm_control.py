"""A task of dm_control as a Gymnasium environment, and the search for what can render it here.

dm_control chooses how to render when it is first imported, from the variable MUJOCO_GL, and would take a window
system that is not there. Here it is imported without any, so that numbers need no graphics at all. The first
picture that is wanted decides: EGL (graphics card or software), else OSMesa (software), tried in a process of their
own, because a driver may fail by ending its process. MUJOCO_GL then says what was found, to this process and to the
workers that it starts; where the user has set it, it is followed.
"""

from __future__ import annotations

import importlib
import logging
import os
import subprocess
import sys
from contextlib import suppress
from functools import cache
from types import ModuleType
from typing import TYPE_CHECKING, Any

import gymnasium
import numpy as np
from gymnasium import spaces

from dreamlab.core.errors import UserError
from dreamlab.envs.wrappers import image_space

if TYPE_CHECKING:
    from dreamlab.envs.dmc import Config

VARIABLE = "MUJOCO_GL"
SHOWN = 256
"""pixels along a side of a film's frame"""
WHOLE = (240, 320)
"""the frame that is cropped"""
DRAWS = ("dmc/quadruped_escape",)
"""tasks that need graphics in any case: their terrain is drawn anew in each episode"""
BOUNDLESS = 1e10
"""how MuJoCo says that an action has no bound"""
TRY = "from dm_control import mujoco; mujoco.Physics.from_xml_string('<mujoco/>').render(8, 8)"


class Task(gymnasium.Env):
    """One task of dm_control's suite: an image, a Dict of its numbers, or both.

    Raises:
        UserError: nothing can render here, or there is no such camera.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 30}

    def __init__(self, config: Config, domain: str, task: str, render_mode: str | None = None) -> None:
        self.render_mode, self._config = render_mode, config
        self._sees, self._size = config.obs, WHOLE if config.crop else config.size
        if self._sees != "vector" or render_mode or config.id in DRAWS:
            draws()
        self._random = np.random.RandomState(0)
        self._env = package("suite").load(domain, task, task_kwargs={"random": self._random})
        cameras = self._env.physics.model.ncam
        if config.camera >= cameras:  # type: ignore[operator]
            raise UserError(f"{config.id} has {cameras} cameras, counted from 0; there is no camera {config.camera}")
        self.action_space = _box(self._env.action_spec())
        self.observation_space = self._space()

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[Any, dict]:
        super().reset(seed=seed)
        if seed is not None:
            self._random.seed(seed % 2**32)
        return self._see(self._env.reset().observation), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
        rew = 0.0
        for _ in range(self._config.repeat):
            now = self._env.step(action)
            rew += float(now.reward)
            if now.last():
                break
        terminated = bool(now.last() and now.discount == 0)
        return self._see(now.observation), rew, terminated, bool(now.last() and not terminated), {}

    def render(self) -> np.ndarray:
        """A frame for films (256, 256, 3), whatever the agent sees."""
        return self._picture((SHOWN, SHOWN))

    def close(self) -> None:
        with suppress(Exception):  # a renderer that is already gone
            self._env.close()

    def _space(self) -> spaces.Space:
        image = image_space((*self._size, 3))
        if self._sees == "pixels":
            return image
        form: dict[str, spaces.Space] = {
            name: spaces.Box(-np.inf, np.inf, spec.shape, np.float64)
            for name, spec in self._env.observation_spec().items()
        }
        return spaces.Dict(form if self._sees == "vector" else {**form, "image": image})

    def _see(self, seen: dict[str, Any]) -> Any:
        if self._sees == "pixels":
            return self._picture(self._size)
        numbers = {name: np.asarray(value, np.float64) for name, value in seen.items()}
        return numbers if self._sees == "vector" else {**numbers, "image": self._picture(self._size)}

    def _picture(self, size: tuple[int, int]) -> np.ndarray:
        return np.ascontiguousarray(self._env.physics.render(*size, camera_id=self._config.camera))


def _box(act: Any) -> spaces.Box:
    low, high = np.broadcast_to(act.minimum, act.shape), np.broadcast_to(act.maximum, act.shape)
    low, high = np.where(low <= -BOUNDLESS, -np.inf, low), np.where(high >= BOUNDLESS, np.inf, high)
    return spaces.Box(low.astype(np.float32), high.astype(np.float32))


def package(name: str) -> ModuleType:
    """A module of dm_control; where that is imported for the first time, it is without graphics."""
    if "dm_control._render" in sys.modules:
        return importlib.import_module(f"dm_control.{name}")
    before = os.environ.get(VARIABLE)
    os.environ[VARIABLE] = "off"
    try:
        module = importlib.import_module(f"dm_control.{name}")
        logging.getLogger("absl").setLevel(logging.ERROR)  # MuJoCo warns of words in the suite's own models
        return module
    finally:
        if before is None:
            del os.environ[VARIABLE]
        else:
            os.environ[VARIABLE] = before


@cache
def draws() -> str:
    """Have dm_control render by what works here, and give its name: egl, osmesa, or what MUJOCO_GL says.

    Raises:
        UserError: nothing works; says which packages of the system to install.
    """
    wanted = os.environ.get(VARIABLE)
    chosen = wanted or next((name for name in ("egl", "osmesa") if works(name)), None)
    if chosen is None:
        raise UserError(
            "pictures of dm_control are rendered by EGL or OSMesa, and neither works here; install one of them "
            "(Debian, Ubuntu: apt install libegl1 libgl1-mesa-dri, or apt install libosmesa6), "
            "or let the agent see numbers: --env.obs vector"
        )
    render = package("_render")
    os.environ[VARIABLE] = chosen
    try:
        if chosen != render.BACKEND:
            importlib.reload(render)
    except Exception as error:
        raise UserError(
            f"dm_control cannot render by {VARIABLE}={chosen} ({type(error).__name__}: {error}); "
            f"unset {VARIABLE}, and EGL and OSMesa are tried; or let the agent see numbers: --env.obs vector"
        ) from error
    return chosen


def works(name: str) -> bool:
    """Whether a process of its own can render a picture by ``name``."""
    command = [sys.executable, "-c", TRY]
    try:
        return not subprocess.run(
            command, env={**os.environ, VARIABLE: name}, capture_output=True, timeout=120, check=False
        ).returncode
    except (OSError, subprocess.TimeoutExpired):
        return False
