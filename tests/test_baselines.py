"""Double DQN, PPO and SAC: rows as the library sees them, what it makes of them, resuming, refusals, dreams."""

from __future__ import annotations

import dataclasses
import importlib
import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from gymnasium import spaces

pytest.importorskip("tianshou")

from test_toy_agent import COMPUTE, start, weights

from dreamlab import agents, envs
from dreamlab.agents import dqn, ppo, sac
from dreamlab.cli.main import main
from dreamlab.core.errors import UserError
from dreamlab.core.types import Recorded
from dreamlab.nn import tianshou
from dreamlab.nn.compute import Compute
from dreamlab.nn.frames import Frames
from dreamlab.run.config import RunConfig
from dreamlab.run.experience import Experience
from dreamlab.run.replay import Replay
from dreamlab.run.trainer import Stopped

MODULES = {"dqn": dqn, "ppo": ppo, "sac": sac}
SMALL = {
    name: module.Config(**{**agents.preset(name, "smoke")["agent"], "hidden": (16,)})
    for name, module in MODULES.items()
}
N = 2
CPU = torch.device("cpu")


def build(name, obs_space, act_space, **changes):
    config = dataclasses.replace(SMALL[name], **changes)
    return MODULES[name].build(config, obs_space, act_space, COMPUTE, 0, RunConfig(envs=N))


def collected(folder, agent_name, id="tiny/Count", obs="auto", steps=120, **changes):
    """An agent of this kind, and rows that it has written in a counting environment."""
    env = envs.default_config(id)
    env = type(env)(**{**env.__dict__, "workers": False, "obs": obs})
    obs_space, act_space = envs.spaces_of(env)
    agent = build(agent_name, obs_space, act_space, **changes)
    table = Experience(Replay(folder, N), obs_space, act_space, CPU, lambda: envs.make(env, N, 7), N)
    table.collect(agent.policy(explore=True), "train", steps)
    return agent, table


def every_row(table):
    """All rows (streams, T)."""
    return table.gather(np.arange(table.index.stop * N).reshape(-1, N).T.copy())


# ---- rows as the library sees them


@pytest.mark.parametrize(
    ("name", "id"), [("dqn", "tiny/Count"), ("ppo", "tiny/CountContinuous"), ("sac", "tiny/Count")]
)
def test_transitions_obey_the_time_diagram(name, id, tmp_path):
    """Who counts sees at once whether obs_next, reward or end are a row off, or of another episode."""
    agent, table = collected(tmp_path, name, id, obs="vector")
    rows = agent.rollout(table) if name == "ppo" else agent.draw(table, 300)
    batch, ids = rows.sample(None)
    mark, count = batch.obs[:, 0], batch.obs[:, 1]
    length = 3 + torch.div(mark, 2, rounding_mode="floor") % 10
    assert torch.equal(batch.obs_next[:, 0], mark)
    assert torch.equal(batch.obs_next[:, 1], count + 1)
    assert np.array_equal(batch.rew, (count + 1).numpy())
    over = (count + 1 == length).numpy()
    assert np.array_equal(batch.terminated, over & (mark % 2 == 0).numpy())
    assert np.array_equal(batch.truncated, over & (mark % 2 == 1).numpy())
    done = batch.act.float() if id == "tiny/Count" else batch.act.clamp(-1, 1)[:, 0]
    torch.testing.assert_close(batch.obs_next[:, 2], done)
    assert over.any()
    assert (mark % 2 == 1).any()
    ahead = rows[rows.next(ids)]
    same = over | (rows.next(ids) == ids)
    assert torch.equal(ahead.obs[~same], batch.obs_next[~same])
    assert np.array_equal(ahead.rew[same], batch.rew[same])


def test_a_rollout_is_every_step_since_the_last_one(tmp_path):
    agent, table = collected(tmp_path, "ppo", obs="vector")
    everything = every_row(table)
    begun = ~everything.is_last[:, :-1]
    batch, _ = agent.rollout(table).sample(None)
    assert torch.equal(batch.obs, everything.obs["vector"][:, :-1][begun])
    agent.learn(table)
    table.collect(agent.policy(explore=True), "train", 40)
    rows = agent.rollout(table)
    newest = everything.is_last.shape[1]
    later = every_row(table)
    begun = ~later.is_last[:, newest:-1]
    assert torch.equal(rows.sample(None)[0].obs, later.obs["vector"][:, newest:-1][begun])


def test_all_steps_are_drawn_alike(tmp_path):
    agent, table = collected(tmp_path, "dqn", obs="vector", steps=60)
    seen = agent.draw(table, 4000).sample(None)[0].obs[:, :2]
    everything = every_row(table)
    last = everything.is_last.shape[1] - SMALL["dqn"].n_step
    begun = everything.obs["vector"][:, :last][~everything.is_last[:, :last]][:, :2]
    pairs, counts = torch.cat([seen, begun]).unique(dim=0, return_counts=True)
    assert len(pairs) == len(begun)
    assert counts.max() < 3 * counts.min()


# ---- what is seen


@pytest.mark.parametrize("obs", ["pixels", "auto"])
def test_stored_rows_are_seen_as_they_were_when_it_acted(obs, tmp_path):
    """The stack that a policy builds step by step, and the one that is built of rows; across episodes' ends."""
    _, table = collected(tmp_path, "dqn", obs=obs, steps=60)
    frames = Frames(table.obs_space, stack=3)
    everything = every_row(table)
    kept, acted = frames.initial(N, CPU), []
    for t in range(everything.rew.shape[1]):
        seen, kept = frames.push({k: v[:, t] for k, v in everything.obs.items()}, everything.is_first[:, t], kept)
        acted.append(seen)
    acted = torch.stack(acted, 1)
    assert torch.equal(frames.of_rows(table.gather(frames.rows(everything.rows.numpy()[:, 4:], 0, N))), acted[:, 4:])
    assert torch.equal(frames.of_rows(table.gather(frames.rows(everything.rows.numpy(), 0, N))), acted)
    picture, vector = frames.unpacked(acted[:, 9])
    assert picture.shape == (N, 9, 16, 16)
    assert torch.equal(picture[:, -3:].byte(), everything.obs["image"][:, 9])
    assert vector is None or torch.equal(vector, everything.obs["vector"][:, 9])


@pytest.mark.parametrize("size", [(8, 8), (10, 10), (16, 16), (36, 40), (64, 64), (84, 84)])
def test_pictures_of_many_sizes_fit(size):
    space = spaces.Dict(image=spaces.Box(0, 255, (3, *size), np.uint8))
    one = build("dqn", space, spaces.Discrete(2))
    act, state, _ = one.policy(False)(
        {"image": torch.zeros(1, 3, *size, dtype=torch.uint8)}, torch.tensor([True]), one.policy(False).initial(1)
    )
    assert act.shape == (1,)
    assert state.frames.shape == (1, 2, 3, *size)


# ---- returns


def test_n_step_targets_are_their_definition(tmp_path):
    gamma, n = 0.9, 3
    agent, table = collected(tmp_path, "dqn", obs="vector", discount=gamma, n_step=n, epsilon_steps=1)
    rows = agent.draw(table, 64)
    batch, _ = rows.sample(None)
    everything = every_row(table)
    torch.nn.init.normal_(agent.algorithm.model_old.module.last.model[-1].weight)  # two networks that disagree
    flat = {(int(o[0]), int(o[1])): i for i, o in enumerate(everything.obs["vector"].flatten(0, 1))}
    follow = everything.rew.shape[1]
    want = []
    for obs in batch.obs:
        stream, t = divmod(flat[int(obs[0]), int(obs[1])], follow)
        total, k = 0.0, 0
        while k < n and not everything.is_last[stream, t + k]:
            k += 1
            total += gamma ** (k - 1) * float(everything.rew[stream, t + k])
        if not everything.is_terminal[stream, t + k]:
            there = everything.obs["vector"][stream, t + k][None]
            with torch.no_grad():
                best = agent.algorithm.policy.model(there)[0].argmax()
                total += gamma**k * float(agent.algorithm.model_old(there)[0][0, best])
        want.append(total)
    tianshou.update(agent.algorithm, rows)
    torch.testing.assert_close(rows.learned.returns.flatten(), torch.tensor(want), rtol=1e-4, atol=1e-4)


def test_advantages_are_gae_by_its_definition(tmp_path):
    """Summed step by step; a time limit is bootstrapped from what was seen there, a true end is not."""
    gamma, trace = 0.9, 0.7
    agent, table = collected(tmp_path, "ppo", obs="vector", discount=gamma, trace=trace)
    everything = every_row(table)
    value = agent.algorithm.critic(everything.obs["vector"].flatten(0, 1)).detach().unflatten(0, (N, -1))[..., 0]
    want = []
    for stream in range(N):
        ahead, found = 0.0, []
        for t in range(everything.rew.shape[1] - 2, -1, -1):
            if everything.is_last[stream, t]:
                continue
            after = 0.0 if everything.is_terminal[stream, t + 1] else float(value[stream, t + 1])
            delta = float(everything.rew[stream, t + 1]) + gamma * after - float(value[stream, t])
            ahead = delta + gamma * trace * (0.0 if everything.is_last[stream, t + 1] else ahead)
            found.append(ahead)
        want += found[::-1]
    rows = agent.rollout(table)
    tianshou.update(agent.algorithm, rows, batch_size=32, repeat=1)
    torch.testing.assert_close(rows.learned.adv, torch.tensor(want), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(rows.learned.returns, rows.learned.adv + rows.learned.v_s)


# ---- learning

SPACES = {
    "dqn": ["tiny/Count"],
    "ppo": ["tiny/Count", "tiny/CountContinuous"],
    "sac": ["tiny/Count", "tiny/CountContinuous"],
}


@pytest.mark.parametrize(("name", "id"), [(name, id) for name, ids in SPACES.items() for id in ids])
@pytest.mark.parametrize("obs", ["auto", "pixels", "vector"])
def test_it_learns_from_all_that_can_be_seen_and_done(name, id, obs, tmp_path):
    agent, table = collected(tmp_path, name, id, obs)
    before = {k: [p.clone() for p in part.parameters()] for k, part in agent.parts.items()}
    found = agent.learn(table)
    assert all(math.isfinite(float(v)) for v in found.values()), found
    assert {"value", "gradient_norm"} <= found.keys()
    for part, old in before.items():
        moved = any(not torch.equal(p, q) for p, q in zip(agent.parts[part].parameters(), old, strict=True))
        want = part != "target"  # which is a copy still; slow critics follow at once
        assert moved == want or obs != "pixels", part  # counts as large as these saturate a choice at once
    for part in getattr(agent, "copies", ()):
        assert all(p.grad is None for p in agent.parts[part].parameters()), f"gradients reached {part}"


def test_targets_follow_when_they_are_due(tmp_path):
    agent, table = collected(tmp_path, "dqn", target_every=3)
    equal = []
    for _ in range(5):
        before = [p.clone() for p in agent.parts["values"].parameters()]
        agent.learn(table)
        equal.append(all(torch.equal(p, q) for p, q in zip(agent.parts["target"].parameters(), before, strict=True)))
    assert equal == [True, False, False, True, False]  # a copy of what the network was when the update began


def test_exploration_falls_with_the_steps():
    agent = build("dqn", spaces.Dict(vector=spaces.Box(-1, 1, (3,))), spaces.Discrete(4), epsilon=0.1, every=4.0)
    agent.config = dataclasses.replace(agent.config, epsilon_steps=100)
    shares = []
    for agent.updates in (0, 10, 25, 1000):
        shares.append(agent.epsilon)
    assert shares == pytest.approx([1.0, 0.64, 0.1, 0.1])
    obs = {"vector": torch.zeros(4000, 3)}
    act, *_ = agent.policy(explore=True)(obs, torch.ones(4000, dtype=torch.bool), ())
    best, *_ = agent.policy(explore=False)(obs, torch.ones(4000, dtype=torch.bool), ())
    assert float((act != best).float().mean()) == pytest.approx(0.1 * 3 / 4, abs=0.02)
    assert len(best.unique()) == 1


@pytest.mark.parametrize("name", ["ppo", "sac"])
def test_actions_keep_within_bounds_and_rows_keep_what_was_drawn(name, tmp_path):
    space = spaces.Box(np.array([-2, 0], np.float32), np.array([4, 1], np.float32))
    agent = build(name, spaces.Dict(vector=spaces.Box(-1, 1, (3,))), space)
    obs, first = {"vector": torch.randn(500, 3)}, torch.ones(500, dtype=torch.bool)
    act, _, columns = agent.policy(explore=True)(obs, first, ())
    assert space.contains(act.amin(0).numpy())
    assert space.contains(act.amax(0).numpy())
    assert act.std(0).min() > 0.1
    if name == "ppo":
        assert (columns["raw"].abs() > 1).any()
        assert torch.equal(agent.acts.emit(columns["raw"]), act)
    else:
        assert not columns
        torch.testing.assert_close(agent.acts.emit(agent.acts.seen(act)), act)
    again = [agent.policy(explore=False)(obs, first, ())[0] for _ in range(2)]
    assert torch.equal(*again)
    agent.evaluation = "sample"
    assert not torch.equal(agent.policy(explore=False)(obs, first, ())[0], again[0])


# ---- runs


def stop_at(trainer, step):
    real = trainer._after

    def after(phase):
        trainer.stop = trainer.step >= step
        real(phase)

    trainer._after = after


@pytest.mark.parametrize("name", list(MODULES))
def test_interrupted_it_ends_as_if_it_had_not_been(name, tmp_path):
    """Weights, targets, moments, counts and rows, bit for bit; stopped twice, once in the middle of an episode."""
    kept_too = {"ppo": {"scale_returns": True}, "dqn": {"anneal": True}, "sac": {}}
    config = dataclasses.replace(SMALL[name], **kept_too[name])
    ends = []
    for cuts in ([], [50, 97]):
        folder = tmp_path / str(len(cuts))
        for at in [*cuts, None]:
            torch.manual_seed(len(ends))  # whatever the process has drawn before
            np.random.seed(len(ends))
            trainer, agent, experience = start(folder, config=config, module=MODULES[name])
            assert (trainer.restore() is None) == (at == (cuts or [None])[0])
            if at is None:
                trainer.train()
            else:
                stop_at(trainer, at)
                with pytest.raises(Stopped):
                    trainer.train()
        ends.append((weights(agent), agent.state_dict(), every_row(experience), agent))
    (one, state, rows, agent), (two, other, again, _) = ends
    assert torch.equal(one, two)
    assert agent.updates > 2
    assert json.dumps(state["learning"], default=str) == json.dumps(other["learning"], default=str)
    for part, moments in state["optimizers"].items():
        for key, values in moments.items():
            for k, value in values.items():
                assert torch.equal(value, other["optimizers"][part][key][k])
    assert torch.equal(rows.obs["image"], again.obs["image"])
    assert torch.equal(rows.act, again.act)


@pytest.mark.parametrize("name", list(MODULES))
def test_by_its_command_it_trains_is_scored_and_filmed(name, tmp_path, capsys):
    run = str(tmp_path / "run")
    argv = ["train", name, "--env", "tiny/Catch", "--preset", "smoke", "--run", run, "--env.no-workers"]
    assert main(argv) == 0
    if name == "dqn":  # what is the same for all, once
        assert main(["evaluate", run, "--episodes", "2", "--video"]) == 0
        assert list(Path(run).glob("videos/*.mp4"))
        capsys.readouterr()
        assert main(["plan", *argv[1:6], "--env.no-workers", "--json"]) == 0
        optimised = json.loads(capsys.readouterr().out)["parameters"]["total"]
    lines = [json.loads(line) for line in Path(run, "metrics.jsonl").read_text().splitlines()]
    if name == "dqn":
        assert {line["run/parameters"] for line in lines if "run/parameters" in line} == {optimised}
    keys = {key for line in lines for key in line}
    assert {"train/ret", "train/value", "train/gradient_norm"} <= keys
    assert {"dqn": "train/epsilon", "ppo": "train/policy_entropy", "sac": "train/alpha"}[name] in keys
    if name == "ppo":
        assert main([*argv, "--steps", "200"]) == 0  # more steps go on with it
    capsys.readouterr()
    assert main(["dream", run]) == 2
    assert "no world model" in capsys.readouterr().err


def test_scores_say_how_actions_were_chosen(tmp_path):
    run = str(tmp_path / "run")
    assert main(["train", "dqn", "--env", "tiny/Catch", "--preset", "smoke", "--run", run, "--env.no-workers",
                 "--agent.eval-epsilon", "0.25"]) == 0  # fmt: skip
    [score] = [json.loads(path.read_text()) for path in Path(run).glob("evaluations/*.json")]
    assert score["protocol"]["epsilon"] == 0.25


@pytest.mark.parametrize(("name", "preset"), [(n, p) for n in MODULES for p in agents.presets(n)])
def test_every_preset_learns_for_a_few_steps(name, preset, tmp_path):
    """With its networks; of pictures, or of numbers where that is what it is for."""
    chosen = agents.preset(name, preset)
    changes = {"prefill": 20, "batch": 4} if name != "ppo" else {"rollout": 24, "minibatch": 8, "epochs": 1}
    config = MODULES[name].Config(**{**chosen["agent"], **changes, "hidden": tuple(chosen["agent"]["hidden"])})
    h, w = chosen["env"].get("size", (64, 64))
    channels = 1 if chosen["env"].get("grey") else 3
    numbers = preset in ("vectors", "pendulum", "lunar-lander")
    space = spaces.Box(-1, 1, (4,), np.float32) if numbers else spaces.Box(0, 255, (channels, h, w), np.uint8)
    obs_space = spaces.Dict({"vector" if numbers else "image": space})
    boxed = preset in ("pendulum",) or (preset == "car-racing" and name != "dqn")
    act_space = spaces.Box(-1, 1, (2,), np.float32) if boxed else spaces.Discrete(3)
    run = RunConfig(envs=2)
    agent = MODULES[name].build(config, obs_space, act_space, COMPUTE, 0, run)
    table = Experience(Replay(tmp_path, 2), obs_space, act_space, CPU)
    policy, state = agent.policy(explore=True), agent.policy(explore=True).initial(2)
    rng = np.random.default_rng(0)
    for t in range(12):
        obs = {k: rng.integers(0, 255, (2, *s.shape)).astype(s.dtype) for k, s in obs_space.spaces.items()}
        first = np.full(2, t in (0, 6))
        act, state, columns = policy({k: torch.from_numpy(v) for k, v in obs.items()}, torch.from_numpy(first), state)
        flags = {"is_first": first, "is_last": np.full(2, t == 5), "is_terminal": np.array([t == 5, False])}
        table.replay.append(
            {**obs, "act": act.numpy(), "rew": np.ones(2, np.float32), **flags}
            | {k: v.numpy() for k, v in columns.items()}
        )
    assert all(math.isfinite(float(v)) for v in agent.learn(table).values())


# ---- refusals

NUMBERS = spaces.Dict(vector=spaces.Box(-1, 1, (3,), np.float32))


@pytest.mark.parametrize(
    ("name", "obs_space", "act_space", "words"),
    [
        ("dqn", NUMBERS, spaces.Box(-1, 1, (2,), np.float32), "ppo and sac act there"),
        ("dqn", NUMBERS, spaces.MultiDiscrete([2, 3]), "MultiDiscrete"),
        ("ppo", NUMBERS, spaces.MultiDiscrete([2, 3]), "the Dreamers choose several"),
        ("sac", NUMBERS, spaces.Box(-np.inf, np.inf, (2,), np.float32), "between bounds"),
        ("ppo", spaces.Dict(image=spaces.Box(0, 255, (3, 6, 64), np.uint8)), spaces.Discrete(2), "at least 8 by 8"),
    ],
)
def test_what_it_cannot_act_on_is_refused(name, obs_space, act_space, words):
    with pytest.raises(UserError, match=words):
        build(name, obs_space, act_space)


def test_other_precisions_are_refused():
    with pytest.raises(UserError, match="fp32"):
        dqn.build(SMALL["dqn"], NUMBERS, spaces.Discrete(2), Compute(CPU, bf16=True), 0, RunConfig())


@pytest.mark.parametrize("name", list(MODULES))
def test_recordings_are_learned_from_where_that_makes_sense(name):
    agent = build(name, NUMBERS, spaces.Discrete(2))
    whole = Recorded(rows=100, actions=True, rewards=True, ends=True, env=False)
    if name == "ppo":
        with pytest.raises(UserError, match="recordings are another's doing"):
            agent.learn_from(whole)
        return
    agent.learn_from(whole)
    [phase] = agent.phases()
    assert phase.act is None
    assert phase.rounds == int(SMALL[name].steps / SMALL[name].every)
    with pytest.raises(UserError, match="have no rewards"):
        agent.learn_from(whole._replace(rewards=False))


@pytest.mark.parametrize(
    ("name", "config", "run", "words"),
    [
        ("dqn", {}, {"steps": 40}, "before the first update"),
        ("sac", {}, {"steps": 45}, "before the first update"),
        ("ppo", {}, {"steps": 39}, "less than one rollout"),
        ("ppo", {}, {"envs": 16}, "too short for 16"),
        ("ppo", {}, {"capacity": 60}, "does not hold a rollout"),
    ],
)
def test_budgets_that_cannot_be_are_refused(name, config, run, words):
    with pytest.raises(UserError, match=words):
        MODULES[name].budget(dataclasses.replace(SMALL[name], **config), RunConfig(**run))


@pytest.mark.parametrize(
    ("name", "wrong"),
    [("dqn", {"epsilon": 1.5}), ("dqn", {"huber": 0.0}), ("ppo", {"clip": 0.0}), ("ppo", {"trace": 2.0}),
     ("sac", {"alpha": 0.0}), ("sac", {"hidden": ()})],
)  # fmt: skip
def test_settings_are_checked(name, wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        dataclasses.replace(SMALL[name], **wrong)


def test_without_the_library_it_says_what_to_install(monkeypatch):
    monkeypatch.delitem(sys.modules, "dreamlab.nn.tianshou")
    monkeypatch.setitem(sys.modules, "tianshou.algorithm", None)
    with pytest.raises(UserError, match=r"pip install 'dreamlab\[baselines\]'"):
        importlib.import_module("dreamlab.nn.tianshou")


# ---- inside a dream


@pytest.fixture(scope="module")
def dreamer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dreamer") / "run"
    assert main(["train", "world-models", "--preset", "smoke", "--run", str(folder), "--env.no-workers"]) == 0
    return folder


def test_it_trains_in_a_dream_and_is_scored_in_the_real_one(dreamer, tmp_path, capsys):
    run = tmp_path / "run"
    argv = ["train", "ppo", "--env", f"dream:{dreamer}", "--run", str(run), "--agent.rollout", "64", "--envs", "4",
            "--eval-episodes", "4", "--agent.epochs", "1", "--env.time-limit", "9"]  # fmt: skip
    assert main([*argv, "--steps", "128"]) == 0
    [in_dream] = [json.loads(path.read_text()) for path in run.glob("evaluations/*.json")]
    assert in_dream["env"] == f"dream:{dreamer}"
    assert in_dream["protocol"]["env"]["checkpoint"] is not None
    assert main(["evaluate", str(run), "--env", "tiny/Catch", "--episodes", "4", "--video"]) == 0
    [real] = [json.loads(path.read_text()) for path in run.glob("evaluations/*tiny-Catch.json")]
    assert real["env"] == "tiny/Catch"
    assert real["protocol"]["trained_in"] == f"dream:{dreamer}"
    assert set(real["lengths"]) == {7}
    capsys.readouterr()
    assert main(["evaluate", str(run), "--env", "CartPole-v1"]) == 2
    assert "it was not dreamt of there" in capsys.readouterr().err
    assert main(["train", "ppo", "--env", f"dream:{run}", "--run", str(tmp_path / "other")]) == 2
    assert "no world model to dream in" in capsys.readouterr().err
    assert main(["train", "ppo", "--env", "dream:nowhere", "--run", str(tmp_path / "other")]) == 2
    assert "holds no run" in capsys.readouterr().err


def test_a_dream_depends_on_its_seed_alone(dreamer):
    config = dataclasses.replace(envs.default_config(f"dream:{dreamer}"), time_limit=5)
    with_others, alone = envs.make(config, 3, seed=4), envs.make(config, 1, seed=4)
    first, _ = with_others.reset(options={"seeds": [5, 6, 7]})
    second, _ = alone.reset(options={"seeds": [5]})
    for t in range(4):
        assert np.array_equal(first["image"][0], second["image"][0])
        first, *_ = with_others.step(np.array([t % 3, 0, 1]))
        torch.rand(1)  # whoever else draws
        second, *_ = alone.step(np.array([t % 3]))
    with_others.close()
    alone.close()


def test_only_what_may_open_runs_opens_dreams(dreamer, monkeypatch):
    from dreamlab.envs import dream

    monkeypatch.setattr(dream, "opener", None)
    with pytest.raises(UserError, match=r"dreamlab\.make_env"):
        envs.spaces_of(envs.default_config(f"dream:{dreamer}"))
    with pytest.raises(ValueError, match="time_limit"):
        dream.Config(id="dream:x", time_limit=None)
