"""MineRL 0.4 with the world, observations and actions of DreamerV3's diamond task. Not run here: it needs Java 8."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from minerl.herobraine.env_spec import EnvSpec
from minerl.herobraine.hero import handler, handlers, mc

if TYPE_CHECKING:
    from dreamlab.envs.minecraft import Config

KEYS = ("forward", "back", "left", "right", "jump", "sneak", "sprint", "attack")


def start(config: Config) -> Any:
    """An environment with MineRL's signatures; the game itself starts with the first reset."""
    return Spec(config).make()


class BreakSpeed(handler.Handler):
    """How many times faster blocks break."""

    def __init__(self, times: float) -> None:
        self.multiplier = times

    def to_string(self) -> str:
        return f"break_speed({self.multiplier})"

    def xml_template(self) -> str:
        return "<BreakSpeedMultiplier>{{multiplier}}</BreakSpeedMultiplier>"


class Spec(EnvSpec):
    """A new default world in each episode, abstract crafting, and no reward of its own."""

    def __init__(self, config: Config) -> None:
        self._config = config
        super().__init__(name="DreamlabDiamond-v0")

    def create_agent_start(self) -> list:
        return [BreakSpeed(self._config.break_speed)]

    def create_server_world_generators(self) -> list:
        return [handlers.DefaultWorldGenerator(force_reset=True)]

    def create_server_quit_producers(self) -> list:
        return [handlers.ServerQuitWhenAnyAgentFinishes()]

    def create_server_initial_conditions(self) -> list:
        time = handlers.TimeInitialCondition(allow_passage_of_time=True, start_time=0)
        return [time, handlers.SpawningInitialCondition(allow_spawning=True)]

    def create_observables(self) -> list:
        height, width = self._config.size
        return [
            handlers.POVObservation((width, height)),
            handlers.FlatInventoryObservation(mc.ALL_ITEMS),
            handlers.EquippedItemObservation(mc.ALL_ITEMS, _default="air", _other="other"),
            handlers.ObservationFromLifeStats(),
        ]

    def create_actionables(self) -> list:
        names, other = ["none", *mc.ALL_ITEMS], {"_other": "none", "_default": "none"}
        chosen = (
            handlers.PlaceBlock,
            handlers.EquipAction,
            handlers.CraftAction,
            handlers.CraftNearbyAction,
            handlers.SmeltItemNearby,
        )
        keys = [handlers.KeybasedCommandAction(key, mc.INVERSE_KEYMAP[key]) for key in KEYS]
        return [*keys, handlers.CameraAction(), *(kind(names, **other) for kind in chosen)]

    def create_agent_handlers(self) -> list:
        return []

    def create_rewardables(self) -> list:
        return []

    def create_server_decorators(self) -> list:
        return []

    def create_mission_handlers(self) -> list:
        return []

    def create_monitors(self) -> list:
        return []

    def is_from_folder(self, folder: str) -> bool:
        return False

    def get_docstring(self) -> str:
        return self.__doc__ or ""

    def determine_success_from_rewards(self, rewards: list) -> bool:
        return True
