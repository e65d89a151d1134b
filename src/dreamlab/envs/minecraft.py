"""Minecraft's diamond by MineRL or CraftGround: an adapter tested against stand-ins; the real game was not run here.

As DreamerV3 has it (Hafner et al. 2023, arXiv:2301.04104): 25 actions, of which the last 13 craft, place, equip and
smelt; the picture, what is carried now and at most so far, what is held, health, hunger and breath. The first of each
of 12 things on the way to a diamond gives +1, and a point of health ``health_reward``. An episode is truncated after
36,000 steps; death terminates it.

The game runs in real time in a process of its own: episodes cannot be had again, whatever their seed.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Literal

import gymnasium
import numpy as np
from gymnasium import spaces

from dreamlab.core.errors import UserError
from dreamlab.envs.config import EnvConfig
from dreamlab.envs.wrappers import image_space

IDS = ["minecraft/diamond"]
ENGINES = ("minerl", "craftground")
STEPS = 36_000
"""half an hour of the game"""
WORKER_BYTES = 3 << 30
"""memory of one with its game, as the games' own documents say (not measured)"""
MILESTONES = (
    *("log", "planks", "stick", "crafting_table", "wooden_pickaxe", "cobblestone", "stone_pickaxe"),
    *("iron_ore", "furnace", "iron_ingot", "iron_pickaxe", "diamond"),
)
"""what gives +1, the first time in an episode"""
NOOP = {
    **dict.fromkeys(("forward", "back", "left", "right", "attack", "sprint", "jump", "sneak"), 0),
    **dict.fromkeys(("craft", "nearbyCraft", "nearbySmelt", "place", "equip"), "none"),
    "camera": (0.0, 0.0),
}
"""MineRL's action that does nothing"""
ACTIONS: dict[str, dict[str, Any]] = {
    "noop": {},
    "attack": {"attack": 1},
    "turn_up": {"camera": (-15.0, 0.0)},
    "turn_down": {"camera": (15.0, 0.0)},
    "turn_left": {"camera": (0.0, -15.0)},
    "turn_right": {"camera": (0.0, 15.0)},
    "forward": {"forward": 1},
    "back": {"back": 1},
    "left": {"left": 1},
    "right": {"right": 1},
    "jump": {"jump": 1, "forward": 1},
    "place_dirt": {"place": "dirt"},
    "craft_planks": {"craft": "planks"},
    "craft_stick": {"craft": "stick"},
    "craft_crafting_table": {"craft": "crafting_table"},
    "place_crafting_table": {"place": "crafting_table"},
    "craft_wooden_pickaxe": {"nearbyCraft": "wooden_pickaxe"},
    "craft_stone_pickaxe": {"nearbyCraft": "stone_pickaxe"},
    "craft_iron_pickaxe": {"nearbyCraft": "iron_pickaxe"},
    "equip_stone_pickaxe": {"equip": "stone_pickaxe"},
    "equip_wooden_pickaxe": {"equip": "wooden_pickaxe"},
    "equip_iron_pickaxe": {"equip": "iron_pickaxe"},
    "craft_furnace": {"nearbyCraft": "furnace"},
    "place_furnace": {"place": "furnace"},
    "smelt_iron_ingot": {"nearbySmelt": "iron_ingot"},
}
"""DreamerV3's actions in their order, as they differ from ``NOOP``"""


@dataclass(frozen=True)
class Config(EnvConfig):
    """Minecraft."""

    id: str = "minecraft/diamond"
    """which environment"""
    time_limit: int | None = None
    """agent steps after which an episode is truncated; none is the paper's: 36,000"""
    timeout: float = 600.0
    """seconds a worker may take for one step before it counts as hung: a new world takes minutes"""
    engine: Literal["auto", "minerl", "craftground"] = "auto"
    """what runs the game; auto takes MineRL, which the paper has, where it is installed"""
    break_speed: float = 100.0
    """how many times faster blocks break (MineRL alone); 1 is the game's own, and ``sticky_attack`` then counts"""
    sticky_attack: int = 30
    """steps that an attack lasts, where blocks break as slowly as in the game"""
    sticky_jump: int = 10
    """steps that a jump lasts, forwards"""
    pitch_limit: float = 60.0
    """degrees up and down to which the head can be turned"""
    health_reward: float = 0.01
    """reward for a point of health, of 20, that is won or lost (the authors' later code: 0.0005)"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.time_limit is None:
            object.__setattr__(self, "time_limit", STEPS)
        if min(self.sticky_attack, self.sticky_jump) < 0 or self.break_speed <= 0 or self.pitch_limit < 0:
            raise ValueError("sticky_attack, sticky_jump, break_speed and pitch_limit cannot be negative")


def claims(id: str) -> bool:
    """The diamond."""
    return id in IDS


def ids() -> list[str]:
    """The diamond, where MineRL or CraftGround is installed."""
    return list(IDS) if any(map(find_spec, ENGINES)) else []


def make(config: EnvConfig, render_mode: str | None = None) -> gymnasium.Env:
    """The game, which starts with the first reset.

    Raises:
        UserError: what runs it is not installed.
    """
    if not isinstance(config, Config):
        raise UserError(f"{config.id} takes the settings dreamlab.envs.default_config({config.id!r})")
    wanted = [e for e in ENGINES if config.engine in ("auto", e)]
    engine = next((e for e in wanted if find_spec(e)), None)
    if engine is None:
        raise UserError(
            f"{config.id} needs {' or '.join(wanted)}, and neither a game nor Java comes with dreamlab; type: "
            "pip install git+https://github.com/minerllabs/minerl@v0.4.4 (Java 8), as in the paper, "
            "or pip install 'dreamlab[minecraft]' for CraftGround (Java 21)"
        )
    game = importlib.import_module(f"dreamlab.envs.{engine}").start(config)
    return Diamond(game, config, render_mode)


def action_names(config: EnvConfig) -> list[str]:
    """What the actions mean."""
    return [name.replace("_", " ") for name in ACTIONS]


class Diamond(gymnasium.Env):
    """DreamerV3's task around an environment with MineRL's signatures.

    Args:
        game: ``reset() -> obs``, ``step(action) -> obs, rew, done, info`` (its reward is not looked at), where an
            action has the keys of ``NOOP`` and ``obs`` is ``{"pov": (h, w, 3) uint8, "inventory": {item: count},
            "equipped_items": {"mainhand": {"type": item}}, "life_stats": {"life", "food", "air"}}``; an
            ``observation_space`` that names all items, and all that can be held; and perhaps ``slow``, which says
            that it breaks blocks no faster than the game itself.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 20}

    def __init__(self, game: Any, config: Config, render_mode: str | None = None) -> None:
        self.render_mode, self._game, self._config = render_mode, game, config
        form = game.observation_space.spaces
        self.items = [name for name in form["inventory"].spaces if name != "log2"]
        self.hands = list(form["equipped_items"].spaces["mainhand"].spaces["type"].values)
        self.action_space = spaces.Discrete(len(ACTIONS))
        share = spaces.Box(0, 1, (1,), np.float32)
        self.observation_space = spaces.Dict(
            image=image_space(tuple(form["pov"].shape)),
            inventory=spaces.Box(0, np.inf, (len(self.items),), np.float32),
            inventory_max=spaces.Box(0, np.inf, (len(self.items),), np.float32),
            equipped=spaces.Box(0, 1, (len(self.hands),), np.float32),
            health=share,
            hunger=share,
            breath=share,
        )
        self._most = np.zeros(len(self.items), np.float32)
        self._attack = self._jump = 0
        self._pitch = self._life = 0.0
        self._image = np.zeros(form["pov"].shape, np.uint8)
        slow = config.break_speed == 1 or getattr(game, "slow", False)
        self._lasting = config.sticky_attack if slow else 0

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[dict, dict]:
        super().reset(seed=seed)
        if seed is not None and hasattr(self._game, "seed"):
            self._game.seed(seed % 2**31)
        self._attack = self._jump = 0
        self._pitch = 0.0
        seen = self._game.reset()
        self._most = self._carried(seen)
        self._life = float(seen["life_stats"]["life"])
        return self._see(seen), {}

    def step(self, action: Any) -> tuple[dict, float, bool, bool, dict]:
        seen, _, done, info = self._game.step(self._command(list(ACTIONS.values())[int(action)]))
        failed = "error" in info  # the game was lost, not the player
        had, life = self._most, float(seen["life_stats"]["life"])
        self._most = np.maximum(had, self._carried(seen))
        new = [k for k, name in enumerate(self.items) if name in MILESTONES and had[k] == 0 < self._most[k]]
        rew = len(new) + self._config.health_reward * (life - self._life)
        self._life = life
        unlocked = {f"milestone/{n}": int(self._most[k] > 0) for k, n in enumerate(self.items) if n in MILESTONES}
        return self._see(seen), rew, bool(done) and not failed, failed, unlocked

    def render(self) -> np.ndarray:
        """What was seen last."""
        return self._image

    def close(self) -> None:
        self._game.close()

    def _command(self, chosen: Mapping[str, Any]) -> dict[str, Any]:
        """MineRL's action, with what goes on from earlier steps, and the head kept within its limits."""
        act = {**NOOP, **chosen}
        if act["attack"]:
            self._attack = self._lasting
        if self._attack:
            act.update(attack=1, jump=0)
            self._attack -= 1
        if act["jump"]:
            self._jump = self._config.sticky_jump
        if self._jump:
            act.update(jump=1, forward=1)
            self._jump -= 1
        pitch, yaw = act["camera"]
        if abs(self._pitch + pitch) > self._config.pitch_limit:
            pitch = 0.0
        self._pitch += pitch
        return {**act, "camera": (pitch, yaw)}

    def _carried(self, seen: Mapping[str, Any]) -> np.ndarray:
        counts = dict(seen["inventory"])
        counts["log"] = counts.get("log", 0) + counts.get("log2", 0)  # acacia and dark oak
        return np.array([float(counts.get(name, 0)) for name in self.items], np.float32)

    def _see(self, seen: Mapping[str, Any]) -> dict[str, np.ndarray]:
        self._image, life = np.array(seen["pov"], np.uint8), seen["life_stats"]
        held = str(seen["equipped_items"]["mainhand"]["type"])
        held = held if held in self.hands else "other"
        return {
            "image": self._image,
            "inventory": self._carried(seen),
            "inventory_max": self._most.copy(),
            "equipped": np.array([name == held for name in self.hands], np.float32),
            "health": np.array([life["life"]], np.float32).reshape(1) / 20,
            "hunger": np.array([life["food"]], np.float32).reshape(1) / 20,
            "breath": np.array([life["air"]], np.float32).reshape(1) / 300,
        }


def measures(infos: Mapping[str, np.ndarray]) -> dict[str, float]:
    """What is told of episodes beside their returns: how many of 100 reached each milestone."""
    return {f"success/{name}": 100 * float((infos[key] > 0).mean()) for key in infos if (name := _milestone(key))}


def _milestone(key: str) -> str:
    return key.removeprefix("milestone/") if key.startswith("milestone/") else ""
