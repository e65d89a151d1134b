"""Ids that other projects or older versions use, answered with what to type here, or that it is not here."""

from __future__ import annotations

import difflib
import importlib
import re
from collections.abc import Iterable
from importlib.util import find_spec

OTHERS = {
    r"dmlab": "DeepMind Lab",
    r"procgen": "Procgen",
    r"memmaze|memory_maze": "Memory Maze",
    r"bsuite": "bsuite",
    r"metaworld": "Meta-World",
}
PACKAGED = {
    "ViZDoom": ("vizdoom", "vizdoom", r"(ppaquette)?(viz)?doom|takecover"),
    "MinAtar": ("minatar", "minatar", r"minatar|.+minatar$"),
    "DeepMind Control": ("dmc", "dm_control", r"dmc|dmcontrol"),
    "Crafter": ("crafter", "crafter", r"crafter"),
    "Minecraft": ("minecraft", "craftground", r"minecraft|minerl|craftground|minedojo"),
}
"""suites of packages: module (also extra), package, and how ids of theirs begin in plain letters"""
PREFIXES = r"^(ppaquette|vizdoom|doom|minatar|dmcontrol|dmc|crafter|minecraft|minerl|obtain)+|multibinary|minatar$"
"""what is left out where names are compared"""
OWN = "its Gymnasium form can be given by a function of your own: type my_pkg.my_env:make"


def answer(id: str, known: Iterable[str]) -> str | None:
    """What to say about an id that no suite claims, if it is recognised; ``known`` are those that work here."""
    known = list(known)
    found = _another_version(id, known) or _packaged(id) or _uninstalled(id) or _atari(id) or _elsewhere(id)
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
    if newest == -1 or version in (-1, newest):
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


def _packaged(id: str) -> str | None:
    """TakeCover, DoomTakeCover-v0, minatar-breakout: a name of a suite that another package brings, in some form."""
    name = _plain(_versioned(id)[0])
    for title, (module, package, begins) in PACKAGED.items():
        if not re.match(begins, name):
            continue
        suite = importlib.import_module(f"dreamlab.envs.{module}")
        games = {re.sub(PREFIXES, "", _plain(_versioned(k)[0])): k for k in suite.IDS}  # the newest version comes last
        close = difflib.get_close_matches(re.sub(PREFIXES, "", name), games, n=1, cutoff=0.6)
        best = games[close[0]] if close else f"one of {', '.join(getattr(suite, 'KNOWN', games.values()))}"
        if find_spec(package) is None:
            return f"{id} is not here; type: pip install 'dreamlab[{module}]', then {best} ({title})"
        return f"{id} is not an id of {title} here; type {best}"
    return None


def _atari(id: str) -> str | None:
    """atari_pong, Pong, Pong-v4, PongDeterministic-v4, Pong-ram-v0: today's id, and the one without sticky actions."""
    from dreamlab.envs import atari

    title = re.sub(r"^(ALE/|atari[_/])|(NoFrameskip|Deterministic|-ram)*(-v\d+)?$", "", id, flags=re.IGNORECASE)
    same = [name for name in (atari.CLASSIC + atari.MORE).split() if _plain(name) == _plain(title)]
    if not same:
        return None
    ours = f"ALE/{atari.title(same[0])}-v5"
    if id.endswith("-v4") and same[0] in atari.CLASSIC.split():
        ours += f", or {atari.title(same[0])}NoFrameskip-v4 for the older rules"
    if find_spec("ale_py") is None:
        return f"{id} is an Atari game; type: pip install 'dreamlab[atari]', then {ours}"
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
