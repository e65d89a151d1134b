"""A dream is imagination behind Gymnasium's faces: the same numbers, reproducible, well-behaved."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode
from walk import Latent, Walk

from dreamlab.core.actions import one_hot
from dreamlab.core.errors import UserError
from dreamlab.core.imagination import imagine, predict_all, tree_map
from dreamlab.core.seeds import forked
from dreamlab.dream.env import DreamEnv, SingleDream, pixels

STARTS = Latent(torch.randn(20, 2, generator=torch.Generator().manual_seed(1)), torch.zeros(20, dtype=torch.long))
DISCRETE, BOX = spaces.Discrete(3), spaces.Box(-1, 1, (2,), np.float32)
MULTI = spaces.MultiDiscrete([2, 3])


def dream(env: DreamEnv, acts: np.ndarray, seed: int = 0) -> dict[str, np.ndarray]:
    """Everything that comes out of one reset and len(acts) steps, stacked over time."""
    obs, _ = env.reset(seed=seed)
    out = [(*obs.values(), np.zeros(env.num_envs), np.zeros(env.num_envs, bool), np.zeros(env.num_envs, bool))]
    for act in acts:
        obs, rew, terminated, truncated, _ = env.step(act)
        out.append((*obs.values(), rew, terminated, truncated))
    names = [*obs, "rew", "terminated", "truncated"]
    return {name: np.stack(values) for name, values in zip(names, zip(*out, strict=True), strict=True)}


@pytest.mark.parametrize("space", [DISCRETE, BOX, MULTI], ids=["discrete", "box", "multi"])
def test_a_dream_is_imagination_for_the_same_seed_and_actions(space):
    model, n, h = Walk(), 4, 12
    env = DreamEnv(model, STARTS, space, n, temperature=0.7)
    env.action_space.seed(0)
    acts = np.stack([env.action_space.sample() for _ in range(h)])  # (H, N, ...)
    env.reset(seed=5)
    start = env.latent
    got = dream(env, acts, seed=5)
    act = torch.from_numpy(acts).transpose(0, 1)
    act = one_hot(act, space)
    with forked(5, "dream"):
        want = predict_all(model, imagine(model, start, act, temperature=0.7).latents)
    np.testing.assert_array_equal(got["vector"], want["vector"].transpose(0, 1).numpy())
    np.testing.assert_allclose(got["image"], pixels(want["image"].transpose(0, 1)), atol=1)  # (T, N, C, h, w)
    np.testing.assert_allclose(got["rew"][1:], want["rew"].T[1:].numpy())


def test_the_global_generator_is_left_alone_and_does_not_matter():
    acts = np.zeros((6, 2), np.int64)
    env = DreamEnv(Walk(), STARTS, DISCRETE, 2)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    one = dream(env, acts, seed=9)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(123)
    two = dream(env, acts, seed=9)
    other = dream(env, acts, seed=10)
    np.testing.assert_array_equal(one["image"], two["image"])
    assert not np.array_equal(one["image"], other["image"])
    assert not np.array_equal(one["vector"], dream(env, acts, seed=9)["vector"] + 1)


def test_without_a_seed_each_episode_is_another_one():
    env = DreamEnv(Walk(), STARTS, DISCRETE, 2, seed=4)
    firsts = [env.reset()[0]["vector"] for _ in range(5)]
    again = DreamEnv(Walk(), STARTS, DISCRETE, 2, seed=4)
    assert len({f.tobytes() for f in firsts}) > 1
    for first in firsts:
        np.testing.assert_array_equal(first, again.reset()[0]["vector"])


def test_the_stream_of_rows_is_next_step_autoreset():
    """Rows begun at different clocks end at different times; the step after an end is a start, with reward 0."""
    n, end, horizon = 5, 6, 4
    clocks = torch.tensor([0, 1, 2, 3, 5])
    env = DreamEnv(Walk(noise=0, end=end), STARTS, DISCRETE, n, horizon=horizon)
    env.reset(options={"start": Latent(STARTS.place[:n], clocks)})
    steps, was_over = np.zeros(n, int), np.zeros(n, bool)
    for _ in range(20):
        before = env.latent
        _, rew, terminated, truncated, _ = env.step(np.full(n, 2))
        steps = np.where(was_over, 0, steps + 1)
        clock = env.latent.clock.numpy()
        assert (clock[was_over] == 0).all()  # every start in STARTS has clock 0
        assert (clock[~was_over] == before.clock.numpy()[~was_over] + 1).all()
        assert (rew[was_over] == 0).all()
        np.testing.assert_array_equal(terminated, (clock >= end) & ~was_over)
        np.testing.assert_array_equal(truncated, (steps >= horizon) & ~terminated & ~was_over)
        was_over = terminated | truncated
    assert env.metadata["autoreset_mode"] is AutoresetMode.NEXT_STEP


def test_a_start_can_be_given_for_each_row_or_one_for_all():
    env = DreamEnv(Walk(), STARTS, DISCRETE, 3)
    obs, _ = env.reset(options={"start": tree_map(lambda x: x[7:8], STARTS)})
    np.testing.assert_array_equal(obs["vector"], STARTS.place[7].expand(3, 2).numpy())
    obs, _ = env.reset(options={"start": tree_map(lambda x: x[3:6], STARTS)})
    np.testing.assert_array_equal(obs["vector"], STARTS.place[3:6].numpy())


def test_observations_lie_in_their_space_and_are_the_callers_own():
    env = DreamEnv(Walk(), STARTS, BOX, 3, render_mode="rgb_array")
    obs, _ = env.reset(seed=0)
    assert obs in env.observation_space
    obs["image"][:] = 0
    frames = env.render()
    assert len(frames) == 3
    assert frames[0].shape == (12, 14, 3)
    assert frames[0].any()


@pytest.mark.parametrize("space", [DISCRETE, BOX], ids=["discrete", "box"])
def test_one_row_passes_gymnasiums_checker(space):
    env = DreamEnv.single(Walk(end=30), STARTS, space, horizon=50, render_mode="rgb_array")
    assert isinstance(env, SingleDream)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message=".*(not an instance|spec|rgb_array|obs range|-inf|infinity).*")
        check_env(env)


def test_one_row_is_the_vector_dream_of_one_row():
    single = DreamEnv.single(Walk(end=5), STARTS, DISCRETE)
    rows = DreamEnv(Walk(end=5), STARTS, DISCRETE, 1)
    obs, _ = single.reset(seed=2)
    many, _ = rows.reset(seed=2)
    for _ in range(5):
        np.testing.assert_array_equal(obs["image"], many["image"][0])
        obs, rew, terminated, _, _ = single.step(1)
        many, rews, ends, _, _ = rows.step(np.array([1]))
        assert (rew, terminated) == (rews[0], ends[0])
    assert terminated


def test_models_that_show_less_are_dreamt_with_less():
    class Blind(Walk):
        def predict(self, latent):
            return {"vector": latent.place}

    env = DreamEnv(Blind(), STARTS, DISCRETE, 2, horizon=3)
    out = dream(env, np.zeros((3, 2), np.int64))
    assert not out["rew"].any()
    assert not out["terminated"].any()
    assert out["truncated"].tolist() == [[False] * 2] * 3 + [[True] * 2]
    assert env.render() is None


def test_what_cannot_be_dreamt_is_refused_with_the_reason():
    class Unseen(Walk):
        def predict(self, latent):
            return {"rew": latent.place[:, 0]}

    with pytest.raises(UserError, match="neither an image nor a vector"):
        DreamEnv(Unseen(), STARTS, DISCRETE)
    with pytest.raises(UserError, match="at least one start"):
        DreamEnv(Walk(), tree_map(lambda x: x[:0], STARTS), DISCRETE)
    with pytest.raises(UserError, match="horizon 0"):
        DreamEnv(Walk(), STARTS, DISCRETE, horizon=0)
