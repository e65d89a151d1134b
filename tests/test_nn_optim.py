"""LaProp with adaptive clipping by its closed forms; what is kept of optimisers; mixing and freezing."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from torch import nn

from dreamlab.nn.optim import (
    LaProp,
    frozen,
    global_norm,
    left,
    load_optimizer,
    mix,
    optimizer_state,
    scale_rates,
)


def stepped(params, grads, optimizer, times=1):
    """The moves that so many updates with the same gradients make: (times, ...) of each parameter."""
    moves = []
    for _ in range(times):
        old = [p.detach().clone() for p in params]
        for p, grad in zip(params, grads, strict=True):
            p.grad = grad.clone()
        optimizer.step()
        moves.append([p.detach() - o for p, o in zip(params, old, strict=True)])
    return [torch.stack(part) for part in zip(*moves, strict=True)]


def test_a_constant_gradient_moves_by_the_learning_rate_whatever_its_size():
    grad = torch.tensor([1e-6, -3e-3, 0.1, -2e4, 0.0])
    p = nn.Parameter(torch.zeros(5))
    (moves,) = stepped([p], [grad], LaProp([p], lr=0.01, clip=0.0, warmup=0), 20)
    torch.testing.assert_close(moves, (-0.01 * grad.sign()).expand(20, 5), rtol=1e-4, atol=1e-9)


def test_the_learning_rate_rises_from_nothing():
    p = nn.Parameter(torch.zeros(3))
    (moves,) = stepped([p], [torch.ones(3)], LaProp([p], lr=1.0, clip=0.0, warmup=4), 7)
    torch.testing.assert_close(-moves[:, 0], torch.tensor([0, 0.25, 0.5, 0.75, 1, 1, 1]), rtol=1e-4, atol=1e-7)
    assert (moves[0] == 0).all()


def test_the_learning_rate_falls_over_the_last_updates_alone():
    p = nn.Parameter(torch.zeros(3))
    optimizer = LaProp([p], lr=1.0, clip=0.0, warmup=2)
    optimizer.falls(10, 0.5)
    (moves,) = stepped([p], [torch.ones(3)], optimizer, 13)
    rates = [0, 0.5, 1, 1, 1, 1, 0.8, 0.6, 0.4, 0.2, 0, 0, 0]
    torch.testing.assert_close(-moves[:, 0], torch.tensor(rates), rtol=1e-4, atol=1e-7)
    assert [left(i, 10, 0.5) for i in range(2, 13)] == pytest.approx(rates[2:])
    assert [left(i, *never) for i in (0, 7, 10) for never in ((10, 0.0), (0, 0.5))] == [1.0] * 6


def test_rates_are_shares_of_what_they_began_with_however_often_they_are_set():
    p, q = (nn.Parameter(torch.zeros(1)) for _ in range(2))
    optimizers = torch.optim.SGD([p], lr=0.5), torch.optim.SGD([{"params": [q], "lr": 2.0}])
    for share in (0.5, 1.0, 0.1):
        scale_rates(optimizers, share)
        assert [o.param_groups[0]["lr"] for o in optimizers] == pytest.approx([0.5 * share, 2.0 * share])


@pytest.mark.parametrize("size", [1e-18, 1e-15])
def test_gradients_whose_squares_vanish_do_not_explode(size):
    p = nn.Parameter(torch.zeros(3))
    (moves,) = stepped([p], [torch.full((3,), size)], LaProp([p], lr=0.01, clip=0.0, warmup=0), 5)
    assert moves.abs().max() <= 0.0102


@pytest.mark.parametrize(("norm", "limit"), [(0.0, 3e-4), (5.0, 1.5)])
def test_a_tensor_s_gradient_is_at_most_a_share_of_the_tensor(norm, limit):
    """Told by v, which is the gradient's square at first."""
    torch.manual_seed(0)
    weight = torch.randn(4, 5)
    p, small = (nn.Parameter(weight / weight.norm() * norm) for _ in range(2))
    direction = torch.randn(4, 5)
    direction /= direction.norm()
    optimizer = LaProp([p, small], clip=0.3)
    stepped([p, small], [100 * direction, 0.5 * limit * direction], optimizer)
    for param, want in ((p, limit), (small, 0.5 * limit)):
        torch.testing.assert_close(
            (optimizer.state[param]["v"] / 0.001).sqrt(), want * direction.abs(), rtol=1e-3, atol=0
        )


def test_one_tensor_s_gradient_does_not_change_another_s_update():
    torch.manual_seed(0)
    one, two = nn.Parameter(torch.randn(6)), nn.Parameter(torch.randn(3))
    alone = nn.Parameter(two.detach().clone())
    grads = torch.randn(6), torch.randn(3)
    stepped([one, two], [1e5 * grads[0], grads[1]], LaProp([one, two], warmup=1), 3)
    stepped([alone], grads[1:], LaProp([alone], warmup=1), 3)
    assert torch.equal(two, alone)


def test_what_has_no_gradient_stays():
    p, q = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3))
    optimizer = LaProp([p, q], lr=0.1, warmup=0)
    p.grad = torch.ones(3)
    optimizer.step()
    assert (q == 1).all()
    assert (p != 1).all()


@pytest.mark.parametrize("make", [lambda ps: LaProp(ps, lr=0.1, warmup=5), lambda ps: torch.optim.Adam(ps, fused=True)])
def test_restored_moments_go_on_to_the_bit(make):
    """Also where a parameter lies channels last in memory."""
    torch.manual_seed(0)
    params = [
        nn.Parameter(torch.randn(3, 4)),
        nn.Parameter(torch.randn(4, 2, 3, 3).to(memory_format=torch.channels_last)),
    ]
    grads = [torch.randn_like(p) for p in params]
    optimizer = make(params)
    stepped(params, grads, optimizer, 3)
    twins = deepcopy(params)
    other = make(twins)
    load_optimizer(other, deepcopy(optimizer_state(optimizer)))
    stepped(params, grads, optimizer, 3)
    stepped(twins, grads, other, 3)
    assert all(torch.equal(a, b) for a, b in zip(params, twins, strict=True))
    kinds = [{k: v.dtype for k, v in o.state[p[0]].items()} for o, p in ((optimizer, params), (other, twins))]
    assert kinds[0] == kinds[1]


def test_mixing_is_a_running_mean_and_one_copies():
    torch.manual_seed(0)
    slow, fast = nn.Linear(3, 2), nn.Linear(3, 2)
    want = [0.98 * s + 0.02 * f for s, f in zip(slow.parameters(), fast.parameters(), strict=True)]
    mix(slow, fast, 0.02)
    torch.testing.assert_close(list(slow.parameters()), want)
    mix(slow, fast, 1.0)
    assert all(torch.equal(s, f) for s, f in zip(slow.parameters(), fast.parameters(), strict=True))


def test_gradients_pass_through_what_is_frozen_but_not_into_it():
    net, x = nn.Linear(3, 2), torch.randn(4, 3, requires_grad=True)
    net.bias.requires_grad_(False)
    with frozen(net):
        net(x).sum().backward()
    assert x.grad is not None
    assert net.weight.grad is None
    assert (net.weight.requires_grad, net.bias.requires_grad) == (True, False)


def test_the_global_norm_is_that_of_all_gradients_in_a_row():
    net = nn.Linear(3, 2)
    assert float(global_norm(net.parameters())) == 0
    net(torch.ones(4, 3)).square().sum().backward()
    want = torch.cat([p.grad.flatten() for p in net.parameters()]).norm()
    torch.testing.assert_close(global_norm(net.parameters()), want)
