"""Atari: two engines that agree frame by frame, settings that do what they say, and episodes that can be had again."""

from __future__ import annotations

import dataclasses
import json
import sys

import numpy as np
import pytest
import torch
from gymnasium import spaces
from PIL import Image

from dreamlab import envs
from dreamlab.core.errors import UserError
from dreamlab.core.seeds import derive
from dreamlab.envs import atari, build

ale_py = pytest.importorskip("ale_py")

from dreamlab.cli.main import main  # noqa: E402
from dreamlab.run.driver import Driver, play  # noqa: E402


def config(id: str = "ALE/Pong-v5", **options) -> atari.Config:
    return dataclasses.replace(envs.default_config(id), **options)


def stream(steps: int, n: int = 2, **options) -> list[tuple]:
    """Rows (image, rew, terminated, truncated, goes on) of n random players."""
    vec = envs.make(config(**{"workers": False, **options}), n, 7)
    assert type(vec).__name__ == ("Games" if options["engine"] == "ale" else "InProcess")
    vec.action_space.seed(0)
    obs, _ = vec.reset()
    assert vec.observation_space.contains(obs)
    rows: list[tuple] = [(obs["image"].copy(),)]
    for _ in range(steps):
        obs, rew, terminated, truncated, info = vec.step(vec.action_space.sample())
        goes_on = np.zeros(n, bool) | info.get("goes_on", False)
        rows.append((obs["image"].copy(), rew, terminated, truncated, goes_on & (rew == 0) & ~terminated))
    vec.close()
    return rows


@pytest.mark.parametrize(
    ("id", "steps", "options"),
    [
        ("ALE/Pong-v5", 60, {"sticky": 0.0, "noops": (0, 0)}),
        ("ALE/Qbert-v5", 60, {"action_set": "full", "grey": True, "size": (84, 84)}),
        ("ALE/Breakout-v5", 200, {"sticky": 0.0, "noops": (0, 0)}),
        ("ALE/Breakout-v5", 230, {"life_loss": "end", "rewards": "sign", "fire": True}),
        ("SpaceInvadersNoFrameskip-v4", 150, {"repeat": 3, "pool": False, "time_limit": 60}),
        ("ALE/SpaceInvaders-v5", 40, {"repeat": 1, "crop": (20, 200, 0, 160), "train_limit": 15}),
    ],
)
def test_the_engines_agree_frame_by_frame(id, steps, options):
    """Pictures, rewards, ends, no-op starts and sticky actions, whatever is chosen."""
    ours, theirs = (stream(steps, id=id, engine=engine, **options) for engine in ("gymnasium", "ale"))
    for t, (row, other) in enumerate(zip(ours, theirs, strict=True)):
        for mine, its in zip(row, other, strict=True):
            assert np.array_equal(mine, its), (id, t)
    ends = sum(row[2].sum() for row in ours[1:]), sum(row[3].sum() for row in ours[1:])
    assert (ends[0] > 0) == (id == "ALE/Breakout-v5")
    assert (ends[1] > 0) == ("time_limit" in options or "train_limit" in options)


def test_a_frame_is_what_the_emulator_shows():
    """Brute force: the console by itself, the last two frames pooled, resized by Pillow; rewards summed."""
    ale = ale_py.ALEInterface()
    ale.setFloat("repeat_action_probability", 0.0)
    ale.loadROM(ale_py.roms.get_rom_path("space_invaders"))
    vec = envs.make(config("SpaceInvadersNoFrameskip-v4", noops=(0, 0), engine="ale"), 1, 0)
    ale.reset_game()
    obs, _ = vec.reset()
    frames, total, rng = [ale.getScreenRGB()], 0.0, np.random.default_rng(0)
    for _ in range(150):
        want = Image.fromarray(np.maximum(*frames[-2:]) if len(frames) > 1 else frames[0]).resize((64, 64), 2)
        assert np.array_equal(obs["image"][0], np.asarray(want).transpose(2, 0, 1))
        act, earned, frames = int(rng.integers(6)), 0, []
        for _ in range(4):
            earned += ale.act(ale.getMinimalActionSet()[act])
            frames.append(ale.getScreenRGB())
        obs, rew, *_ = vec.step(np.array([act]))
        assert rew[0] == earned
        total += rew[0]
    vec.close()
    assert total > 0


IRIS = {
    "sticky": 0.0,
    "noops": (1, 30),
    "eval_noops": (1, 1),
    "life_loss": "end",
    "train_limit": 5000,
    "limit_counts": "frames",
    "resize_first": True,
}


def console(rom: str):
    ale = ale_py.ALEInterface()
    ale.setFloat("repeat_action_probability", 0.0)
    ale.loadROM(ale_py.roms.get_rom_path(rom))
    ale.reset_game()
    return ale


def serve(t: int) -> int:
    """Breakout's player who now and then serves the ball (1), and loses it."""
    return int(t % 12 == 0)


def iris_game(noops: int, limit: int):
    """Brute force, frame by frame: rows (image, pooled before it is resized, rew, ended, frames played) of one game."""
    ale = console("breakout")
    played, t, lost = noops, 0, False
    for _ in range(noops):
        ale.act(0)
    small = [np.asarray(Image.fromarray(ale.getScreenRGB()).resize((64, 64), 2))]
    yield small[0], small[0], 0.0, False, played
    while not ale.game_over() and played < limit:
        act, lives, rew, screens = 0 if lost else serve(t), ale.lives(), 0.0, []
        while len(screens) < 4 and not ale.game_over() and played < limit:
            rew += ale.act(ale.getMinimalActionSet()[act])
            screens.append(ale.getScreenRGB())
            played += 1
        small = [np.asarray(Image.fromarray(screen).resize((64, 64), 2)) for screen in screens[-2:]]
        pooled = np.asarray(Image.fromarray(np.max(screens[-2:], 0)).resize((64, 64), 2))
        if lost:
            rew, lost = 0.0, False  # the step without action, whose picture begins the next episode
        else:
            lost = 0 < ale.lives() < lives
        t += 1
        yield np.max(small, 0), pooled, rew, lost or ale.game_over() or played >= limit, played


@pytest.mark.parametrize(("noops", "limit"), [(3, 75), (2, 75), (30, 75), (1, 5000)])
def test_the_game_of_iris_frame_by_frame(noops, limit):
    """Each frame resized and then pooled; no-ops and lost lives count towards the limit, which may cut a step short."""
    env = build.one(config("BreakoutNoFrameskip-v4", **{**IRIS, "noops": (noops, noops), "train_limit": limit}))
    want = list(iris_game(noops, 4 * limit))
    obs, _ = env.reset(seed=1)
    ended, ends, rew = False, 0, 0.0
    for t, (image, _, earned, end, played) in enumerate(want):
        if t and ended:
            obs, ended, rew = env.reset()[0], False, 0.0
        elif t:
            obs, rew, terminated, truncated, _ = env.step(serve(t - 1))
            ended = terminated or truncated
            assert truncated == (played == 4 * limit)
        assert (rew, ended) == (earned, end), t
        assert np.array_equal(obs["image"], image.transpose(2, 0, 1)), t
        assert env.unwrapped._ale.getEpisodeFrameNumber() == played
        ends += end
    assert ended
    assert (played == 4 * limit) == (limit == 75)
    assert ends == 5 if limit == 5000 else ends >= 3
    assert any((image != pooled).any() for image, pooled, *_ in want)
    env.reset()
    assert env.unwrapped._ale.getEpisodeFrameNumber() == noops


def test_a_game_whose_frames_are_used_up_is_not_gone_on_with():
    """Its last life but one is lost a frame before the limit: the step without action has no room."""
    lost = next(played for *_, end, played in iris_game(3, 20_000) if end)
    env = build.one(config("BreakoutNoFrameskip-v4", **{**IRIS, "noops": (3, 3), "train_limit": (lost + 1) // 4}))
    env.reset(seed=1)
    t = 0
    while not env.step(serve(t))[2]:
        t += 1
    assert env.unwrapped._ale.getEpisodeFrameNumber() == lost
    env.reset()
    assert env.unwrapped._ale.getEpisodeFrameNumber() == 3


def test_games_that_are_scored_have_starts_of_their_own():
    made = config("ALE/Pong-v5", **IRIS)
    scored = envs.evaluation(made)
    starts = []
    for settings in (made, scored):
        env = build.one(settings)
        for seed in range(5):
            env.reset(seed=seed)
            starts.append(env.unwrapped._ale.getEpisodeFrameNumber())
    assert len(set(starts[:5])) > 2
    assert all(1 <= frames <= 30 for frames in starts[:5])
    assert starts[5:] == [1] * 5
    assert envs.evaluation(scored) == scored
    assert (made.limit * made.repeat, scored.limit * scored.repeat) == (20_000, 108_000)


@pytest.mark.parametrize("engine", ["gymnasium", "ale"])
def test_a_lost_life_ends_the_episode_but_not_the_game(engine):
    """One step without action begins the next episode; the bricks that are gone stay gone."""
    rows = stream(150, 1, id="ALE/Breakout-v5", engine=engine, life_loss="end", sticky=0.0, noops=(0, 0))
    begins = [row[0][0] for row, before in zip(rows[1:], rows, strict=False) if len(before) > 1 and before[2][0]]
    whole = stream(150, 1, id="ALE/Breakout-v5", engine=engine, sticky=0.0, noops=(0, 0))
    assert len(begins) > sum(row[2][0] for row in whole[1:])
    assert any((image != rows[0][0][0]).any() for image in begins)
    assert sum(row[4][0] for row in rows[1:]) >= 3


class Player:
    """Acts by a rule of time and row alone."""

    def initial(self, n):
        return torch.zeros(n, dtype=torch.int64)

    def __call__(self, obs, is_first, state):
        state = torch.where(is_first, 0, state + 1)
        return torch.where(state % 5 == 0, 1, 2 + torch.arange(len(state)) % 2), state, {}  # FIRE, or to a wall


@pytest.mark.parametrize("engine", ["gymnasium", "ale"])
@pytest.mark.parametrize("stop", [63, 130])
def test_an_interrupted_game_goes_on_bit_for_bit(engine, stop):
    """The driver's own way: the running game's seed and actions, through the lives that were lost in it."""
    made = config("ALE/Breakout-v5", engine=engine, life_loss="end")

    def drive(driver, steps):
        return [driver.step(Player(), "p")[0] for _ in range(steps)]

    whole = Driver(envs.make(made, 2, 3), torch.device("cpu"))
    before = drive(whole, stop)
    state = whole.state_dict()
    after = drive(whole, 30)
    lost = sum(row["is_terminal"].sum() for row in before)
    assert lost > int(state["episode"].sum())  # a lost life is no new game
    resumed = Driver(envs.make(made, 2, 3), torch.device("cpu"))
    resumed.load_state_dict(state)
    assert resumed.resume(Player(), "p") is None
    for row, again in zip(after, drive(resumed, 30), strict=True):
        assert all(np.array_equal(row[key], again[key]) for key in row)
    whole.envs.close()
    resumed.envs.close()


def test_whole_episodes_are_those_of_their_seeds():
    """In new environments or used ones, in either engine; rows that are over or idle stay out of it."""
    made = config("ALE/Breakout-v5", engine="ale", life_loss="end")
    vec = envs.make(made, 3, 0)
    vec.reset()
    outcome = play(Player(), vec, [11, 12], torch.device("cpu"))
    before = vec.reset(options={"seeds": [11, None, 12]})[0]["image"].copy()
    after = [vec.step(np.array([1, 1, 1]))[0]["image"] for _ in range(3)]
    own, _ = vec.reset()
    vec.close()
    one = envs.make(config("ALE/Breakout-v5", engine="gymnasium", life_loss="end", workers=False), 2, 9)
    other = play(Player(), one, [11, 12], torch.device("cpu"))
    first = one.reset(options={"seeds": [11, derive(0, "episode", 2, 1)]})[0]["image"]
    one.close()
    assert (outcome.ret == other.ret).all()
    assert (outcome.length == other.length).all()
    assert outcome.length[0] != outcome.length[1]
    assert (before[0] == first[0]).all()
    assert all((image[1] == before[1]).all() for image in after)
    assert (own["image"][2] == first[1]).all()  # whole episodes take none of the own episodes' numbers


def test_scores_are_taken_over_whole_games_and_raw_rewards():
    made = config("PongNoFrameskip-v4", life_loss="end", rewards="sign", train_limit=5000, size=(32, 32))
    scored = envs.evaluation(made)
    assert scored == config("PongNoFrameskip-v4", size=(32, 32))
    assert (made.limit, scored.limit, scored.sticky, config().sticky) == (5000, 27_000, 0.0, 0.25)
    assert config("PongNoFrameskip-v0").sticky == 0.25
    catch = envs.default_config("tiny/Catch")
    assert envs.evaluation(catch) is catch


@pytest.mark.parametrize("iris", [False, True])
def test_training_ends_lives_and_its_evaluations_do_not(tmp_path, iris):
    """And the score says under which settings it was taken."""
    line = ["train", "random", "--env", "ALE/Breakout-v5", "--env.life-loss", "end", "--env.time-limit", "40"]
    if iris:
        line += ["--env.noops", "9", "30", "--env.eval-noops", "5", "5"]
        line += ["--env.limit-counts", "frames", "--env.resize-first"]
    assert main([*line, "--steps", "9", "--eval-episodes", "1", "--threads", "1", "--run", str(tmp_path)]) == 0
    assert main(["evaluate", str(tmp_path), "--episodes", "1"]) == 0
    scores = [json.loads(path.read_text()) for path in (tmp_path / "evaluations").iterdir()]
    asked = [s["protocol"]["env"] for s in scores]
    assert [(env["life_loss"], s["lengths"]) for env, s in zip(asked, scores, strict=True)] == [
        ("ignore", [39 if iris else 40])  # 160 frames, of which 5 had no action
    ] * 2
    wanted = ([5, 5], "frames", True) if iris else ([0, 30], "steps", False)
    assert [(env["noops"], env["limit_counts"], env["resize_first"]) for env in asked] == [wanted] * 2


def test_ids_are_claimed_as_ale_registers_them():
    from gymnasium.envs.registration import registry

    theirs = {id for id, spec in registry.items() if str(spec.entry_point).startswith("ale_py")}
    assert set(atari.ids()) == {id for id in theirs if id.endswith("-v5")}
    assert {id for id in theirs if atari.claims(id)} == {id for id in theirs if id.endswith("-v5") or "NoFrame" in id}
    assert all(registry[id].kwargs["game"] == atari.rom(id) for id in theirs if atari.claims(id))
    assert all(registry[id].kwargs["repeat_action_probability"] == config(id).sticky for id in theirs & {*atari.ids()})
    assert not atari.claims("ALE/Nothing-v5")
    with pytest.raises(UserError, match="type ALE/Pong-v5, or PongNoFrameskip-v4"):  # whatever is registered by now
        envs.default_config("Pong-v4")
    assert type(envs.default_config("ale_py:Pong-v4")).__module__ == "dreamlab.envs.gym"
    assert envs.spaces_of(config("ALE/AirRaid-v5", action_set="full"))[1] == spaces.Discrete(18)


def test_frames_for_films_are_whole_screens():
    vec = envs.make(config(), 2, 0, render=True)
    vec.reset(options={"seeds": [1, None]})
    frame, nothing = vec.render()
    vec.close()
    assert frame.shape == (210, 160, 3)
    assert nothing is None


def test_what_is_missing_is_named(monkeypatch, tmp_path):
    with pytest.raises(UserError, match=r"no no-op starts .* and no vector observations; type: engine gymnasium"):
        envs.make(config(engine="ale", noops=(1, 30), obs="vector"), 1, 0)
    with pytest.raises(UserError, match=r"no no-op starts .* and no frames resized .* and no limits that count frames"):
        envs.make(config(engine="ale", eval_noops=(1, 1), resize_first=True, limit_counts="frames"), 1, 0)
    with pytest.raises(ValueError, match="eval_noops must be from low to high"):
        config(eval_noops=(2, 1))
    with pytest.raises(ValueError, match="crop must be none"):
        config(resize_first=True, crop=(20, 200, 0, 160))
    with pytest.raises(ValueError, match="fresh"):
        config(life_loss="end", fresh=True)
    monkeypatch.setenv("ALE_ROMS_DIR", str(tmp_path))
    with pytest.raises(UserError, match=r"ALE/Pong-v5: the ROM pong.bin is not in .* ALE_ROMS_DIR"):
        envs.make(config(), 1, 0)
    (tmp_path / "pong.bin").write_bytes(b"no game")
    for engine in ("ale", "gymnasium"):
        with pytest.raises(UserError, match="its ROM is damaged"):
            envs.make(config(engine=engine, workers=False), 1, 0)
    assert atari.ids() == ["ALE/Pong-v5"]
    monkeypatch.setattr("dreamlab.envs.atari.find_spec", lambda name: None)
    monkeypatch.setitem(sys.modules, "ale_py", None)
    with pytest.raises(UserError, match=r"pip install 'dreamlab\[atari\]'"):
        envs.spaces_of(config())
    assert atari.ids() == []
