"""Crafter: episodes that can be had again in any process, its ends, and its score."""

from __future__ import annotations

import dataclasses
import hashlib
import subprocess
import sys

import numpy as np
import pytest
import torch

from dreamlab import envs
from dreamlab.agents.random import Uniform
from dreamlab.core.errors import UserError
from dreamlab.core.types import Outcome
from dreamlab.envs import build, crafter
from dreamlab.evals import episodes

ID = "crafter/reward"


def config(**options) -> envs.EnvConfig:
    return dataclasses.replace(envs.default_config(ID), **options)


def played(env, seed: int, steps: int = 80, film: bool = False) -> str:
    """A digest of an episode of actions by chance."""
    digest, rng = hashlib.blake2b(), np.random.default_rng(0)
    obs, _ = env.reset(options={"seeds": seed})
    for t in range(steps):
        digest.update(obs["image"].tobytes())
        obs, rew, terminated, truncated, _ = env.step(rng.integers(17))
        digest.update(str((rew, terminated, truncated)).encode())
        if film and t % 8 == 0:
            env.render()
        if terminated or truncated:
            break
    return digest.hexdigest()


def episode_in_a_new_process(seed: int) -> str:
    return played(build.Build(config(), 0, 0)(), seed)


@pytest.fixture(scope="module")
def env():
    pytest.importorskip("crafter")
    return build.Build(config(), 0, 0)()


def test_episodes_depend_on_their_seed_alone_in_any_process_and_whether_filmed_or_not(env):
    first, other = played(env, 1), played(env, 2)
    assert first != other
    assert played(env, 1, film=True) == first
    code = "import test_envs_crafter as t; print(t.episode_in_a_new_process(1))"
    path = [*sys.path, str(__file__).rpartition("/")[0]]
    code = f"import sys; sys.path[:] = {path!r}; {code}"
    anew = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert anew.stdout.strip() == first


def test_creatures_are_gone_through_in_the_order_in_which_they_came(env):
    env.reset(options={"seeds": 1})
    world = env.unwrapped._world
    assert world.chunks
    for members in world.chunks.values():
        order = [world._objects.index(member) for member in members]
        assert order == sorted(order)  # as they were added; a set's order is that of their addresses


def test_what_is_seen_and_done(env):
    assert env.observation_space["image"].shape == (3, 64, 64)
    assert env.action_space.n == 17
    assert envs.default_config(ID).time_limit == 10_000
    large = build.one(config(size=(96, 96)))
    assert large.reset(seed=0)[0]["image"].shape == (3, 96, 96)
    with pytest.raises(ValueError, match="at least 9 by 9"):
        config(size=(8, 8))
    with pytest.raises(UserError, match="type crafter/reward"):
        envs.default_config("CrafterReward-v1")


def test_death_terminates_and_the_clock_truncates(env):
    short = build.one(config(time_limit=3))
    short.reset(seed=0)
    assert [short.step(0)[2:4] for _ in range(3)] == [(False, False), (False, False), (False, True)]
    game = build.one(config())
    game.reset(seed=0)
    game.unwrapped._game._player.health = 0
    assert game.step(0)[2:4] == (True, False)


def test_rewards_are_there_or_not(env):
    for id, want in (("crafter/reward", 1.0), ("crafter/noreward", 0.0)):
        game = build.one(envs.default_config(id))
        game.reset(seed=0)
        game.unwrapped._game._player.achievements["collect_wood"] = 1
        assert game.step(0)[1] == want


def test_the_score_is_the_geometric_mean_of_success_rates():
    """Crafter's paper, section 4: with rates 100 % and 0 % of two achievements, sqrt(101 * 1) - 1."""
    infos = {"achievement/a": np.array([1.0, 3, 1, 1]), "achievement/b": np.zeros(4), "other": np.ones(4)}
    told = crafter.measures(infos)
    assert told["success/a"] == 100
    assert told["success/b"] == 0
    assert told["score"] == pytest.approx(101**0.5 - 1)
    assert set(told) == {"score", "success/a", "success/b"}
    assert crafter.score([100.0] * 22) == pytest.approx(100)
    assert crafter.score([0.0] * 22) == 0


def test_achievements_of_each_episode_reach_its_score(env):
    vec = envs.make(config(time_limit=40), 2, 0)
    outcome, _ = episodes.evaluate(Uniform(vec.single_action_space), vec, [1, 2, 3], torch.device("cpu"))
    vec.close()
    names = [name for name in outcome.infos if name.startswith("achievement/")]
    assert len(names) == 22
    assert all(outcome.infos[name].shape == (3,) and np.isfinite(outcome.infos[name]).all() for name in names)
    unlocked = sum((outcome.infos[name] > 0).astype(float) for name in names)
    assert (np.abs(outcome.ret - unlocked) < 1).all()  # +1 a step with something new, and some tenths of health
    stored = episodes.score("random", ID, outcome, {})
    assert len(stored["measures"]) == 23
    assert "measures" not in episodes.score("random", "CartPole-v1", Outcome(outcome.ret, outcome.length), {})
