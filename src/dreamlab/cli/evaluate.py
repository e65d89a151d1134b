"""``dreamlab evaluate RUN``: score a run's agent in its environment, under a written protocol."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tyro.conf import Positional

from dreamlab.cli import output, recorded
from dreamlab.cli.flags import ask
from dreamlab.core.config import to_dict
from dreamlab.core.errors import UserError
from dreamlab.envs import dream, evaluation

if TYPE_CHECKING:
    from dreamlab.cli.session import Opened

ABOUT = "score a run's agent in its environment, under a written protocol"


@dataclass(frozen=True)
class Options:
    """Score a run's agent in its environment; the score is stored with its protocol in evaluations/."""

    run: Positional[str]
    """the run's folder, a published model's, or user/name on the Hugging Face Hub"""
    env: str | None = None
    """the environment, for a run that learned from recordings alone, or in a dream (then the one that was dreamt of)"""
    episodes: int = 100
    """episodes, each with a seed of its own"""
    seed: int = 0
    """the episodes' seeds are derived from it"""
    checkpoint: int | None = None
    """the step to evaluate; the newest unless told"""
    time_limit: int | None = None
    """agent steps of an episode at most; those of training unless told"""
    envs: int = 0
    """environments side by side; 0 takes as many as in training"""
    video: bool = False
    """film the first episode"""
    render: bool = False
    """watch the first environment in a window while it plays (needs a display)"""
    explore: bool = False
    """act as while training instead of as evaluated"""
    actions: Literal["sample", "mode"] | None = None
    """draw actions, or take the likeliest; without it as the agent's setting says (its paper's way)"""
    json: str | None = None
    """also write the score to this file; - for standard output"""
    wandb: str | None = None
    """also log score and film to this W&B project; TEAM/PROJECT for a team's"""
    device: str = "auto"
    """where the networks live"""


def run(argv: Sequence[str]) -> int:
    """The command."""
    chosen = ask(Options, argv, "dreamlab evaluate", __doc__ or "")
    output.refuse_unwritable(chosen.json)
    quiet = chosen.json == "-"
    score = evaluate(**{k: v for k, v in vars(chosen).items() if k != "json"}, say=(lambda _: None) if quiet else print)
    output.write(chosen.json, score)
    return 0


def evaluate(
    run: str | Path,
    episodes: int = 100,
    seed: int = 0,
    checkpoint: int | None = None,
    envs: int = 0,
    video: bool = False,
    render: bool = False,
    explore: bool = False,
    actions: str | None = None,
    device: str = "auto",
    say: Any = print,
    env: str | None = None,
    time_limit: int | None = None,
    wandb: str | None = None,
) -> dict[str, Any]:
    """Score a run; returns what ``--json`` writes: agent, env, mean, std, returns, lengths, protocol (and measures)."""
    _refuse_few(episodes=episodes, envs=envs, seed=seed, time_limit=time_limit)
    from dreamlab.cli import session
    from dreamlab.evals import episodes as evals
    from dreamlab.run.checkpoint import write_json

    if wandb is not None:
        from dreamlab.logs.wandb import refuse_missing

        refuse_missing("logging a score to W&B")
    opened = session.open_run(run, checkpoint, device)
    if actions is not None:
        choose_by(opened, actions)
    n = 1 if render else min(envs or opened.spec.run.envs, episodes)  # one window, not one for each environment
    scored = evaluation(recorded.stage(opened, env))
    scored = scored if time_limit is None else dataclasses.replace(scored, time_limit=time_limit)
    spec = dataclasses.replace(opened.spec, env=scored)
    elsewhere = {"trained_in": opened.spec.env.id} if dream.claims(opened.spec.env.id) and env else {}
    venv = session.environments(spec, n, render="human" if render else video)
    try:
        outcome, frames = evals.evaluate(
            opened.policy(explore),
            venv,
            evals.seeds_of(seed, episodes),
            opened.compute.device,
            film=video and not render,
        )
        protocol = evals.protocol(
            to_dict(spec.env),
            seed=seed,
            episodes=episodes,
            mode=evals.way(opened.agent, explore),
            checkpoint=opened.step,
            seeded=bool(getattr(venv, "seeded", False)),
            precision=opened.compute.precision,
            envs=n,
            own={**(getattr(opened.agent, "protocol", None) or {}), **elsewhere},
        )
    finally:
        venv.close()
    score = evals.score(opened.spec.agent, spec.env.id, outcome, protocol)
    stored = opened.folder / "evaluations"
    stored.mkdir(parents=True, exist_ok=True)
    limit = "" if time_limit is None else f"-{time_limit}steps"
    limit += "" if actions is None else f"-{actions}"
    place = "-" + re.sub(r"[^A-Za-z0-9._-]+", "-", scored.id) if elsewhere else ""
    write_json(stored / f"{opened.step}-seed{seed}-{episodes}episodes{limit}{place}.json", score)
    path = None
    if frames:
        path = opened.folder / "videos" / f"{opened.step}-seed{seed}{place}.mp4"
        evals.film(path, frames, f"{opened.spec.agent} · {spec.env.id} · return {outcome.ret[0]:.0f}")
        say(f"film: {path}")
    for line in told(score, opened.step):
        say(line)
    if wandb is not None:
        upload(score, opened, path, wandb, say)
    return score


def _refuse_few(**told: int | None) -> None:
    """Raises UserError where a number is too small; None is none."""
    for name, value in told.items():
        least = 1 if name in ("episodes", "time_limit") else 0
        if value is not None and value < least:
            raise UserError(f"--{name.replace('_', '-')} must be at least {least}, got {value}")


def upload(score: dict[str, Any], opened: Opened, film: Path | None, project: str, say: Any) -> None:
    """A score, and its film, as a W&B run of the kind "evaluate" in the group of the training run."""
    from dreamlab.logs.wandb import log_once

    values: dict[str, Any] = {"eval/mean": score["mean"], "eval/std": score["std"], "eval/best": max(score["returns"])}
    values |= {f"eval/{name}": value for name, value in score.get("measures", {}).items()}
    values |= {} if film is None else {f"film/{score['env']}": film}
    log_once(
        project,
        values,
        kind="evaluate",
        place=opened.folder,
        config={"protocol": score["protocol"]},
        say=say,
        step=opened.step,
        name=opened.folder.resolve().name,
        group=f"{score['agent']}-{opened.spec.env.id}",
    )


def told(score: dict[str, Any], step: int) -> list[str]:
    """A score in a line or two."""
    from dreamlab.evals.episodes import figure

    count = len(score["returns"])
    error, length = score["std"] / max(1, count - 1) ** 0.5, sum(score["lengths"]) / count
    lines = [
        f"{score['agent']} on {score['env']}, checkpoint {step}: mean {figure(score['mean'])}, "
        f"std {figure(score['std'])}, standard error {figure(error)}, {count} episodes of {length:.0f} steps"
    ]
    if "measures" in score:
        lines.append(", ".join(f"{name} {value:.1f}" for name, value in score["measures"].items()))
    return lines


def choose_by(opened: Opened, actions: str) -> None:
    """Have an agent that can do both draw its actions, or take the likeliest, when it is evaluated.

    Raises:
        UserError: it has one way of acting.
    """
    if not hasattr(opened.agent, "evaluation"):
        raise UserError(f"{opened.spec.agent} has one way of acting when it is evaluated; leave --actions out")
    opened.agent.evaluation = actions  # type: ignore[attr-defined]
