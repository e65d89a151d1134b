"""DeepMind Control: every task, its episodes, and how pictures are found without a display."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from functools import cache

import numpy as np
import pytest
from gymnasium import spaces

from dreamlab import envs
from dreamlab.core.errors import UserError
from dreamlab.envs import build, dmc

PROGRAM = "import sys; from dreamlab import envs; {}"


def config(id: str, **options) -> envs.EnvConfig:
    return dataclasses.replace(envs.default_config(id), **{"obs": "vector", **options})


@cache
def graphics() -> bool:
    from dreamlab.envs.dm_control import draws

    try:
        return bool(draws())
    except UserError:
        return False


@pytest.fixture
def package():
    return pytest.importorskip("dm_control")


@pytest.fixture
def pictures(package):
    if not graphics():
        pytest.skip("neither EGL nor OSMesa works here")


def fresh_process(code: str, **variables: str) -> subprocess.CompletedProcess:
    """Run code where nothing has been imported or found yet."""
    own = {k: v for k, v in os.environ.items() if k not in ("MUJOCO_GL", "PYOPENGL_PLATFORM")}
    return subprocess.run(
        [sys.executable, "-c", PROGRAM.format(code)],
        env={**own, **variables},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_papers_settings_are_the_defaults():
    walker = envs.default_config("dmc/walker_walk")
    assert (walker.obs, walker.size, walker.repeat, walker.actions) == ("pixels", (64, 64), 1, "unit")
    assert (walker.camera, walker.time_limit) == (0, 1000)
    assert envs.default_config("dmc/quadruped_run").camera == 2
    assert config("dmc/walker_walk", repeat=2, time_limit=None).time_limit == 500
    with pytest.raises(UserError, match="type dmc/walker_walk"):
        envs.default_config("dmc_walker_walk")


def test_every_task_of_the_suite_has_its_id(package):
    from dreamlab.envs.dm_control import package as part

    assert {dmc.PAIRS[id] for id in dmc.IDS} == set(part("suite").ALL_TASKS)
    assert len(dmc.IDS) == len(set(dmc.IDS)) == len(part("suite").ALL_TASKS)
    assert dmc.PAIRS["dmc/cup_catch"] == ("ball_in_cup", "catch")


@pytest.mark.parametrize("id", ["dmc/cartpole_balance", "dmc/point_mass_hard", "dmc/lqr_lqr_2_1", "dmc/cup_catch"])
def test_episodes_depend_on_their_seed_alone(id, package):
    """In a used environment and in a new one; point_mass_hard draws its model anew in each episode."""

    def episode(env, seed):
        env.action_space.seed(0)
        obs, _ = env.reset(options={"seeds": seed})
        seen = [obs["vector"]]
        for _ in range(30):
            obs, rew, *_ = env.step(env.action_space.sample())
            seen.append(np.append(obs["vector"], np.float32(rew)))
        return np.concatenate(seen)

    used, new = (build.Build(config(id), 0, 0)() for _ in range(2))
    first, other, again = (episode(used, seed) for seed in (1, 2, 1))
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(first, episode(new, 1))
    assert not np.array_equal(first, other)


def test_a_thousand_steps_are_truncated_and_repeats_sum_their_rewards(package):
    one, two = (build.one(config("dmc/cartpole_balance", repeat=k, time_limit=None)) for k in (1, 2))
    single, double = [], []
    for env, rewards in ((one, single), (two, double)):
        env.reset(seed=3)
        over = False
        while not over:
            _, rew, terminated, truncated, _ = env.step(np.full(1, 0.1, np.float32))
            rewards.append(rew)
            over = terminated or truncated
        assert truncated
        assert not terminated
    assert (len(single), len(double)) == (1000, 500)
    np.testing.assert_allclose(np.array(single).reshape(500, 2).sum(1), double)


def test_actions_reach_the_tasks_own_bounds_and_numbers_come_by_name(package):
    env = build.one(config("dmc/quadruped_walk"))
    raw = env.unwrapped.action_space
    assert env.action_space == spaces.Box(-1, 1, (12,), np.float32)
    assert raw.high.max() > 1
    seen = []
    env.reset(seed=0)
    env.unwrapped._env.step = lambda act: seen.append(act) or env.unwrapped._env.reset()._replace(reward=0.0)
    for side, want in ((-1, raw.low), (1, raw.high)):
        env.step(np.full(12, side, np.float32))
        np.testing.assert_allclose(seen[-1], want)
    obs, _ = build.one(config("dmc/reacher_easy")).reset(seed=0)
    task = build.one(config("dmc/reacher_easy")).unwrapped
    task.reset(seed=0)
    numbers = task._env.task.get_observation(task._env.physics)
    np.testing.assert_allclose(obs["vector"], np.concatenate([numbers[k] for k in sorted(numbers)]), rtol=1e-6)
    assert np.isinf(build.one(config("dmc/lqr_lqr_2_1")).action_space.high).all()


def test_only_discount_zero_terminates(package):
    task = build.one(config("dmc/cartpole_balance")).unwrapped
    task.reset(seed=0)
    for discount in (0.0, 1.0):
        last = task._env.reset()._replace(step_type=2, reward=1.0, discount=discount)
        task._env.step = lambda act, last=last: last
        _, _, terminated, truncated, _ = task.step(np.zeros(1))
        assert (terminated, truncated) == (discount == 0, discount == 1)


def test_numbers_need_no_graphics(package):
    code = (
        "from dataclasses import replace; from dreamlab.envs import build; "
        "build.one(replace(envs.default_config('dmc/walker_walk'), obs='vector')).reset(seed=0); "
        "assert not [m for m in sys.modules if m.startswith('OpenGL')]"
    )
    done = fresh_process(code)
    assert done.returncode == 0, done.stderr


def test_where_nothing_renders_the_packages_to_install_are_named(package, monkeypatch):
    from dreamlab.envs import dm_control

    monkeypatch.delenv("MUJOCO_GL", raising=False)
    monkeypatch.setattr(dm_control, "works", lambda name: False)
    dm_control.draws.cache_clear()
    with pytest.raises(UserError, match=r"libegl1 .* libosmesa6\), or let the agent see numbers: --env.obs vector"):
        envs.spaces_of(envs.default_config("dmc/walker_walk"))
    dm_control.draws.cache_clear()
    done = fresh_process("envs.spaces_of(envs.default_config('dmc/walker_walk'))", MUJOCO_GL="osmosis")
    assert "cannot render by MUJOCO_GL=osmosis" in done.stderr


def test_pictures_are_found_without_a_display_and_seen_alike(pictures):
    env = build.one(config("dmc/walker_walk", obs="auto"))
    obs, _ = env.reset(seed=0)
    assert (obs["image"].shape, obs["vector"].shape) == ((3, 64, 64), (24,))
    task = env.unwrapped
    want = task._env.physics.render(64, 64, camera_id=0)
    np.testing.assert_array_equal(obs["image"], want.transpose(2, 0, 1))  # as it is seen, not resized
    assert len(np.unique(want)) > 20
    assert task.render().shape == (256, 256, 3)
    cut = build.one(config("dmc/walker_walk", obs="pixels", crop=(0, 240, 40, 280), size=(32, 32), grey=True))
    assert cut.reset(seed=0)[0]["image"].shape == (1, 32, 32)
    with pytest.raises(UserError, match="has 2 cameras"):
        build.one(config("dmc/walker_walk", camera=2))


def test_workers_render_too_and_films_of_what_sees_numbers(pictures):
    vec = envs.make(config("dmc/cartpole_swingup"), 1, 0, render=True)
    vec.reset()
    assert vec.render()[0].shape == (256, 256, 3)
    vec.close()
