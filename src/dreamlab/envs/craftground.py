"""CraftGround (Minecraft 1.21) with MineRL's signatures, so that DreamerV3's actions can be taken. Not run here.

CraftGround takes keys and mouse, and commands of the game's own console. What MineRL crafts, places, equips and smelts
in one action is done by commands here, where the player carries what it takes; a table or a furnace must be among
the blocks around. Everything else is a key. Blocks break as slowly as in the game.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import craftground
import numpy as np
from craftground import InitialEnvironmentConfig
from craftground.environment.action_space import ActionSpaceVersion, no_op_v2
from gymnasium import spaces

from dreamlab.core.errors import UserError

if TYPE_CHECKING:
    from dreamlab.envs.minecraft import Config


class Recipe(NamedTuple):
    """What an action costs, what it needs to stand near, and how many it gives."""

    cost: Mapping[str, int]
    near: str = ""
    gives: int = 1


RECIPES = {
    "planks": Recipe({"log": 1}, gives=4),
    "stick": Recipe({"planks": 2}, gives=4),
    "crafting_table": Recipe({"planks": 4}),
    "wooden_pickaxe": Recipe({"planks": 3, "stick": 2}, "crafting_table"),
    "stone_pickaxe": Recipe({"cobblestone": 3, "stick": 2}, "crafting_table"),
    "iron_pickaxe": Recipe({"iron_ingot": 3, "stick": 2}, "crafting_table"),
    "furnace": Recipe({"cobblestone": 8}, "crafting_table"),
    "iron_ingot": Recipe({"iron_ore": 1, "planks": 1}, "furnace"),  # planks are the fuel
}
COMMANDED = {"log": "#minecraft:logs", "planks": "#minecraft:planks", "iron_ore": "raw_iron"}
"""how the console calls what is taken, where MineRL's name is another"""
GIVEN = {"planks": "oak_planks"}
KINDS = ("log", "planks")
"""of which there is one for each kind of tree"""
ITEMS = [
    *("air", "coal", "cobblestone", "crafting_table", "diamond", "dirt", "furnace", "iron_ingot", "iron_ore"),
    *("iron_pickaxe", "log", "planks", "stick", "stone", "stone_pickaxe", "torch", "wooden_pickaxe"),
]
KEYS = ("attack", "back", "forward", "jump", "left", "right", "sneak", "sprint")


class Names(spaces.Discrete):
    """One of several names, as MineRL's Enum has them."""

    def __init__(self, values: list[str]) -> None:
        super().__init__(len(values))
        self.values = np.array(values)


def start(config: Config) -> AsMineRL:
    """CraftGround with MineRL's signatures; the game itself starts with the first reset.

    Raises:
        UserError: a part of CraftGround is not installed.
    """
    height, width = config.size
    first = InitialEnvironmentConfig(
        image_width=width, image_height=height, hud_hidden=True, requires_surrounding_blocks=True
    )
    try:
        env = craftground.make(first, action_space_version=ActionSpaceVersion.V2_MINERL_HUMAN)
    except ImportError as error:  # the game's own part is a package of its own
        raise UserError(f"{config.id}: CraftGround cannot be started: {error}") from error
    return AsMineRL(env, config.size)


class AsMineRL:
    """``reset() -> obs`` and ``step(action) -> obs, rew, done, info`` as MineRL has them."""

    slow = True

    def __init__(self, env: Any, size: tuple[int, int]) -> None:
        self._env, self._full, self._held = env, None, "air"
        self.observation_space = spaces.Dict(
            pov=spaces.Box(0, 255, (*size, 3), np.uint8),
            inventory=spaces.Dict({name: spaces.Box(0, 2304, (), np.int64) for name in ITEMS}),
            equipped_items=spaces.Dict(mainhand=spaces.Dict(type=Names([*ITEMS, "other"]))),
        )

    def reset(self) -> dict[str, Any]:
        """A new world: the game is started anew."""
        obs, _ = self._env.reset(options={"fast_reset": False})
        self._held = "air"
        return self._seen(obs)

    def step(self, action: Mapping[str, Any]) -> tuple[dict[str, Any], float, bool, dict[str, Any]]:
        pitch, yaw = action["camera"]
        keys = {key: bool(action[key]) for key in KEYS} | {"hotbar.9": action["equip"] != "none"}  # the last slot
        self._env.add_commands(list(self._commands(action)))
        obs, *_ = self._env.step({**no_op_v2(), **keys, "camera_pitch": float(pitch), "camera_yaw": float(yaw)})
        return self._seen(obs), 0.0, bool(obs["full"].is_dead), {}

    def close(self) -> None:
        self._env.close()

    def _commands(self, action: Mapping[str, Any]) -> list[str]:
        """The console's words for what is crafted, placed, equipped; none where something for it is missing."""
        have, around = self._counts(), {_name(block.translation_key) for block in self._full.surrounding_blocks}  # type: ignore[attr-defined]
        made = next((action[k] for k in ("craft", "nearbyCraft", "nearbySmelt") if action[k] != "none"), None)
        if made:
            recipe = RECIPES[made]
            if any(have[k] < n for k, n in recipe.cost.items()) or (recipe.near and recipe.near not in around):
                return []
            taken = [f"clear @p {COMMANDED.get(k, k)} {n}" for k, n in recipe.cost.items()]
            return [*taken, f"give @p {GIVEN.get(made, made)} {recipe.gives}"]
        if (placed := action["place"]) != "none" and have[placed]:
            return [f"clear @p {placed} 1", f"execute as @p at @s anchored eyes run setblock ^ ^ ^2 {placed} keep"]
        if (held := action["equip"]) not in ("none", self._held) and have[held]:
            back = [f"give @p {self._held} 1"] if have[self._held] else []  # what lay there would be lost
            self._held = held
            return [f"clear @p {held} 1", *back, f"item replace entity @p hotbar.8 with {held}"]
        return []

    def _counts(self) -> Counter[str]:
        counts: Counter[str] = Counter()
        for stack in self._full.inventory:  # type: ignore[attr-defined]
            counts[_name(stack.translation_key)] += stack.count
        return counts

    def _seen(self, obs: Mapping[str, Any]) -> dict[str, Any]:
        self._full = full = obs["full"]
        counts = self._counts()
        return {
            "pov": np.asarray(obs["pov"], np.uint8),
            "inventory": {name: counts[name] for name in ITEMS},
            "equipped_items": {"mainhand": {"type": self._held}},
            "life_stats": {"life": full.health, "food": full.food_level, "air": 300},
        }


def _name(key: str) -> str:
    """MineRL's name for a translation key: block.minecraft.birch_log is a log, item.minecraft.raw_iron iron ore."""
    name = key.rpartition(".")[2]
    return next((kind for kind in KINDS if name.endswith(f"_{kind}")), {"raw_iron": "iron_ore"}.get(name, name))
