"""Two-hot numbers and distributions over actions, against brute force, closed forms and torch's own."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from dreamlab.nn import distributions
from dreamlab.nn.distributions import (
    IMAGE_LOSSES,
    ONE_HOTS,
    BoundedNormal,
    OneHots,
    ReinMax,
    TwoHot,
    bernoulli_loss,
    symexp,
    symlog,
    unit_normal_loss,
)

BINS = TwoHot().bins


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


def test_symlog_and_symexp_undo_each_other_and_are_odd():
    x = torch.tensor([0, 1e-4, 0.3, 7, 3e3, 1e6])
    torch.testing.assert_close(symexp(symlog(x)), x, rtol=1e-5, atol=0)
    assert torch.equal(symlog(-x), -symlog(x))
    assert torch.equal(symexp(-x), -symexp(x))
    assert float(symlog(torch.tensor(1e-4))) == pytest.approx(1e-4, rel=1e-3)


# ---- two-hot


def test_bins_are_mirrored_to_the_bit_and_have_the_paper_s_ends():
    assert BINS.shape == (255,)
    assert torch.equal(BINS, -BINS.flip(0))
    assert BINS[127] == 0
    assert (BINS.diff() > 0).all()
    assert BINS[[128, 254]].tolist() == pytest.approx([0.170558, 4.85165e8], rel=1e-5)


def dense(target: torch.Tensor) -> torch.Tensor:
    """Weights of all bins (..., 255), by looking at every pair of neighbours."""
    weights = torch.zeros(*target.shape, 255, dtype=torch.float64)
    for i, x in enumerate(target.double().clamp(BINS[0], BINS[-1])):
        for k in range(254):
            low, high = float(BINS[k]), float(BINS[k + 1])
            if low <= x <= high:
                weights[i] = 0
                weights[i, k], weights[i, k + 1] = (high - x) / (high - low), (x - low) / (high - low)
    return weights


NUMBERS = torch.cat(
    [symexp(torch.linspace(-19.9, 19.9, 23)), BINS[[0, 3, 126, 127, 128, 254]], torch.tensor([1e9, -1e9])]
)


def test_the_loss_is_the_cross_entropy_with_dense_two_hot_weights():
    """Values and gradients, also of several targets at once."""
    logits = (3 * torch.randn(len(NUMBERS), 255)).requires_grad_()
    weights = dense(NUMBERS)
    torch.testing.assert_close(weights.sum(-1), torch.ones(len(NUMBERS), dtype=torch.float64))
    inside = (weights * BINS.double()).sum(-1)
    torch.testing.assert_close(inside, NUMBERS.double().clamp(BINS[0], BINS[-1]), rtol=1e-9, atol=1e-9)
    log_p = logits.double().log_softmax(-1)
    want, other = -(weights * log_p).sum(-1), -(weights.flip(0) * log_p).sum(-1)
    for found, exact in (
        (TwoHot().loss(logits, NUMBERS), want),
        (TwoHot().loss(logits, NUMBERS, NUMBERS.flip(0)), want + other),
    ):
        torch.testing.assert_close(found, exact.float(), rtol=1e-4, atol=1e-4)
        grad = torch.randn(len(NUMBERS))
        (one,), (two,) = (
            torch.autograd.grad(found, logits, grad),
            torch.autograd.grad(exact, logits, grad.double(), retain_graph=True),
        )
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-4)


def test_equal_logits_say_exactly_zero_and_cost_ln_255():
    for level in (0.0, 1.7):
        assert (TwoHot().mean(torch.full((3, 255), level)) == 0).all()
    torch.testing.assert_close(
        TwoHot().loss(torch.zeros(2, 255), torch.tensor([3.7, -1e3])), torch.full((2,), math.log(255))
    )


def test_the_prediction_is_the_mean_of_the_bins():
    logits = torch.randn(5, 4, 255)
    want = (logits.double().softmax(-1) * BINS.double()).sum(-1)
    torch.testing.assert_close(TwoHot().mean(logits).double(), want, rtol=1e-4, atol=10)
    near = -0.5 * (torch.arange(255) - 140.0).abs().expand(3, -1)
    want = (near.double().softmax(-1) * BINS.double()).sum(-1)
    torch.testing.assert_close(TwoHot().mean(near).double(), want, rtol=1e-5, atol=0)


def test_the_least_loss_of_a_head_says_the_number():
    for number in (-37.2, 0.05, 4e3):
        below, above, near = TwoHot().place(torch.tensor([number]))
        logits = torch.full((1, 255), -50.0)
        logits[0, below], logits[0, above] = (1 - near).log(), near.log()
        assert float(TwoHot().mean(logits)) == pytest.approx(number, rel=1e-4)


def test_other_losses_are_torch_s():
    mean, target, logit, p = *torch.randn(3, 7), torch.rand(7)
    torch.testing.assert_close(unit_normal_loss(mean, target), -torch.distributions.Normal(mean, 1).log_prob(target))
    want = -(p * logit.sigmoid().log() + (1 - p) * (-logit).sigmoid().log())
    torch.testing.assert_close(bernoulli_loss(logit, p), want)


def test_an_image_of_ones_and_zeros_costs_minus_the_log_of_its_probability():
    logit, lit = torch.randn(2, 3, 4, 5, dtype=torch.float64), torch.rand(2, 3, 4, 5) < 0.3
    pixels = torch.distributions.Bernoulli(logits=logit)
    want = -pixels.log_prob(lit.double()).sum((1, 2, 3)).float()
    torch.testing.assert_close(IMAGE_LOSSES["lit"](logit.float(), 255 * lit.to(torch.uint8)), want)
    squares = (logit.sigmoid() - lit.double()).square().sum((1, 2, 3)).float()
    torch.testing.assert_close(IMAGE_LOSSES["squared"](logit.float(), 255 * lit.to(torch.uint8)), squares)


# ---- actions


def test_several_choices_are_independent_mixed_with_a_uniform():
    pick, out = OneHots((3, 20), unimix=0.01), 4 * torch.randn(6, 23)
    three, twenty = (0.99 * part.softmax(-1) + 0.01 / part.shape[-1] for part in out.split((3, 20), -1))
    apart = [torch.distributions.Categorical(probs=p) for p in (three, twenty)]
    act = torch.cat([torch.eye(3)[[0, 1, 2, 0, 1, 2]], torch.eye(20)[torch.arange(6)]], -1)
    want = apart[0].log_prob(act[:, :3].argmax(-1)) + apart[1].log_prob(act[:, 3:].argmax(-1))
    torch.testing.assert_close(pick.log_prob(out, act), want)
    torch.testing.assert_close(pick.entropy(out), apart[0].entropy() + apart[1].entropy())
    certain = OneHots((3,), 0.01).probs(torch.tensor([[100.0, 0, -100]]))[0]
    torch.testing.assert_close(certain, torch.tensor([[0.99 + 0.01 / 3, 0.01 / 3, 0.01 / 3]]))
    mode = pick.mode(out)
    assert torch.equal(mode[:, :3].argmax(-1), three.argmax(-1))
    assert torch.equal(mode[:, 3:].argmax(-1), twenty.argmax(-1))


def test_classes_are_drawn_as_often_as_they_are_likely_and_groups_apart():
    pick = OneHots((2, 3), unimix=0.1)
    out = torch.tensor([1.0, 0, 2, 0, -3])
    drawn = pick.sample(out.expand(40_000, -1))
    assert ((drawn == 0) | ((drawn - 1).abs() < 1e-6)).all()
    assert (drawn[:, :2].sum(-1).round() == 1).all()
    want = torch.cat([0.9 * part.softmax(-1) + 0.1 / len(part) for part in out.split((2, 3))])
    torch.testing.assert_close(drawn.mean(0), want, rtol=0, atol=0.012)
    joint = torch.einsum("na,nb->ab", drawn[:, :2], drawn[:, 2:]) / len(drawn)
    torch.testing.assert_close(joint, want[:2, None] * want[None, 2:], rtol=0, atol=0.012)


def test_samples_of_classes_pass_the_probabilities_gradient():
    pick, out = OneHots((4,), unimix=0.01), torch.randn(1, 4, requires_grad=True)
    jacobian = torch.autograd.functional.jacobian(lambda x: pick.sample(x)[0], out)[:, 0]
    p = out.softmax(-1)[0]
    torch.testing.assert_close(jacobian, 0.99 * (torch.diag(p) - torch.outer(p, p)))


def test_bounded_normals_are_torch_s_and_neither_squashed_nor_clipped():
    pick, out = BoundedNormal(2), torch.randn(500, 4)
    mean, std = out[:, :2].tanh(), 0.1 + 0.9 * (out[:, 2:] + 2).sigmoid()
    want = torch.distributions.Normal(mean, std)
    act = 2 * torch.randn(500, 2)
    torch.testing.assert_close(pick.log_prob(out, act), want.log_prob(act).sum(-1))
    torch.testing.assert_close(pick.entropy(out), want.entropy().sum(-1))
    assert torch.equal(pick.mode(out), mean)
    drawn = pick.sample(torch.zeros(40_000, 4))
    assert float(drawn.std()) == pytest.approx(0.8927, rel=0.02)
    assert float(drawn.abs().max()) > 2


@pytest.mark.parametrize("sizes", [(3,), (3, 2)])
def test_reinmax_expects_the_exact_gradient_of_whatever_is_quadratic(monkeypatch, sizes):
    """Each class in turn is drawn, and counts by its probability; straight through is not exact there."""
    torch.manual_seed(0)
    n = sum(sizes)
    out, square, line = torch.randn(n, requires_grad=True), torch.randn(n, n), torch.randn(n)

    def follows(act):
        return act @ square @ act + act @ line

    probs = [part.softmax(-1) for part in out.split(sizes)]
    every = list(itertools.product(*(range(k) for k in sizes)))
    weights = [math.prod(p[k] for p, k in zip(probs, classes, strict=True)) for classes in every]
    one_hots = [torch.cat([torch.eye(k)[c] for k, c in zip(sizes, classes, strict=True)]) for classes in every]
    (exact,) = torch.autograd.grad(
        sum(w * follows(one) for w, one in zip(weights, one_hots, strict=True)), out, retain_graph=True
    )

    def expected(pick):
        found = torch.zeros(n)
        for w, classes, one in zip(weights, every, one_hots, strict=True):
            draws = iter(torch.eye(k)[c] for k, c in zip(sizes, classes, strict=True))
            monkeypatch.setattr(distributions, "race_noise", lambda *shape, device, draws=draws: next(draws))
            act = pick.sample(out[None])[0]
            assert torch.equal(act.detach().round(), one)
            found += w.detach() * torch.autograd.grad(follows(act), out)[0]
        return found

    torch.testing.assert_close(expected(ReinMax(sizes)), exact, atol=1e-5, rtol=1e-4)
    assert (expected(OneHots(sizes)) - exact).abs().max() > 0.01


def test_reinmax_knows_an_action_that_is_best_since_it_changes_nothing():
    """Left, stay, right, where staying is right and both others go too far: straight through, staying gains nothing."""
    out, move = torch.zeros(20_000, 3, requires_grad=True), torch.tensor([-1.0, 0, 1])
    gains = {}
    for name, kind in ONE_HOTS.items():
        torch.manual_seed(0)
        (gradient,) = torch.autograd.grad(-(kind([3]).sample(out) @ move).square().mean(), out)
        gains[name] = gradient.sum(0)[1].item()
    assert gains["straight"] == pytest.approx(0, abs=0.01)
    assert gains["reinmax"] == pytest.approx(2 / 9, abs=0.02)  # p (f(stay) - mean f)


def test_reinmax_stays_finite_where_a_class_cannot_be_drawn():
    out = torch.tensor([[200.0, 0.0, -200.0]], requires_grad=True)
    act = ReinMax([3]).sample(out)
    (gradient,) = torch.autograd.grad((act * torch.tensor([1.0, 2.0, 3.0])).sum(), out)
    assert act.isfinite().all()
    assert gradient.isfinite().all()
