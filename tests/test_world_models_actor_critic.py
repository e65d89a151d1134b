"""The actor-critic controller: its mathematics, what it learns from, and that it goes on where it stopped."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch.distributions import Categorical as TorchCategorical
from torch.distributions import Normal

from dreamlab import envs
from dreamlab.agents import world_models
from dreamlab.agents.world_models import actor_critic
from dreamlab.agents.world_models.actions import Bounded, Choice
from dreamlab.agents.world_models.actor_critic import ActorCritic
from dreamlab.agents.world_models.config import ActorCriticConfig, Config, ControllerConfig, MemoryConfig, VisionConfig
from dreamlab.agents.world_models.memory import Mixture
from dreamlab.agents.world_models.model import Latent
from dreamlab.agents.world_models.policy_gradient import (
    Categorical,
    Critic,
    Gaussian,
    losses,
    practised,
    returns,
)
from dreamlab.core.config import merge
from dreamlab.nn.compute import Compute
from dreamlab.run.checkpoint import read, write
from dreamlab.run.config import RunConfig
from dreamlab.run.experience import Experience
from dreamlab.run.progress import Progress
from dreamlab.run.replay import Replay

CPU, N = Compute(torch.device("cpu")), 3
RUN = RunConfig(envs=N)
CONFIG = Config(
    collect_steps=120,
    collect="random",
    vision=VisionConfig(latent=3, batch=4, updates=2),
    memory=MemoryConfig(hidden=8, mixtures=2, windows="windows", sequence=5, batch=3, updates=2, reward=True),
    controller=ControllerConfig(learner="actor-critic", inputs="zch"),
    actor_critic=ActorCriticConfig(hidden=8, dream_updates=3, batch=16, horizon=4, env_steps=90, window=5),
)


@pytest.fixture(params=["tiny/Count", "tiny/CountContinuous"])
def played(request, tmp_path):
    """An agent that has gone through its whole recipe, and its rows."""
    env = dataclasses.replace(envs.default_config(request.param), workers=False, obs="auto")
    obs_space, act_space = envs.spaces_of(env)
    make = lambda: envs.make(env, N, 0)  # noqa: E731
    table = Experience(Replay(tmp_path / "replay", N), obs_space, act_space, CPU.device, make, slots=N)

    def build(seed: int = 0) -> world_models.WorldModelsAgent:
        return world_models.build(CONFIG, obs_space, act_space, CPU, seed, RUN)

    agent, progress = build(), Progress()
    phases = agent.phases()
    while (phase := progress.current(phases)) is not None:
        if progress.owes_learning(phase):
            metrics = progress.turn(phase)(table)
            assert all(np.isfinite(float(v)) for v in metrics.values()), (phase.name, metrics)
            progress.learned(phase)
        else:
            count = progress.of(phase)
            count.env_steps += table.collect(phase.act, phase.key, progress.due(phase) - count.env_steps)[0]
    yield agent, table, build
    table.close()


def bandit(actions, pays, seed: int = 0, **settings) -> ActorCritic:
    """A behaviour in a dream without a memory, where an action pays what ``pays`` says and nothing else matters."""

    def mixture(h):
        return Mixture(*(torch.zeros(len(h), 1, 1) for _ in range(3)))

    memory = SimpleNamespace(
        latent=1,
        hidden=actions.size,
        cell=lambda z, act, h, c, first: (act, c),
        mixture=mixture,
        extras=lambda h: {"rew": pays(h)},
    )
    own = ActorCriticConfig(**{"hidden": 8, "batch": 64, "horizon": 3, "lr": 0.01, "discount": 0.5, **settings})
    config = Config(
        memory=MemoryConfig(reward=True), controller=ControllerConfig(inputs="z", learner="actor-critic"),
        actor_critic=own,
    )  # fmt: skip
    torch.manual_seed(seed)
    model = SimpleNamespace(vision=SimpleNamespace(latent=1), memory=memory, actions=actions)
    return ActorCritic(config, model, CPU, seed)  # type: ignore[arg-type]


def nowhere(n: int, actions) -> Latent:
    z, h = torch.zeros(n, 1), torch.zeros(n, actions.size)
    return Latent(z, h, h, z, torch.ones(n))


# ---- mathematics


def test_densities_and_entropies_are_those_of_torch():
    out, rng = torch.randn(50, 4), torch.Generator().manual_seed(0)
    gaussian, choice = Gaussian(4), Categorical()
    gaussian.log_std.data = torch.randn(4)
    raw = gaussian.draw(out, rng)
    twin = Normal(out, gaussian.log_std.exp())
    torch.testing.assert_close(gaussian.log_prob(out, raw), twin.log_prob(raw).sum(-1))
    torch.testing.assert_close(gaussian.entropy(out), twin.entropy().sum(-1))
    picked = choice.draw(out, rng)
    other = TorchCategorical(logits=out)
    torch.testing.assert_close(choice.log_prob(out, picked), other.log_prob(picked.argmax(-1)))
    torch.testing.assert_close(choice.entropy(out), other.entropy())


def test_draws_have_the_distribution_they_say():
    rng = torch.Generator().manual_seed(0)
    out = torch.tensor([0.0, 1.0, -1.0]).expand(20_000, 3)
    torch.testing.assert_close(Categorical().draw(out, rng).mean(0), out[0].softmax(-1), atol=0.01, rtol=0)
    gaussian = Gaussian(3)
    gaussian.log_std.data.fill_(-0.5)
    raw = gaussian.draw(out, rng)
    torch.testing.assert_close(raw.mean(0), out[0], atol=0.02, rtol=0)
    torch.testing.assert_close(raw.std(0), torch.full((3,), -0.5).exp(), atol=0.02, rtol=0)


def test_the_critic_standardises_returns_and_its_values_stay():
    critic, feat = Critic(3, 8), torch.randn(100, 3)
    for _ in range(5):
        ret, weight = 50 + 7 * torch.randn(1000), (torch.rand(1000) > 0.3).float()
        before = critic.value(feat).detach()
        critic.adapt(torch.where(weight > 0, ret, 1e9), weight)
        torch.testing.assert_close(critic.value(feat).detach(), before, atol=1e-3, rtol=1e-4)
    known = critic.standardise(50 + 7 * torch.randn(1000))
    assert abs(float(known.mean())) < 0.15
    assert abs(float(known.std()) - 1) < 0.15
    before = {k: v.clone() for k, v in critic.state_dict().items()}
    critic.adapt(ret, torch.zeros_like(ret))  # no step: nothing to take in
    assert all(torch.equal(v, before[k]) for k, v in critic.state_dict().items())


def test_each_loss_teaches_its_own_network():
    behaviour = bandit(Choice(spaces.Discrete(2)), lambda h: h[..., 0])
    steps = behaviour.imagine(nowhere(8, behaviour.model.actions))
    ret = returns(steps, behaviour.critic.value(steps.feat), 0.9, 0.9)
    for name, own, other in (
        ("actor", "actor", "critic"),
        ("entropy", "actor", "critic"),
        ("critic", "critic", "actor"),
    ):
        behaviour.optimizer.zero_grad()
        losses(behaviour.actor, behaviour.critic, steps, ret)[name].sum().backward()
        assert all(p.grad is not None for p in getattr(behaviour, own).parameters())
        assert all(p.grad is None for p in getattr(behaviour, other).parameters())
    behaviour.optimizer.zero_grad()
    (grad,) = torch.autograd.grad(
        losses(behaviour.actor, behaviour.critic, steps, ret)["critic"].sum(), [ret], allow_unused=True
    )
    assert grad is None  # the target is not taught


def test_a_choice_that_pays_more_becomes_likelier():
    behaviour = bandit(Choice(spaces.Discrete(3)), lambda h: h[..., 1])
    start = nowhere(64, behaviour.model.actions)
    chances = []
    for _ in range(60):
        chances.append(float(behaviour.actor(start.z[:1]).detach().softmax(-1)[0, 1]))
        behaviour.learn(behaviour.imagine(start))
    assert chances[1] > chances[0]
    assert chances[-1] > 0.9


def test_entropy_is_a_bonus():
    behaviour = bandit(Choice(spaces.Discrete(3)), lambda h: h[..., 1], entropy=100.0)
    start = nowhere(64, behaviour.model.actions)
    behaviour.actor.net[-1].bias.data[0] = 2.0
    for _ in range(100):
        found = behaviour.learn(behaviour.imagine(start))
    assert float(found["entropy"]) > 0.98 * np.log(3)


def test_numbers_move_to_where_they_pay_most():
    behaviour = bandit(Bounded(spaces.Box(-1, 1, (1,))), lambda h: -((h[..., 0] - 0.5).square()))
    start = nowhere(64, behaviour.model.actions)
    for _ in range(150):
        behaviour.learn(behaviour.imagine(start))
    act = behaviour.model.actions(behaviour.actor.choice.mode(behaviour.actor(start.z[:1])))
    assert abs(float(act.detach()) - 0.5) < 0.15
    assert float(behaviour.actor.choice.log_std.detach()) < -0.3


def test_steps_after_a_dreamt_end_teach_nothing():
    behaviour = bandit(Choice(spaces.Discrete(2)), lambda h: h[..., 0])
    extras = behaviour.model.memory.extras
    behaviour.model.memory.extras = lambda h: extras(h) | {"con": 1 - 2 * h[..., 1]}  # action 1 ends the episode
    steps = behaviour.imagine(nowhere(64, behaviour.model.actions))
    ends = steps.raw[..., 1].cumsum(0)
    assert torch.equal(steps.weight, torch.cat([torch.zeros(1, 64), ends[:-1]]).eq(0).float())
    value = behaviour.critic.value(steps.feat)
    spoilt = steps._replace(rew=torch.where(steps.weight > 0, steps.rew, 1e6))
    told = [returns(s, value, 0.9, 0.9)[steps.weight > 0] for s in (steps, spoilt)]
    assert torch.equal(*told)
    assert torch.equal(returns(steps, value, 0.9, 0.9)[0][ends[0] > 0], torch.zeros(int(ends[0].sum())))


# ---- the whole recipe on counting environments


def every_row(table):
    index = table.index
    times = np.arange(index.start, index.stop)
    return table.gather(np.arange(index.streams)[:, None] + times * index.streams)


def test_real_steps_are_those_of_the_rows(played):
    """A reward of Count is the number of steps so far; rows of before the practice are no steps."""
    agent, table, _ = played
    batch = every_row(table)
    steps = practised(batch)
    count, there = batch.obs["vector"][..., 1].t(), steps.weight > 0
    noted = batch.extras["feat"].abs().sum(-1).t() > 0
    assert torch.equal(there, noted[:-1] & ~batch.is_last.t()[:-1])
    assert noted.any()
    assert not noted[:30].any()
    assert torch.equal(steps.rew[there], count[:-1][there] + 1)
    assert torch.equal(steps.con[there] == 0, batch.is_terminal.t()[1:][there])
    actions = agent.actions
    act = actions(steps.raw[there])
    assert torch.equal(actions.emit(act), actions.emit(batch.act[:, :-1].transpose(0, 1)[there]))
    assert torch.equal(act, actions(batch.extras["raw"].transpose(0, 1)[:-1][there]))


def test_a_truncated_episode_is_bootstrapped_and_a_terminated_one_is_not(played):
    _, table, _ = played
    batch = every_row(table)
    steps = practised(batch)
    value = torch.randn(steps.feat.shape[:2])
    ret = returns(steps, value, 0.9, 1.0)
    episodes, kinds = table.index.episodes(), set()
    for stream, start, stop, whole in zip(*episodes, strict=True):
        begin, last = start - table.index.start, stop - table.index.start - 1
        if not whole or not (steps.weight[begin:last, stream] > 0).all():
            continue
        ended = bool(batch.is_terminal[stream, last])
        expected = torch.tensor(0.0) if ended else value[last, stream]
        for t in range(last - 1, begin - 1, -1):
            expected = batch.rew[stream, t + 1] + 0.9 * expected
            torch.testing.assert_close(ret[t, stream], expected)
        kinds.add(ended)
    assert kinds == {True, False}


def test_dreams_begin_where_a_step_follows_and_the_memory_is_filled(played, monkeypatch):
    agent, table, _ = played
    observe = agent.model.observe
    monkeypatch.setattr(actor_critic, "CONTEXT", 4)  # episodes have 4 to 13 rows: windows begin inside them, too
    cut = []

    def marked(batch):
        inside = ~batch.is_first[:, :1] & (torch.arange(batch.is_first.shape[1]) < 2)
        cut.append(bool(inside.any()))
        return observe(batch)._replace(first=(batch.is_last | ~batch.mask | inside).float())

    monkeypatch.setattr(agent.model, "observe", marked)
    for _ in range(10):
        start = agent.behaviour.starts(table)
        assert start.z.shape == (16, 3)
        assert not start.first.any()
    assert any(cut)


def test_it_goes_on_as_if_nothing_had_happened(played, tmp_path):
    agent, table, build = played
    folder = tmp_path / "saved"
    folder.mkdir()
    write(folder, {"agent": agent.state_dict()}, {})
    other = build(seed=5)
    other.load_state_dict(read(folder)["agent"])
    obs = {k: v[:, 0] for k, v in every_row(table).obs.items()}
    first = torch.ones(N, dtype=torch.bool)
    for learner in ("controller", "practice"):
        told = [[a.behaviour.learners[learner](table) for _ in range(2)] for a in (agent, other)]
        assert told[0] == told[1]
        acts = [policy(obs, first, policy.initial(N)) for policy in (a.policy(explore=True) for a in (agent, other))]
        assert torch.equal(acts[0][0], acts[1][0])
        assert torch.equal(acts[0][2]["feat"], acts[1][2]["feat"])
    assert same(agent.behaviour.state_dict(), other.behaviour.state_dict())


def test_neither_v_nor_m_is_taught(played):
    agent, table, _ = played
    for learner in agent.behaviour.learners.values():
        agent.model.zero_grad()
        before = [p.clone() for p in agent.model.parameters()]
        learner(table)
        assert all(p.grad is None for p in agent.model.parameters())
        assert all(torch.equal(p, b) for p, b in zip(agent.model.parameters(), before, strict=True))


def test_it_is_evaluated_at_its_mode_and_can_be_taken(played):
    agent, table, build = played
    obs, first = {k: v[:, 3] for k, v in every_row(table).obs.items()}, torch.ones(N, dtype=torch.bool)
    other = build(seed=5)
    other.load_parts(agent.state_dict())
    other.behaviour.take(agent.state_dict()["controller"])
    other.seed = other.behaviour.seed = 0
    acts = [policy(obs, first, policy.initial(N)) for policy in (a.policy(explore=False) for a in (agent, other))]
    assert torch.equal(acts[0][0], acts[1][0])
    assert "feat" not in acts[0][2]
    agent.behaviour.actor.net[-1].bias.data[-1] = 1.0  # of the last choice, or of the last number
    many, policy = {k: v.repeat_interleave(30, 0) for k, v in obs.items()}, agent.policy(explore=False)
    act = policy(many, first.repeat_interleave(30), policy.initial(30 * N))[0].float()
    assert (act == 3).all() if act.dim() == 1 else act[:, -1].std() < 0.1


def test_sizes_are_counted_without_memory():
    image = spaces.Dict(image=spaces.Box(0, 255, (3, 64, 64), np.uint8))
    config = merge(Config(), {"controller": {"learner": "actor-critic"}, "memory": {"reward": True}})
    with torch.device("meta"):
        agent = world_models.build(config, image, spaces.Discrete(3), Compute(torch.device("meta")), 0, RUN)
    counts = {name: sum(p.numel() for p in part.parameters()) for name, part in agent.parts.items()}
    assert counts["controller"] == 288 * 64 + 64 + 64 * 3 + 3
    assert counts["critic"] == 288 * 64 + 64 + 64 + 1


def same(one, other) -> bool:
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(v, other[k]) for k, v in one.items())
    return torch.equal(one, other) if isinstance(one, torch.Tensor) else bool(np.all(one == other))
