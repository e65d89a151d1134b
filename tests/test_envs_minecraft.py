"""Minecraft's adapter around stand-ins that have the signatures of MineRL and of CraftGround. The game is not run."""

from __future__ import annotations

import dataclasses
import importlib
import re
import sys
from collections import Counter
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from gymnasium import spaces

from dreamlab import envs
from dreamlab.core.errors import UserError
from dreamlab.envs import minecraft
from dreamlab.envs.minecraft import ACTIONS, MILESTONES, NOOP, Diamond

NAMES = list(ACTIONS)
ITEMS = ["air", "diamond", "log", "log2", "planks", "stone_pickaxe"]


class MineRL:
    """What MineRL's environments offer; ``self.next`` is what the world is like after the next step."""

    observation_space = spaces.Dict(
        pov=spaces.Box(0, 255, (64, 64, 3), np.uint8),
        inventory=spaces.Dict({name: spaces.Box(0, 64, (), np.int64) for name in ITEMS}),
        equipped_items=spaces.Dict(mainhand=spaces.Dict(type=spaces.Discrete(3))),
    )
    observation_space["equipped_items"]["mainhand"]["type"].values = np.array(["air", "other", "stone_pickaxe"])

    def __init__(self):
        self.acts, self.seeds, self.over, self.info = [], [], False, {}

    def seed(self, seed):
        self.seeds.append(seed)

    def reset(self):
        self.carried, self.life, self.held = Counter(), 20.0, "air"
        return self.obs()

    def step(self, action):
        assert action.keys() == NOOP.keys()
        self.acts.append(action)
        return self.obs(), 17.0, self.over, self.info

    def close(self):
        self.acts.append("closed")

    def obs(self):
        return {
            "pov": np.full((64, 64, 3), 9, np.uint8),
            "inventory": {name: np.array(self.carried[name]) for name in ITEMS},
            "equipped_items": {"mainhand": {"type": self.held}},
            "life_stats": {"life": np.array(self.life), "food": np.array(10), "air": np.array(300)},
        }


def diamond(**settings):
    game = MineRL()
    env = Diamond(game, dataclasses.replace(envs.default_config("minecraft/diamond"), **settings))
    env.reset(seed=4)
    return env, game


def test_the_papers_actions_and_settings():
    assert len(ACTIONS) == 25
    assert (NAMES[0], NAMES[1], NAMES[10], NAMES[24]) == ("noop", "attack", "jump", "smelt_iron_ingot")
    assert len(MILESTONES) == 12
    own = envs.default_config("minecraft/diamond")
    assert (own.time_limit, own.break_speed, own.sticky_attack, own.sticky_jump) == (36_000, 100, 30, 10)


def test_every_action_reaches_the_game_in_its_own_form():
    env, game = diamond(sticky_jump=0)
    for k, changed in enumerate(ACTIONS.values()):
        env.step(k)
        assert game.acts[-1] == {**NOOP, **changed}
    assert game.seeds == [4]


def test_attacks_last_where_blocks_are_slow_and_jumps_always():
    for speed, lasting in ((100.0, 1), (1.0, 30)):
        env, game = diamond(break_speed=speed)
        for k in [NAMES.index("attack")] + 40 * [0]:
            env.step(k)
        assert sum(act["attack"] for act in game.acts) == lasting
    env, game = diamond()
    for k in [NAMES.index("jump")] + 20 * [0]:
        env.step(k)
    assert [(act["jump"], act["forward"]) for act in game.acts] == [(1, 1)] * 10 + [(0, 0)] * 11


def test_the_head_stays_within_its_limits():
    env, game = diamond()
    for _ in range(9):
        env.step(NAMES.index("turn_up"))
    assert sum(act["camera"][0] for act in game.acts) == -60
    for _ in range(20):
        env.step(NAMES.index("turn_down"))
    assert sum(act["camera"][0] for act in game.acts) == 60


def test_each_milestone_is_paid_once_and_health_by_the_point():
    env, game = diamond()
    rewards = []
    for carried, life in (({}, 20), ({"log2": 1}, 20), ({}, 17), ({"log": 2, "diamond": 1}, 20), ({"air": 3}, 20)):
        game.carried, game.life = Counter(carried), life
        obs, rew, *_, info = env.step(0)
        rewards.append(rew)
        assert env.observation_space.contains(obs)
    assert rewards == pytest.approx([0, 1, -0.03, 1.03, 0])
    assert dict(zip(env.items, obs["inventory_max"].tolist(), strict=True)) == {
        **dict.fromkeys(env.items, 0.0),
        "air": 3,
        "log": 2,
        "diamond": 1,
    }
    assert (info["milestone/diamond"], info["milestone/planks"]) == (1, 0)
    env.reset()
    game.carried = Counter(log=1)
    assert env.step(0)[1] == 1  # anew in each episode
    told = minecraft.measures({"milestone/log": np.array([1.0, 0, 1, 1])})
    assert told == {"success/log": 75}


def test_death_terminates_and_a_lost_game_truncates():
    env, game = diamond()
    game.over = True
    assert env.step(0)[2:4] == (True, False)
    game.info = {"error": "socket"}
    assert env.step(0)[2:4] == (False, True)


def test_what_is_missing_is_named(monkeypatch):
    monkeypatch.setattr(minecraft, "find_spec", lambda name: None)
    assert minecraft.ids() == []
    with pytest.raises(UserError, match=r"minerl or craftground, .* pip install git\+https.*dreamlab\[minecraft\]"):
        envs.spaces_of(envs.default_config("minecraft/diamond"))


class CraftGround:
    """What CraftGround's environment offers, with an inventory that obeys the console's commands."""

    def __init__(self):
        self.carried, self.around, self.commands, self.acts, self.slot = Counter(), [], [], [], None

    def reset(self, *, seed=None, options=None):
        self.carried.clear()
        return self.obs(), self.obs()

    def add_commands(self, commands):
        self.commands.extend(commands)

    def step(self, action):
        for command in self.commands:
            self.obey(command)
        self.commands.clear()
        self.acts.append(action)
        return self.obs(), 0, False, False, self.obs()

    def obey(self, command):
        if taken := re.fullmatch(r"clear @p (\S+) (\d+)", command):
            name = {"#minecraft:logs": "birch_log", "#minecraft:planks": "oak_planks"}.get(taken[1], taken[1])
            self.carried[name] -= int(taken[2])
            assert self.carried[name] >= 0, command
        elif given := re.fullmatch(r"give @p (\S+) (\d+)", command):
            self.carried[given[1]] += int(given[2])
        elif held := re.fullmatch(r"item replace entity @p hotbar.8 with (\S+)", command):
            self.carried.subtract([self.slot] if self.slot else [])
            self.carried[held[1]] += 1
            self.slot = held[1]
        else:
            self.around.append(re.search(r"setblock \S+ \S+ \S+ (\S+) keep", command)[1])

    def obs(self):
        stacks = [SimpleNamespace(translation_key=f"item.minecraft.{k}", count=n) for k, n in self.carried.items() if n]
        around = [SimpleNamespace(translation_key=f"block.minecraft.{name}") for name in self.around]
        full = SimpleNamespace(health=20.0, food_level=20.0, is_dead=False, inventory=stacks, surrounding_blocks=around)
        return {"full": full, "pov": np.zeros((64, 64, 3), np.uint8), "rgb": None}

    def close(self):
        pass


@pytest.fixture
def craftground(monkeypatch):
    """dreamlab's module around a stand-in of the package."""
    names = ("craftground", "craftground.environment", "craftground.environment.action_space")
    package, middle, actions = (ModuleType(name) for name in names)
    package.InitialEnvironmentConfig, package.make = SimpleNamespace, lambda first, **kw: CraftGround()
    actions.ActionSpaceVersion = SimpleNamespace(V2_MINERL_HUMAN=2)
    keys = ["attack", "back", "forward", "jump", "left", "right", "sneak", "sprint", "use", "drop", "inventory"]
    actions.no_op_v2 = lambda: {**dict.fromkeys(keys, False), "camera_pitch": 0.0, "camera_yaw": 0.0}
    for name, module in zip(names, (package, middle, actions), strict=True):
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.delitem(sys.modules, "dreamlab.envs.craftground", raising=False)
    yield importlib.import_module("dreamlab.envs.craftground")
    sys.modules.pop("dreamlab.envs.craftground", None)


def test_the_way_to_an_iron_pickaxe_by_craftgrounds_commands(craftground):
    game = craftground.start(envs.default_config("minecraft/diamond"))
    env = Diamond(game, envs.default_config("minecraft/diamond"))
    env.reset()
    world = game._env

    def do(name, times=1):
        return [env.step(NAMES.index(name))[1] for _ in range(times)]

    assert do("craft_planks") == [0]  # nothing to make them of
    world.carried.update(birch_log=4, cobblestone=11, raw_iron=3)
    assert do("noop") == [3]  # log, cobblestone, iron ore
    assert do("craft_planks", 4) == [1, 0, 0, 0]
    assert do("craft_stick", 2) == [1, 0]
    assert do("craft_wooden_pickaxe") == [0]  # no table near
    assert do("craft_crafting_table") + do("place_crafting_table") == [1, 0]
    do("noop")
    assert do("craft_wooden_pickaxe") + do("craft_stone_pickaxe") + do("craft_furnace") == [1, 1, 1]
    assert do("smelt_iron_ingot") == [0]
    do("place_furnace")
    assert do("smelt_iron_ingot", 3) == [1, 0, 0]
    assert do("craft_iron_pickaxe") == [1]
    tools = dict.fromkeys(("wooden_pickaxe", "stone_pickaxe", "iron_pickaxe"), 1)
    do("equip_stone_pickaxe", 2)
    obs, *_ = env.step(NAMES.index("equip_iron_pickaxe"))
    assert {name: world.carried[name] for name in tools} == tools  # none is lost, none is new
    assert world.acts[-1]["hotbar.9"]
    assert env.hands[int(obs["equipped"].argmax())] == "iron_pickaxe"
    assert all(n >= 0 for n in world.carried.values())
    do("turn_left")
    do("attack")
    assert world.acts[-2]["camera_yaw"] == -15
    assert world.acts[-1]["attack"] is True
