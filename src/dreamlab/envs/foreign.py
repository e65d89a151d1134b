"""Ids that other projects or older versions use, answered with what to type here, or that it is not here."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from importlib.util import find_spec

ATARI = """
adventure air_raid alien amidar assault asterix asteroids atlantis bank_heist battle_zone beam_rider berzerk bowling
boxing breakout carnival centipede chopper_command crazy_climber defender demon_attack double_dunk elevator_action
enduro fishing_derby freeway frostbite gopher gravitar hero ice_hockey jamesbond journey_escape kaboom kangaroo
krull kung_fu_master montezuma_revenge ms_pacman name_this_game phoenix pitfall pong pooyan private_eye qbert
riverraid road_runner robotank seaquest skiing solaris space_invaders star_gunner surround tennis time_pilot
tutankham up_n_down venture video_pinball wizard_of_wor yars_revenge zaxxon
"""
OTHERS = {
    r"dmc[_/]|dm_control|dmcontrol": "DeepMind Control",
    r"crafter": "Crafter",
    r"vizdoom|doomtakecover": "ViZDoom",
    r"minecraft|minerl|minedojo": "Minecraft",
    r"dmlab": "DeepMind Lab",
    r"procgen": "Procgen",
    r"memmaze|memory_maze": "Memory Maze",
    r"minatar": "MinAtar",
    r"bsuite": "bsuite",
    r"metaworld": "Meta-World",
}
OWN = "its Gymnasium form can be given by a function of your own: type my_pkg.my_env:make"


def answer(id: str, known: Iterable[str]) -> str | None:
    """What to say about an id that no suite claims, if it is recognised; ``known`` are those that work here."""
    known = list(known)
    found = _another_version(id, known) or _uninstalled(id) or _atari(id) or _elsewhere(id)
    return found if found or nearest(id, known) else _unregistered(id)


def nearest(id: str, known: Iterable[str]) -> str:
    """``" Did you mean 'CarRacing-v3'?"`` for the nearest name, whatever its version, or an empty string."""
    names = {_plain(_versioned(k)[0]): k for k in sorted(known)}
    close = difflib.get_close_matches(_plain(_versioned(id)[0]), names, n=1, cutoff=0.7)
    return f" Did you mean {names[close[0]]!r}?" if close else ""


def _another_version(id: str, known: list[str]) -> str | None:
    """LunarLander-v2, CarRacing, lunarlander-v2: the same name with the newest version that works."""
    name, version = _versioned(id)
    same = [(_versioned(k)[1], k) for k in known if _plain(_versioned(k)[0]) == _plain(name)]
    if not same:
        return None
    newest, best = max(same)
    if version in (-1, newest):
        return f"unknown environment {id!r}; type {best}"
    return f"{id} is out of date; type {best}" if version < newest else f"{id} does not exist yet; type {best}"


def _versioned(id: str) -> tuple[str, int]:
    """The name and the version, -1 where there is none."""
    match = re.fullmatch(r"(.+)-v(\d+)", id)
    return (match[1], int(match[2])) if match else (id, -1)


def _plain(name: str) -> str:
    return "".join(c for c in name.lower() if c.isalnum())


def _uninstalled(id: str) -> str | None:
    """HalfCheetah-v2: a newer version is registered, but its package is not installed."""
    from gymnasium.envs.registration import registry

    from dreamlab.envs.gym import needs

    name, _ = _versioned(id)
    known = [(k, needs(spec)) for k, spec in registry.items() if _plain(_versioned(k)[0]) == _plain(name)]
    same = [(_versioned(k)[1], k, package) for k, package in known if package]
    if not same:
        return None
    _, best, package = max(same)
    extra = {"mujoco": "gymnasium[mujoco]", "jax": "gymnasium[jax]", "Box2D": "gymnasium[box2d]"}.get(package, package)
    return f"{id} is not here; type: pip install '{extra}', then {best}"


def _atari(id: str) -> str | None:
    """atari_pong, Pong-v4, PongNoFrameskip-v4, ALE/Pong-v5: the package ale_py has them, and registers them."""
    if id.lower().startswith(("ale/", "atari_", "atari/")):
        title = re.split(r"[/_]", id, maxsplit=1)[1]
    else:
        title = id
    title = re.sub(r"(NoFrameskip|Deterministic|-ram|-ramNoFrameskip)*(-v\d+)?$", "", title)
    name = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", title).lower()
    if name not in ATARI.split():
        return None
    ours = "ale_py:ALE/" + "".join(word.capitalize() for word in name.split("_")) + "-v5"
    if find_spec("ale_py") is None:
        return (
            f"{id} is an Atari game: this version has no Atari suite, but takes the ids that the package ale_py "
            f"registers; type: pip install ale-py, then {ours}"
        )
    return f"{id} is an Atari game; type {ours}"


def _elsewhere(id: str) -> str | None:
    for pattern, name in OTHERS.items():
        if re.match(pattern, id.lower()):
            return f"{id} is an environment of {name}: this version has no such suite; {OWN}"
    return None


def _unregistered(id: str) -> str | None:
    if id.startswith("gym_") or "/" in id:
        family = id.split("/")[0]
        return (
            f"unknown environment {id!r}: no package here registers {family}/...; where one does, "
            f"type my_package:{id}, and it is imported first"
        )
    return None
