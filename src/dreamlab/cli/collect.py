"""``dreamlab collect ENV --out DATA``: play whole episodes and keep them as a dataset."""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np

from dreamlab import envs
from dreamlab.cli.flags import Argument, ask
from dreamlab.core.config import to_dict
from dreamlab.core.errors import UserError
from dreamlab.envs.config import EnvConfig

if TYPE_CHECKING:
    import torch
    from gymnasium import spaces

    from dreamlab.core.protocols import Policy
    from dreamlab.run.dataset import Dataset

ABOUT = "play whole episodes and keep them as a dataset"
CHANCE = ("random", "brownian", "held", "cauchy")
LATENT = 32
"""size of the noise that the paper's random controllers act on"""
FILM = 1000
"""steps of the first episode that are filmed at most: whole frames wait in memory"""


@dataclass(frozen=True)
class CollectFlags:
    """Options that are no settings of the environment."""

    out: Annotated[Path, Argument(metavar="DATA")]
    """the folder that is written; one of the same request is gone on with"""
    episodes: int = 100
    """whole episodes"""
    policy: str = "random"
    """random: pure chance; brownian: a random walk of actions; held: random actions held for 1 to 10 steps, as the
    paper's Doom data; cauchy: a random controller an episode, as its CarRacing data; or the folder of a run, which acts
    as it is evaluated"""
    seed: int = 0
    """episodes and actions are derived from it"""
    envs: int = 2
    """environments side by side"""
    show: bool = False
    """watch in a window; without a display, film the first episode into videos/"""


def run(argv: Sequence[str]) -> int:
    """The command."""
    env, flags = parse(argv)
    collect(env, **vars(flags))
    return 0


def parse(argv: Sequence[str]) -> tuple[EnvConfig, CollectFlags]:
    """The environment and the options that are typed.

    Raises:
        UserError: no environment, or an unknown one.
        SystemExit: after ``--help`` (0), or for a mistyped option (2), which is told on stderr.
    """
    argv = list(argv)
    helping = bool({"-h", "--help"} & set(argv))
    id = argv.pop(0) if argv and not argv[0].startswith("-") else None
    if id is None and not helping:
        raise UserError("which environment? type: dreamlab collect CarRacing-v3 --out DATA; dreamlab envs lists them")
    parts: list[Any] = [("flags", Annotated[CollectFlags, Argument(name="")])]
    about = __doc__ or ""
    if id is None:
        about += "\n\nWith ENV, this help has the environment's options too."
    else:
        config = envs.default_config(id)
        parts.append(("env", type(config), config))
    cls: Any = dataclasses.make_dataclass("Options", parts, frozen=True)
    chosen = ask(cls, argv, f"dreamlab collect {id or 'ENV'}", about)
    if id is None or chosen.env.id != id:
        raise UserError(f"two environments: {id} and --env.id {chosen.env.id}; leave one out")
    return chosen.env, chosen.flags


def collect(
    env: EnvConfig,
    out: Path,
    episodes: int = 100,
    policy: str = "random",
    seed: int = 0,
    envs: int = 2,
    show: bool = False,
    say: Callable[[str], None] = print,
) -> None:
    """Play and write; episodes that are there already, of the same request, are not played again.

    Raises:
        UserError: no such environment or policy, or ``out`` holds something else.
        RunError: the environment crashed; the episodes before stay.
    """
    from dreamlab.core.seeds import derive
    from dreamlab.envs import evaluation, make
    from dreamlab.run.dataset import About, Dataset

    for name, value, least in (("episodes", episodes, 1), ("envs", envs, 1), ("seed", seed, 0)):
        if value < least:
            raise UserError(f"--{name} must be at least {least}, got {value}")
    env = evaluation(env)  # whole games, as they are scored
    env, obs_space, act_space, acting, device = actor(policy, env, seed)
    window = show and has_display()
    n = 1 if window else envs
    request = {"collect": env.id, "policy": policy, "seed": seed, "envs": n, "env": to_dict(env)}
    about = About(obs_space, act_space, {"actions": True, "rewards": True, "ends": True}, to_dict(env), request)
    dataset = Dataset(out, about)
    missing = [i for i in range(episodes) if not dataset.has(i)]
    due = [range(first, first + n) for first in sorted({i - i % n for i in missing})]  # waves are always whole
    if len(missing) < episodes:
        say(f"{out} holds {episodes - len(missing)} of {episodes} episodes already")
    film = show and not window and bool(due)
    if due:
        # an engine with seeds of its own must not give again, when this goes on, what it gave before
        venv = make(env, n, derive(seed, "collect", "engine", due[0][0]), render="human" if window else film)
        try:
            for wave in due:
                _play(acting, venv, wave, {*missing}, seed, device, dataset, film and wave is due[0])
                if sys.stderr.isatty():
                    print(f"\r{min(wave[-1] + 1, episodes)} of {episodes} episodes", end="", file=sys.stderr)
        finally:
            venv.close()
            if sys.stderr.isatty():
                print(file=sys.stderr)
    if film:
        say(f"no display here, so the first episode was filmed: {out / 'videos' / f'episode-{due[0][0]:05d}.mp4'}")
    _farewell(dataset, env, say)


def _play(
    acting: Callable[[int], Policy],
    venv: Any,
    wave: range,
    missing: set[int],
    seed: int,
    device: torch.device,
    dataset: Dataset,
    film: bool,
) -> None:
    """One wave of episodes, side by side; those that are missing are written, each as it ends.

    What the wave draws depends on the seed and on its first episode's number.
    """
    from dreamlab.core.seeds import derive, forked
    from dreamlab.evals import episodes
    from dreamlab.run.recorder import record

    frames: list[np.ndarray] = []

    def seen(playing: bool) -> None:
        if film and playing and len(frames) < FILM:
            frames.append(np.asarray(venv.render()[0]))

    with forked(seed, "collect", wave[0]):
        seeds = [derive(seed, "collect", i) for i in wave]
        for i, episode in record(acting(wave[0]), venv, seeds, device, dataset.folder, seen):
            if wave[i] in missing:
                dataset.write(wave[i], episode.rows, episode.pieces())
            if film and not i:
                path = dataset.folder / "videos" / f"episode-{wave[0]:05d}.mp4"
                episodes.film(path, frames, f"episode {wave[0]} · return {episode.ret:.1f}")


def _farewell(dataset: Dataset, env: EnvConfig, say: Callable[[str], None]) -> None:
    from dreamlab.run.recordings import look

    found = look(dataset.folder, (dataset.about.obs_space, dataset.about.act_space))
    dataset.finish(len(found.spans), found.rows)
    returns = np.array(found.returns)
    say(
        f"{dataset.folder}: {len(returns):,} episodes, {found.rows - len(returns):,} steps, "
        f"return {returns.mean():.2f} ± {returns.std():.2f}"
    )
    say(f"next: dreamlab train world-models --data {dataset.folder} --env {env.id}")


def actor(
    policy: str, env: EnvConfig, seed: int
) -> tuple[EnvConfig, spaces.Dict, spaces.Space, Callable[[int], Policy], torch.device]:
    """The environment as the policy needs it, its spaces, who acts in the wave that begins with an episode, and where.

    Raises:
        UserError: there is no such policy, or it cannot act there.
    """
    import torch

    from dreamlab.core.seeds import torch_rng

    cpu = torch.device("cpu")
    if policy not in CHANCE:
        return _trained(policy, env)
    obs_space, act_space = envs.spaces_of(env)
    if policy == "random":
        from dreamlab.agents.random import Uniform

        return env, obs_space, act_space, lambda first: Uniform(act_space), cpu
    from dreamlab.agents.world_models.acting import COLLECTORS
    from dreamlab.agents.world_models.actions import actions_for
    from dreamlab.cli.options import resolve

    usual = resolve("world-models", env.id).config.controller.actions  # Doom's map, by the preset for TakeCover
    actions = actions_for(act_space, usual)

    def walker(first: int) -> Policy:
        return COLLECTORS[policy](LATENT, actions, torch_rng(cpu, seed, "collect", policy, first))

    return env, obs_space, act_space, walker, cpu


def _trained(run: str, env: EnvConfig) -> Any:
    """A run's policy, in the environment as it was trained, but for what was typed."""
    from dreamlab.cli import named, session

    folder = Path(run)
    if named.hub_name(run) is None and not (folder / "config.yaml").exists():
        near = "" if "/" in run or folder.exists() else f"no policy {run!r}; "
        raise UserError(f"{near}--policy takes {', '.join(CHANCE)}, or the folder of a run; {run} holds no run")
    opened = session.open_run(run)
    own = opened.spec.env
    if own.id == env.id and env == envs.evaluation(envs.default_config(env.id)):  # nothing was typed
        env = envs.evaluation(own)
    elif env.obs == "auto" and own.obs != "auto":
        env = dataclasses.replace(env, obs=own.obs)
    obs_space, act_space = envs.spaces_of(env)
    if obs_space != opened.obs_space or act_space != opened.act_space:
        raise UserError(
            f"the run in {folder} does not fit {env.id}: it sees {opened.obs_space} and acts in {opened.act_space}, "
            f"the environment gives {obs_space} and takes {act_space}; it was trained in {own.id}"
        )
    return env, obs_space, act_space, lambda first: opened.policy(), opened.compute.device


def has_display(platform: Literal["linux", "darwin", "win32"] | str = sys.platform) -> bool:
    """Whether a window can be opened here."""
    return not platform.startswith("linux") or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
