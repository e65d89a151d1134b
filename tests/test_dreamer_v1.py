"""DreamerV1: the paper's numbers, which loss moves what, and that what is learned, acted and saved is the same."""

from __future__ import annotations

from contextlib import nullcontext
from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch
from gymnasium import spaces
from test_toy_agent import COMPUTE, start

from dreamlab import agents
from dreamlab.agents import dreamer_v1, dreamer_v3
from dreamlab.core.config import merge
from dreamlab.core.errors import UserError
from dreamlab.core.types import Batch, Recorded
from dreamlab.nn import latents, optim
from dreamlab.nn.cells import KerasGRU
from dreamlab.nn.distributions import HALF_LOG_2PI, TanhNormal
from dreamlab.nn.rssm import State
from dreamlab.nn.world_model import led_to
from dreamlab.run.config import RunConfig

SMOKE = merge(dreamer_v1.Config(), agents.preset("dreamer-v1", "smoke")["agent"])
WALKER = spaces.Dict({"image": spaces.Box(0, 255, (3, 64, 64), np.uint8)})
SMALL = spaces.Dict({"image": spaces.Box(0, 255, (3, 16, 16), np.uint8)})
BOX = spaces.Box(-1.0, 1.0, (2,), np.float32)
B, T = 4, 8


def an_agent(act_space=BOX, **changes):
    return dreamer_v1.build(replace(SMOKE, **changes), SMALL, act_space, COMPUTE, 0, RunConfig())


def a_batch(act_space=BOX, real=(8, 8, 5, 3)) -> Batch:
    """Windows of so many real rows; those that are shorter end with a terminal row."""
    rng = torch.Generator().manual_seed(1)
    mask = torch.arange(T) < torch.tensor(real)[:, None]
    last = torch.arange(T) == torch.tensor(real)[:, None] - 1
    ended = last & (torch.tensor(real) < T)[:, None]
    if isinstance(act_space, spaces.Discrete):
        n = int(act_space.n)
        act = torch.nn.functional.one_hot(torch.randint(n, (B, T), generator=rng), n).float()
    else:
        act = torch.rand(B, T, 2, generator=rng) * 2 - 1
    return Batch(
        obs={
            "image": torch.randint(256, (B, T, 3, 16, 16), generator=rng, dtype=torch.uint8)
            * mask[..., None, None, None]
        },
        act=act * mask[..., None],
        rew=torch.randn(B, T, generator=rng) * mask,
        is_first=torch.arange(T).expand(B, T) == 0,
        is_last=ended,
        is_terminal=ended,
        mask=mask,
        rows=torch.zeros(B, T, dtype=torch.int64),
        extras={},
    )


def moved(agent) -> set[str]:
    """Parts that some gradient has reached."""
    return {
        name
        for name, part in agent.parts.items()
        if any(p.grad is not None and bool(p.grad.abs().max() > 0) for p in part.parameters())
    }


# ---- the paper's numbers


def test_walker_has_exactly_the_papers_parameters():
    act_space = spaces.Box(-1.0, 1.0, (6,), np.float32)
    agent = dreamer_v1.build(dreamer_v1.Config(), WALKER, act_space, COMPUTE, 0, RunConfig())
    sizes = {name: sum(p.numel() for p in part.parameters()) for name, part in agent.learners.items()}
    assert sizes == {"model": 5_296_820, "actor": 578_412, "critic": 413_601}


def test_actions_begin_with_a_deviation_of_five_before_tanh():
    torch.manual_seed(0)
    act = TanhNormal(1).sample(torch.zeros(200_000, 2))
    inside = torch.tensor(5.0).tanh()  # one deviation: in float32 a little below 1
    assert float((act.abs() < inside).float().mean()) == pytest.approx(0.6827, abs=0.005)


@pytest.mark.parametrize("out", [(0.3, -4.5), (-40.0, -5.2), (1.0, -3.5)])
def test_a_squashed_normal_is_a_density_whose_mode_and_entropy_are_its_own(out):
    """Its integral is 1, the sampled mode is near its highest point, its entropy is -E[log p]."""
    pick, out = TanhNormal(1, draws=5000), torch.tensor(out)
    grid = torch.linspace(-9, 9, 200_001).tanh()
    density = pick.log_prob(out, grid[:, None]).double().exp()
    assert float(torch.trapezoid(density, grid.double())) == pytest.approx(1, abs=5e-3)
    mode = pick.mode(out)
    assert mode.shape == (1,)
    assert float(pick.log_prob(out, mode)) > float(density.max().log()) - 0.1
    many = out.expand(20_000, 2)
    mean = -(density * density.clamp(min=1e-30).log())
    assert float(pick.entropy(many).mean()) == pytest.approx(float(torch.trapezoid(mean, grid.double())), abs=0.05)
    assert bool(pick.sample(many).atanh().clamp(-6, 6).mean().abs() < 5.1)


def test_the_cell_is_torchs_gru_behind_a_dense_layer():
    cell, twin = KerasGRU(3, 2, 5, 4), torch.nn.GRUCell(4, 5)
    for mine, theirs in ((cell.enter, "ih"), (cell.recur, "hh")):
        torch.nn.init.normal_(mine.bias)
        getattr(twin, f"weight_{theirs}").data.copy_(mine.weight)
        getattr(twin, f"bias_{theirs}").data.copy_(mine.bias)
    h, z, act = torch.randn(6, 5), torch.randn(6, 3), torch.randn(6, 2)
    found = cell.begin(torch.float32)(h, z, cell.acts(act, torch.ones(6, 1)))
    x = torch.nn.functional.elu(cell.inputs(torch.cat([z, act], -1)))
    torch.testing.assert_close(found, twin(x, h))


def test_the_cell_starts_as_keras_does():
    """The state's weights of all gates together are orthogonal."""
    weight = KerasGRU(3, 2, 5, 4).recur.weight
    torch.testing.assert_close(weight.t() @ weight, torch.eye(5))


# ---- losses


def test_free_nats_are_of_the_mean_and_have_no_gradient_at_all():
    kl, mask = torch.tensor([[1.0, 4.0], [2.0, 99.0]], requires_grad=True), torch.tensor([[True, True], [True, False]])
    below = dreamer_v1.free_kl(kl, mask, 3.0)
    assert float(below.detach()) == 3
    assert torch.autograd.grad(below, kl)[0].abs().max() == 0
    above = dreamer_v1.free_kl(kl, mask, 1.0)
    assert float(above.detach()) == pytest.approx(7 / 3)
    torch.testing.assert_close(torch.autograd.grad(above, kl)[0], mask / 3)


def test_returns_are_those_of_v3_with_rewards_and_discounts_one_later():
    rew, con, val = torch.randn(6, 3), torch.rand(6, 3), torch.randn(6, 3)
    ret, weight = dreamer_v1.imagined_returns(dreamer_v1.Dream(val, rew, con, val), 0.95)
    first = torch.ones(1, 3)
    later = dreamer_v3.Dream(val, val, torch.cat([first, rew[:-1]]), torch.cat([first, con[:-1]]))
    theirs, weights = dreamer_v3.imagined_returns(later, val, 0.95)
    assert ret.shape == (5, 3)  # 6 states, the last one only as what comes after
    torch.testing.assert_close(ret, theirs)
    torch.testing.assert_close(weight, weights)


def test_each_loss_moves_its_own_part_alone():
    agent, batch = an_agent(), a_batch()
    states, model_loss, _ = agent.model_loss(batch)
    flat = State(*(x.detach().flatten(0, 1) for x in states))
    for number, parts in enumerate(({"actor"}, {"critic"})):
        agent.behaviour_losses(flat, batch.mask.flatten())[number].backward()
        assert moved(agent) == parts
        agent.actor.zero_grad()
        agent.critic.zero_grad()
    model_loss.backward()
    assert moved(agent) == {"encoder", "dynamics", "decoder", "reward", "continuation"}


@pytest.mark.parametrize("act_space", [BOX, spaces.Discrete(3)], ids=["continuous", "discrete"])
def test_the_actors_gradient_comes_through_frozen_dynamics_as_through_thawed_ones(act_space, monkeypatch):
    agent, batch = an_agent(act_space), a_batch(act_space)
    with torch.no_grad():
        flat = State(*(x.flatten(0, 1) for x in agent.model_loss(batch)[0]))

    def gradient():
        torch.manual_seed(3)
        loss = agent.behaviour_losses(flat, batch.mask.flatten())[0]
        return torch.autograd.grad(loss, list(agent.actor.parameters()))

    frozen = gradient()
    monkeypatch.setattr(optim, "frozen", lambda *modules: nullcontext())
    for one, two in zip(frozen, gradient(), strict=True):
        torch.testing.assert_close(one, two)
        assert bool(one.abs().max() > 0)


def test_what_is_padded_and_what_has_ended_counts_nowhere():
    """Other numbers in padded rows: the same losses, gradients and steps. Nothing is imagined from a terminal row."""
    batch = a_batch()
    pad = ~batch.mask
    other = batch._replace(
        obs={"image": torch.where(pad[..., None, None, None], 200, batch.obs["image"]).to(torch.uint8)},
        act=torch.where(pad[..., None], 0.5, batch.act),
        rew=torch.where(pad, 7.0, batch.rew),
        is_terminal=batch.is_terminal | pad,
    )
    one, two = an_agent(), an_agent()
    for agent, rows in ((one, batch), (two, other)):
        torch.manual_seed(0)
        agent.found = agent.update(rows)
    for name, value in one.found.items():
        torch.testing.assert_close(value, two.found[name], msg=name)
    for a, b in zip(leaves_of(one), leaves_of(two), strict=True):
        torch.testing.assert_close(a, b)


def leaves_of(agent) -> list[torch.Tensor]:
    return [p for part in agent.parts.values() for p in part.parameters()]


@pytest.mark.parametrize(
    ("act_space", "discrete"),
    [(BOX, "straight"), (spaces.Discrete(3), "straight"), (spaces.Discrete(3), "reinmax")],
    ids=["continuous", "discrete", "to second order"],
)
def test_one_batch_is_learned_by_heart_and_the_rewarded_action_found(act_space, discrete):
    """The action's first number is the reward that it earns, one row later."""
    torch.manual_seed(0)
    sizes = {"hidden": 32, "deter": 32, "units": 32}
    rates = {"model_lr": 1e-2, "actor_lr": 1e-2, "critic_lr": 1e-2}
    agent = an_agent(act_space, discrete=discrete, **sizes, **rates)
    batch = a_batch(act_space, real=(8, 8, 8, 8))
    earned = led_to(batch.act)[..., 0]
    image = batch.obs["image"][:, :1, :, :1, :1].expand(B, T, 3, 16, 16).contiguous()
    batch = batch._replace(obs={"image": image}, rew=earned)
    told = [agent.update(batch) for _ in range(45)]
    floor = 3 * 16 * 16 * HALF_LOG_2PI  # of a perfect image
    assert float(told[-1]["loss/image"]) - floor < 0.7 * (float(told[0]["loss/image"]) - floor)
    assert float(told[-1]["reward_mae"]) < 0.7 * float(told[0]["reward_mae"])
    assert all(np.isfinite(float(v)) for v in told[-1].values())
    feat = agent.model.observe(batch).feat
    with torch.no_grad():
        first = agent.pick.sample(agent.actor(feat).expand(50, -1, -1, -1))[..., 0].mean()
    assert float(first) > 0.7


# ---- acting


def test_exploring_adds_noise_between_the_bounds_or_chance_at_a_falling_rate():
    torch.manual_seed(0)
    act = dreamer_v1.noisy(torch.full((20_000, 1), 0.2), 0.3)
    assert float(act.std()) == pytest.approx(0.3, abs=0.01)
    assert bool((dreamer_v1.noisy(act, 9.0).abs() <= 1).all())
    one = torch.eye(3)[torch.full((30_000,), 2)]
    found = dreamer_v1.epsilon_greedy(one, (3,), 0.3)
    assert torch.equal(found.sum(-1), torch.ones(30_000))
    assert float(found[:, 2].mean()) == pytest.approx(0.8, abs=0.01)  # a third of what is random is the same
    assert torch.equal(dreamer_v1.epsilon_greedy(one, (3,), 0.0), one)
    agent = an_agent(spaces.Discrete(3))
    rates = []
    for agent.updates in (0, 10, 20, 99):
        rates.append(agent.epsilon)
    assert rates == pytest.approx([0.4, 0.25, 0.1, 0.1])


def test_it_refuses_recordings_that_lack_what_it_learns_from():
    with pytest.raises(UserError, match="no rewards"):
        an_agent().learn_from(Recorded(100, actions=True, rewards=False, ends=True, env=False))
    agent = an_agent()
    agent.learn_from(Recorded(100, actions=True, rewards=True, ends=True, env=False))
    assert [(p.name, p.env_steps) for p in agent.phases()] == [("pretrain", 0), ("train", 0)]


# ---- whole runs


@pytest.fixture(scope="module", params=["tiny/Catch", "Pendulum-v1"])
def trained(request, tmp_path_factory):
    """An agent after 60 steps by preset smoke, and its experience."""
    torch.manual_seed(0)
    config = replace(SMOKE, steps=60, prefill=30, train_every=10, updates=2, pretrain=2)
    trainer, agent, experience = start(tmp_path_factory.mktemp("v1"), request.param, config, module=dreamer_v1)
    before = [p.clone() for p in leaves_of(agent)]
    trainer.train()
    assert not all(torch.equal(a, b) for a, b in zip(before, leaves_of(agent), strict=True))
    return trainer, agent, experience


def test_its_phases_are_its_budget_and_all_are_done(trained):
    trainer, agent, _ = trained
    budget = dreamer_v1.budget(agent.config, agent.run)
    assert [(p.name, p.env_steps, p.rounds) for p in agent.phases()] == [
        (p.name, p.env_steps, p.rounds) for p in budget
    ]
    assert agent.updates == 2 + 3 * 2
    told = {key for group, metrics in trainer.log.lines for key in metrics if group == "train"}
    assert {"kl", "loss/kl", "loss/policy", "gradient_norm/actor", "policy_entropy", "open_loop_error"} <= told
    assert "reward_foreseen" in told


def test_acting_step_by_step_is_observing_the_rows(trained, monkeypatch):
    """Through resets, with the actions that were really taken; z is the mean, for both draw their own noise."""
    _, agent, experience = trained
    monkeypatch.setattr(latents.Gaussian, "noise", lambda self, *lead, device: torch.zeros(*lead, self.width))
    index = experience.index
    rows = np.arange(index.start * 2, index.stop * 2).reshape(-1, 2).T[:, :24]
    batch = experience.gather(rows)
    states = agent.model.observe(batch)
    policy = agent.policy(explore=True)
    state = policy.initial(2)
    for t in range(rows.shape[1]):
        act, state, _ = policy({k: v[:, t] for k, v in batch.obs.items()}, batch.is_first[:, t], state)
        torch.testing.assert_close(state.state.feat, states.feat[:, t])
        assert (
            torch.as_tensor(experience.act_space.low <= act.numpy()).all() if not agent.model.actions.groups else True
        )
        state = state._replace(act=agent.model.actions.seen(batch.act[:, t]))


def test_a_state_dict_brings_everything_back(trained):
    _, agent, experience = trained
    twin = dreamer_v1.build(agent.config, experience.obs_space, experience.act_space, COMPUTE, 7, agent.run)
    twin.load_state_dict(deepcopy(agent.state_dict()))
    assert twin.epsilon == agent.epsilon
    losses = []
    for one in (agent, twin):
        torch.manual_seed(5)
        losses.append([float(one.learn(experience)["loss"]) for _ in range(3)])
    assert losses[0] == losses[1]
    for a, b in zip(leaves_of(agent), leaves_of(twin), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("name", sorted(agents.presets("dreamer-v1")))
def test_every_preset_is_a_config_with_steps_left_to_train(name):
    config = merge(dreamer_v1.Config(), agents.preset("dreamer-v1", name)["agent"])
    assert dreamer_v1.budget(config, RunConfig())[-1].rounds > 0


@pytest.mark.parametrize(
    ("field", "value"), [("horizon", 1), ("length", 1), ("gamma", 1.5), ("clip", 0), ("noise", -1)]
)
def test_impossible_settings_are_refused(field, value):
    with pytest.raises(ValueError, match=field):
        dreamer_v1.Config(**{field: value})
