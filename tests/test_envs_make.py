"""What environments look like to an agent, and what ids are answered with."""

from __future__ import annotations

import dataclasses
import itertools
import subprocess
import sys

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from PIL import Image

from dreamlab import envs
from dreamlab.core.errors import UserError
from dreamlab.core.seeds import derive
from dreamlab.envs.tiny import Catch, Count
from dreamlab.envs.wrappers import AsDict, PlainAction, Repeat, UnitAction, picture


def config(id: str, **options) -> envs.EnvConfig:
    return dataclasses.replace(envs.default_config(id), **options)


@pytest.mark.parametrize(
    ("id", "words"),
    [
        ("CarRacing-v2", ["type CarRacing-v3"]),
        ("CarRacing-v0", ["type CarRacing-v3"]),
        ("car-racing", ["type CarRacing-v3"]),
        ("LunarLander-v2", ["LunarLander-v2 is out of date; type LunarLander-v3"]),
        ("LunarLanderContinuous-v2", ["type LunarLanderContinuous-v3"]),
        ("BipedalWalker-v2", ["type BipedalWalker-v3"]),
        ("CartPole", ["type CartPole-v1"]),
        ("CartPol-v1", ["Did you mean 'CartPole-v1'?"]),
        ("dmc_walker_wlak", ["dreamlab[dmc]", "then dmc/walker_walk (DeepMind Control)"]),
        ("procgen_coinrun", ["Procgen", "no such suite", "my_pkg.my_env:make"]),
        ("atari_pong", ["dreamlab[atari]", "then ALE/Pong-v5"]),
        ("PongDeterministic-v4", ["ALE/Pong-v5, or PongNoFrameskip-v4"]),
        ("SpaceInvaders-ram-v0", ["then ALE/SpaceInvaders-v5"]),
        ("Pong-v5", ["then ALE/Pong-v5"]),
        ("ms_pacman", ["then ALE/MsPacman-v5"]),
        ("tiny/Cach", ["Did you mean 'tiny/Catch'?"]),
        ("nothing_like_it", ["unknown environment", "dreamlab envs"]),
    ],
)
def test_ids_that_do_not_work_are_answered_with_what_to_type(id, words, monkeypatch):
    monkeypatch.setattr("dreamlab.envs.foreign.find_spec", lambda name: None)
    with pytest.raises(UserError) as caught:
        envs.default_config(id)
    for word in words:
        assert word in str(caught.value)


def test_what_is_offered_can_be_made(tmp_path, monkeypatch):
    offered = [id for name in envs.suites() for id in __import__(f"dreamlab.envs.{name}", fromlist=["ids"]).ids()]
    assert {"CarRacing-v3", "CartPole-v1", "LunarLander-v3", "tiny/Catch"} <= set(offered)
    monkeypatch.chdir(tmp_path)  # MuJoCo writes its warnings where one stands
    for id in [id for id in offered if not id.startswith(("ALE/", "dmc/", "minecraft/"))]:  # many, or a whole game
        obs_space, act_space = envs.spaces_of(config(id))
        assert isinstance(obs_space, spaces.Dict)
        assert isinstance(act_space, spaces.Discrete | spaces.MultiDiscrete | spaces.Box), id


@pytest.mark.parametrize(
    ("id", "words"),
    [
        ("no_such_module:make", ["no module 'no_such_module'"]),
        ("test_envs_make:nobody", ["no callable 'nobody'"]),
        ("test_envs_make:number", ["returned int, not a gymnasium.Env"]),
        ("test_envs_make:", ["not a dotted path"]),
    ],
)
def test_dotted_paths_say_which_part_is_wrong(id, words):
    with pytest.raises(UserError) as caught:
        envs.spaces_of(config(id))
    for word in words:
        assert word in str(caught.value)


def number():
    return 1


def test_a_dotted_path_is_found_in_the_current_folder(tmp_path, monkeypatch):
    (tmp_path / "my_own_env.py").write_text("import gymnasium\ndef make():\n    return gymnasium.make('CartPole-v1')\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    vec = envs.make(config("my_own_env:make"), 1, 0)
    obs, _ = vec.reset()
    vec.close()
    assert obs["vector"].shape == (1, 4)
    with pytest.raises(UserError, match="render_mode"):
        envs.spaces_of(config("my_own_env:make", obs="pixels"))


def test_cartpole_as_vector_and_as_pixels():
    for kind, key, form in (("auto", "vector", (4,)), ("vector", "vector", (4,)), ("pixels", "image", (3, 40, 60))):
        c = config("CartPole-v1", obs=kind, size=(40, 60), workers=False)
        vec = envs.make(c, 2, 0)
        obs, _ = vec.reset()
        assert envs.spaces_of(c) == (vec.single_observation_space, vec.single_action_space)
        assert list(obs) == [key]
        assert obs[key].shape == (2, *form)
        assert obs[key].dtype == (np.uint8 if kind == "pixels" else np.float32)
        assert vec.observation_space.contains(obs)
        vec.close()


def test_kinds_that_an_environment_lacks_are_refused():
    with pytest.raises(UserError, match=r"CarRacing-v3: this environment gives no vector"):
        envs.spaces_of(config("CarRacing-v3", obs="vector"))
    with pytest.raises(UserError, match=r"tiny/Catch.*crop .* 16 by 16"):
        envs.spaces_of(config("tiny/Catch", crop=(0, 84, 0, 96)))
    with pytest.raises(ValueError, match="crop"):
        config("tiny/Catch", crop=(5, 5, 0, 1))


def test_the_frame_of_car_racing_is_the_papers():
    """Gymnasium's own frame, rows 84 to 95 cut off, resized by PIL to 64x64, channels first."""
    vec = envs.make(config("CarRacing-v3", engine="gymnasium"), 2, seed=3)
    bare = gymnasium.make("CarRacing-v3")
    obs, _ = vec.reset()
    frame, _ = bare.reset(seed=derive(3, "episode", 1, 0))
    act = np.array([[0.3, 0.5, 0.0]] * 2, np.float32)
    for _ in range(15):
        want = Image.fromarray(frame[:84]).resize((64, 64), Image.Resampling.BILINEAR)
        assert (obs["image"][1] == np.asarray(want).transpose(2, 0, 1)).all()
        obs, *_ = vec.step(act)
        frame, *_ = bare.step(act[0])
    vec.close()
    assert vec.single_action_space == spaces.Box(
        np.array([-1, 0, 0], np.float32), np.ones(3, np.float32), dtype=np.float32
    )
    assert envs.spaces_of(config("CarRacing-v3", continuous=False))[1] == spaces.Discrete(5)


@pytest.mark.parametrize(("id", "n"), [("LunarLander-v3", 8), ("BipedalWalker-v3", 24)])
def test_box2d_as_vector_and_as_pixels(id, n):
    """Gymnasium's own numbers, and its rendered frame resized by PIL to 64x64."""
    numbers, pixels = (envs.make(config(id, obs=kind, workers=False), 1, seed=3) for kind in ("auto", "pixels"))
    assert numbers.single_action_space == pixels.single_action_space
    bare = gymnasium.make(id, render_mode="rgb_array")
    vector, _ = numbers.reset()
    image, _ = pixels.reset()
    want, _ = bare.reset(seed=derive(3, "episode", 0, 0))
    numbers.action_space.seed(0)
    for _ in range(5):
        assert vector["vector"].shape == (1, n)
        assert (vector["vector"][0] == want).all()
        frame = Image.fromarray(bare.render()).resize((64, 64), Image.Resampling.BILINEAR)
        assert list(image) == ["image"]
        assert (image["image"][0] == np.asarray(frame).transpose(2, 0, 1)).all()
        act = numbers.action_space.sample()
        vector, *_ = numbers.step(act)
        image, *_ = pixels.step(act)
        want, *_ = bare.step(act[0])
    for env in (numbers, pixels, bare):
        env.close()


def test_lunar_landers_settings_reach_it():
    assert envs.spaces_of(config("LunarLander-v3"))[1] == spaces.Discrete(4)
    throttles = spaces.Box(-1, 1, (2,), np.float32)
    for id, options in (("LunarLander-v3", {"continuous": True}), ("LunarLanderContinuous-v3", {})):
        assert envs.spaces_of(config(id, **options))[1] == throttles

    def falls(**options) -> np.ndarray:
        vec = envs.make(config("LunarLander-v3", workers=False, **options), 1, 0)
        vec.reset()
        for _ in range(20):
            obs, *_ = vec.step(np.zeros(1, np.int64))
        vec.close()
        return obs["vector"][0]

    dx, dy = 2, 3
    still, windy, light = falls(), falls(wind=True, wind_power=20.0), falls(gravity=-2.0)
    assert windy[dx] != still[dx]
    assert light[dy] > still[dy]
    with pytest.raises(ValueError, match="gravity"):
        config("LunarLander-v3", gravity=-12.0)


def test_envpool_is_named_with_its_extra_where_it_is_missing(monkeypatch):
    monkeypatch.setattr("dreamlab.envs.car_racing.find_spec", lambda name: None)
    monkeypatch.setitem(sys.modules, "envpool", None)
    with pytest.raises(UserError, match=r"pip install 'dreamlab\[envpool\]'"):
        envs.make(config("CarRacing-v3", engine="envpool"), 1, 0)
    with pytest.raises(UserError, match=r"no discrete actions.*engine gymnasium"):
        envs.make(config("CarRacing-v3", engine="envpool", continuous=False), 1, 0)


class Echo(gymnasium.Env):
    """Rewards are the first entry of the action, as it arrived."""

    observation_space = spaces.Box(0, 1, (2, 2), np.float64)

    def __init__(self, act_space):
        self.action_space = act_space

    def step(self, act):
        assert self.action_space.contains(act), act
        self.seen = act
        first = 0.0 if isinstance(act, dict) else float(np.asarray(act).reshape(-1)[0])
        return np.zeros((2, 2)), first, False, False, {}


def test_unit_actions_reach_the_environments_own_bounds():
    inner = Echo(spaces.Box(np.array([[-2.0, 0.0], [1.0, 5.0]]), np.array([[2.0, 1.0], [3.0, 5.5]]), dtype=np.float64))
    env = UnitAction(PlainAction(inner))
    assert env.action_space == spaces.Box(-1, 1, (4,), np.float32)
    for act, want in ((-1, inner.action_space.low), (1, inner.action_space.high), (9, inner.action_space.high)):
        env.step(np.full(4, act, np.float32))
        assert np.allclose(inner.seen, want)
    env.step(np.zeros(4, np.float32))
    assert np.allclose(inner.seen, (inner.action_space.low + inner.action_space.high) / 2)
    with pytest.raises(UserError, match="without bounds"):
        UnitAction(PlainAction(Echo(spaces.Box(-np.inf, np.inf, (1,), np.float32))))


def test_discrete_actions_start_from_zero():
    inner = Echo(spaces.Discrete(3, start=5))
    env = PlainAction(inner)
    assert env.action_space == spaces.Discrete(3)
    assert env.step(2)[1] == 7


def test_several_choices_at_once_are_one_multidiscrete():
    """Every action of every form is met exactly once, in the form that the environment has."""
    forms = {
        (3, 2): spaces.MultiDiscrete([3, 2], start=[5, 7]),
        (2, 3, 4, 5): spaces.MultiDiscrete([[2, 3], [4, 5]]),
        (2, 2, 2): spaces.MultiBinary(3),
        (2, 3, 4): spaces.Dict(b=spaces.Tuple([spaces.Discrete(3), spaces.Discrete(4, start=1)]), a=spaces.Discrete(2)),
    }
    for counts, form in forms.items():
        inner = Echo(form)
        env = PlainAction(inner)
        assert env.action_space == spaces.MultiDiscrete(counts)
        seen = set()
        for act in itertools.product(*map(range, counts)):
            env.step(np.array(act))  # Echo asks whether it is one of its own
            seen.add(str(inner.seen))
        assert len(seen) == np.prod(counts)
    env.step(np.array([1, 2, 0]))
    assert inner.seen == {"a": 1, "b": (2, 1)}
    assert PlainAction(Echo(spaces.Dict(only=spaces.Discrete(4)))).action_space == spaces.Discrete(4)
    for refused in (spaces.Dict(a=spaces.Discrete(2), b=spaces.Box(0, 1)), spaces.Dict(), spaces.Text(3)):
        with pytest.raises(UserError, match="agents here choose one of n"):
            PlainAction(Echo(refused))


def test_repeated_actions_sum_their_rewards_until_the_end():
    env = Repeat(Count(), 4)
    env.reset(seed=0)
    total, steps, ended = 0.0, 0, False
    while not ended:
        obs, rew, terminated, truncated, _ = env.step(0)
        total, steps, ended = total + rew, steps + 1, terminated or truncated
    length = Count.steps(Count.mark(0))
    assert total == sum(range(1, length + 1))
    assert steps == -(-length // 4)
    assert obs["vector"][1] == length


def test_dictionaries_become_one_image_and_one_vector():
    class Mixed(gymnasium.Env):
        action_space = spaces.Discrete(2)
        observation_space = spaces.Dict(
            camera=spaces.Box(0, 255, (8, 9, 3), np.uint8),
            body=spaces.Dict(speed=spaces.Box(-1e300, 1e300, (2,), np.float64), gear=spaces.Discrete(3)),
        )

    env = AsDict(Mixed())
    seen = env.observation(
        {"camera": np.full((8, 9, 3), 7, np.uint8), "body": {"speed": np.array([0.5, -0.5]), "gear": 2}}
    )
    assert set(seen) == {"image", "vector"}
    assert sorted(seen["vector"]) == [-0.5, 0, 0, 0.5, 1]
    assert seen["vector"].dtype == np.float32
    assert env.observation_space["vector"].shape == (5,)
    assert env.observation_space["image"].shape == (8, 9, 3)


def test_pictures_of_every_layout():
    rng = np.random.default_rng(0)
    frame = rng.integers(0, 255, (30, 20, 3), np.uint8)
    assert (picture(frame, (30, 20)) == frame.transpose(2, 0, 1)).all()
    assert (picture(np.ascontiguousarray(frame.transpose(2, 0, 1)), (30, 20)) == frame.transpose(2, 0, 1)).all()
    assert (picture(frame, (10, 5), crop=(10, 20, 5, 10))[0] == frame[10:20, 5:10, 0]).all()
    grey = picture(frame, (30, 20), grey=True)
    assert grey.shape == (1, 30, 20)
    assert np.abs(grey[0] - frame @ [0.299, 0.587, 0.114]).max() <= 1
    assert picture(frame[..., 0], (7, 8)).shape == (1, 7, 8)
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[::2] = 255
    assert np.abs(picture(stripes, (16, 16)).astype(int)[:, 1:-1] - 127).max() < 20  # antialiased, not decimated


def test_the_time_limit_truncates_and_replaces_the_environments_own():
    for limit in (5, 700):
        vec = envs.make(config("Pendulum-v1", time_limit=limit, workers=False), 1, 0)
        vec.reset()
        steps = 0
        while True:
            *_, terminated, truncated, _ = vec.step(np.zeros((1, 1), np.float32))
            steps += 1
            if truncated[0]:
                break
        vec.close()
        assert steps == limit
        assert not terminated[0]


def test_catch_can_always_be_won_and_random_play_cannot_hope():
    env = Catch()
    for ball in range(env.cells):
        for paddle in range(env.cells):
            env.reset(seed=0)
            env.ball, env.paddle = ball, paddle
            obs = env._draw()
            for t in range(7):
                at = obs[..., 0].max(0).argmax() // 2, obs[..., 1].max(0).argmax() // 2
                obs, rew, over, truncated, _ = env.step(1 + np.sign(at[0] - at[1]))
                assert over == (t == 6)
            assert rew == 1.0
            assert not truncated
    rewards = []
    for seed in range(400):
        env.reset(seed=seed)
        rewards.append([env.step(env.action_space.sample())[1] for _ in range(7)][-1])
    assert abs(np.mean(rewards) + 0.75) < 0.15


@pytest.mark.parametrize("own_process", [True, False])
def test_frames_for_films_are_at_full_size(own_process, monkeypatch, capfd):
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    vec = envs.make(config("CartPole-v1", workers=own_process), 2, 0, render=True)
    vec.reset(options={"seeds": [1, None]})
    frame, nothing = vec.render()
    assert frame.shape == (400, 600, 3)
    assert frame.dtype == np.uint8
    assert nothing is None
    vec.close()
    assert capfd.readouterr().err == ""


def test_the_settings_are_read_without_heavy_imports():
    heavy = "; print([m for m in ('torch', 'gymnasium') if m in sys.modules])"
    built = "; envs.spaces_of(envs.default_config('CarRacing-v3'))"
    for code, loaded in ((heavy, "[]"), (built + heavy, "['gymnasium']")):
        line = [sys.executable, "-c", f"import sys; from dreamlab import envs{code}"]
        done = subprocess.run(line, capture_output=True, text=True)
        assert done.stdout.strip() == loaded
        assert done.stderr == ""


def test_envpool_gives_the_same_form_of_stream():
    pytest.importorskip("envpool")
    vec = envs.make(config("CarRacing-v3", engine="envpool", time_limit=20, actions="unit"), 2, 0)
    own = envs.spaces_of(config("CarRacing-v3", actions="unit"))
    assert (vec.single_observation_space, vec.single_action_space) == own
    assert not vec.seeded
    obs, _ = vec.reset(options={"seeds": [1, 2]})
    first = obs["image"].copy()
    assert vec.observation_space.contains(obs)
    for t in range(1, 23):
        obs, rew, terminated, truncated, _ = vec.step(np.tile(np.array([[0, 0, -1]], np.float32), (2, 1)))
        assert (truncated == (t == 20)).all()
        assert not terminated.any()
        assert (rew == 0).all() == (t == 21)  # the step that resets
    assert (obs["image"] != first).any()
    vec.close()


def test_envpool_starts_on_the_tracks_of_given_seeds():
    pytest.importorskip("envpool")
    vec = envs.make(config("CarRacing-v3", engine="envpool", time_limit=40), 3, 0)
    act = np.tile(np.array([[0, 0.5, 0]], np.float32), (3, 1))

    def seen(seeds: list[int]) -> np.ndarray:
        vec.reset(options={"seeds": seeds})
        for _ in range(30):
            obs, *_ = vec.step(act)
        return obs["image"].astype(int)

    one, other = seen([5, 9, 5]), seen([9, 7, 5])
    assert np.array_equal(one[0], one[2])
    assert np.array_equal(one[1], other[0])
    assert np.array_equal(one[0], other[2])
    assert not np.array_equal(other[0], other[1])
    vec.close()
