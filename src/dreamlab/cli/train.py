"""``dreamlab train AGENT --env ID``: train an agent, or go on with a run."""

from __future__ import annotations

import dataclasses
import re
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dreamlab import agents
from dreamlab.cli import options, plan, resume
from dreamlab.cli.options import Spec
from dreamlab.core.config import merge, to_dict, write_yaml
from dreamlab.core.errors import UserError

if TYPE_CHECKING:
    from dreamlab.run.trainer import Trainer

ABOUT = "train an agent, or go on with a run"
STOPPED = 130
"""exit code of a run that the user stopped"""


def run(argv: Sequence[str]) -> int:
    """The command. Returns its exit code."""
    spec, _ = options.parse(argv, "dreamlab train", about=__doc__ or "")
    return dry_run(spec) if spec.dry_run else train(spec)


def dry_run(spec: Spec, say: Callable[[str], None] = print) -> int:
    """Every stage with all sizes and shrunk budgets, in a folder that is deleted: does it all work?

    Raises:
        UserError: the agent does not say how it is shrunk.
    """
    module = agents.load(spec.agent)
    if not hasattr(module, "DRY_RUN"):
        raise UserError(f"{spec.agent} has no dry run; --steps 1000 shortens a run")
    limit = min(spec.env.time_limit or 60, 60)
    with tempfile.TemporaryDirectory(prefix="dreamlab-dry-run-") as folder:
        spec = dataclasses.replace(
            spec,
            config=merge(spec.config, module.DRY_RUN, "config"),
            env=dataclasses.replace(spec.env, time_limit=limit),
            run=dataclasses.replace(spec.run, steps=None, envs=min(spec.run.envs, 4), eval_episodes=2),
            folder=Path(folder),
            dry_run=False,
        )
        code = train(spec, lambda line: None if line.startswith("next:") else say(line))
    if code == 0:
        say(f"the dry run went through every stage; {folder} is deleted. Without --dry-run it trains")
    return code


def home(spec: Spec) -> Path:
    """The run's folder; without ``--run``, one named after agent, environment and seed."""
    if spec.folder is not None:
        return spec.folder
    return Path("runs") / re.sub(r"[^A-Za-z0-9._-]+", "-", f"{spec.agent}-{spec.env.id}-s{spec.run.seed}")


def train(spec: Spec, say: Callable[[str], None] = print) -> int:
    """Train from a spec; resumes if its folder holds a run. Returns 0, or 130 where the user stopped it.

    Raises:
        UserError: the folder holds another run; what it needs is not there.
        RunError: the run could not go on; its last checkpoint is kept.
    """
    from dreamlab.cli import session
    from dreamlab.run.checkpoint import Checkpoints

    options.refuse_recordings(spec)
    spec, obs_space, act_space, module = session.settle(spec)
    folder = home(spec)
    with session.locked(folder):
        known = resume.goes_on(spec, folder)
        say(headline(spec))
        outlook = plan.plan(spec, spaces=(obs_space, act_space))
        if not known:
            plan.refuse_if_too_big(outlook, folder)
            write_yaml(folder / "config.yaml", options.to_dict(spec))
        compute = session.prepare(spec)
        say(f"{compute} · {folder}")
        for line in plan.lines(outlook):
            say(line)
        agent = session.make_agent(spec, module, obs_space, act_space, compute)
        if spec.source is not None and not Checkpoints(folder).steps():
            say(take_parts(agent, spec.source))
        experience = session.make_experience(spec, folder, obs_space, act_space, compute)
        return _run(spec, folder, agent, experience, compute, say)


def _run(spec: Spec, folder: Path, agent: Any, experience: Any, compute: Any, say: Callable[[str], None]) -> int:
    from dreamlab.evals.report import write_report
    from dreamlab.logs.logger import STANDARD, Logger, open_sinks
    from dreamlab.run.checkpoint import Checkpoints
    from dreamlab.run.trainer import Stopped, Trainer

    log = Logger(open_sinks(folder, spec.logs or STANDARD))
    trainer = Trainer(agent, experience, log, Checkpoints(folder, spec.run.keep), spec.run)
    trainer.settings = options.to_dict(spec)
    trainer.evaluate = lambda step: evaluation(spec, folder, trainer, compute, step)
    try:
        step = trainer.restore()
        if step is not None:
            done = trainer.progress.current(trainer.phases) is None
            log.message(f"going on from step {step}" if not done else f"this run is finished (step {step})")
        trainer.train()
    except Stopped:
        log.message(f"stopped at step {trainer.step}; type the same command to go on")
        return STOPPED
    finally:
        log.close()
        experience.close()
    say(f"done: step {trainer.step}, {folder}")
    write_report(folder)
    dreams = f" · dreamlab dream {folder}" if hasattr(agent, "model") and experience.replay.stop else ""
    say(f"next: dreamlab evaluate {folder} --episodes 100{dreams} · {folder / 'report.html'}")
    return 0


def evaluation(spec: Spec, folder: Path, trainer: Trainer, compute: Any, step: int) -> float:
    """Score the agent in the environment, store the score with its protocol, and log it."""
    from dreamlab.evals import episodes
    from dreamlab.run.checkpoint import write_json

    envs, count = trainer.experience.rollout_envs(), spec.run.eval_episodes
    seeds = episodes.seeds_of(spec.run.seed, count)
    started = time.monotonic()
    outcome, _ = episodes.evaluate(
        trainer.agent.policy(explore=False), envs, seeds, compute.device, stop=lambda: trainer.stop
    )
    protocol = episodes.protocol(
        to_dict(spec.env),
        seed=spec.run.seed,
        episodes=count,
        mode="evaluation",
        checkpoint=step,
        seeded=bool(getattr(envs, "seeded", False)),
        precision=spec.run.precision,
        envs=envs.num_envs,
    )
    scores = folder / "evaluations"
    scores.mkdir(exist_ok=True)
    write_json(scores / f"{step}.json", episodes.score(spec.agent, spec.env.id, outcome, protocol))
    mean, std = float(outcome.ret.mean()), float(outcome.ret.std())
    trainer.log.add(
        "eval",
        {"mean": mean, "std": std, "best": float(outcome.ret.max()), "seconds": time.monotonic() - started},
    )
    trainer.log.write(step)
    trainer.log.message(f"evaluation at step {step}: {mean:.1f} ± {std:.1f} over {count} episodes")
    return mean


def headline(spec: Spec) -> str:
    """The first line of a run."""
    return f"{spec.agent} on {spec.env.id} · {spec.said}"


def take_parts(agent: Any, source: Path) -> str:
    """Give an agent the trained parts of another run (``--from``). Returns a word about it."""
    from dreamlab.cli import session
    from dreamlab.run.checkpoint import Checkpoints
    from dreamlab.run.trainer import agent_state

    if not hasattr(agent, "load_parts"):
        raise UserError("this agent cannot take parts from another run (--from)")
    session.refuse_no_run(source)
    step, parts, _ = Checkpoints(source).load()
    taken = agent.load_parts(agent_state(parts))
    return f"from {source} (step {step}): {', '.join(taken)}"


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
