"""Scores of whole episodes, each with the protocol under which it was made.

::

    {"agent", "env", "mean", "std", "returns": [...], "lengths": [...], "protocol": {...}}

and ``"measures": {name: number}`` where the environment has some of its own (``envs.measures``). ``std`` is the
standard deviation over episodes (not over seeds of training), with n in the denominator.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium.vector import VectorEnv

from dreamlab.core.protocols import Policy
from dreamlab.core.seeds import derive, forked
from dreamlab.core.types import Outcome
from dreamlab.envs import measures
from dreamlab.evals.words import figure as figure
from dreamlab.logs.video import caption, write_mp4
from dreamlab.run.driver import play

Frames = list[np.ndarray]
"""pictures (H, W, 3) uint8, one a step"""


def seeds_of(seed: int, episodes: int) -> list[int]:
    """The seeds of an evaluation: the same for every agent that is evaluated with ``seed``."""
    return [derive(seed, "evaluate", i) for i in range(episodes)]


def evaluate(
    policy: Policy,
    envs: VectorEnv,
    seeds: Sequence[int],
    device: torch.device,
    *,
    stop: Callable[[], bool] = lambda: False,
    film: bool = False,
    done: Callable[[int], None] = lambda n: None,
) -> tuple[Outcome, Frames]:
    """Play one episode for each seed, ``envs.num_envs`` at a time. With ``film``, the first one's frames.

    Torch's global generator is seeded by each wave's first seed; a policy with a generator of its own must be fresh.
    Either way the same policy, seeds and number of environments give the same score again.

    Raises:
        Interrupted: ``stop()`` came true.
    """
    n, frames = envs.num_envs, []
    outcomes = []
    for first in range(0, len(seeds), n):
        wave = seeds[first : first + n]

        def watch(t: int, rew: np.ndarray, alive: np.ndarray, wave_first: int = first) -> None:
            if film and wave_first == 0 and alive[0]:
                frames.append(np.asarray(envs.render()[0]))  # type: ignore[index]

        with forked(wave[0], "evaluate"):
            outcomes.append(play(policy, envs, wave, device, stop=stop, watch=watch if film else None))
        done(min(first + n, len(seeds)))
    return joined(outcomes), frames


def joined(outcomes: Sequence[Outcome]) -> Outcome:
    """Outcomes one after another."""
    names = dict.fromkeys(name for o in outcomes for name in o.infos)
    infos = {name: np.concatenate([o.infos.get(name, np.full(len(o.ret), np.nan)) for o in outcomes]) for name in names}
    return Outcome(np.concatenate([o.ret for o in outcomes]), np.concatenate([o.length for o in outcomes]), infos)


def score(agent: str, env: str, outcome: Outcome, protocol: Mapping[str, Any]) -> dict[str, Any]:
    """The stored form of a score."""
    own = measures(env, outcome)
    return {
        "agent": agent,
        "env": env,
        "mean": float(outcome.ret.mean()),
        "std": float(outcome.ret.std()),
        "returns": [float(r) for r in outcome.ret],
        "lengths": [int(n) for n in outcome.length],
        **({"measures": own} if own else {}),
        "protocol": dict(protocol),
    }


def way(agent: Any, explore: bool) -> str:
    """How an agent acts in an evaluation, in words; one that can do both says whether it draws its actions."""
    if explore:
        return "exploring"
    by = getattr(agent, "evaluation", None)
    return "evaluation" if by is None else f"evaluation, actions by {by}"


def protocol(
    env: Mapping[str, Any],
    *,
    seed: int,
    episodes: int,
    mode: str,
    checkpoint: int | None,
    seeded: bool,
    precision: str,
    envs: int,
    own: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """What must be equal for two scores to be compared: every effective choice about environment and policy.

    ``envs`` episodes are played side by side: a policy that draws draws for them together, so a score is made
    again exactly only with as many. ``own`` is what the agent itself has to say (``agent.protocol``).
    """
    import gymnasium

    from dreamlab import __version__

    return {
        "env": dict(env),
        "episodes": episodes,
        "seed": seed,
        "seeds": "one an episode, derived from seed" if seeded else "the engine's own: episodes cannot be made again",
        "policy": mode,
        "checkpoint": checkpoint,
        "precision": precision,
        "envs": envs,
        **(own or {}),
        "gymnasium": gymnasium.__version__,
        "dreamlab": __version__,
        "date": time.strftime("%Y-%m-%d"),
    }


def film(path: Path, frames: Frames, text: str, fps: int = 30) -> None:
    """A captioned mp4 of an episode."""
    write_mp4(path, caption(np.stack(frames), text), fps)
