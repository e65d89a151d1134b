"""DreamerV3 among its rows: the states that stand beside them, and a run that is broken off and goes on."""

from __future__ import annotations

import math
from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch
from dreamer_v3_tiny import ACTS, Table, build, shaken, weights
from test_toy_agent import _plain, _stop_at, start

from dreamlab import agents
from dreamlab.agents import dreamer_v3
from dreamlab.core.imagination import leaves
from dreamlab.core.sampling import StreamWindows
from dreamlab.dream.prediction import map_batch
from dreamlab.nn import world_model
from dreamlab.run.trainer import Stopped

CPU = torch.device("cpu")


def act_through(agent, table, noise, monkeypatch):
    """Let its policy act at every row, with this noise; actions and columns go into the table."""
    ids = np.arange(table.stop * 2).reshape(-1, 2)
    rows, policy = table.gather(ids.T), agent.policy(explore=True)
    state, emitted, columns = policy.initial(2), [], []
    for t in range(table.stop):
        monkeypatch.setattr(agent.model.dynamics.latents, "noise", lambda *lead, device, t=t: noise[:, t : t + 1])
        act, state, kept = policy({k: v[:, t] for k, v in rows.obs.items()}, rows.is_first[:, t], state)
        assert all(table.space.contains(a) for a in act.numpy())
        emitted.append(act)
        columns.append(kept)
    table.columns["act"] = torch.stack(emitted).flatten(0, 1)
    table.annotate(ids, **{k: torch.stack([kept[k] for kept in columns]) for k in columns[0]})
    return table.gather(ids.T)


@pytest.mark.parametrize("act", ACTS)
def test_learning_finds_the_states_that_the_policy_left_in_the_rows(act, monkeypatch):
    """With the same noise: rows, resets and the actions that led to them are aligned the same way in both."""
    agent, table = shaken(build(act, warmup=10**9)), Table(act)  # a learning rate of nothing
    z, model = agent.model.dynamics.latents, agent.model
    fresh = z.noise
    noise = fresh(2, table.stop, device=CPU)
    rows = act_through(agent, table, noise, monkeypatch)

    monkeypatch.setattr(z, "noise", lambda *lead, device: noise)
    whole = world_model.packed(model, model.observe(rows))
    torch.testing.assert_close(whole["deter"], rows.extras["deter"], rtol=0, atol=2e-3)
    assert torch.equal(whole["stoch"], rows.extras["stoch"])

    for begin in (0, 9, 17, 30):
        given = noise[:, begin + 1 : begin + 7]
        monkeypatch.setattr(
            z, "noise", lambda *lead, device, x=given: x if lead == (2, 6) else fresh(*lead, device=device)
        )
        monkeypatch.setattr(agent, "windows", lambda index, n, length, t=begin: rows.rows[:, t : t + length].numpy())
        agent.fresh = None
        agent.learn(table)
        written, columns = agent.fresh
        assert torch.equal(torch.as_tensor(written), rows.rows[:, begin + 1 : begin + 7])
        want = table.gather(written).extras
        torch.testing.assert_close(columns["deter"], want["deter"], rtol=0, atol=5e-3)
        assert torch.equal(columns["stoch"], want["stoch"])


def test_an_update_s_states_are_where_the_next_window_over_them_begins(monkeypatch):
    agent, table, seen = shaken(build()), Table(), []
    losses, at = agent.losses, iter((4, 7, 4))
    monkeypatch.setattr(agent, "losses", lambda *args: seen.append(args) or losses(*args))
    monkeypatch.setattr(
        agent, "windows", lambda index, n, length: (next(at) + np.arange(length)) * 2 + np.arange(n)[:, None]
    )
    agent.learn(table)
    assert "deter" not in table.columns  # written with the next update
    assert (seen[0][2].deter == 0).all()
    rows, fresh = agent.fresh
    assert rows[:, 2].tolist() == [14, 15]
    agent.learn(table)
    batch, act, start = seen[1]
    torch.testing.assert_close(start, world_model.unpacked(agent.model, {k: v[:, 2] for k, v in fresh.items()}, 2, CPU))
    assert batch.rows[:, 0].tolist() == [16, 17]
    assert torch.equal(act, table.gather(np.arange(14, 26).reshape(-1, 2).T).act)  # chosen in the row before each
    agent.learn(table)
    assert (seen[2][2].deter == 0).all()  # row 4 was only ever context


def test_states_of_rows_that_the_ring_dropped_are_not_written():
    agent, table = shaken(build()), Table()
    agent.learn(table)
    rows, fresh = agent.fresh
    table.start = 4
    agent.windows = StreamWindows(0)
    agent.learn(table)
    left = torch.as_tensor(rows) >= 8
    assert left.any()
    assert not left.all()
    assert torch.equal(table.columns["stoch"][torch.as_tensor(rows)[left]], fresh["stoch"][left])
    assert (table.columns["stoch"][:8] == 0).all()


# ---- windows that are looked at


def given(model, noise, monkeypatch):
    """Have the model observe rows (B, T) with this noise (B, T, ...): at once, or the first row and then the rest."""
    drawn = lambda *lead, device: noise[:, :1] if lead[1] == 1 else noise[:, -lead[1] :]  # noqa: E731
    monkeypatch.setattr(model.dynamics.latents, "noise", drawn)


@pytest.mark.parametrize("act", ACTS)
def test_a_window_is_observed_as_its_episode_is_from_the_first_row_on(act, monkeypatch):
    """Wherever it begins: the h in its first row stands for all that was seen before, which is forgotten without it."""
    torch.manual_seed(0)
    agent, table = shaken(build(act)), Table(act)
    model = agent.model
    noise = model.dynamics.latents.noise(2, table.stop, device=CPU)
    rows = act_through(agent, table, noise, monkeypatch)
    given(model, noise, monkeypatch)
    whole, within = model.observe(rows._replace(extras={})), 0
    for begin in range(table.stop - 6):
        batch = table.window(begin)
        given(model, noise[:, begin : begin + 6], monkeypatch)
        found, empty = model.observe(batch), model.observe(batch._replace(extras={}))
        torch.testing.assert_close(found.deter, whole.deter[:, begin : begin + 6], rtol=0, atol=5e-3)
        assert torch.equal(found.stoch, whole.stoch[:, begin : begin + 6])
        known = model.remembers(batch)
        assert torch.equal(known, ~batch.is_first[:, 0])
        torch.testing.assert_close(empty.deter[~known], found.deter[~known])
        assert ((empty.deter - found.deter)[known, 0].abs().amax(-1) > 0.01).all()
        within += int(known.sum())
    assert within > 20


def test_what_is_stored_at_an_episode_s_first_row_or_was_never_written_changes_nothing(monkeypatch):
    """Beside a window that does begin with a stored state, too; one row alone is enough."""
    agent, table = shaken(build()), Table()
    model, first = agent.model, table.columns["is_first"].view(-1, 2)
    both = int((first.all(1) & (torch.arange(40) < 30)).nonzero()[-1])
    mixed = int((first[:30, 0] & ~first[:30, 1]).nonzero()[0])

    def from_nothing(batch):
        torch.manual_seed(3)
        act, embed = world_model.led_to(model.actions.seen(batch.act)), model.encoder(batch.obs)
        return model.dynamics.observe(embed, act, batch.is_first, model.dynamics.initial(2, CPU)).state

    def observed(batch):
        torch.manual_seed(3)
        return model.observe(batch)

    def beside(batch, *deter):
        columns = {"deter": torch.zeros(2, 6, 32).half(), "stoch": torch.zeros(2, 6, 3, dtype=torch.uint8)}
        for row, value in enumerate(deter):
            columns["deter"][row, 0] = value
        return batch._replace(extras=columns)

    within = int((~first.any(1)).nonzero()[0])
    for begin, *stored in ((both, 0.9, -0.9), (mixed, 0.9, 0), (within, 0, 0)):
        batch = table.window(begin)
        for want, plain, found in zip(
            from_nothing(batch), observed(batch), observed(beside(batch, *stored)), strict=True
        ):
            assert torch.equal(plain, want)
            assert torch.equal(found, want)

    batch = table.window(mixed)
    given(model, model.dynamics.latents.noise(2, 6, device=CPU), monkeypatch)
    plain, found = model.observe(batch), model.observe(beside(batch, 0.9, 0.5))
    assert model.remembers(beside(batch, 0.9, 0.5)).tolist() == [False, True]
    torch.testing.assert_close(found.deter[0], plain.deter[0])
    assert (found.deter[1, 0] == 0.5).all()
    wide = beside(batch)._replace(extras={"deter": torch.ones(2, 6, 7).half()})  # of a model of another size
    torch.testing.assert_close(model.observe(wide).deter, plain.deter)
    short = model.observe(map_batch(beside(batch, 0.9, 0.5), lambda x: x[:, :1]))
    assert torch.equal(short.deter, found.deter[:, :1])


def test_an_evaluated_policy_leaves_nothing_in_rows_and_may_take_the_likeliest():
    agent, batch = shaken(build(evaluation="mode")), Table().window()
    policy = agent.policy(explore=False)
    obs = {k: v[:, 0].expand(400, *v.shape[2:]) for k, v in batch.obs.items() for v in [v[:1]]}
    state = policy.initial(400)
    act, after, columns = policy(obs, torch.ones(400, dtype=torch.bool), state)
    assert columns == {}
    assert torch.equal(act, agent.actor(after.state.feat).argmax(-1))
    sampled, *_ = build(evaluation="sample").policy(explore=False)(obs, torch.ones(400, dtype=torch.bool), state)
    assert len(sampled.unique()) == 3


# ---- going on


def test_a_state_dict_brings_everything_back():
    """In the middle of training, with states found and not yet written: the updates that follow are bit for bit."""
    one, table = shaken(build()), Table()
    for _ in range(3):
        one.learn(table)
    two, other = build(seed=5), table.copy()
    two.load_state_dict(deepcopy(one.state_dict()))
    told = []
    for agent, rows in ((one, table), (two, other)):
        torch.manual_seed(7)
        told.append([float(agent.learn(rows)["loss"]) for _ in range(3)])
    assert told[0] == told[1]
    assert torch.equal(weights(one), weights(two))
    assert torch.equal(one.range.ends, two.range.ends)
    for p, q in zip(one.optimized, two.optimized, strict=True):
        assert all(torch.equal(one.optimizer.state[p][k], two.optimizer.state[q][k]) for k in ("step", "v", "m"))
    assert all(torch.equal(v, other.columns[k]) for k, v in table.columns.items())


SMOKE = agents.preset("dreamer-v3", "smoke")["agent"]
QUICK = replace(dreamer_v3.Config(**SMOKE | {"mults": tuple(SMOKE["mults"])}), steps=110, prefill=40, ratio=12.0)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    torch.manual_seed(0)
    trainer, agent, experience = start(tmp_path_factory.mktemp("v3"), config=QUICK, module=dreamer_v3)
    counts, after = [], trainer._after

    def watched(phase):
        count = trainer.progress.of(phase)
        counts.append((phase.name, count.env_steps, count.rounds))
        after(phase)

    trainer._after = watched
    assert trainer.restore() is None
    trainer.train()
    return trainer, agent, experience, counts


def test_updates_keep_up_with_the_train_ratio(trained):
    learned = [(n, updates) for name, n, updates in trained[3] if name == "train"]
    assert learned[-1] == (70, 26)
    assert max(abs(updates - math.floor(n * QUICK.ratio / (QUICK.batch * QUICK.length))) for n, updates in learned) <= 1
    assert [n for name, n, updates in trained[3] if name == "prefill"][-1] == 40


def test_it_tells_of_every_loss_and_shows_what_it_imagines(trained):
    trainer, _, experience, _ = trained
    told = {key: value for group, metrics in trainer.log.lines if group == "train" for key, value in metrics.items()}
    names = ("image", "rew", "con", "dyn", "rep", "policy", "value", "replay_value")
    assert {f"loss/{name}" for name in names} | {
        "kl",
        "return_scale",
        "policy_entropy",
        "open_loop_error",
        "reward_told",
        "reward_foreseen",
        "end_foreseen",
    } <= told.keys()
    assert all(math.isfinite(v) for v in told.values() if not isinstance(v, torch.Tensor))
    assert told["open_loop"].shape[1] == 3
    assert {"deter", "stoch"} <= experience.replay.columns.keys()


@pytest.mark.parametrize("at", [("prefill", 20), ("train", 31)])
def test_interrupted_anywhere_it_ends_with_the_same_weights(trained, tmp_path, at):
    """Stopped by the user and started again as if by a new process: weights, moments and rows bit for bit."""
    torch.manual_seed(1)
    trainer, *_ = start(tmp_path, config=QUICK, module=dreamer_v3)
    trainer.restore()
    _stop_at(trainer, *at)
    with pytest.raises(Stopped):
        trainer.train()
    torch.manual_seed(99)
    again, agent, experience = start(tmp_path, config=QUICK, module=dreamer_v3)
    assert again.restore() is not None
    again.train()
    assert torch.equal(weights(agent), weights(trained[1]))
    assert torch.equal(agent.range.ends, trained[1].range.ends)
    rows = np.arange(experience.index.stop * 2)[None]
    for one, two in zip(leaves(_plain(experience.gather(rows))), leaves(_plain(trained[2].gather(rows))), strict=True):
        assert torch.equal(one, two)
