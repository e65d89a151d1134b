"""The agents, found by name: the module's name is the registration. Imports nothing heavy.

An agent is a module ``dreamlab.agents.<name>`` (a file, or a folder), or a user's own by its dotted path.
It offers ``Config EXTENDS SEES budget build footprint``, and may have presets beside it in ``<name>.yaml``::

    car-racing:                     # the preset's name
      about: the paper's CarRacing  # one line
      suites: [box2d]               # the suites of environments that it is the default for
      agent: {vision: {latent: 32}} # what differs from the agent's Config
      env: {id: CarRacing-v3}       # what differs from the environment's
      run: {envs: 8}                # what differs from RunConfig
"""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple

from dreamlab.core.config import fail, read_yaml
from dreamlab.core.errors import UserError, suggest, unknown
from dreamlab.core.protocols import Phase

if TYPE_CHECKING:
    from torch import nn

    from dreamlab.core.types import Recorded
    from dreamlab.run.config import RunConfig

OFFERS = ("Config", "EXTENDS", "SEES", "budget", "build", "footprint")
"""what a module must hold to be an agent; ``EXTENDS`` names the settings whose change extends a run: of its
Config (``controller.generations``), or of the run (``run.steps``)"""


class Footprint(NamedTuple):
    """What an agent will need, from its numbers alone."""

    memory_bytes: int
    """peak of learning, beyond the bare process and the weights"""
    row_bytes: int
    """annotations beside one row of the replay"""
    rewritten: bool = False
    """whether learning writes these again and again: what undoes that, since each kept checkpoint, takes disk too"""


def act_then_learn(config: Any, run: RunConfig, recorded: Recorded | None) -> list[Phase]:
    """The budget of learning from rows drawn at random: act at random; then act and learn, a round one update.

    Args:
        config: with ``steps``, ``prefill``, ``every`` (environment steps for each update) and ``n_step``.
        recorded: what it learns from instead, as often as from steps of its own.

    Raises:
        UserError: all steps are spent before the first update.
    """
    steps = run.steps or config.steps
    if recorded is not None:
        return [Phase("train", rounds=max(1, int(steps / config.every)))]
    prefill = min(max(config.prefill, (config.n_step + 2) * run.envs), steps)
    rounds = int((steps - prefill) / config.every)
    if not rounds:
        raise UserError(
            f"{steps} steps are spent before the first update ({prefill} of them at random); type: "
            f"--steps {prefill + int(config.every) + 1} or more, or a smaller --agent.prefill"
        )
    return [Phase("prefill", env_steps=prefill), Phase("train", env_steps=steps - prefill, rounds=rounds)]


def refuse_lacking(agent: str, recorded: Recorded) -> None:
    """What every agent needs of recordings that learns what actions lead to which rewards.

    Raises:
        UserError: they lack actions or rewards.
    """
    for there, what in ((recorded.actions, "actions"), (recorded.rewards, "rewards")):
        if not there:
            raise UserError(
                f"{agent} learns what actions lead to which rewards, and these recordings have no {what}; "
                "world-models learns from pictures alone: dreamlab train world-models --agent.stages vision memory"
            )


def take_parts(parts: Mapping[str, nn.Module], state: Mapping[str, Any]) -> list[str]:
    """Let parts begin with the weights of another run's ``state_dict`` (``--from``), each whole or not at all.

    Returns:
        What became of each, in words.

    Raises:
        UserError: not one of them is there in the same sizes.
    """
    taken = [name for name, part in parts.items() if fits(part, state.get(name))]
    if not taken:
        raise UserError(
            f"that run has none of this agent's parts in these sizes ({', '.join(parts)}): give --from a run of the "
            "same agent, and this one the same sizes"
        )
    for name in taken:
        parts[name].load_state_dict(state[name])
    return [name if name in taken else f"{name} anew, as it does not fit" for name in parts]


def fits(part: nn.Module, weights: Mapping[str, Any] | None) -> bool:
    """Whether these are a part's weights, by their names and shapes."""
    own = part.state_dict()
    return (
        weights is not None
        and own.keys() == weights.keys()
        and all(tuple(own[name].shape) == tuple(value.shape) for name, value in weights.items())
    )


def names() -> list[str]:
    """The agents that come with dreamlab, as typed: ``world-models``."""
    return sorted(m.name.replace("_", "-") for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_"))


def canonical(name: str) -> str:
    """The one way to write an agent's name: ``world_models`` is ``world-models``; modules of a user's own stay."""
    ours = name.replace("_", "-")
    return ours if ours in names() else name


def load(name: str) -> ModuleType:
    """The module of an agent: one of ``names()``, or a user's own by its path, as ``my_pkg.my_agent``.

    Raises:
        UserError: no such agent, or a module that is none.
    """
    if canonical(name) in names():
        return importlib.import_module(f"{__name__}.{name.replace('-', '_')}")
    if "." not in name and not _is_own(name):
        raise unknown("agent", name, names())
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and (name == error.name or name.startswith(error.name + ".")):
            raise UserError(
                f"no module {error.name!r} for the agent {name!r}: a dotted path names a Python module of your own "
                f"that can be imported from here; dreamlab's agents: {', '.join(names())}"
            ) from error
        raise _broken(name, error) from error
    except Exception as error:
        raise _broken(name, error) from error
    lacking = [offer for offer in OFFERS if not hasattr(module, offer)]
    if lacking and "." not in name and len(lacking) == len(OFFERS):  # some package that happens to have this name
        raise unknown("agent", name, names())
    if lacking:
        raise UserError(f"the module {name!r} is not an agent: it lacks {', '.join(lacking)}")
    return module


def _broken(name: str, error: Exception) -> UserError:
    return UserError(
        f"importing the agent {name!r} failed: {type(error).__name__}: {error} (python -c 'import {name}' shows where)"
    )


def _is_own(name: str) -> bool:
    """Whether a name without a dot is a module that can be imported from here, and no part of Python."""
    if name in sys.builtin_module_names or name in sys.stdlib_module_names:
        return False
    return name.isidentifier() and importlib.util.find_spec(name) is not None


def dreams(name: str) -> bool:
    """Whether an agent learns a world model: its module says ``DREAMS = False`` where it learns none.

    A module of a user's own is not imported for that, and may.
    """
    return canonical(name) not in names() or getattr(load(name), "DREAMS", True)


def presets(name: str) -> dict[str, dict[str, Any]]:
    """An agent's presets by name, each with all of ``about suites agent env run``; empty where it has none.

    Raises:
        UserError: the file of presets is not in order.
    """
    path = preset_file(load(name))
    if not path.exists():
        return {}
    found = {}
    problems: list[str] = []
    for chosen, content in read_yaml(path).items():
        found[str(chosen)] = _checked(content, f"{path}: {chosen}", problems)
    fail(problems)
    return found


def _checked(content: Any, where: str, problems: list[str]) -> dict[str, Any]:
    """One preset with all its keys."""
    whole: dict[str, Any] = {"about": "", "suites": [], "agent": {}, "env": {}, "run": {}}
    if not isinstance(content, dict):
        problems.append(f"{where}: expected a mapping with any of {', '.join(whole)}")
        return whole
    for key, value in content.items():
        if key not in whole:
            problems.append(f"{where}.{key}: unknown key.{suggest(str(key), whole)}")
        elif value is not None and not isinstance(value, type(whole[key])):
            kind = {"about": "text", "suites": "a list"}.get(key, "a mapping")
            problems.append(f"{where}.{key}: expected {kind}, got {value!r}")
    return whole | {key: value for key, value in content.items() if value is not None}


def preset_file(module: ModuleType) -> Path:
    """Where an agent's presets are, if it has any: beside its file or folder."""
    path = Path(module.__file__ or "")
    return (path.parent if path.stem == "__init__" else path).with_suffix(".yaml")


def default_preset(name: str, suite: str, env: str | None = None) -> str | None:
    """The preset that is taken for a suite of environments when none is named, or None.

    A preset that names an environment's id is the default of that one alone.
    """
    for chosen, content in presets(name).items():
        if suite in content["suites"] and content["env"].get("id") in (None, env):
            return chosen
    return None


def preset(name: str, chosen: str) -> dict[str, Any]:
    """One preset of an agent.

    Raises:
        UserError: there is no such preset.
    """
    available = presets(name)
    if chosen not in available:
        raise unknown(f"preset of {canonical(name)}", chosen, available)
    return available[chosen]
