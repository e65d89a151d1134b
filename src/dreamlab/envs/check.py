"""Is an environment fit to learn in? What is wrong with it, and what to do about that.

Everything runs in a worker process, so an environment that hangs or dies is a finding like any other.
"""

from __future__ import annotations

import hashlib
import re
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.utils.env_checker import check_env

from dreamlab import envs
from dreamlab.core.errors import UserError
from dreamlab.envs import build, processes
from dreamlab.envs.config import EnvConfig

STEPS, SECONDS = 2000, 4.0
"""how long random play lasts, whichever ends first"""
REPLAYED = 200
"""steps that are played again to compare"""


@dataclass(frozen=True)
class Finding:
    """One thing about an environment."""

    severity: Literal["error", "warning", "note"]
    """error: it cannot be used; warning: it can, but something will suffer; note: good to know"""
    what: str
    todo: str = ""
    """what to do about it"""


def check(env: str | EnvConfig) -> list[Finding]:
    """Examine an environment by id or settings: Gymnasium's own checks, then ours. Errors first, notes last.

    Takes some seconds.

    Raises:
        UserError: there is no such environment.
    """
    config = envs.default_config(env) if isinstance(env, str) else env
    findings = list(_examined(config))
    return sorted(findings, key=lambda f: ("error", "warning", "note").index(f.severity))


def _examined(config: EnvConfig) -> Iterator[Finding]:
    """The findings as they come in from a worker, and what its silence or death means."""
    try:
        job = build.Build(config, 0, 0, False, build.registered(config.id))
        process, pipe = processes.start(_examine, job, name=f"check {config.id}")
    except Exception as error:
        todo = "define it at the top level of a module, or set the env option workers to false"
        yield Finding("error", f"it cannot be sent to a worker process: {error}", todo)
        return
    doing, limit = "starting a worker", max(config.timeout, SECONDS + 10)
    try:
        while True:
            if not pipe.poll(limit):
                todo = "find what it waits for; if it is only slow, raise the env option timeout"
                yield Finding("error", f"it hangs while {doing} (no answer for {limit:g} s)", todo)
                return
            kind, value = pipe.recv()
            if kind == "done":
                return
            if kind == "finding":
                yield value
            elif kind == "stage":
                doing = value
            else:
                text = value[0] if kind == "crash" else value
                todo = "see that a new process can import all that it is made of"
                yield Finding("error", f"it cannot be read in a worker process: {text}", todo)
                return
    except (EOFError, OSError):
        process.join(2)
        yield Finding(
            "error",
            f"the process died while {doing} ({processes.how_it_ended(process.exitcode)})",
            "run it alone under python -X faulthandler; native code or os._exit ended the process",
        )
    finally:
        process.kill()
        process.join(5)
        pipe.close()


def _examine(job: build.Build, pipe: Any) -> None:
    """In the worker: one stage after another, each telling what it finds."""
    stages: list[tuple[str, Callable[[build.Build], Iterator[Finding]]]] = [
        ("being built", _builds),
        ("running Gymnasium's check_env", _gymnasium),
        ("comparing episodes", _deterministic),
        ("playing at random", _plays),
    ]
    with processes.quiet():
        for doing, stage in stages:
            pipe.send(("stage", doing))
            try:
                for finding in stage(job):
                    pipe.send(("finding", finding))
            except UserError as error:
                pipe.send(("finding", Finding("error", str(error))))
                break
            except BaseException as error:
                what = f"it crashed while {doing}: {processes.described(error)}"
                pipe.send(("finding", Finding("error", what, "mend the line that is named")))
                if doing == "being built":
                    break
        pipe.send(("done", None))


def _builds(job: build.Build) -> Iterator[Finding]:
    env = job()
    inner, seen = env.unwrapped.observation_space, env.observation_space
    assert isinstance(seen, spaces.Dict)
    forms = ", ".join(f"{key} {space.dtype} {space.shape}" for key, space in seen.items())
    yield Finding("note", f"the agent sees {forms}; it acts in {env.action_space}")
    if isinstance(inner, spaces.Box) and len(inner.shape) in (2, 3) and inner.dtype != np.uint8 and "vector" in seen:
        what = f"observations of shape {inner.shape} in {inner.dtype} are taken as one vector"
        yield Finding("warning", what, "if they are images, give them as uint8 from 0 to 255")
    acts = env.action_space
    if isinstance(acts, spaces.Box) and not np.isfinite([acts.low, acts.high]).all():
        yield Finding("warning", f"actions have no bounds: {acts}", "give the action space its true bounds")
    env.close()


def _gymnasium(job: build.Build) -> Iterator[Finding]:
    env = envs.suite_of(job.config.id).make(job.config, None)
    level, gymnasium.logger.min_level = gymnasium.logger.min_level, gymnasium.logger.WARN
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                check_env(env.unwrapped, skip_render_check=True)
            except Exception as error:
                yield Finding("warning", f"Gymnasium's check_env: {_plain(error)}", "Gymnasium's API asks for it")
    finally:
        gymnasium.logger.min_level = level
        env.close()
    for text in sorted({_plain(w.message) for w in caught if issubclass(w.category, UserWarning)}):
        if "symmetric and normalized" in text:
            yield Finding("note", f"actions are {env.action_space}", "env option actions unit maps them from [-1, 1]")
        elif "infinity" not in text:  # unbounded observations are common, and no agent here minds them
            yield Finding("warning", f"Gymnasium's check_env: {text}")


def _deterministic(job: build.Build) -> Iterator[Finding]:
    """The same seed and actions: in a new environment, in the same one again, and in another new one."""
    env = job()
    env.action_space.seed(0)
    actions = [env.action_space.sample() for _ in range(REPLAYED)]
    first, _, again = (_fingerprint(env, seed, actions) for seed in (1, 2, 1))
    env.close()
    other = job()
    anew = _fingerprint(other, 1, actions)
    other.close()
    if first != anew:
        yield Finding(
            "warning",
            f"the same seed and actions gave another episode (from step {_parting(first, anew)} on): a run that is "
            "resumed goes on from another state, and seeds of evaluations mean nothing",
            "call super().reset(seed=seed) and draw every random number from self.np_random",
        )
    elif first != again:
        yield Finding(
            "warning",
            f"a used environment plays the same seed and actions otherwise (from step {_parting(first, again)} on): "
            "its reset leaves traces",
            "clear all state in reset, or set the env option fresh to true, which builds it anew for each episode",
        )
    else:
        yield Finding("note", f"{len(first)} steps of one seed and the same actions came out the same three times")


def _fingerprint(env: gymnasium.Env, seed: int, actions: list) -> list[str]:
    """A digest of all that was seen up to each step."""
    digest, out = hashlib.blake2b(digest_size=8), []
    obs, _ = env.reset(options={"seeds": seed})
    ended = False
    rew: Any = 0.0
    for act in [*actions, None]:
        for value in (*obs.values(), np.float64(rew)):
            digest.update(np.ascontiguousarray(value).tobytes())
        out.append(digest.hexdigest())
        if ended or act is None:
            break
        obs, rew, terminated, truncated, _ = env.step(act)
        ended = bool(terminated or truncated)
    return out


def _parting(a: list[str], b: list[str]) -> int:
    return next((t for t, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def _plays(job: build.Build) -> Iterator[Finding]:
    """Random play for a while: ends of episodes, rewards, ranges, speed."""
    env = job()
    env.action_space.seed(0)
    rewards: list[float] = []
    faults: dict[str, int] = {}
    returns, ended = [0.0], 0
    obs, _ = env.reset(options={})
    begin = time.perf_counter()
    while len(rewards) < STEPS and time.perf_counter() - begin < SECONDS:
        act = env.action_space.sample()
        obs, rew, terminated, truncated, _ = env.step(act)
        for fault in _faults(obs, float(rew), env.observation_space):
            faults.setdefault(fault, len(rewards) + 1)
        rewards.append(float(rew))
        returns[-1] += rewards[-1]
        if terminated or truncated:
            ended += 1
            returns.append(0.0)
            obs, _ = env.reset(options={})
    rate = len(rewards) / (time.perf_counter() - begin)
    for fault, step in faults.items():
        what = f"{fault} (first at step {step} of random play)"
        if "not finite" in fault:
            yield Finding("error", what, "look for divisions by zero and overflows; a run stops at such a number")
        else:
            yield Finding("warning", what, "give the observation space its true bounds")
    yield from _ends(env, ended, len(rewards), job.config)
    yield from _rewards(np.array(rewards), np.array(returns[:ended]))
    yield Finding("note", f"{rate:.0f} steps/s in one process, with preprocessing")
    with suppress(Exception):
        env.close()


def _faults(obs: dict[str, np.ndarray], rew: float, space: Any) -> Iterator[str]:
    if not np.isfinite(rew):
        yield "the reward is not finite"
    for key, value in obs.items():
        inner = space[key]
        if value.dtype.kind == "f":
            slack = 1e-4 * (1 + np.abs(value))
            if not np.isfinite(value).all():
                yield f"observation {key!r} is not finite"
            elif (value < inner.low - slack).any() or (value > inner.high + slack).any():
                yield f"observation {key!r} leaves its space"


def _ends(env: gymnasium.Env, ended: int, steps: int, config: EnvConfig) -> Iterator[Finding]:
    limit = config.time_limit or (env.spec.max_episode_steps if env.spec else None)
    if limit:
        yield Finding("note", f"episodes are truncated after {limit} steps")
    elif not ended:
        what = f"no episode ended in {steps} steps of random play, and there is no time limit"
        yield Finding("warning", what, "set the env option time_limit, for instance to 1000")
    else:
        yield Finding("note", f"no time limit; {ended} episodes ended in {steps} steps of random play")


def _rewards(rew: np.ndarray, ret: np.ndarray) -> Iterator[Finding]:
    finite = rew[np.isfinite(rew)]
    if not finite.size:
        return
    span = f"random play: rewards from {finite.min():.4g} to {finite.max():.4g}"
    if ret.size:
        span += f", returns {np.mean(ret):.4g} ± {np.std(ret):.4g} over {ret.size} episodes"
    yield Finding("note", span)
    if not finite.any():
        yield Finding("warning", "random play met no reward at all", "see that luck can find one, or reward progress")
    elif np.abs(finite).max() > 1000:
        yield Finding("warning", "rewards are very large", "scale them to about 1 to 10 in the environment")


def _plain(text: Any) -> str:
    """Without terminal colours, prefix and line breaks."""
    return " ".join(re.sub(r"\x1b\[\d+m|WARN:", "", str(text)).split())
