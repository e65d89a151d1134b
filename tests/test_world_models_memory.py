"""M: the paper's sizes, the mixture's laws, what it may and may not see, and that it learns."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from dreamlab.agents.world_models.config import MemoryConfig
from dreamlab.agents.world_models.memory import (
    Factorised,
    Memory,
    Mixture,
    Noise,
    fresh_noise,
    memory_losses,
    mixture_entropy,
    mixture_mean,
    one_step,
    sample,
    sequences,
)
from dreamlab.agents.world_models.vision import draw
from dreamlab.core.types import Batch


def small(**options) -> Memory:
    torch.manual_seed(0)
    return Memory(3, 2, MemoryConfig(hidden=8, mixtures=4, **options))


def steps(b: int, t: int) -> tuple[Tensor, Tensor, Tensor]:
    return torch.randn(b, t, 3), torch.randn(b, t, 2), torch.zeros(b, t, dtype=torch.bool)


def gaussian(n: int, k: int, mean: float = 0.0, std: float = 1.0) -> Mixture:
    return Mixture(torch.randn(n, k, 1), torch.full((n, k, 1), mean), torch.full((n, k, 1), math.log(std)))


def test_the_papers_parameter_count_with_both_heads_off():
    with torch.device("meta"):
        memory = Memory(32, 3, MemoryConfig())
        assert sum(p.numel() for p in memory.parameters()) == 422_368
        heads = Memory(32, 3, MemoryConfig(reward=True, continuation=True))
    assert sum(p.numel() for p in heads.parameters()) == 422_368 + 2 * 257
    assert sum(p.numel() for p in heads.extra.parameters()) == 2 * 257


def test_dooms_parameter_count_but_for_the_restart_input():
    with torch.device("meta"):
        memory = Memory(64, 1, MemoryConfig(hidden=512, continuation=True))
    assert sum(p.numel() for p in memory.parameters()) == 1_678_785 - 4 * 512


def test_the_forget_gate_starts_open():
    memory = small()
    with torch.no_grad():
        memory.input_weight.zero_()
        memory.hidden_weight.zero_()
        _, c = memory.cell(torch.zeros(1, 3), torch.zeros(1, 2), torch.zeros(1, 8), torch.ones(1, 8), torch.zeros(1))
    torch.testing.assert_close(c, torch.full((1, 8), torch.sigmoid(torch.tensor(1.0)).item()))


def test_the_fused_lstm_is_the_cell_repeated():
    memory = small()
    z, act, is_first = steps(4, 9)
    is_first[:, 0] = True
    is_first[1, 4] = is_first[2, 7] = is_first[3, 7] = True
    h, c = memory.initial(4)
    outputs = []
    for t in range(9):
        keep = (~is_first[:, t, None]).float()
        h, c = memory.cell(z[:, t], act[:, t], h * keep, c * keep, is_first[:, t].float())
        outputs.append(h)
    torch.testing.assert_close(memory(z, act, is_first), torch.stack(outputs, 1))


def test_states_are_those_on_arrival():
    memory = small()
    z, act, is_first = steps(2, 6)
    is_first[0, 3] = True
    h, c = memory.states(z, act, is_first)
    after = memory(z, act, is_first)
    assert h[:, 0].abs().max() == 0
    assert c[0, 3].abs().max() == 0
    torch.testing.assert_close(h[1, 1:], after[1, :-1])
    torch.testing.assert_close(h[0, 4:], after[0, 3:-1])


@pytest.mark.parametrize("changed", ["z", "act"])
def test_nothing_later_is_seen(changed):
    memory = small()
    z, act, is_first = steps(2, 8)
    before = memory(z, act, is_first)
    (z if changed == "z" else act)[:, 5:] += 100
    after = memory(z, act, is_first)
    torch.testing.assert_close(after[:, :5], before[:, :5])
    assert (after[:, 5:] - before[:, 5:]).abs().max() > 0.01


def test_nothing_before_a_first_row_is_seen():
    memory = small()
    z, act, is_first = steps(2, 8)
    is_first[:, 4] = True
    before = memory(z, act, is_first)
    z[:, :4] += 100
    act[:, :4] -= 100
    torch.testing.assert_close(memory(z, act, is_first)[:, 4:], before[:, 4:])


def test_gradients_stop_at_a_first_row():
    memory = small()
    z, act, is_first = steps(1, 6)
    is_first[:, 3] = True
    z.requires_grad_()
    memory(z, act, is_first)[:, 3:].sum().backward()
    assert z.grad[:, :3].abs().max() == 0
    assert z.grad[:, 3:].abs().max() > 0


def test_unit_gaussian_costs_what_the_closed_form_says():
    mixture = gaussian(2, 5)
    nll = Factorised.nll(mixture, torch.tensor([[0.0], [1.0]]))
    torch.testing.assert_close(nll, torch.tensor([[0.918939], [1.418939]]))


def test_the_expected_cost_of_a_gaussian_is_its_entropy():
    z = torch.randn(200_000, 1, generator=torch.Generator().manual_seed(0))
    mixture = Mixture(torch.zeros(1, 1, 1), torch.zeros(1, 1, 1), torch.zeros(1, 1, 1))
    assert Factorised.nll(mixture, z).mean().item() == pytest.approx(1.418939, abs=0.01)


def test_identical_components_are_one_gaussian_whatever_their_weights():
    z = torch.randn(6, 1)
    many = Factorised.nll(gaussian(6, 5, mean=0.3, std=0.7), z)
    one = Factorised.nll(gaussian(6, 1, mean=0.3, std=0.7), z)
    torch.testing.assert_close(many, one)


def test_the_density_integrates_to_one():
    torch.manual_seed(3)
    mixture = Mixture(torch.randn(1, 5, 1), torch.randn(1, 5, 1), 0.3 * torch.randn(1, 5, 1))
    z = torch.linspace(-15, 15, 20_001)
    density = (-Factorised.nll(mixture, z[:, None])).exp()
    assert torch.trapezoid(density[:, 0], z).item() == pytest.approx(1.0, abs=1e-4)


def test_a_constant_on_the_logits_changes_nothing_and_huge_ones_stay_finite():
    mixture, z = Mixture(torch.randn(7, 5, 3), torch.randn(7, 5, 3), torch.randn(7, 5, 3)), torch.randn(7, 3)
    shifted = mixture._replace(logit=mixture.logit + 3)
    torch.testing.assert_close(Factorised.nll(mixture, z), Factorised.nll(shifted, z))
    huge = mixture._replace(logit=torch.where(torch.rand(7, 5, 3) < 0.5, 1e4, -1e4))
    assert Factorised.nll(huge, z).isfinite().all()
    assert sample(huge, 1.0, fresh_noise(7, 3, None, z.device)).isfinite().all()


def test_with_one_gaussian_the_joint_cost_is_d_times_the_factorised():
    mixture, z = Mixture(torch.randn(4, 1, 6), torch.randn(4, 1, 6), torch.randn(4, 1, 6)), torch.randn(4, 6)
    joint = -torch.distributions.Normal(mixture.mean[:, 0], mixture.log_std[:, 0].exp()).log_prob(z).sum(-1)
    torch.testing.assert_close(6 * Factorised.nll(mixture, z).mean(-1), joint)


def test_the_floor_binds_only_below_it():
    memory = small(sigma_floor=0.1)
    with torch.no_grad():
        memory.head.weight.zero_()
        raw = memory.head.bias.view(3, 4, 3)
        raw[2, 0] = -100.0
        raw[2, 1:] = 0.5
    log_std = memory.mixture(torch.zeros(1, 8)).log_std[0]
    torch.testing.assert_close(log_std[0], torch.full((3,), math.log(0.1)))
    torch.testing.assert_close(log_std[1:], torch.full((3, 3), 0.5))


def noises(n: int, d: int = 1) -> Noise:
    return fresh_noise(n, d, torch.Generator().manual_seed(1), torch.device("cpu"))


def expand(mixture: Mixture, n: int) -> Mixture:
    return Mixture(*(x.expand(n, -1, -1) for x in mixture))


def test_temperature_scales_the_variance_of_a_gaussian():
    for temperature in (0.25, 1.0, 2.0):
        drawn = sample(expand(gaussian(1, 1, mean=2.0, std=0.5), 100_000), temperature, noises(100_000))
        assert drawn.mean().item() == pytest.approx(2.0, abs=0.02)
        assert drawn.var().item() == pytest.approx(0.25 * temperature, rel=0.03)


def test_temperature_reweighs_the_components():
    logit = torch.tensor([0.0, 1.0, -1.0])
    mixture = Mixture(
        logit[None, :, None], torch.tensor([-10.0, 0.0, 10.0])[None, :, None], torch.full((1, 3, 1), -5.0)
    )
    for temperature in (0.5, 1.0, 2.0):
        drawn = sample(expand(mixture, 50_000), temperature, noises(50_000)).round()
        shares = torch.stack([(drawn == value).float().mean() for value in (-10, 0, 10)])
        torch.testing.assert_close(shares, (logit / temperature).softmax(0), atol=0.01, rtol=0)


def test_almost_no_temperature_gives_the_likeliest_mean():
    mixture = Mixture(torch.randn(50, 5, 3), torch.randn(50, 5, 3), torch.zeros(50, 5, 3))
    likeliest = mixture.mean.gather(1, mixture.logit.argmax(1, keepdim=True))[:, 0]
    torch.testing.assert_close(sample(mixture, 1e-6, noises(50, 3)), likeliest, atol=0.02, rtol=0)


def test_the_component_is_the_first_whose_running_sum_reaches_the_draw():
    mixture = Mixture(
        torch.zeros(5, 4, 1), torch.arange(4.0)[None, :, None].expand(5, 4, 1), torch.full((5, 4, 1), -30.0)
    )
    uniform = torch.tensor([0.0, 0.25, 0.26, 0.75, 0.99])[:, None]
    drawn = sample(mixture, 1.0, Noise(uniform, torch.zeros(5, 1)))
    assert drawn[:, 0].tolist() == [0, 0, 1, 2, 3]


def test_mean_and_entropy_of_a_mixture():
    mixture = Mixture(torch.zeros(1, 4, 1), torch.tensor([0.0, 1.0, 2.0, 5.0])[None, :, None], torch.zeros(1, 4, 1))
    assert mixture_mean(mixture).item() == pytest.approx(2.0)
    assert mixture_entropy(mixture).item() == pytest.approx(math.log(4))


def rows(b: int, t: int, d: int, a: int) -> Batch:
    flags = torch.zeros(b, t, dtype=torch.bool)
    first = flags.clone()
    first[:, 0] = True
    return Batch({}, torch.randn(b, t, a), torch.randn(b, t), first, flags, flags.clone(), ~flags, torch.arange(t), {})


def test_each_step_is_paired_with_the_next_row():
    batch, z = rows(2, 1000, 4, 3), torch.randn(2, 1000, 4)
    s = sequences(batch, z, batch.act)
    assert s.z.shape == s.after.shape == (2, 999, 4)
    assert s.act.shape == (2, 999, 3)
    assert torch.equal(s.after, z[:, 1:])
    assert torch.equal(s.z, z[:, :-1])
    assert torch.equal(s.rew, batch.rew[:, 1:])
    assert s.valid.all()


def test_padding_and_the_step_into_another_episode_do_not_count():
    batch = rows(1, 6, 4, 3)
    batch.mask[0, 5] = False
    batch.is_first[0, 3] = True
    assert sequences(batch, torch.zeros(1, 6, 4), batch.act).valid[0].tolist() == [True, True, False, True, False]


def test_latents_are_drawn_afresh_with_the_stored_moments():
    mu, logvar = torch.randn(1, 6).expand(40_000, 6), (0.5 * torch.randn(1, 6)).expand(40_000, 6)
    rng = torch.Generator().manual_seed(0)
    z, again = draw(mu, logvar, rng), draw(mu, logvar, rng)
    assert not torch.equal(z, again)
    torch.testing.assert_close(z.mean(0), mu[0], atol=0.03, rtol=0)
    torch.testing.assert_close(z.var(0), logvar[0].exp(), rtol=0.04, atol=0)


def test_losses_of_the_extra_heads():
    nll, terminal = torch.ones(1, 2, 3), torch.tensor([[False, True]])
    assert set(memory_losses(nll, {}, torch.zeros(1, 2), terminal, 10.0)) == {"nll"}
    extras = {"rew": torch.tensor([[1.0, 2.0]]), "con": torch.zeros(1, 2)}
    losses = memory_losses(nll, extras, torch.tensor([[1.0, 4.0]]), terminal, 10.0)
    torch.testing.assert_close(losses["rew"], torch.tensor([[0.0, 4.0]]))
    torch.testing.assert_close(losses["con"], math.log(2) * torch.tensor([[1.0, 10.0]]))
    assert small().extras(torch.zeros(1, 8)) == {}


def test_foresight_is_measured_against_no_change():
    before, after = torch.zeros(1, 3, 2), torch.ones(1, 3, 2)
    perfect = Mixture(torch.zeros(1, 3, 4, 2), torch.ones(1, 3, 4, 2), torch.zeros(1, 3, 4, 2))
    valid = torch.tensor([[True, True, False]])
    found = one_step(perfect, before, after, valid)
    assert found["error"] == 0
    assert found["no_change"] == 1
    assert found["sequence_accuracy"] == 1


def test_m_learns_one_sequence_by_heart():
    torch.manual_seed(0)
    memory = Memory(3, 2, MemoryConfig(hidden=32, mixtures=2))
    z, act, is_first = steps(1, 12)
    optimizer = torch.optim.Adam(memory.parameters(), 1e-2)
    for _ in range(400):
        mixture = memory.mixture(memory(z[:, :-1], act[:, :-1], is_first[:, :-1]))
        loss = Factorised.nll(mixture, z[:, 1:]).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_value_(memory.parameters(), 1.0)
        optimizer.step()
    found = one_step(mixture, z[:, :-1], z[:, 1:], ~is_first[:, 1:])
    assert loss.item() < -1
    assert found["error"] < 0.05 * found["no_change"]
