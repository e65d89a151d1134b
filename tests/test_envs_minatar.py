"""MinAtar: planes as the package has them, squares without blur, and episodes that can be had again."""

from __future__ import annotations

import dataclasses
import sys

import numpy as np
import pytest
from gymnasium import spaces

from dreamlab import envs
from dreamlab.core.errors import UserError
from dreamlab.core.seeds import derive
from dreamlab.envs.minatar import IDS, fitted

GAMES = {"Asterix": 4, "Breakout": 4, "Freeway": 7, "Seaquest": 10, "SpaceInvaders": 6}


def config(id: str, **options) -> envs.EnvConfig:
    return dataclasses.replace(envs.default_config(id), **options)


@pytest.mark.parametrize("size", [(10, 10), (16, 16), (29, 41), (32, 32), (64, 64)])
def test_cells_become_squares_in_the_middle_and_come_back(size):
    cells = np.random.default_rng(0).integers(0, 256, (10, 10, 5), np.uint8)
    image = fitted(cells, size)
    side = min(size) // 10
    top, left = (size[0] - 10 * side) // 2, (size[1] - 10 * side) // 2
    inside = image[top : top + 10 * side, left : left + 10 * side]
    for i in range(side):
        for j in range(side):
            assert (inside[i::side, j::side] == cells).all()
    assert image.shape == (*size, 5)
    assert image.sum(dtype=int) == side**2 * cells.sum(dtype=int)  # nothing beside it


@pytest.mark.parametrize("id", IDS)
def test_planes_are_the_packages_own(id):
    """The package's own environment beside ours, seeds and actions alike; sticky actions and all."""
    base = pytest.importorskip("minatar.gym")
    game, version = id.removeprefix("MinAtar/").split("-v")
    vec = envs.make(config(id, workers=False), 1, seed=2)
    name = "space_invaders" if game == "SpaceInvaders" else game.lower()
    bare = base.BaseEnv(name, use_minimal_action_set=version == "1")
    assert vec.single_action_space == bare.action_space
    assert vec.single_observation_space == spaces.Dict(image=spaces.Box(0, 255, (GAMES[game], 32, 32), np.uint8))
    obs, _ = vec.reset()
    state, _ = bare.reset(seed=derive(2, "episode", 0, 0))
    vec.action_space.seed(0)
    for _ in range(300):
        assert (obs["image"][0, :, 1:31:3, 1:31:3] == 255 * state.transpose(2, 0, 1)).all()
        act = vec.action_space.sample()
        obs, rew, terminated, *_ = vec.step(act)
        state, want, over, *_ = bare.step(act[0])
        assert (rew[0], terminated[0]) == (want, over)
        if over:
            break
    vec.close()


def test_a_used_game_plays_as_a_new_one():
    """Also where the last action of one episode could stick to the first step of the next."""
    pytest.importorskip("minatar")
    options = {"sticky": 0.5, "workers": False}
    used = envs.make(config("MinAtar/Breakout-v1", **options), 1, 0)
    for seed in range(10):
        new = envs.make(config("MinAtar/Breakout-v1", **options), 1, 0)
        for vec in (used, new):
            vec.action_space.seed(seed)
        (a, _), (b, _) = (vec.reset(options={"seeds": [seed]}) for vec in (used, new))
        over = False
        while not over:
            assert (a["image"] == b["image"]).all()
            a, _, terminated, truncated, _ = used.step(used.action_space.sample())
            b, *_ = new.step(new.action_space.sample())
            over = terminated[0] or truncated[0]
        new.close()
    used.close()


def test_the_game_is_drawn_in_colours():
    pytest.importorskip("minatar")
    vec = envs.make(config("MinAtar/Breakout-v1", workers=False), 1, 0, render=True)
    vec.reset()
    vec.step(np.array([0]))
    (frame,) = vec.render()
    vec.close()
    assert (frame.shape, frame.dtype) == ((320, 320, 3), np.uint8)
    assert (frame[::32, ::32].repeat(32, 0).repeat(32, 1) == frame).all()
    assert len({tuple(cell) for cell in frame[::32, ::32].reshape(-1, 3)}) == 5  # ground, paddle, ball, trail, bricks


def test_settings_reach_the_game():
    pytest.importorskip("minatar")
    vec = envs.make(config("MinAtar/Asterix-v1", workers=False, ramping=False, time_limit=3), 1, 0)
    assert not vec.envs[0].unwrapped.game.ramping
    vec.reset()
    assert [bool(vec.step(np.array([0]))[3][0]) for _ in range(3)] == [False, False, True]
    vec.close()
    for sticky, column in ((0.0, 1), (1.0, 4)):  # the paddle begins in column 4; the last action is nothing
        vec = envs.make(config("MinAtar/Breakout-v1", workers=False, sticky=sticky), 1, 0)
        vec.reset()
        for _ in range(3):
            vec.step(np.array([1]))
        assert vec.envs[0].unwrapped.game.pos == column
        vec.close()
    with pytest.raises(ValueError, match="sticky"):
        config("MinAtar/Asterix-v1", sticky=1.5)
    with pytest.raises(ValueError, match="10 by 10"):
        config("MinAtar/Asterix-v1", size=(8, 8))


def test_a_missing_package_is_named_with_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "minatar", None)
    monkeypatch.setattr("dreamlab.envs.minatar.find_spec", lambda name: None)
    monkeypatch.setattr("dreamlab.envs.foreign.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"needs .*pip install 'dreamlab\[minatar\]'"):
        envs.spaces_of(config("MinAtar/Breakout-v1"))
    for id in ("minatar_breakout", "Breakout-MinAtar", "MinAtar/Breakout"):
        with pytest.raises(UserError, match=r"pip install 'dreamlab\[minatar\]', then MinAtar/Breakout-v1"):
            envs.default_config(id)


def test_names_of_other_projects_are_answered(monkeypatch):
    monkeypatch.setattr("dreamlab.envs.foreign.find_spec", lambda name: object())
    with pytest.raises(UserError, match=r"type MinAtar/SpaceInvaders-v1$"):
        envs.default_config("SpaceInvaders-MinAtar")
