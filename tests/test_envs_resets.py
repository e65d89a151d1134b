"""The reset protocol: every episode depends on (seed, environment, episode) alone and can be had again."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

from dreamlab import envs
from dreamlab.core.errors import RunError
from dreamlab.core.seeds import derive
from dreamlab.envs.tiny import Count


def vector(id: str, n: int = 2, seed: int = 5, **options):
    return envs.make(dataclasses.replace(envs.default_config(id), **options), n, seed)


@pytest.fixture(params=[True, False], ids=["workers", "in-process"])
def where(request):
    return request.param


@pytest.mark.parametrize("id", ["tiny/Count", "tiny/CountContinuous", "tiny/CountMulti"])
def test_counting_through_steps_and_autoreset(id, where):
    """The stream of rows of each environment is known beforehand, from its seed alone."""
    vec = vector(id, 3, workers=where)
    vec.action_space.seed(0)
    assert vec.seeded
    assert vec.metadata["autoreset_mode"] is AutoresetMode.NEXT_STEP
    obs, _ = vec.reset()
    episode, count, last = np.zeros(3, int), np.zeros(3, int), None
    over = np.zeros(3, bool)
    for _ in range(60):
        for i in range(3):
            mark = Count.mark(derive(5, "episode", i, int(episode[i])))
            assert obs["vector"][i, 0] == mark
            assert obs["vector"][i, 1] == count[i]
            assert (obs["vector"][i, 2:] == (-1 if count[i] == 0 else last[i])).all()
            assert (obs["image"][i, 1] == count[i]).all()
            assert over[i] == (count[i] == Count.steps(mark))
        act = vec.action_space.sample()
        obs, rew, terminated, truncated, _ = vec.step(act)
        episode, count = episode + over, np.where(over, 0, count + 1)
        assert (rew == count).all()
        assert not (terminated & truncated).any()
        over, last = terminated | truncated, act
    assert episode.min() >= 3
    vec.close()


def play(vec, steps, rng_seed=0):
    """A stream of rows, and after each what it takes to come back there: running episodes' numbers and actions."""
    vec.action_space.seed(rng_seed)
    obs, _ = vec.reset()
    rows, resume, over = [], [], np.zeros(vec.num_envs, bool)
    episode, acts = np.zeros(vec.num_envs, int), [[] for _ in range(vec.num_envs)]
    for _ in range(steps):
        act = vec.action_space.sample()
        obs, rew, terminated, truncated, _ = vec.step(act)
        for i in range(vec.num_envs):
            acts[i] = [] if over[i] else [*acts[i], act[i]]
        episode = episode + over
        over = terminated | truncated
        rows.append((obs, rew, terminated, truncated))
        resume.append([{"episode": int(e), "actions": np.array(a)} for e, a in zip(episode, acts, strict=True)])
    return rows, resume


def same(a, b) -> bool:
    return all((a[0][k] == b[0][k]).all() for k in a[0]) and all(
        np.array_equal(x, y) for x, y in zip(a[1:4], b[1:4], strict=True)
    )


@pytest.mark.parametrize(
    ("id", "steps", "stop"),
    [
        ("tiny/Count", 30, range(1, 30)),
        ("CartPole-v1", 60, [1, 17, 40]),
        ("BipedalWalker-v3", 300, [180, 250]),
        ("LunarLander-v3", 300, [200]),
        ("CarRacing-v3", 70, [45]),
    ],
)
def test_an_interrupted_stream_goes_on_bit_for_bit(id, steps, stop):
    """Wherever it stops, also on an episode's last row, replaying the actions in new workers brings it back."""
    options = {"time_limit": 30, "engine": "gymnasium"} if id == "CarRacing-v3" else {"time_limit": None}
    whole, resume = play(before := vector(id, **options), steps)
    before.close()
    for at in stop:
        after = vector(id, **options)
        obs, _ = after.reset(options={"resume": resume[at - 1]})
        assert all((obs[k] == whole[at - 1][0][k]).all() for k in obs)
        after.action_space.seed(0)
        for _ in range(at):
            after.action_space.sample()
        for t in range(at, min(steps, at + 25)):
            assert same(after.step(after.action_space.sample()), whole[t]), (id, at, t)
        after.close()


def test_one_off_episodes_are_reproducible_and_idle_after(where):
    vec = vector("tiny/Count", 3, workers=where)
    first, _ = vec.reset()
    for _ in range(2):
        obs, _ = vec.reset(options={"seeds": [11, None, 12]})
        assert [int(m) for m in obs["vector"][[0, 2], 0]] == [Count.mark(11), Count.mark(12)]
        ends, total = np.zeros(3, int), np.zeros(3)
        for _ in range(30):
            obs, rew, terminated, truncated, _ = vec.step(np.zeros(3, np.int64))
            ends, total = ends + (terminated | truncated), total + rew
        lengths = np.array([Count.steps(Count.mark(11)), 0, Count.steps(Count.mark(12))])
        assert ends.tolist() == [1, 0, 1]
        assert (total == lengths * (lengths + 1) / 2).all()
        assert obs["vector"][0, 1] == lengths[0]  # still the last observation
    own, _ = vec.reset()
    assert [int(m) for m in first["vector"][:, 0]] == [Count.mark(derive(5, "episode", i, 0)) for i in range(3)]
    assert [int(m) for m in own["vector"][:, 0]] == [Count.mark(derive(5, "episode", i, 1)) for i in range(3)]
    vec.close()


def test_idle_from_the_beginning(where):
    vec = vector("tiny/Count", workers=where)
    obs, _ = vec.reset(options={"seeds": [None, None]})
    assert not obs["image"].any()
    _, rew, terminated, truncated, _ = vec.step(np.zeros(2, np.int64))
    assert not rew.any()
    assert not (terminated | truncated).any()
    vec.close()


def test_a_used_car_drives_as_a_new_one():
    act = np.array([[0.1, 0.5, 0]], np.float32)
    options = {"engine": "gymnasium", "time_limit": 12}
    used, new = vector("CarRacing-v3", 1, **options), vector("CarRacing-v3", 1, **options)
    used.reset()
    for _ in range(30):
        used.step(act)
    a, b = (v.reset(options={"seeds": [99]})[0] for v in (used, new))
    assert (a["image"] == b["image"]).all()
    for _ in range(10):
        assert same(used.step(act), new.step(act))
    used.close()
    new.close()


def test_options_that_cannot_be_followed_are_refused(where):
    vec = vector("tiny/Count", workers=where)
    with pytest.raises(ValueError, match="'resume' or 'seeds'"):
        vec.reset(options={"sedes": [1, 2]})
    with pytest.raises(ValueError, match="each of 2"):
        vec.reset(options={"seeds": [1]})
    too_many = {"episode": 0, "actions": np.zeros(99, np.int64)}
    with pytest.raises(RunError, match="not deterministic"):
        vec.reset(options={"resume": [too_many, too_many]})
    vec.close()
