"""Whether scores may be compared: which choices behind them differ, in words.

The settings of a protocol are of four kinds. Some change what is measured (repeated actions, time limits, sticky
actions), some how the agent acts (drawn or likeliest actions), some what it sees (size of images), some only how well
the mean is known (episodes, seeds).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

Kind = Literal["task", "acting", "sight", "sample"]
KINDS: tuple[Kind, ...] = ("task", "acting", "sight", "sample")
SIGHT = ("env.obs", "env.size", "env.crop", "env.grey", "env.pool", "env.resize_first")
"""what the agent sees"""
SAMPLE = ("episodes", "seed", "seeds")
"""how well the mean is known"""
NOWHERE = (
    *("env.workers", "env.timeout", "env.fresh", "env.train_limit", "env.eval_noops"),
    *("checkpoint", "precision", "envs", "gymnasium", "dreamlab", "date"),
)
"""what has no part in a score's meaning: how it was computed, and what holds in training alone"""
WORDS = {
    "policy": "how actions are chosen",
    "env.id": "environment",
    "env.repeat": "frames an action lasts",
    "env.time_limit": "time limit, in steps",
    "env.limit_counts": "what the time limit counts",
    "env.sticky": "sticky actions",
    "env.noops": "frames without action at the start",
    "env.obs": "what is seen",
    "env.size": "size of images",
    "env.action_set": "actions of the joystick",
    "env.life_loss": "a lost life",
}


ONE_WAY = "evaluation"
"""the policy of an agent that has one way of acting when it is scored, which says nothing of how"""
POLICIES = {
    "evaluation, actions by sample": "drawn",
    "evaluation, actions by mode": "the likeliest",
    "exploring": "as while training",
}


class Difference(NamedTuple):
    """One setting in which scores differ."""

    key: str
    kind: Kind
    values: tuple[tuple[str, tuple[str, ...]], ...]
    """each value in words, and whose it is"""

    def words(self) -> str:
        """``sticky actions: 0.25 (a, b), 0 (c)``."""
        told = ", ".join(f"{value} ({_listed(names)})" for value, names in self.values)
        return f"{WORDS.get(self.key, self.key.removeprefix('env.').replace('_', ' '))}: {told}"


def differences(protocols: Mapping[str, Mapping[str, Any]]) -> list[Difference]:
    """In what protocols by name differ, what matters most first.

    A setting is compared among those that tell it: papers say little, and older scores do not know newer settings.
    """
    flat = {name: _flat(protocol) for name, protocol in protocols.items()}
    found = []
    for key in dict.fromkeys(key for settings in flat.values() for key in settings):
        if key in NOWHERE or (key == "env.engine" and not _engine_matters(flat)):
            continue
        values: dict[str, list[str]] = {}
        for name, settings in flat.items():
            if key in settings and (key, settings[key]) != ("policy", ONE_WAY):
                values.setdefault(_show(key, settings[key]), []).append(name)
        if len(values) > 1:
            told = tuple((value, tuple(names)) for value, names in values.items())
            found.append(Difference(key, _kind(key), told))
    return sorted(found, key=lambda d: KINDS.index(d.kind))


def _listed(names: Sequence[str], most: int = 5) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _kind(key: str) -> Kind:
    if key in SIGHT:
        return "sight"
    if key in SAMPLE:
        return "sample"
    return "task" if key.startswith("env.") else "acting"


def judgement(found: Sequence[Difference], count: int) -> str:
    """One sentence: may these scores be compared?"""
    kinds = {d.kind for d in found}
    if count < 2:
        return "One run; there is nothing to compare it with."
    if "task" in kinds:
        return "These scores were NOT taken under one protocol: they do not measure the same thing."
    if "acting" in kinds:
        return "The same task, but the agents do not choose their actions in the same way when they are scored."
    if "sight" in kinds:
        return "One protocol, but the agents do not see the same."
    if "sample" in kinds:
        return "One protocol; the numbers of episodes or their seeds differ, so that some means are known better."
    return "All scores were taken under one protocol, over the same episodes' seeds."


def _engine_matters(flat: Mapping[str, Mapping[str, Any]]) -> bool:
    """ALE's two engines play the same games; CarRacing's do not."""
    return any(str(settings.get("env.id", "")).startswith("CarRacing") for settings in flat.values())


def _flat(protocol: Mapping[str, Any]) -> dict[str, Any]:
    env = protocol.get("env")
    own = {f"env.{key}": value for key, value in env.items()} if isinstance(env, Mapping) else {}
    return {**{key: value for key, value in protocol.items() if key != "env"}, **own}


def _show(key: str, value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, str):
        return POLICIES.get(value, value)
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, list | tuple):
        return {"env.size": "x", "env.noops": " to "}.get(key, ", ").join(map(str, value))
    return str(value)
