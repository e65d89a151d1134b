"""What a command says about a run: an agent, an environment, how to run it, as one ``Spec``.

Later ones win: defaults < preset < ``--config FILE`` < options. Without ``--preset``, the agent's preset for that
suite of environments is taken, and ``Spec.said`` names it.

A spec is stored as ``config.yaml``::

    agent: world-models     # its name, or the dotted path of a user's own module
    preset: car-racing      # what it started from: a label, everything is written out below; null for none
    from: null              # the run whose trained parts were taken
    data: null              # the recordings it learned from
    env: {id: CarRacing-v3, ...}
    run: {seed: 0, ...}
    config: {...}           # the agent's own settings
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

from dreamlab import agents, envs
from dreamlab.cli.flags import Argument, ask
from dreamlab.core import config as configs
from dreamlab.core.errors import UserError, suggest
from dreamlab.envs import recordings
from dreamlab.envs.config import EnvConfig
from dreamlab.run.config import RunConfig

STORED = ("agent", "preset", "from", "data", "env", "run", "config")
"""the keys of a stored spec"""
UNKNOWN = "ID"
"""stands for the environment's id in a help that was asked for without one"""


@dataclass(frozen=True)
class Spec:
    """One run: everything that makes it this run, and how it was asked for."""

    agent: str
    """canonical name, or dotted path"""
    config: Any
    """the agent's Config"""
    env: EnvConfig
    run: RunConfig
    preset: str | None = None
    source: Path | None = None
    """--from: the run whose trained parts are taken"""
    data: Path | None = None
    """--data: the recordings that are learned from"""
    skip_bad: bool = False
    folder: Path | None = None
    """--run: where it is written"""
    dry_run: bool = False
    logs: tuple[str, ...] | None = None
    """names of sinks; None for the standard ones"""
    wandb: str | None = None
    """the W&B project that is logged to as well"""
    said: str = ""
    """where the settings come from, for the first line that is printed"""


@dataclass(frozen=True)
class PlanFlags:
    """Options of a run that are no settings of agent, environment or RunConfig."""

    env_id: Annotated[str | None, Argument(name="env", metavar="ID", help_behavior_hint="")] = None
    """environment: an id that dreamlab envs lists, any other Gymnasium id, or your own as my_pkg.my_env:make"""
    preset: Annotated[str | None, Argument(metavar="NAME", help_behavior_hint="")] = None
    """settings to start from (dreamlab presets); without it, the agent's for that kind of environment"""
    folder: Annotated[Path | None, Argument(name="run", metavar="DIR", help_behavior_hint="")] = None
    """its folder; one that holds a run goes on with it"""
    file: Annotated[Path | None, Argument(name="config", metavar="FILE", help_behavior_hint="")] = None
    """a stored config.yaml: the same run again"""
    source: Annotated[Path | None, Argument(name="from", metavar="RUN", help_behavior_hint="")] = None
    """another run, whose trained parts are taken"""
    data: Annotated[Path | None, Argument(metavar="PATH", help_behavior_hint="")] = None
    """recordings to learn from: a folder of .npz, .npy or mp4, of dreamlab collect, or a run's"""
    skip_bad: Annotated[bool, Argument(help_behavior_hint="")] = False
    """leave out recordings that are not in order"""


@dataclass(frozen=True)
class TrainFlags(PlanFlags):
    """What only training asks for."""

    dry_run: Annotated[bool, Argument(help_behavior_hint="")] = False
    """every stage once, shrunk: whether it all works, in a minute"""
    logs: Annotated[tuple[str, ...] | None, Argument(metavar="SINK", help_behavior_hint="")] = None
    """where metrics go; without it: console jsonl tensorboard pictures"""
    wandb: Annotated[str | None, Argument(metavar="PROJECT", help_behavior_hint="")] = None
    """log to this project (or TEAM/PROJECT) of W&B, too"""


F = TypeVar("F", bound=PlanFlags)


def parse(
    argv: Sequence[str],
    command: str,
    flags: type[F] = TrainFlags,  # type: ignore[assignment]
    about: str = "",
) -> tuple[Spec, F]:
    """The spec that ``command AGENT --option value ...`` asks for, and its other flags.

    Raises:
        UserError: an unknown agent, environment or preset, or files and presets that are not in order.
        SystemExit: after ``--help`` (0), or for a mistyped option (2), which is told on stderr.
    """
    argv = list(argv)
    name = argv.pop(0) if argv and not argv[0].startswith("-") else None
    typed = {key: _peek(argv, key) for key in ("--env", "--env.id", "--preset", "--config", "--run", "--data")}
    helping = "-h" in argv or "--help" in argv
    file = typed["--config"]
    if name is None and file is None and typed["--run"] and not helping:
        stored = Path(typed["--run"]) / "config.yaml"  # go on with a run: it knows its agent
        if not stored.exists():
            raise UserError(
                f"{typed['--run']} holds no run to go on with; to start one there, name the agent first: "
                f"{command} AGENT --env ID --run {typed['--run']}"
            )
        file = str(stored)
    if name is None and file is None:
        if helping:
            _general_help(command, flags, about)
        raise UserError(f"which agent? available: {', '.join(agents.names())}.{_misplaced(argv, command)}")
    if typed["--env"] and typed["--env.id"] and typed["--env"] != typed["--env.id"]:
        raise UserError(f"two environments: --env {typed['--env']} and --env.id {typed['--env.id']}; leave one out")
    env_id = typed["--env"] or typed["--env.id"]
    base = resolve(name, env_id, typed["--preset"], file, not helping, typed["--data"])
    return _flagged(base, argv, f"{command} {name or ''}".strip(), flags, about)


def resolve(
    agent: str | None,
    env: str | None = None,
    preset: str | None = None,
    file: str | Path | None = None,
    need_env: bool = True,
    data: str | Path | None = None,
) -> Spec:
    """A spec before any option: defaults, then the preset, then a stored config.

    With ``data`` no environment need be named.

    Raises:
        UserError: something unknown, something missing, or all that is wrong in the preset or the file.
    """
    stored = configs.read_yaml(file) if file else {}
    agent = agent or stored.get("agent")
    if not isinstance(agent, str):
        raise UserError(f"{file}: agent: is missing")
    agent = agents.canonical(agent)
    if stored.get("agent") and agents.canonical(str(stored["agent"])) != agent:
        raise UserError(f"{file} is of the agent {stored['agent']}, not {agent}; leave {agent} out, or --config")
    module = agents.load(agent)
    start = agents.preset(agent, preset) if preset else {}
    file_env = stored.get("env") if isinstance(stored.get("env"), Mapping) else {}
    env = env or file_env.get("id") or start.get("env", {}).get("id")  # type: ignore[union-attr]
    data = Path(data) if data else _path(stored, "data")
    if not env and data:
        env = recordings.ID
    if not env and need_env:
        raise UserError(
            f"which environment? type: dreamlab train {agent} --env CarRacing-v3; dreamlab envs lists those that work. "
            "To learn from recordings alone: --data PATH"
        )
    suite = envs.suite_of(str(env)).__name__.rsplit(".", 1)[-1] if env else None
    said = f"config {file}" if file else f"preset {preset}"
    if not preset and not file:
        preset = agents.default_preset(agent, suite, str(env)) if suite else None
        start = agents.preset(agent, preset) if preset else {}
        said = f"preset {preset}, the default of {agent} for {suite}" if preset else "plain defaults"
        said += "" if preset else f": {agent} has no preset for {env}"
    defaults = (module.Config(), _env_defaults(str(env), data) if env else EnvConfig(id=UNKNOWN), RunConfig())
    config, env_config, run = _merged(defaults, start, ("agent", "env", "run"), f"preset {preset}: ")
    if file:
        config, env_config, run = _merged(
            (config, env_config, run), stored, ("config", "env", "run"), f"{file}: ", STORED
        )
    if env:
        env_config = dataclasses.replace(env_config, id=str(env))
    label = preset or stored.get("preset")
    return Spec(agent, config, env_config, run, label, source=_path(stored, "from"), data=data, said=said)


def to_dict(spec: Spec) -> dict[str, Any]:
    """What config.yaml holds: whatever makes this run this run."""
    return {
        "agent": spec.agent,
        "preset": spec.preset,
        "from": None if spec.source is None else str(spec.source),
        "data": None if spec.data is None else str(spec.data),
        "env": configs.to_dict(spec.env),
        "run": configs.to_dict(spec.run),
        "config": configs.to_dict(spec.config),
    }


def from_dict(stored: Mapping[str, Any], where: str = "config.yaml") -> Spec:
    """The spec that ``to_dict`` wrote.

    Raises:
        UserError: everything that is wrong with it.
    """
    for key, kind in (("agent", str), ("env", Mapping)):
        if not isinstance(stored.get(key), kind):
            raise UserError(f"{where}: {key}: {'is missing' if key not in stored else 'is not in order'}")
    module = agents.load(stored["agent"])
    defaults = (module.Config(), envs.default_config(str(stored["env"].get("id"))), RunConfig())
    config, env, run = _merged(defaults, stored, ("config", "env", "run"), f"{where}: ", STORED)
    return Spec(
        agents.canonical(stored["agent"]),
        config,
        env,
        run,
        stored.get("preset"),
        source=_path(stored, "from"),
        data=_path(stored, "data"),
        said=f"config {where}",
    )


def differences(spec: Spec, stored: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """Where a spec differs from a stored one: (dotted path, stored value, value of the spec); labels left out."""
    return [change for change in configs.differences(stored, to_dict(spec)) if change[0] != "preset"]


# -- parts ---------------------------------------------------------------------------------------------------


def _env_defaults(env: str, data: Path | None) -> EnvConfig:
    """An environment's own settings; without one, images as large as the recordings say that theirs are."""
    default = envs.default_config(env)
    if env != recordings.ID or data is None:
        return default
    try:
        said = json.loads((data / "recordings.json").read_text(encoding="utf-8"))
        _, h, w = said["observations"]["image"]["shape"]
        return dataclasses.replace(default, size=(h, w))
    except (OSError, ValueError, KeyError, TypeError):  # they do not say, or what they say is read with care later
        return default


def _merged(
    defaults: tuple[Any, EnvConfig, RunConfig],
    data: Mapping[str, Any],
    keys: tuple[str, str, str],
    where: str,
    known: Sequence[str] = (),
) -> list[Any]:
    """The agent's, the environment's and the run's settings with what ``data`` overrides; all mistakes at once."""
    problems = [f"{where}{key}: unknown key.{suggest(str(key), known)}" for key in data if known and key not in known]
    found: list[Any] = []
    for key, default in zip(keys, defaults, strict=True):
        overrides = {} if data.get(key) is None else data[key]
        found.append(configs.read(type(default), overrides, where + key, problems, base=default))
    configs.fail(problems)
    return found


def _flagged(base: Spec, argv: Sequence[str], command: str, flags: type[F], about: str) -> tuple[Spec, F]:
    """``base`` with the typed options on top: one dataclass made of flags, RunConfig, the agent's and the env's."""
    known = base.env.id != UNKNOWN
    plain = flags(env_id=base.env.id if known else None, preset=base.preset, source=base.source, data=base.data)
    parts: list[Any] = [
        ("flags", Annotated[flags, Argument(name="")], plain),  # type: ignore[valid-type]
        ("run", Annotated[RunConfig, Argument(name="")], base.run),
        ("agent", type(base.config), base.config),
    ]
    if known:
        parts.append(("env", type(base.env), base.env))
    else:
        about += "\n\nWith --env ID, this help has the environment's options too."
    cls: Any = dataclasses.make_dataclass("Options", parts, frozen=True)
    found = ask(cls, argv, command, about.strip() or "A run.")
    for option, was, is_now in (
        ("--env", plain.env_id, found.flags.env_id),
        ("--preset", plain.preset, found.flags.preset),
    ):
        if was != is_now:
            raise UserError(f"{option} is there twice, with {was} and {is_now}; leave one out")
    spec = dataclasses.replace(
        base,
        config=found.agent,
        env=found.env,
        run=found.run,
        source=found.flags.source,
        data=found.flags.data,
        skip_bad=found.flags.skip_bad,
        folder=found.flags.folder,
        dry_run=getattr(found.flags, "dry_run", False),
        logs=getattr(found.flags, "logs", None),
        wandb=getattr(found.flags, "wandb", None),
    )
    return spec, found.flags


def _general_help(command: str, flags: type[PlanFlags], about: str) -> None:
    """The help without an agent: what all of them share."""
    parts: list[Any] = [
        ("flags", Annotated[flags, Argument(name="")], flags()),
        ("run", Annotated[RunConfig, Argument(name="")], RunConfig()),
    ]
    listing = f"Agents: {', '.join(agents.names())}, or your own as my_pkg.my_agent."
    more = f"{command} AGENT --env ID --help has the options of that agent and environment too."
    cls = dataclasses.make_dataclass("Options", parts, frozen=True)
    ask(cls, ["--help"], f"{command} AGENT", "\n\n".join(filter(None, (about, listing, more))))


def _peek(argv: Sequence[str], option: str) -> str | None:
    """The value typed for an option, before everything is parsed."""
    for i, word in enumerate(argv):
        name, equals, value = word.partition("=")
        if name == option:
            if equals:
                return value
            return argv[i + 1] if i + 1 < len(argv) and not argv[i + 1].startswith("--") else None
    return None


def _misplaced(argv: Sequence[str], command: str) -> str:
    """What to type when no agent came first."""
    later = [word for word in argv if agents.canonical(word) in agents.names()]
    name = later[0] if later else (agents.names() or ["AGENT"])[0]
    return f" The agent comes first: {command} {name} --env CarRacing-v3"


def _path(stored: Mapping[str, Any], key: str) -> Path | None:
    return Path(str(stored[key])) if stored.get(key) else None
