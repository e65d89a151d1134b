"""ViZDoom: the paper's frames, the engine's manners, and episodes that can be had again."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import time

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from PIL import Image

from dreamlab import envs
from dreamlab.core.errors import UserError
from dreamlab.core.seeds import derive

ID = "VizdoomTakeCover-v1"


def config(id: str = ID, **options) -> envs.EnvConfig:
    return dataclasses.replace(envs.default_config(id), **options)


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty folder to stand in, where ViZDoom is installed."""
    pytest.importorskip("vizdoom")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def engines(here, monkeypatch):
    """The engines of this process."""
    from dreamlab.envs.vizdoom import _engines

    return _engines


def test_take_cover_starts_from_the_papers_settings():
    take_cover = envs.default_config(ID)
    assert (take_cover.crop, take_cover.size) == ((0, 200, 0, 320), (64, 64))
    assert (take_cover.repeat, take_cover.time_limit, take_cover.obs) == (1, 2100, "pixels")
    basic = envs.default_config("VizdoomBasic-v1")
    assert (basic.crop, basic.time_limit, basic.obs) == (None, None, "pixels")


@pytest.mark.parametrize("own_process", [True, False])
def test_nothing_is_written_where_one_stands_and_engines_end(own_process, here, engines):
    vec = envs.make(config(workers=own_process), 3, 0)
    vec.reset()
    for _ in range(5):
        vec.step(np.zeros(3, np.int64))
    assert len(engines()) == (0 if own_process else 3)
    assert os.getcwd() == str(here)
    vec.close()
    assert not list(here.iterdir())
    assert not engines()


def test_the_frame_is_the_papers_and_the_last_one_stays(here):
    """The package's own screen: rows 0 to 199, resized by PIL to 64x64; +1 a tic; seen again when all is over."""
    vec = envs.make(config(workers=False), 1, seed=3)
    bare = gymnasium.make(ID, doom_config_path=str(here / "x.ini"))
    obs, _ = vec.reset()
    frame, _ = bare.reset(seed=derive(3, "episode", 0, 0))
    rng, total, steps, over = np.random.default_rng(0), 0.0, 0, False
    while not over:
        want = Image.fromarray(frame["screen"][:200]).resize((64, 64), Image.Resampling.BILINEAR)
        assert (obs["image"][0] == np.asarray(want).transpose(2, 0, 1)).all()
        act, before = rng.integers(3), obs["image"].copy()
        obs, rew, terminated, truncated, _ = vec.step(np.array([act]))
        frame, *_, over, _, _ = bare.step(act)
        total, steps = total + rew[0], steps + 1
        assert terminated[0] == over
        assert not truncated[0]
    assert total == steps
    assert not frame["screen"].any()
    assert (obs["image"] == before).all()
    vec.close()
    bare.close()


def test_one_is_right_and_two_is_left(here):
    import vizdoom

    vec = envs.make(config(workers=False), 1, 0)
    assert vec.single_action_space == spaces.Discrete(3)
    moved = []
    for act in range(3):
        vec.reset(options={"seeds": [1]})
        for _ in range(20):
            vec.step(np.array([act]))
        game = vec.envs[0].unwrapped.game
        assert game.get_game_variable(vizdoom.GameVariable.ANGLE) == 0  # looks along x, so that left is up in y
        moved.append(game.get_game_variable(vizdoom.GameVariable.POSITION_Y))
    vec.close()
    assert moved[1] < moved[0] < moved[2]


def test_episodes_depend_on_their_seed_alone(here):
    """In a used engine, in a new one, in a worker, and after an interruption."""
    acts = np.random.default_rng(1).integers(0, 3, 150)

    def play(vec, **options) -> list[bytes]:
        obs, _ = vec.reset(options=options)
        rows = [obs["image"][0].tobytes()]
        for act in acts:
            obs, _, terminated, _, _ = vec.step(np.array([act]))
            rows.append(obs["image"][0].tobytes())
            if terminated[0]:
                break
        return rows

    one, other = (envs.make(config(workers=w), 1, 0) for w in (False, True))
    first, second = play(one, seeds=[7]), play(one, seeds=[8])
    assert first != second
    assert play(one, seeds=[7]) == first == play(other, seeds=[7])
    own = play(other)
    obs, _ = one.reset(options={"resume": [{"episode": 0, "actions": acts[:50]}]})
    assert obs["image"][0].tobytes() == own[50]
    one.close()
    other.close()


def test_a_scenarios_own_limit_truncates(here):
    vec = envs.make(config("VizdoomBasic-v1", workers=False, repeat=50), 1, 0)
    vec.reset()
    ends = [vec.step(np.array([0]))[2:4] for _ in range(6)]
    vec.close()
    assert [bool(truncated[0]) for _, truncated in ends] == [False] * 5 + [True]
    assert not any(terminated[0] for terminated, _ in ends)


def test_pixels_are_seen_unless_numbers_are_asked_for(here):
    for kind, keys in (("pixels", ["image"]), ("vector", ["vector"]), ("auto", ["image", "vector"])):
        space, _ = envs.spaces_of(config(obs=kind))
        assert sorted(space) == keys
    with pytest.raises(UserError, match=r"VizdoomDeathmatch-v1.*Dict"):
        envs.spaces_of(config("VizdoomDeathmatch-v1"))


def test_films_show_the_screen_to_the_end(here):
    vec = envs.make(config(workers=False), 1, 0, render=True)
    vec.reset(options={"seeds": [1]})
    over = False
    while not over:
        over = vec.step(np.array([0]))[2][0]
        (frame,) = vec.render()
        assert frame.shape == (240, 320, 3)
        assert frame.any()
    vec.close()


ORPHAN = """
import dataclasses, psutil
from dreamlab import envs
from dreamlab.envs.vizdoom import _engines
vec = envs.make(dataclasses.replace(envs.default_config("VizdoomTakeCover-v1"), workers=False), 1, 0)
vec.reset()
print(_engines()[0].pid, flush=True)
input()
"""


@pytest.mark.skipif(not os.path.exists("/bin/sh"), reason="the guard is a shell")
def test_an_engine_does_not_outlive_a_killed_process(here):
    import psutil

    process = subprocess.Popen([sys.executable, "-c", ORPHAN], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    engine = psutil.Process(int(process.stdout.readline()))
    assert engine.is_running()
    process.send_signal(signal.SIGKILL)
    process.communicate()
    deadline = time.monotonic() + 10
    while engine.is_running() and engine.status() != psutil.STATUS_ZOMBIE and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not engine.is_running() or engine.status() == psutil.STATUS_ZOMBIE


def test_an_engine_that_does_not_start_is_said(here):
    vec = envs.make(config(workers=False), 1, 0)
    vec.envs[0].unwrapped.game.set_vizdoom_path("/nowhere/vizdoom")
    with pytest.raises(UserError, match=r"engine does not start.*ldd"):
        vec.reset()
    vec.close()
    assert os.getcwd() == str(here)


def test_a_missing_package_is_named_with_its_extra(monkeypatch):
    for module in ("vizdoom", "vizdoom.gymnasium_wrapper"):
        monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setattr("dreamlab.envs.vizdoom.find_spec", lambda name: None)
    monkeypatch.setattr("dreamlab.envs.foreign.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"VizdoomTakeCover-v1 needs .*pip install 'dreamlab\[vizdoom\]'"):
        envs.spaces_of(config())
    for id in ("TakeCover", "DoomTakeCover-v0", "VizdoomTakeCover-v0"):
        with pytest.raises(UserError, match=r"pip install 'dreamlab\[vizdoom\]', then VizdoomTakeCover-v1"):
            envs.default_config(id)


@pytest.mark.parametrize(
    ("id", "want"),
    [("TakeCover", ID), ("ppaquette/DoomTakeCover-v0", ID), ("DoomCorridor-v0", "VizdoomDeadlyCorridor-v1")],
)
def test_names_of_other_projects_are_answered(id, want, monkeypatch):
    monkeypatch.setattr("dreamlab.envs.foreign.find_spec", lambda name: object())
    with pytest.raises(UserError, match=f"type {want}$"):
        envs.default_config(id)
