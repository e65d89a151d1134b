"""The variants' own invariants: joint mixtures, the restart input, losses of V, schedules, Doom's actions and data."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from gymnasium import spaces

from dreamlab.agents.world_models.acting import Held
from dreamlab.agents.world_models.actions import Thirds, actions_for
from dreamlab.agents.world_models.config import Config, MemoryConfig
from dreamlab.agents.world_models.memory import Joint, Memory, Mixture, Noise, fresh_noise, sample
from dreamlab.agents.world_models.schedules import DECAY, EPOCH, LOWEST, PATIENCE, Decay, Plateau
from dreamlab.agents.world_models.vision import Vision, cross_entropy
from dreamlab.core.errors import UserError


def joint(n: int, k: int = 4, d: int = 6) -> Mixture:
    torch.manual_seed(0)
    return Mixture(torch.randn(n, k, 1), torch.randn(n, k, d), 0.3 * torch.randn(n, k, d))


def test_the_joint_cost_is_that_of_torchs_mixture():
    mixture, z = joint(5), torch.randn(5, 6)
    parts = torch.distributions.Independent(torch.distributions.Normal(mixture.mean, mixture.log_std.exp()), 1)
    whole = torch.distributions.MixtureSameFamily(torch.distributions.Categorical(logits=mixture.logit[..., 0]), parts)
    torch.testing.assert_close(6 * Joint.nll(mixture, z)[:, 0], -whole.log_prob(z))


def test_the_known_reproductions_head_has_its_size():
    """327 numbers for 32 dimensions and 5 Gaussians, of which reward and ending are two."""
    with torch.device("meta"):
        memory = Memory(32, 3, MemoryConfig(mixture="joint", reward=True, continuation=True))
    assert memory.head.out_features + len(memory.extra) == 5 * (2 * 32 + 1) + 2 == 327


def test_a_joint_draw_takes_all_dimensions_of_one_gaussian():
    """Means far apart: every draw lies near one component's whole vector."""
    n, k, d = 4000, 3, 5
    mean = 100 * torch.arange(k).float()[None, :, None].expand(n, k, d)
    logit = torch.tensor([0.2, 0.5, 0.3]).log()[None, :, None].expand(n, k, 1)
    mixture = Mixture(logit, mean, torch.zeros(n, k, d))
    z = sample(mixture, 1.0, fresh_noise(n, d, torch.Generator().manual_seed(0), z_device()))
    which = (z / 100).round()
    assert (which == which[:, :1]).all()
    share = torch.stack([(which[:, 0] == i).float().mean() for i in range(k)])
    torch.testing.assert_close(share, torch.tensor([0.2, 0.5, 0.3]), atol=0.03, rtol=0)
    still = sample(mixture, 1.0, Noise(torch.full((n, d), 0.5), torch.zeros(n, d)))
    torch.testing.assert_close(still, mean[:, 1])  # the running sum reaches one half in the second


def z_device() -> torch.device:
    return torch.device("cpu")


def test_the_restart_is_an_input_in_cell_and_fused_form_alike():
    torch.manual_seed(0)
    memory = Memory(3, 2, MemoryConfig(hidden=8, mixtures=2, restart=True))
    z, act, is_first = torch.randn(2, 7, 3), torch.randn(2, 7, 2), torch.zeros(2, 7, dtype=torch.bool)
    is_first[:, 0] = is_first[1, 4] = True
    fused = memory(z, act, is_first)
    h, _ = memory.states(z, act, is_first)
    same = ~is_first[:, 1:]  # ``states`` gives h before a row, zeroed where an episode starts
    torch.testing.assert_close(h[:, 1:][same], fused[:, :-1][same])
    unmarked = memory(z[:1, :3], act[:1, :3], torch.zeros(1, 3, dtype=torch.bool))
    assert not torch.allclose(unmarked, fused[:1, :3])


def test_cross_entropy_is_least_at_the_image_itself():
    x = torch.rand(4, 3, 8, 8)
    best = cross_entropy(x, x)
    assert (cross_entropy(x, (x + 0.05).clamp(0.01, 0.99)) > best).all()
    entropy = -(x * x.log() + (1 - x) * (1 - x).log()).flatten(1).sum(1)
    torch.testing.assert_close(best, entropy)


def test_batch_normalisation_learns_in_training_alone_and_96_pixels_fit():
    torch.manual_seed(0)
    vision = Vision((3, 96, 96), 4, batch_norm=True, loss="bce")
    assert vision.decode(torch.zeros(2, 4)).shape == (2, 3, 96, 96)
    vision.eval()
    x = torch.rand(3, 3, 96, 96)
    one = vision.encode(x)[0]
    torch.testing.assert_close(vision.encode(x[:1])[0], one[:1], atol=1e-5, rtol=1e-4)  # rows do not see each other
    vision.train()
    vision.encode(x)
    vision.eval()
    assert not torch.allclose(vision.encode(x)[0], one)


def test_the_decaying_rate_is_the_papers():
    schedule = Decay(1e-3)
    rates = []
    for _ in range(1000):
        rates.append(schedule.rate)
        schedule.learned(torch.zeros(()))
    assert rates[0] == 1e-3
    assert rates[500] == pytest.approx(LOWEST + (1e-3 - LOWEST) * DECAY**500)
    schedule.updates = 24_400
    assert schedule.rate == pytest.approx(7.9e-4, rel=0.01)


def test_a_plateau_halves_the_rate_and_goes_on_where_it_stopped():
    schedule = Plateau(1.0)
    for i in range(EPOCH * (PATIENCE + 2)):
        assert schedule.rate == 1.0, i
        schedule.learned(torch.tensor(3.0))
        if i == EPOCH + 7:
            state, schedule = schedule.state_dict(), Plateau(1.0)
            schedule.load_state_dict(state)
    assert schedule.rate == 0.5
    for _ in range(EPOCH):
        schedule.learned(torch.tensor(1.0))  # better again
    assert (schedule.rate, schedule.worse) == (0.5, 0)


def test_dooms_button_needs_more_than_a_third():
    actions = actions_for(spaces.Discrete(3), "thirds")
    pressed = actions.emit(torch.tensor([[-1.0], [-0.3334], [-0.3333], [0.0], [0.3333], [0.3334], [1.0]]))
    left, right = Thirds.LEFT, Thirds.RIGHT
    assert pressed.tolist() == [left, left, 0, 0, 0, right, right]
    assert actions(torch.zeros(1, 1)).item() == 0
    buttons = torch.eye(3)
    assert actions.seen(buttons, {})[:, 0].tolist() == [0, 1, -1]
    number = torch.tensor([[0.2]])
    assert actions.seen(buttons[:1], actions.note(number)).item() == pytest.approx(0.2)
    with pytest.raises(UserError, match="three actions"):
        actions_for(spaces.Discrete(4), "thirds")


def test_held_actions_change_only_where_their_count_divides_the_step():
    rng = torch.Generator().manual_seed(0)
    policy = Held(4, actions_for(spaces.Discrete(3), "thirds"), rng)
    state, acts, every = policy.initial(50), [], []
    for t in range(60):
        before = state
        _, state, columns = policy({}, torch.full((50,), t == 0), state)
        acts.append(columns["analog"][:, 0].clone())
        every.append(state.every)
        kept = (t % before.every != 0) if t else torch.zeros(50, dtype=torch.bool)
        assert torch.equal(acts[-1][kept], acts[-2][kept]) if t else True
    moves = (torch.stack(acts)[1:] != torch.stack(acts)[:-1]).float().mean()
    assert 0.1 < moves < 0.5
    assert torch.cat(every).unique().tolist() == list(range(1, 11))


def test_a_dream_without_an_aim_is_refused_unless_nobody_is_trained_there():
    dreaming = {"train_in": "dream"}
    with pytest.raises(ValueError, match="what to strive for"):
        Config(controller=Config().controller.__class__(**dreaming))
    Config(controller=Config().controller.__class__(**dreaming), stages=("vision", "memory"))
    with pytest.raises(ValueError, match="leaves nothing"):
        MemoryConfig(sequence=8, warm_up=8)


def test_draws_of_one_gaussian_have_its_moments():
    n = 100_000
    mixture = Mixture(torch.zeros(n, 1, 1), torch.full((n, 1, 2), 3.0), torch.full((n, 1, 2), math.log(0.5)))
    z = sample(mixture, 2.0, fresh_noise(n, 2, torch.Generator().manual_seed(1), z_device()))
    assert np.allclose(z.mean(0), 3.0, atol=0.01)
    assert np.allclose(z.var(0), 2.0 * 0.25, atol=0.01)  # temperature scales the variance
