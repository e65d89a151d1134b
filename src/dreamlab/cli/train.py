"""``dreamlab train AGENT --env ID``: train an agent, or go on with a run."""

from __future__ import annotations

import dataclasses
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dreamlab import agents
from dreamlab.cli import options, plan, recorded, resume
from dreamlab.cli.options import Spec
from dreamlab.core.config import merge, to_dict, write_yaml
from dreamlab.core.errors import UserError
from dreamlab.envs import evaluation as evaluation_config
from dreamlab.envs.recordings import ID as NO_ENV

if TYPE_CHECKING:
    from gymnasium.vector import VectorEnv

    from dreamlab.logs.logger import Logger
    from dreamlab.run.experience import Experience
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
            wandb=None,
        )
        code = train(spec, lambda line: None if line.startswith("next:") else say(line))
    if code == 0:
        say(f"the dry run went through every stage; {folder} is deleted. Without --dry-run it trains")
    return code


def home(spec: Spec) -> Path:
    """The run's folder; without ``--run``, one named after agent, environment (or recordings) and seed."""
    if spec.folder is not None:
        return spec.folder
    what = spec.data.resolve().stem if spec.data is not None and spec.env.id == NO_ENV else spec.env.id
    return Path("runs") / re.sub(r"[^A-Za-z0-9._-]+", "-", f"{spec.agent}-{what}-s{spec.run.seed}")


def train(spec: Spec, say: Callable[[str], None] = print) -> int:
    """Train from a spec; resumes if its folder holds a run. Returns 0, or 130 where the user stopped it.

    Raises:
        UserError: the folder holds another run; what it needs is not there.
        RunError: the run could not go on; its last checkpoint is kept.
    """
    from dreamlab.cli import session
    from dreamlab.logs.logger import Logger
    from dreamlab.run.checkpoint import Checkpoints

    folder = home(spec)
    material = recorded.find(spec, folder)
    spec, obs_space, act_space, module = session.settle(spec, material)
    if material is not None:
        recorded.refuse_unfit(material, spec, obs_space, act_space)
    sinks = session.sinks(spec, folder)
    with session.locked(folder):
        known = resume.goes_on(spec, folder)
        say(headline(spec))
        outlook = plan.plan(spec, spaces=(obs_space, act_space), recorded=recorded.told(material, spec.env))
        if not known:
            plan.refuse_if_too_big(outlook, folder)
            write_yaml(folder / "config.yaml", options.to_dict(spec))
        compute = session.prepare(spec)
        say(f"{compute} · {folder}")
        about = recorded.words(material, spec.env, obs_space) if material is not None else []
        for line in [*about, *plan.lines(outlook)]:
            say(line)
        agent = session.make_agent(spec, module, obs_space, act_space, compute)
        if words := getattr(agent, "protocol", None):
            say("  scores say: " + ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in words.items()))
        if spec.source is not None and not Checkpoints(folder).steps():
            say(take_parts(agent, spec.agent, spec.source))
        recorded.refuse_unable(agent, spec, recorded.told(material, spec.env))
        experience = session.make_experience(spec, folder, obs_space, act_space, compute)
        with session.failure_noted(folder):
            return _run(spec, folder, agent, experience, compute, Logger(sinks), say, material)


def _run(
    spec: Spec,
    folder: Path,
    agent: Any,
    experience: Experience,
    compute: Any,
    log: Logger,
    say: Callable[[str], None],
    material: recorded.Material | None,
) -> int:
    from dreamlab.evals.report import write_report
    from dreamlab.run.checkpoint import Checkpoints
    from dreamlab.run.trainer import Stopped, Trainer

    trainer = Trainer(agent, experience, log, Checkpoints(folder, spec.run.keep), spec.run)
    trainer.settings, trainer.repeat = options.to_dict(spec), spec.env.repeat
    trainer.parameters = sum(plan.count(agent.parts, but=getattr(agent, "copies", ())).values())
    try:
        step = trainer.restore()
        if step is None and material is not None:  # what an interrupted start had read was forgotten
            recorded.fill(material, experience, folder, spec.env)
        if hasattr(agent, "refuse_untrained"):
            agent.refuse_untrained()
        acts = getattr(agent, "acts", True)
        if acts and spec.env.id != NO_ENV:
            trainer.evaluate = lambda step: evaluation(spec, folder, trainer, compute, step)
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
    dreams = f"dreamlab dream {folder} · " if hasattr(agent, "model") and experience.replay.stop else ""
    if trainer.evaluate is None:
        say(f"it was not evaluated: {'there is no environment' if acts else 'it has not learned to act'}")
    where = " --env ID (one that fits)" if spec.env.id == NO_ENV else ""
    scores = f"dreamlab evaluate {folder}{where} --episodes 100 · " if acts else ""
    say(f"next: {scores}{dreams}{folder / 'report.html'}")
    return 0


def evaluation(spec: Spec, folder: Path, trainer: Trainer, compute: Any, step: int) -> float:
    """Score the agent in the environment, store the score with its protocol, and log it."""
    from dreamlab.evals import episodes
    from dreamlab.run.checkpoint import write_json

    count, started = spec.run.eval_episodes, time.monotonic()
    seeds = episodes.seeds_of(spec.run.seed, count)
    scored = dataclasses.replace(spec, env=evaluation_config(spec.env))
    with _environments(scored, spec, trainer.experience) as envs:
        outcome, _ = episodes.evaluate(
            trainer.agent.policy(explore=False), envs, seeds, compute.device, stop=lambda: trainer.stop
        )
    protocol = episodes.protocol(
        to_dict(scored.env),
        seed=spec.run.seed,
        episodes=count,
        mode=episodes.way(trainer.agent, explore=False),
        checkpoint=step,
        seeded=bool(getattr(envs, "seeded", False)),
        precision=spec.run.precision,
        envs=envs.num_envs,
        own=getattr(trainer.agent, "protocol", None),
    )
    scores = folder / "evaluations"
    scores.mkdir(exist_ok=True)
    score = episodes.score(spec.agent, spec.env.id, outcome, protocol)
    write_json(scores / f"{step}.json", score)
    mean, std = float(outcome.ret.mean()), float(outcome.ret.std())
    trainer.log.add(
        "eval",
        {"mean": mean, "std": std, "best": float(outcome.ret.max()), "seconds": time.monotonic() - started}
        | score.get("measures", {}),
    )
    trainer.log.write(step)
    trainer.log.message(
        f"evaluation at step {step}: {episodes.figure(mean)} ± {episodes.figure(std)} over {count} episodes"
    )
    return mean


@contextmanager
def _environments(scored: Spec, spec: Spec, experience: Experience) -> Iterator[VectorEnv]:
    """Those for whole episodes, or some of their own where scores are taken under other settings than training."""
    from dreamlab.cli import session

    if scored.env == spec.env:
        yield experience.rollout_envs()
        return
    envs = session.environments(scored, spec.run.envs)
    try:
        yield envs
    finally:
        envs.close()


def headline(spec: Spec) -> str:
    """The first line of a run."""
    return f"{spec.agent} on {spec.env.id} · {spec.said}"


def take_parts(agent: Any, name: str, source: Path) -> str:
    """Give an agent, called ``name``, the trained parts of another run of it (``--from``). Returns a word about it.

    Raises:
        UserError: there is no run, it is of another agent, or its parts do not fit.
    """
    import torch

    from dreamlab.cli import named, session
    from dreamlab.run.checkpoint import Checkpoints
    from dreamlab.run.trainer import agent_state

    place = named.place(source)
    if place.published:
        threads = torch.get_num_threads()
        opened = session.open_run(source)
        torch.set_num_threads(threads)  # that run's own setting does not count here
        other, step, state = opened.spec.agent, opened.step, opened.agent.state_dict()
    else:
        session.refuse_no_run(source)
        other = session.stored_spec(source).agent
        step, parts, _ = Checkpoints(source).load()
        state = agent_state(parts)
    if other != name:
        raise UserError(
            f"{source} is a run of {other}, whose parts are not those of {name}; give --from a run of {name}"
        )
    taken = agent.load_parts(state)
    return f"from {source} (step {step}): {', '.join(taken)}"


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
