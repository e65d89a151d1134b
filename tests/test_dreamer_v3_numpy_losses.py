"""The NumPy losses, returns and optimiser of DreamerV3 against brute force, closed forms and the paper's constants."""

from __future__ import annotations

import dreamer_v3_numpy as net
import dreamer_v3_numpy_losses as loss
import numpy as np
import pytest
from dreamer_v3_numpy_losses import numerical_gradient

K = 4


@pytest.fixture
def rng():
    return np.random.default_rng(0)


# World-model losses


def test_kl_is_that_of_the_joint_distribution_over_all_latents(rng):
    post, prior = 3 * rng.normal(size=(2, 2, K))
    q, p = (np.einsum("i,j->ij", *net.unimix(x)) for x in (post, prior))
    assert loss.kl_loss(post, prior, free_nats=0) == pytest.approx((q * np.log(q / p)).sum())


def test_free_nats_apply_after_the_sum_and_stop_the_gradient(rng):
    post, prior = 0.5 * rng.normal(size=(2, 32, K))
    each = loss.kl_categorical(net.unimix(post), net.unimix(prior))
    assert each.max() < 1 < each.sum()  # clipping each latent would give 32
    assert loss.kl_loss(post, prior) == pytest.approx(each.sum())
    assert loss.kl_loss(post, post) == 1
    assert not numerical_gradient(lambda x: loss.kl_loss(post, x), post + 1e-3 * prior).any()


def test_kl_of_a_latent_is_bounded_by_unimix():
    sure, other = 1e3 * np.eye(32)[:2]
    q, p = net.unimix(sure), net.unimix(other)
    assert loss.kl_categorical(q[None], p[None])[0] == pytest.approx(7.98, abs=0.01)


def test_continuation_costs_the_entropy_of_its_soft_label_at_least():
    target = loss.con_target(np.array([0, 1]))
    assert target == pytest.approx([0.996997, 0], abs=1e-6)
    best = np.log(target[0] / (1 - target[0]))
    assert loss.binary_loss(np.array([best, -800.0]), target) == pytest.approx([0.02044, 0], abs=1e-5)


def test_reconstructions_have_no_half_and_vectors_are_compared_as_symlogs():
    assert loss.image_loss(np.zeros((1, 2, 2, 1)), np.full((1, 2, 2, 1), 255)) == pytest.approx([4])
    assert loss.vector_loss(np.ones((1, 2)), np.array([[np.e - 1, 0]])) == pytest.approx([1])


def test_the_total_scales_means():
    losses = {"image": np.full((2, 3), 5.0), "rep": np.array([[1.0, 3.0]]), "repval": np.ones((1, 1))}
    assert loss.total_loss(losses) == pytest.approx(5 + 0.1 * 2 + 0.3)


# Returns


@pytest.fixture
def dream(rng):
    rew, val, con = rng.normal(size=(3, 7)), rng.normal(size=(3, 7)), rng.uniform(0.5, 1, size=(3, 7))
    con[1, 3] = 0
    return rew, con, val


@pytest.mark.parametrize("trace", [0.0, 0.6, 0.95, 1.0])
def test_imagined_returns_mix_the_n_step_returns(dream, trace):
    found = loss.imagined_return(*dream, trace)
    for row, rew, con, val in zip(found, *dream, strict=True):
        assert np.allclose(row, loss.return_by_n_steps(rew, con, np.full(7, trace), val))


def test_replayed_returns_mix_the_n_step_returns(rng):
    rew, boot = rng.normal(size=(2, 4, 9))
    is_last = rng.random((4, 9)) < 0.3
    is_terminal = is_last & (rng.random((4, 9)) < 0.5)
    assert (is_last & ~is_terminal)[:, 1:].any()  # an episode that was cut
    assert is_terminal[:, 1:].any()
    found = loss.replay_return(rew, is_last, is_terminal, boot)
    for i in range(4):
        live, trace = loss.GAMMA * ~is_terminal[i], loss.LAMBDA * ~is_last[i]
        assert np.allclose(found[i], loss.return_by_n_steps(rew[i], live, trace, boot[i]))


def test_returns_at_the_ends_of_lambda(dream):
    rew, con, val = dream
    assert np.allclose(loss.imagined_return(rew, con, val, 0.0), rew[:, 1:] + con[:, 1:] * val[:, 1:])
    summed = np.cumsum(rew[:, :0:-1], -1)[:, ::-1] + val[:, -1:]
    assert np.allclose(loss.imagined_return(rew, np.ones_like(con), val, 1.0), summed)


def test_both_forms_agree_where_nothing_ends(dream):
    rew, _, val = dream
    none = np.zeros(rew.shape)
    steady = loss.imagined_return(rew, np.full(rew.shape, loss.GAMMA), val)
    assert np.allclose(loss.replay_return(rew, none, none, val), steady)


def test_what_follows_an_end_reaches_no_return_before_it(dream):
    rew, con, val = dream
    before = loss.imagined_return(rew, con, val)[1, :3]
    rew[1, 4:], val[1, 3:], con[1, 4:] = 1e6, 1e6, 7
    assert np.array_equal(loss.imagined_return(rew, con, val)[1, :3], before)


def test_the_return_scale_starts_from_zero_and_remembers_a_hundredth(rng):
    ret = rng.random((5, 7))
    low, high, scale = loss.update_return_scale(0.0, 0.0, ret)
    assert (low, high) == pytest.approx(tuple(0.01 * np.percentile(ret, [5, 95])))
    assert scale == 1
    low = high = 0.0
    for _ in range(50):
        low, high, scale = loss.update_return_scale(low, high, np.full(9, 8.0))
    assert (low, high, scale) == pytest.approx((8 * (1 - 0.99**50),) * 2 + (1,))


# Behaviour


def test_weights_include_the_continuation_of_the_start():
    assert loss.imagined_weight(np.array([0.9, 0.5, 0.0, 1.0])) == pytest.approx([0.9, 0.45, 0])


def test_policies_are_densities(rng):
    logit, actions = rng.normal(size=(1, 6)), np.arange(6)
    logp, entropy = loss.categorical_policy(np.repeat(logit, 6, 0), actions)
    assert np.exp(logp).sum() == pytest.approx(1)
    assert entropy == pytest.approx(np.full(6, -(np.exp(logp) * logp).sum()))
    grid = np.linspace(-9, 9, 20001)[:, None]
    logp, entropy = loss.normal_policy(np.full_like(grid, 0.4), np.full_like(grid, -1.0), grid)
    assert grid[logp.argmax()] == pytest.approx([np.tanh(0.4)], abs=1e-3)
    density = np.exp(logp) * (grid[1] - grid[0])
    assert density.sum() == pytest.approx(1)
    assert entropy[0] == pytest.approx(-(density * logp).sum())


def test_the_initial_policy_has_the_paper_s_spread():
    zero = np.zeros((1, 1))
    logp, _ = loss.normal_policy(zero, zero, zero)
    assert np.exp(-logp) / np.sqrt(2 * np.pi) == pytest.approx([0.8927], abs=1e-4)


def test_the_actor_climbs_the_advantage_and_the_entropy(dream):
    rew, con, val = dream
    ret, weight = loss.imagined_return(rew, con, val), loss.imagined_weight(con)

    def grad(part):
        logp, entropy = (np.zeros(ret.shape) for _ in range(2))
        pick = {"logp": lambda x: (x, entropy), "entropy": lambda x: (logp, x)}[part]
        return numerical_gradient(lambda x: loss.actor_loss(*pick(x), ret, val, con, 2.0).sum(), logp)

    assert np.allclose(grad("logp"), -weight * (ret - val[:, :-1]) / 2, atol=1e-8)
    assert np.allclose(grad("entropy"), -3e-4 * weight, atol=1e-8)


def test_the_critic_is_pulled_to_the_return_and_to_its_slow_self(rng):
    logit, con = rng.normal(size=(3, 255)), np.array([0.9, 0.5, 1.0])
    ret, slow = np.array([4.0, -70.0]), np.array([1.0, 0.2, 9.9])
    found = numerical_gradient(lambda x: loss.critic_loss(x, ret, slow, con).sum(), logit, 1e-5)
    expected = 2 * net.softmax(logit[:-1]) - net.two_hot(ret) - net.two_hot(slow[:-1])
    assert np.allclose(found[:-1], np.array([[0.9], [0.45]]) * expected, atol=1e-8)
    assert not found[-1].any()


def test_the_last_step_of_an_episode_teaches_no_replay_value(rng):
    logit, (slow, rew, boot) = rng.normal(size=(2, 5, 255)), rng.normal(size=(3, 2, 5))
    is_last, none = np.zeros((2, 5), bool), np.zeros((2, 5), bool)
    is_last[0, 2] = True
    found = loss.replay_value_loss(logit, slow, rew, is_last, none, boot)
    assert np.array_equal(found == 0, is_last[:, :-1])
    ret = rew[0, 2] + loss.GAMMA * boot[0, 2]  # cut, not ended: the value there counts, nothing beyond does
    expected = net.two_hot_loss(logit[0, 1], ret) + net.two_hot_loss(logit[0, 1], slow[0, 1])
    assert found[0, 1] == pytest.approx(expected)


# Optimiser


def test_clipping_scales_whole_tensors_and_only_shrinks(rng):
    param, grad = rng.normal(size=(3, 4)), rng.normal(size=(3, 4))
    norm = np.linalg.norm
    long = loss.clip_gradient(param, 100 * grad)
    assert norm(long) == pytest.approx(0.3 * norm(param))
    assert np.allclose(long / norm(long), grad / norm(grad))
    assert np.array_equal(loss.clip_gradient(param, 1e-3 * grad), 1e-3 * grad)
    assert norm(loss.clip_gradient(0 * param, grad)) == pytest.approx(3e-4)


def test_laprop_equals_its_sums(rng):
    """v^ and m^ are weighted means of all that came before; the weights are those of the averages, normalised."""
    start, path = {"w": 50 * rng.normal(size=(2, 3))}, [rng.normal(size=(2, 3)) for _ in range(6)]
    params, state = start, loss.laprop_start(start)
    for grad in path:
        params, state = loss.laprop_step(params, {"w": grad}, state, peak=1e-3, warmup=3)

    def mean(values, beta):
        return np.average(values, axis=0, weights=beta ** np.arange(len(values))[::-1])

    normed = [grad / np.sqrt(mean(np.square(path[: t + 1]), 0.999)) for t, grad in enumerate(path)]
    expected = start["w"]
    for t in range(6):
        expected = expected - 1e-3 * min(1, t / 3) * mean(normed[: t + 1], 0.9)
    assert np.allclose(params["w"], expected, rtol=1e-12)


def test_a_constant_gradient_moves_by_the_learning_rate_and_the_first_update_not_at_all(rng):
    grad = {"w": rng.normal(size=5)}
    params = {"w": 100 * np.ones(5)}
    state = loss.laprop_start(params)
    for n in range(4):
        after, state = loss.laprop_step(params, grad, state, peak=1e-2, warmup=2)
        assert np.allclose(after["w"] - params["w"], -[0, 5e-3, 1e-2, 1e-2][n] * np.sign(grad["w"]), rtol=0, atol=1e-12)
        params = after


def test_a_zero_gradient_moves_nothing():
    params = {"w": np.ones(2)}
    after, _ = loss.laprop_step(params, {"w": np.zeros(2)}, {**loss.laprop_start(params), "updates": 5})
    assert np.array_equal(after["w"], params["w"])


def test_the_slow_critic_forgets_by_powers_of_0_98():
    slow, online = {"w": np.array([1.0])}, {"w": np.array([3.0])}
    for _ in range(10):
        slow = loss.mix_slow(slow, online)
    assert slow["w"] == pytest.approx([3 - 2 * 0.98**10])
