"""ViZDoom's scenarios (Doom by its own engine, 240x320 pixels): VizdoomTakeCover-v1 is World Models' second task.

In TakeCover monsters throw fireballs across a room. Each tic that the player lives through gives +1, the last
one too, and the episode ends with the player's death. Actions, in the package's order: 0 nothing, 1 right, 2 left.

As in World Models (Ha & Schmidhuber 2018): one tic a step, truncated after 2100 (60 s), and rows 0 to 399 of 480
kept before resizing, which is rows 0 to 199 of 240 here. Not as in the paper: its package drew 480x640 pixels, and
its code inverts the colours. Today's scenario draws no status bar, so that what is cut off is floor.

Ours: where an episode ends the engine has no screen any more, and the last one is seen again (the package gives
black). A scenario's own time limit truncates and does not terminate.

The engine is a process of its own. It leaves files in the folder where it starts; here that is a temporary one,
gone before the first tic. Episodes depend on their seed alone, also in a used engine, so ``fresh`` is not needed.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal

import gymnasium

from dreamlab.core.errors import UserError, missing_package
from dreamlab.envs import gym
from dreamlab.envs.config import EnvConfig

if TYPE_CHECKING:
    from psutil import Process

TAKE_COVER = "VizdoomTakeCover-v1"
SCENARIOS = [
    "Basic",
    "BasicAudio",
    "BasicNotifications",
    "DeadlyCorridor",
    "Deathmatch",
    "DefendCenter",
    "DefendLine",
    "HealthGathering",
    "HealthGatheringSupreme",
    "MyWayHome",
    "PredictPosition",
    "TakeCover",
]
IDS = [f"Vizdoom{name}-v1" for name in SCENARIOS]
BOTH = {"VizdoomDeathmatch-v1"}
"""those with buttons and a mouse at once, which no agent here can move"""
WORKER_BYTES = 32 << 20
"""memory of one in a worker process, with its engine (1, 2, 4 of them: 43, 71, 125 MiB)"""

_changing_folder = threading.Lock()


@dataclass(frozen=True)
class Config(EnvConfig):
    """ViZDoom's scenarios of one player."""

    id: str = TAKE_COVER
    """which environment"""
    obs: Literal["auto", "pixels", "vector"] = "pixels"
    """what the agent sees: pixels is the screen, vector the game's numbers (such as health), auto both"""


def claims(id: str) -> bool:
    """The scenarios of one player in today's versions."""
    return id in IDS


def ids() -> list[str]:
    """Those that an agent here can play, where ViZDoom is installed."""
    return [id for id in IDS if id not in BOTH] if find_spec("vizdoom") else []


def default(id: str) -> Config:
    """The paper's crop and time limit for TakeCover; the other scenarios have limits of their own."""
    return Config(id=id, crop=(0, 200, 0, 320), time_limit=2100) if id == TAKE_COVER else Config(id=id)


def make(config: EnvConfig, render_mode: str | None = None) -> gymnasium.Env:
    """A scenario; its engine starts with the first reset.

    Raises:
        UserError: ViZDoom is not installed, or a library that it needs is missing.
    """
    try:
        import vizdoom.gymnasium_wrapper  # noqa: F401 it registers the ids
    except ModuleNotFoundError as error:
        raise missing_package("vizdoom", "vizdoom", config.id) from error
    except ImportError as error:  # a shared library
        raise UserError(f"{config.id}: the package vizdoom cannot be loaded: {error}") from error
    env = gym.make(config, render_mode, doom_config_path=os.devnull)
    env.unwrapped.game = Housed(env.unwrapped.game)  # type: ignore[attr-defined]
    return LastScreen(env)


def action_names(config: EnvConfig) -> list[str]:
    """What each action means: nothing, then one button each, the scenario's last one first, as the package has them."""
    import vizdoom
    import vizdoom.gymnasium_wrapper  # it registers the ids

    scenario = gymnasium.spec(config.id).kwargs["scenario_config_file"]
    with open(os.path.join(vizdoom.scenarios_path, scenario), encoding="utf-8") as file:
        found = re.search(r"available_buttons\s*=\s*\{([^}]*)\}", file.read())
    buttons = found[1].split() if found else []
    return ["nothing", *(button.lower().replace("_", " ") for button in reversed(buttons))]


class Housed:
    """A ``DoomGame`` whose engine starts in a folder that is then removed, and ends with this process, however it ends.

    It takes the game's place inside the package's environment, so that nobody starts an engine past it.
    """

    def __init__(self, game: Any) -> None:
        self._game = game
        self._guard: weakref.finalize | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._game, name)

    def init(self) -> None:
        """Start the engine.

        Raises:
            UserError: it does not start.
        """
        self._release()
        with _changing_folder, _temporary_folder():
            before = {engine.pid for engine in _engines()}
            try:
                self._game.init()
            except Exception as error:
                raise UserError(
                    f"ViZDoom's engine does not start: {error} "
                    f"(ldd {_engine_file()} names the libraries that the system lacks)"
                ) from error
            new = [engine for engine in _engines() if engine.pid not in before]
        if new:
            self._guard = _guarded(self, new[0])

    def close(self) -> None:
        """End the engine."""
        self._game.close()
        self._release()

    def _release(self) -> None:
        if self._guard is not None:
            self._guard()
            self._guard = None


class LastScreen(gymnasium.Wrapper):
    """The agent sees what it last saw where an episode has ended, and a time limit as a truncation alone."""

    _seen: Any = None

    def reset(self, **kwargs: Any) -> tuple[Any, dict]:
        self._seen, info = self.env.reset(**kwargs)
        return self._seen, info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict]:
        obs, rew, terminated, truncated, info = self.env.step(action)
        if not (terminated or truncated):
            self._seen = obs
        return self._seen, rew, terminated and not truncated, truncated, info

    def render(self) -> Any:
        """The screen; the last one where the episode has ended."""
        over = self.unwrapped.game.get_state() is None  # type: ignore[attr-defined]
        return self._seen["screen"] if over and self._seen is not None else self.env.render()


@contextmanager
def _temporary_folder() -> Iterator[None]:
    """This process stands in a new folder inside the block; then where it was, and the folder is gone.

    The engine takes the folder of whoever starts it, and there is no option for what it writes there.
    """
    before, folder = os.getcwd(), tempfile.mkdtemp(prefix="vizdoom-")
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)
        shutil.rmtree(folder, ignore_errors=True)


def _engines() -> list[Process]:
    """The engines that this process has started."""
    import psutil

    found = []
    for child in psutil.Process().children():
        with suppress(psutil.Error):
            if "+viz_instance_id" in child.cmdline():
                found.append(child)
    return found


def _guarded(owner: object, engine: Process) -> weakref.finalize | None:
    """A shell that waits for the end of this process and then ends the engine, which would wait for orders for ever.

    Returns what sends the shell away; None where there is no such shell.
    """
    words = engine.cmdline()
    instance = words[words.index("+viz_instance_id") + 1]
    script = 'read -r _; kill -9 "$1" 2>/dev/null; rm -f /dev/shm/ViZDoom*"$2"'
    try:
        shell = subprocess.Popen(
            ["/bin/sh", "-c", script, "sh", str(engine.pid), instance], stdin=subprocess.PIPE, start_new_session=True
        )
    except OSError:
        return None
    return weakref.finalize(owner, _dismiss, shell)


def _dismiss(shell: subprocess.Popen) -> None:
    shell.kill()
    shell.wait()
    if shell.stdin:
        shell.stdin.close()


def _engine_file() -> str:
    import vizdoom

    return os.path.join(os.path.dirname(vizdoom.__file__), "vizdoom")
