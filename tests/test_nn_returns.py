"""The lambda-return against its definition: a mixture of n-step returns."""

from __future__ import annotations

import dreamer_v3_numpy_losses as oracle
import numpy as np
import pytest
import torch

from dreamlab.nn.returns import lambda_return

T, N = 6, (3, 2)


@pytest.fixture
def steps():
    rng = torch.Generator().manual_seed(0)
    rew, value = (torch.randn(T, *N, generator=rng, dtype=torch.float64) for _ in range(2))
    con = torch.rand(T, *N, generator=rng, dtype=torch.float64).round(decimals=1)
    con[2, 0], con[4, 1] = 0.0, 1.0
    return rew, con, value, torch.randn(*N, generator=rng, dtype=torch.float64)


def n_step(rew, con, value, last_value, discount, t, n):
    """n rewards from t on, and the value where they lead."""
    after = torch.cat([value[1:], last_value[None]])
    total, weight = torch.zeros(N, dtype=rew.dtype), torch.ones(N, dtype=rew.dtype)
    for k in range(t, t + n):
        total = total + weight * rew[k]
        weight = weight * discount * con[k]
    return total + weight * after[t + n - 1]


@pytest.mark.parametrize("trace", [0.0, 0.3, 0.95, 1.0])
@pytest.mark.parametrize("discount", [0.9, 1.0])
def test_it_mixes_the_n_step_returns(steps, discount, trace):
    found = lambda_return(*steps, discount, trace)
    for t in range(T):
        left = T - t
        whole = trace ** (left - 1) * n_step(*steps, discount, t, left)
        for n in range(1, left):
            whole = whole + (1 - trace) * trace ** (n - 1) * n_step(*steps, discount, t, n)
        torch.testing.assert_close(found[t], whole)


def test_its_ends_are_one_step_and_the_sum_of_all_rewards(steps):
    rew, con, value, last = steps
    after = torch.cat([value[1:], last[None]])
    torch.testing.assert_close(lambda_return(*steps, 0.9, 0.0), rew + 0.9 * con * after)
    ones = torch.ones_like(con)
    every = lambda_return(rew, ones, value, last, 1.0, 1.0)
    torch.testing.assert_close(every, rew.flip(0).cumsum(0).flip(0) + last)


def test_nothing_after_an_end_reaches_the_returns_before_it(steps):
    rew, con, value, last = (x.clone() for x in steps)
    con[3] = 0
    before = lambda_return(rew, con, value, last, 0.99, 0.95)[:4]
    rew[4:], value[4:], last[:] = 1e6, 1e6, 1e6
    assert torch.equal(lambda_return(rew, con, value, last, 0.99, 0.95)[:4], before)


def test_a_row_without_a_step_passes_its_value_on(steps):
    rew, con, value, last = (x.clone() for x in steps)
    rew[3], con[3] = value[3], 0
    cut = lambda_return(rew, con, value, last, 0.99, 0.95)
    assert torch.equal(cut[3], value[3])
    torch.testing.assert_close(cut[:3], lambda_return(rew[:3], con[:3], value[:3], value[3], 0.99, 0.95))


def test_a_trace_for_every_step_mixes_as_it_says():
    """0 at a step: all that is known of what follows is the value there."""
    rng = np.random.default_rng(0)
    rew, con, trace, value = rng.normal(size=T), rng.random(T), 0.9 * rng.integers(2, size=T), rng.normal(size=T + 1)
    want = oracle.return_by_n_steps(np.r_[0, rew], np.r_[1, 0.9 * con], np.r_[1, trace], value)
    found = lambda_return(*(torch.tensor(x) for x in (rew, con, value[:-1], value[-1], 0.9, trace)))
    torch.testing.assert_close(found, torch.tensor(want))


def test_behind_a_step_without_trace_only_the_value_there_counts(steps):
    rew, con, value, last = (x.clone() for x in steps)
    trace = torch.full((T, 1, 1), 0.95, dtype=rew.dtype)
    trace[2] = 0
    before = lambda_return(rew, con, value, last, 0.99, trace)[:3]
    rew[3:], value[4:], last[:] = 1e6, 1e6, 1e6  # value[3] is where step 2 leads
    assert torch.equal(lambda_return(rew, con, value, last, 0.99, trace)[:3], before)


def test_gradients_pass_to_rewards_and_values(steps):
    """As dynamics backpropagation needs them."""
    rew, con, value, last = (x[..., 0, 0].clone().requires_grad_() for x in steps)
    assert torch.autograd.gradcheck(lambda *args: lambda_return(*args, 0.9, 0.8), (rew, con, value, last))
