"""``dreamlab demo``: the whole story in minutes. World Models learns to drive CarRacing in its dream, and is watched.

Trains with the preset ``demo`` into ``runs/demo``: the real game is played at random only, and the controller learns
inside the dream of it. Then the trained controller, an untrained one and a random policy drive the same real tracks,
the drives and the dream are filmed, and ``report.html`` is written.
Typed again it goes on where it was stopped, or says that it is done.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dreamlab.cli.flags import ask

if TYPE_CHECKING:
    from gymnasium.vector import VectorEnv

    from dreamlab.cli.session import Opened
    from dreamlab.core.types import Outcome

ABOUT = "train World Models on CarRacing in minutes, and watch it drive and dream"
WHO = {"random": "random actions", "untrained": "untrained", "trained": "trained"}


@dataclass(frozen=True)
class Options:
    """Train World Models on CarRacing-v3 in minutes, and watch it drive and dream."""

    run: Path = Path("runs/demo")
    """the folder it is written to"""
    episodes: int = 24
    """tracks that each of the three policies drives"""
    horizon: int = 50
    """imagined steps of the dream film"""
    preset: str = "demo"
    """the preset that is trained"""


def run(argv: Sequence[str]) -> int:
    """The command. Returns its exit code."""
    chosen = ask(Options, argv, "dreamlab demo", __doc__ or "")
    folder = chosen.run
    summary = folder / "summary.json"
    if summary.exists():
        print(f"The demo in {folder} is done already.\n")
        for line in farewell(json.loads(summary.read_text()), folder):
            print(line)
        return 0
    from dreamlab.evals.report import write_report
    from dreamlab.run.checkpoint import write_json

    with _clocked(folder / "clock.json") as clock:
        code = _train(chosen)
        if code:
            return code
        scores = _drive(chosen)
        _dream(chosen)
    done = {**scores, "wall_seconds": round(clock.seconds, 1), "peak_memory_mib": round(clock.peak_mib)}
    write_json(summary, done)
    write_report(folder)
    for line in farewell(done, folder):
        print(line)
    return 0


@dataclass
class Clock:
    """Of all times that the demo was typed until it was done: seconds in all, and the most memory."""

    seconds: float = 0.0
    peak_mib: float = 0.0


@contextmanager
def _clocked(path: Path) -> Iterator[Clock]:
    """Count time and memory of the block on top of what ``path`` knows from before an interruption."""
    from dreamlab.run.checkpoint import write_json
    from dreamlab.run.memory import MIB, Peak

    clock = Clock(**json.loads(path.read_text())) if path.exists() else Clock()
    started, peak = time.monotonic(), Peak().start()
    try:
        yield clock
    finally:
        clock.seconds += time.monotonic() - started
        clock.peak_mib = max(clock.peak_mib, peak.stop() / MIB)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, dataclasses.asdict(clock))


def _train(chosen: Options) -> int:
    """Train or go on. Returns the exit code."""
    from dreamlab.cli import options
    from dreamlab.cli.train import train

    spec = options.resolve("world-models", "CarRacing-v3", chosen.preset)
    return train(dataclasses.replace(spec, folder=chosen.run))


def _drive(chosen: Options) -> dict[str, Any]:
    """Let the three policies drive the same tracks; film them. Returns their scores by name."""
    from dreamlab.agents.random import Uniform
    from dreamlab.cli import session
    from dreamlab.evals import episodes

    opened = session.open_run(chosen.run)
    module = session.settle(opened.spec)[3]
    fresh = session.make_agent(opened.spec, module, opened.obs_space, opened.act_space, opened.compute)
    makers = {
        "random": lambda: Uniform(opened.act_space),
        "untrained": lambda: fresh.policy(explore=False),
        "trained": opened.policy,
    }
    seeds = episodes.seeds_of(1, chosen.episodes)
    scores: dict[str, Any] = {}
    # both can render, so both are Gymnasium's: EnvPool's CarRacing, where it is installed, cannot be seeded
    envs = session.environments(opened.spec, opened.spec.run.envs, render=True)
    camera = session.environments(opened.spec, 1, render=True)
    try:
        for who, policy in makers.items():
            print(f"driving {chosen.episodes} tracks: {WHO[who]}", flush=True)
            outcome, _ = episodes.evaluate(policy(), envs, seeds, opened.compute.device)
            returns = [float(r) for r in outcome.ret]
            scores[who] = {"mean": float(outcome.ret.mean()), "std": float(outcome.ret.std()), "returns": returns}
            _score(opened, chosen, who, outcome, envs)
        best = max(range(len(seeds)), key=lambda i: scores["trained"]["returns"][i])
        for who, policy in makers.items():  # all three on the track that the trained one drove best
            outcome, frames = episodes.evaluate(policy(), camera, [seeds[best]], opened.compute.device, film=True)
            text = f"World Models, {WHO[who]} · track {best + 1} · return {outcome.ret[0]:.0f}"
            episodes.film(chosen.run / "videos" / f"drive-{who}.mp4", frames, text)
    finally:
        envs.close()
        camera.close()
    return scores


def _score(opened: Opened, chosen: Options, who: str, outcome: Outcome, envs: VectorEnv) -> None:
    """Store one policy's score with its protocol."""
    from dreamlab.core.config import to_dict
    from dreamlab.evals import episodes
    from dreamlab.run.checkpoint import write_json

    protocol = episodes.protocol(
        to_dict(opened.spec.env),
        seed=1,
        episodes=chosen.episodes,
        mode=WHO[who],
        checkpoint=opened.step if who == "trained" else None,
        seeded=bool(getattr(envs, "seeded", False)),
        precision=opened.compute.precision,
        envs=envs.num_envs,
    )
    name = opened.spec.agent if who != "random" else "random"
    folder = chosen.run / "evaluations"
    folder.mkdir(exist_ok=True)
    write_json(folder / f"drive-{who}.json", episodes.score(name, opened.spec.env.id, outcome, protocol))


def _dream(chosen: Options) -> None:
    from dreamlab.cli.dream import dream

    print(f"dreaming {chosen.horizon} steps ahead, beside what really happened", flush=True)
    dream(chosen.run, horizon=chosen.horizon, say=lambda _: None)


def farewell(summary: Mapping[str, Any], folder: Path) -> list[str]:
    """The closing table, and what to type next."""
    lines = ["", f"{'CarRacing-v3':<16}{'mean':>8}{'± s.e.':>9}{'std':>8}{'best':>8}   episodes"]
    for who, words in WHO.items():
        returns = summary[who]["returns"]
        error = summary[who]["std"] / max(1, len(returns) - 1) ** 0.5
        lines.append(
            f"{words:<16}{summary[who]['mean']:>8.1f}{error:>9.1f}{summary[who]['std']:>8.1f}"
            f"{max(returns):>8.1f}   {len(returns)}"
        )
    minutes = summary["wall_seconds"] / 60
    return [
        *lines,
        "",
        f"{minutes:.1f} minutes, peak memory {summary['peak_memory_mib']} MiB",
        "",
        "watch:   " + str(folder / "report.html") + "  (open it in a browser)",
        "         " + str(folder / "videos" / "drive-trained.mp4"),
        f"next:    dreamlab evaluate {folder} --episodes 100 --video",
        f"         dreamlab dream {folder} --horizon 50 --temperature 0.5",
        "         dreamlab train world-models --env CarRacing-v3 --preset car-racing   (the paper's, for days)",
        "(dreamlab is in .venv/bin; type: source .venv/bin/activate)",
        "",
        f"play:    dreamlab studio {folder} --open",
        "         drive in the dream yourself, in a browser; reality beside it, or the trained controller at the wheel",
    ]
