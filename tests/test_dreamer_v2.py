"""DreamerV2: its losses, its returns, where gradients go, what it samples, and that it trains."""

from __future__ import annotations

import dataclasses
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from gymnasium import spaces
from test_toy_agent import COMPUTE, start

from dreamlab import agents
from dreamlab.agents import dreamer_v2
from dreamlab.agents.dreamer_v2 import Config, Dream, actor_loss, discounts, imagined_returns, kl_loss, pieces
from dreamlab.core.sampling import EpisodePieces
from dreamlab.core.types import Batch, Episodes, Recorded
from dreamlab.nn import cells, latents, optim, reports, rssm
from dreamlab.nn.blocks import Elu
from dreamlab.nn.distributions import OneHots, TruncatedNormal, symexp, symlog
from dreamlab.run.config import RunConfig

SMALL = Config(**agents.preset("dreamer-v2", "smoke")["agent"])
IMAGE = spaces.Dict(image=spaces.Box(0, 255, (3, 16, 16), np.uint8))
VECTOR = spaces.Dict(vector=spaces.Box(-5, 5, (4,), np.float32))
THREE, BOX = spaces.Discrete(3), spaces.Box(-2, 2, (2,), np.float32)


def agent(act_space=THREE, obs_space=IMAGE, **changes):
    return dreamer_v2.build(dataclasses.replace(SMALL, **changes), obs_space, act_space, COMPUTE, 0, RunConfig())


def rows(one, n=4, length=8, seed=0):
    """Random rows that one episode's end, a terminal one, lies in the middle of."""
    rng = torch.Generator().manual_seed(seed)
    size, discrete = one.model.actions.size, bool(one.model.actions.groups)
    flags = torch.zeros(3, n, length, dtype=torch.bool)
    flags[0, :, [0, 4]] = flags[1, :, 3] = flags[2, :2, 3] = True
    chosen = torch.randint(size, (n, length), generator=rng)
    act = torch.nn.functional.one_hot(chosen, size).float()
    return Batch(
        obs={
            "image": torch.randint(256, (n, length, 3, 16, 16), generator=rng, dtype=torch.uint8),
            "vector": torch.randn(n, length, 4, generator=rng),
        },
        act=act if discrete else 4 * torch.rand(n, length, size, generator=rng) - 2,
        rew=torch.randn(n, length, generator=rng) * ~flags[0],
        is_first=flags[0], is_last=flags[1], is_terminal=flags[2],
        mask=torch.ones(n, length, dtype=torch.bool),
        rows=torch.arange(n)[:, None] + n * torch.arange(length),
        extras={},
    )  # fmt: skip


def dream(h=6, n=5, seed=0):
    rng = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(*shape, generator=rng)  # noqa: E731
    act = torch.nn.functional.one_hot(torch.randint(3, (h, n), generator=rng), 3).float()
    return Dream(draw(h + 1, n, 4), act, draw(h + 1, n), torch.rand(h + 1, n, generator=rng), draw(h + 1, n))


def moved(parts):
    """Which of the parts have gradients other than zero."""
    return {k for k, part in parts.items() if any(p.grad is not None and p.grad.any() for p in part.parameters())}


# ---- the world model


def test_the_papers_parameters():
    config = Config(**agents.preset("dreamer-v2", "atari")["agent"])
    grey = spaces.Dict(image=spaces.Box(0, 255, (1, 64, 64), np.uint8))
    with torch.device("meta"):
        one = dreamer_v2.build(config, grey, spaces.Discrete(18), COMPUTE, 0, RunConfig())
    count = lambda net: sum(p.numel() for p in net.parameters() if p.requires_grad)  # noqa: E731
    assert [count(net) for net in (one.model, one.actor, one.critic, one.target)] == [
        19_975_379,
        1_138_418,
        1_131_601,
        0,
    ]


def test_kl_is_the_kl_and_its_gradients_are_balanced():
    z = latents.Categorical(3, 4)
    raw = torch.randn(2, 5, 12, requires_grad=True), torch.randn(2, 5, 12, requires_grad=True)
    plain = z.kl(z.stats(raw[0]), z.stats(raw[1])).mean()
    to_post, to_prior = torch.autograd.grad(plain, raw)
    ours = kl_loss(z, z.stats(raw[0]), z.stats(raw[1]), 0.8, 0.0)
    found = torch.autograd.grad(ours, raw)
    torch.testing.assert_close(ours, plain)
    torch.testing.assert_close(found, (0.2 * to_post, 0.8 * to_prior))
    free = kl_loss(z, z.stats(raw[0]), z.stats(raw[1]), 0.8, float(plain.detach()) + 0.1)
    assert not any(g.any() for g in torch.autograd.grad(free, raw)), "below free nats nothing moves"


def test_the_cell_keeps_its_state():
    cell, h = cells.NormGRU(4, 2, 6, 8, lambda units: Elu()), torch.randn(3, 6)
    with torch.no_grad():
        for p in (*cell.gates.parameters(), *cell.norm.parameters()):
            p.zero_()
        args = torch.randn(3, 4), cell.acts(torch.randn(3, 2), torch.ones(3, 1))
        torch.testing.assert_close(cell.begin(torch.float32)(h, *args), torch.sigmoid(torch.tensor(1.0)) * h)
        cell.norm.offset[12:] = -1e4  # the update's logits
        torch.testing.assert_close(cell.begin(torch.float32)(h, *args), h)


def test_world_losses_reach_the_world_model_alone():
    one = agent()
    losses, *_ = one.world_losses(rows(one), torch.float32)
    assert losses.keys() == {"image", "kl", "rew", "con"}
    torch.stack([loss.mean() for loss in losses.values()]).sum().backward()
    assert moved(one.parts) == {"encoder", "dynamics", "decoder", "reward", "continuation"}


def test_rewards_may_be_transformed():
    rew = torch.tensor([-30.0, -0.5, 0.0, 2.0])
    for name, learned, counted in (
        ("identity", rew, rew), ("tanh", rew.tanh(), rew.tanh()), ("symlog", symlog(rew), symexp(symlog(rew))),
    ):  # fmt: skip
        part = dreamer_v2.transform(Config(reward_transform=name))
        torch.testing.assert_close(part.learned(rew), learned)
        torch.testing.assert_close(part.counted(rew), counted)
        torch.testing.assert_close(part.told(part.learned(rew[1:])), rew[1:], rtol=1e-4, atol=1e-6)


# ---- behaviour


def test_returns_and_weights_are_their_definitions():
    d, trace = dream(), 0.9
    ret, weight = imagined_returns(d, trace)
    want = [d.val[-1]]
    for k in reversed(range(6)):
        want.insert(0, d.rew[k] + d.con[k] * ((1 - trace) * d.val[k + 1] + trace * want[0]))
    torch.testing.assert_close(ret, torch.stack(want[:-1]))
    for k in range(6):
        torch.testing.assert_close(weight[k], d.con[:k].prod(0))


def test_what_terminated_has_its_reward_for_a_value_and_no_weight_after():
    d, ended = dream(), torch.tensor([True, False, True, False, False])
    d = d._replace(con=discounts(d.con, ended, 0.99))
    assert torch.equal(d.con[0], torch.where(ended, 0.0, 0.99))
    ret, weight = imagined_returns(d, 0.95)
    assert torch.equal(ret[0, ended], d.rew[0, ended])
    assert not weight[1:, ended].any()
    assert torch.equal(weight[0], torch.ones(5))


def test_the_actor_raises_what_comes_after_its_actions():
    """REINFORCE by hand; dynamics: the returns themselves, of states 1 to H - 1; a mixture of them."""
    d, pick = dream(), OneHots((3,))
    out = torch.randn(5, 5, 3, requires_grad=True)
    ret = imagined_returns(d, 0.95)[0].requires_grad_()
    score = (out.log_softmax(-1) * d.act[:-1]).sum(-1) * (ret[1:] - d.val[:-2]).detach()
    loss, chaos = actor_loss(out, d, ret, pick, 0.0, 0.1)
    torch.testing.assert_close(loss, -(score + 0.1 * chaos))
    assert torch.autograd.grad(loss.sum(), ret, allow_unused=True, retain_graph=True)[0][1:].abs().max() == 0
    mixed, _ = actor_loss(out, d, ret, pick, 0.25, 0.0)
    torch.testing.assert_close(mixed, -(0.25 * ret[1:] + 0.75 * score))
    assert torch.equal(
        torch.autograd.grad(mixed.sum(), ret)[0], torch.tensor([0.0] + [-0.25] * 5)[:, None].expand(6, 5)
    )


@pytest.mark.parametrize(
    ("act_space", "gradient"), [(BOX, "auto"), (THREE, "dynamics"), (THREE, "both"), (THREE, "auto")]
)
def test_behaviour_reaches_the_actor_through_a_frozen_model(act_space, gradient):
    one = agent(act_space, gradient=gradient, entropy=0.0)
    assert one.share == {"auto": float(act_space is BOX), "dynamics": 1.0, "both": 0.1}[gradient]
    start = one.model.dynamics.initial(6, torch.device("cpu"))
    d = one.imagine(start, torch.zeros(6, dtype=torch.bool), torch.float32)
    assert all(p.requires_grad for p in one.model.parameters()), "thawed again"
    assert d.act.requires_grad == d.rew.requires_grad == (one.share > 0)
    before = {k: torch.cat([p.detach().flatten() for p in part.parameters()]) for k, part in one.parts.items()}
    one.learn_behaviour(d, torch.float32)
    after = {k: torch.cat([p.detach().flatten() for p in part.parameters()]) for k, part in one.parts.items()}
    assert moved(one.parts) == {"actor", "critic"}
    assert {k for k in before if not torch.equal(before[k], after[k])} == {"actor", "critic"}


def test_dynamics_gradients_are_finite_differences_of_the_return():
    """Without chance, and of an actor that sees nothing: returns change as the gradient says."""
    one = agent(BOX, VECTOR, latents="gaussian", gaussians=4, horizon=3)
    one.model.dynamics.latents.noise = lambda *lead, device: torch.zeros(*lead, 4)
    one.pick.sample = one.pick.mode
    start = rssm.State(torch.randn(5, 32), torch.randn(5, 4))
    bias = one.actor.out.bias
    one.actor.out.weight.data.zero_()

    def value(dtype=torch.float32):
        d = one.imagine(start, torch.zeros(5, dtype=torch.bool), dtype)
        return imagined_returns(d, 0.95)[0][0].mean()

    (slope,) = torch.autograd.grad(value(), bias)
    with torch.no_grad():
        bias[0] += 1e-2
        above = value()
        bias[0] -= 2e-2
        below = value()
    assert slope[0].abs() > 1e-4
    assert math.isclose(float(above - below) / 2e-2, float(slope[0]), rel_tol=0.02)


# ---- parts of its own


def test_the_truncated_normal_is_a_distribution():
    pick, x = TruncatedNormal(1), torch.linspace(-1, 1, 20_001)[:, None]
    for raw in ([0.0, 0.0], [2.0, -5.0], [-0.6, 3.0], [4.0, -9.0]):
        out = torch.tensor(raw)
        log = pick.log_prob(out, x)
        total, chaos = (torch.trapezoid(y, x[:, 0]) for y in (log.exp(), -log * log.exp()))
        assert math.isclose(total, 1, rel_tol=1e-3)
        assert math.isclose(pick.entropy(out), chaos, rel_tol=1e-2, abs_tol=1e-3)
        torch.manual_seed(0)
        many = out.expand(100_000, 2).clone().requires_grad_()
        drawn = pick.sample(many)
        assert drawn.abs().max() < 1
        assert math.isclose(drawn.detach().mean(), torch.trapezoid(x[:, 0] * log.exp(), x[:, 0]), abs_tol=0.01)
        (slope,) = torch.autograd.grad(drawn.sum(), many)
        step = torch.tensor([0.01, 0.0])
        means = [torch.trapezoid(x[:, 0] * pick.log_prob(out + s, x).exp(), x[:, 0]) for s in (step, -step)]
        assert math.isclose(slope[:, 0].mean(), (means[0] - means[1]) / 0.02, abs_tol=0.01)


def test_a_sure_choice_has_finite_entropy():
    out = torch.tensor([200.0, -200.0, 0.0], requires_grad=True)
    pick = OneHots((3,))
    (pick.entropy(out) + pick.log_prob(out, torch.tensor([0.0, 1.0, 0.0]))).backward()
    assert torch.isfinite(out.grad).all()


def test_adam_decays_clips_and_then_steps():
    w = torch.nn.Parameter(torch.tensor([3.0, -4.0]))
    twin = torch.nn.Parameter(w.detach().clone())
    ours, plain = optim.Adam([w], 0.1, clip=1.0, decay=0.01), torch.optim.Adam([twin], 0.1, eps=1e-5)
    for grad in ([30.0, 40.0], [0.3, 0.1]):
        w.grad = torch.tensor(grad)
        twin.grad = w.grad / max(1.0, float(w.grad.norm()))
        with torch.no_grad():
            twin.mul_(0.99)
        norm = float(w.grad.norm())
        assert math.isclose(ours.step(), norm, rel_tol=1e-6)
        plain.step()
        torch.testing.assert_close(w, twin)


def index(sizes, whole=None):
    """Episodes one after another in two streams."""
    stop = np.cumsum(sizes)
    whole = np.ones(len(sizes), bool) if whole is None else np.array(whole)
    found = Episodes(np.arange(len(sizes)) % 2, stop - sizes, stop, whole)
    return SimpleNamespace(streams=2, start=0, stop=int(stop[-1]), episodes=lambda: found)


def test_windows_are_pieces_of_episodes():
    of = index([30, 5, 12])
    owner = {
        int(t * 2 + s): e for e, (s, a, b) in enumerate([(0, 0, 30), (1, 30, 35), (0, 35, 47)]) for t in range(a, b)
    }
    ids = EpisodePieces(0)(of, 500, 10)
    same = np.vectorize(owner.__getitem__)(ids)
    assert ids.min() >= 0
    for row, whose in zip(ids, same, strict=True):
        cuts = np.flatnonzero(np.diff(row) != 2) + 1
        for names in np.split(whose, cuts):
            assert len(set(names)) == 1
        assert len(cuts) == 0 or 1 in whose, "only what is too short is joined"
    assert np.bincount(same[:, 0]) / 500 == pytest.approx([1 / 3] * 3, abs=0.07)
    assert not (np.vectorize(owner.__getitem__)(EpisodePieces(0)(index([30, 5, 12], [1, 0, 1]), 50, 10)) == 1).any()
    assert len(EpisodePieces(0)(index([4], [False]), 3, 10)) == 3


def test_ends_are_drawn_often_where_asked_for():
    of = index([100])
    last = lambda ends: (EpisodePieces(0, ends)(of, 2000, 50)[:, -1] == 198).mean()  # noqa: E731
    assert last(False) == pytest.approx(1 / 51, abs=0.01)
    assert last(True) == pytest.approx(51 / 101, abs=0.04)


def test_pieces_begin_as_episodes_do():
    one = agent()
    batch = rows(one)._replace(is_first=torch.zeros(4, 8, dtype=torch.bool))
    batch.rows[1, 5:] += 1000
    first = pieces(batch, 4).is_first
    assert first[:, 0].all()
    assert first[1, 5]
    assert int(first.sum()) == 5


# ---- the agent


@pytest.mark.parametrize("obs_space", [IMAGE, VECTOR, spaces.Dict(**IMAGE.spaces, **VECTOR.spaces)])
@pytest.mark.parametrize("act_space", [THREE, spaces.MultiDiscrete([2, 3]), BOX])
def test_it_learns_of_all_kinds_of_spaces(obs_space, act_space):
    one = agent(act_space, obs_space)
    metrics = one.update(rows(one))
    assert all(torch.isfinite(v).all() and not v.requires_grad for v in metrics.values())
    norms = {name.split("/")[1]: v for name, v in metrics.items() if name.startswith("gradient_norm/")}
    assert norms.keys() == (one.parts.keys() - {"target_critic"}) | {"model"}
    parts = torch.stack([v for name, v in norms.items() if name not in ("model", "actor", "critic")])
    torch.testing.assert_close(parts.norm(), norms["model"])


@pytest.mark.parametrize(
    "changes",
    [
        {"latents": "gaussian", "gaussians": 5},
        {"norm": "layer"},
        {"predict_discount": False},
        {"reward_transform": "symlog"},
    ],
)
def test_its_variants_learn(changes):
    one = agent(BOX, **changes)
    assert torch.isfinite(one.update(rows(one))["loss"])
    assert ("continuation" in one.parts) == one.config.predict_discount


def test_the_target_is_copied_when_it_is_due():
    one = agent(target_every=3)
    for k in range(8):
        before = torch.cat([p.flatten() for p in one.target.parameters()]).clone()
        one.update(rows(one, 2, seed=k))
        target, critic = (
            torch.cat([p.detach().flatten() for p in net.parameters()]) for net in (one.target, one.critic)
        )
        assert torch.equal(target, critic if k % 3 == 0 else before)


def test_acting_step_by_step_is_observing():
    one = agent()
    one.model.dynamics.latents.noise = lambda *lead, device: torch.ones(*lead, 4, 4)  # no chance
    policy = one.policy(explore=False)
    batch, state, acts, feats = rows(one), policy.initial(4), [], []
    for t in range(8):
        obs = {"image": batch.obs["image"][:, t]}
        act, state, columns = policy(obs, batch.is_first[:, t], state)
        acts.append(torch.nn.functional.one_hot(act, 3).float())
        feats.append(state.state.feat)
        assert not columns
    seen = one.model.observe(batch._replace(act=torch.stack(acts, 1)))
    torch.testing.assert_close(torch.stack(feats, 1), seen.feat, rtol=1e-4, atol=1e-5)


def test_a_restored_agent_goes_on_alike():
    one, two = agent(), agent()
    for k in range(3):
        one.update(rows(one, seed=k))
    one.windows(index([30, 5]), 4, 8)
    two.load_state_dict(one.state_dict())
    found = []
    for each in (one, two):
        torch.manual_seed(1)
        each.update(rows(each, seed=9))
        found.append((each.windows(index([30, 5]), 4, 8), each.state_dict()))
    assert np.array_equal(found[0][0], found[1][0])
    for name, part in one.parts.items():
        for p, q in zip(part.parameters(), two.parts[name].parameters(), strict=True):
            assert torch.equal(p, q)


def test_one_batch_is_learned_by_heart():
    torch.manual_seed(0)
    one = agent(obs_space=VECTOR, model_lr=3e-3)
    batch = rows(one)
    first, *_, last = (one.update(batch) for _ in range(40))
    for name in ("loss/vector", "loss/rew", "loss/con"):
        floor = {"loss/vector": 4 * 0.919, "loss/rew": 0.919, "loss/con": 0.05}[name]
        assert last[name] - floor < 0.7 * (first[name] - floor), name


@pytest.mark.parametrize("id", ["tiny/Catch", "CartPole-v1"])
def test_it_trains_and_reports(tmp_path, id):
    torch.manual_seed(0)
    trainer, one, experience = start(tmp_path, id, config=dataclasses.replace(SMALL, steps=160), module=dreamer_v2)
    trainer.train()
    assert one.updates == 2 + 96 // 8
    found = one.report("train", experience)
    assert "open_loop_error" in found
    assert ("reward_foreseen" in found) == (id == "tiny/Catch")  # the pole brings 1 whatever happens
    assert "end_foreseen" in found
    assert all(torch.isfinite(torch.as_tensor(v)).all() for v in found.values())


@pytest.mark.parametrize("transform", ["tanh", "symlog", "identity"])
def test_what_is_foreseen_is_in_the_units_that_the_head_has(transform: str, monkeypatch: pytest.MonkeyPatch):
    one, seen = agent(obs_space=VECTOR, reward_transform=transform), []
    monkeypatch.setattr(reports, "film", lambda *_: {})
    monkeypatch.setattr(reports, "values", lambda *_: {})
    monkeypatch.setattr(reports, "foresight", lambda model, experience, learned: seen.append(learned) or {})
    one.report("train", None)
    said = torch.tensor([-0.5, 0.0, 0.9])
    torch.testing.assert_close(seen[0](one.model.reading.rew(said[:, None])), said)


def test_recordings_alone():
    one = agent()
    told = Recorded(rows=100, actions=True, rewards=True, ends=True, env=False)
    one.learn_from(told)
    (phase,) = one.phases()
    assert (phase.act, phase.env_steps, phase.rounds) == (None, 0, 25)
    with pytest.raises(dreamer_v2.UserError, match="no rewards"):
        one.learn_from(told._replace(rewards=False))


@pytest.mark.parametrize("wrong", [{"horizon": 1}, {"batch": 0}, {"trace": 1.5}, {"every": 0.0}, {"entropy": -1.0}])
def test_settings_are_checked(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Config(**wrong)
