"""The recurrent state-space model of each paper against its plain form: every step by itself, every product whole."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from dreamlab.nn.blocks import Elu, RMSNormSiLU, truncated
from dreamlab.nn.cells import BlockGRU, KerasGRU, NormGRU, gru_gates
from dreamlab.nn.latents import Categorical, Gaussian, sigmoid2_std, softplus_std
from dreamlab.nn.rssm import RSSM, State

N, T, A, E, D, HIDDEN, G, S, K = 3, 7, 2, 5, 16, 6, 4, 3, 4
KINDS = ("v1", "v2", "v3")


def make(kind: str) -> RSSM:
    torch.manual_seed(0)
    if kind == "v1":
        z = Gaussian(S, softplus_std)
        found = RSSM(KerasGRU(z.width, A, D, HIDDEN), z, E, HIDDEN, 1, lambda _: Elu())
    elif kind == "v2":
        z = Categorical(S, K)
        found = RSSM(NormGRU(z.width, A, D, HIDDEN, lambda _: Elu()), z, E, HIDDEN, 1, lambda _: Elu())
    else:
        z = Categorical(S, K, unimix=0.01)
        found = RSSM(BlockGRU(z.width, A, D, HIDDEN, G, truncated()), z, E, HIDDEN, 2, RMSNormSiLU, truncated())
    for p in found.parameters():
        p.data.add_(0.2 * torch.randn_like(p))
    return found


def inputs(model: RSSM, seed: int = 1):
    """Embeddings, actions, resets, a start and noise."""
    torch.manual_seed(seed)
    first = torch.zeros(N, T, dtype=torch.bool)
    first[0, 3] = first[2, 0] = first[2, 6] = True
    start = State(torch.rand(N, D) * 2 - 1, model.latents.draw(torch.randn(N, model.latents.raw), noise(model, N)))
    return torch.randn(N, T, E), 2 * torch.randn(N, T, A), first, start, noise(model, N, T)


def noise(model: RSSM, *lead: int) -> torch.Tensor:
    return model.latents.noise(*lead, device=torch.device("cpu"))


# ---- plain forms


def plain_v1(cell, h, z, act):
    gru = nn.GRUCell(HIDDEN, D)
    x = F.elu(F.linear(torch.cat([z, act], -1), cell.inputs.weight, cell.inputs.bias))
    weights = {"weight_ih": cell.enter.weight, "weight_hh": cell.recur.weight}
    biases = {"bias_ih": cell.enter.bias, "bias_hh": cell.recur.bias}
    return torch.func.functional_call(gru, weights | biases, (x, h))


def plain_v2(cell, h, z, act):
    x = F.elu(F.linear(torch.cat([z, act], -1), cell.inputs.weight, cell.inputs.bias))
    p = F.linear(torch.cat([x, h], -1), cell.gates.weight, cell.gates.bias)
    reset, candidate, update = F.layer_norm(p, (3 * D,), cell.norm.scale, cell.norm.offset, 1e-3).chunk(3, -1)
    update = torch.sigmoid(update - 1)
    return update * torch.tanh(torch.sigmoid(reset) * candidate) + (1 - update) * h


def plain_norm(x, scale):
    return F.silu(x / (x.square().mean(-1, keepdim=True) + 1e-4).sqrt() * scale)


def plain_v3(cell, h, z, act):
    act = act / act.detach().abs().clamp(min=1)
    shared = torch.cat(
        [
            plain_norm(F.linear(x, layer.weight, layer.bias), scale)
            for x, layer, scale in zip((h, z, act), cell.inputs, cell.scales, strict=True)
        ],
        -1,
    )
    x = h @ torch.block_diag(*cell.state.weight) + F.linear(shared, cell.shared.weight, cell.shared.bias)
    x = plain_norm(x, cell.norm.scale)
    found = []
    for g, (part, own) in enumerate(zip(x.chunk(G, -1), h.chunk(G, -1), strict=True)):
        bias = cell.gates.bias.chunk(G)[g]
        reset, candidate, update = (part @ cell.gates.weight[g] + bias).chunk(3, -1)
        update = torch.sigmoid(update - 1)
        found.append(update * torch.tanh(torch.sigmoid(reset) * candidate) + (1 - update) * own)
    return torch.cat(found, -1)


def plain_draw(z, raw, noise):
    if isinstance(z, Gaussian):
        return raw[..., :S] + (F.softplus(raw[..., S:]) + 0.1) * noise
    p = (1 - z.unimix) * raw.unflatten(-1, (S, K)).softmax(-1) + z.unimix / K
    return (F.one_hot((p * noise).argmax(-1), K) + p - p.detach()).flatten(-2)


def plain_observe(model, embed, act, first, start, noise):
    step = {KerasGRU: plain_v1, NormGRU: plain_v2, BlockGRU: plain_v3}[type(model.cell)]
    (h, z), states, raws = start, [], []
    for t in range(embed.shape[1]):
        keep = (~first[:, t, None]).float()
        h = step(model.cell, h * keep, z * keep, act[:, t] * keep)
        layer, seen = model.posterior, torch.cat([h, embed[:, t]], -1)
        raw = F.linear(seen, layer.weight, layer.bias)
        raw = plain_norm(raw, model.posterior_after.scale) if isinstance(model.cell, BlockGRU) else F.elu(raw)
        raw = F.linear(raw, model.posterior_out.weight, model.posterior_out.bias)
        z = plain_draw(model.latents, raw, noise[:, t])
        states.append(State(h, z))
        raws.append(raw)
    return State(*(torch.stack(parts, 1) for parts in zip(*states, strict=True))), torch.stack(raws, 1)


@pytest.mark.parametrize("kind", KINDS)
def test_observing_is_the_plain_form_in_values_and_all_gradients(kind):
    model = make(kind)
    embed, act, first, start, eps = inputs(model)
    sources = [x.requires_grad_() for x in (embed, act, *start)]
    names = [k for k, _ in model.named_parameters() if not k.startswith("prior")]
    sources += [dict(model.named_parameters())[k] for k in names]
    weights, losses = None, []
    for observe in (lambda *args: model.observe(*args), lambda *args: plain_observe(model, *args)):
        states, raw = observe(embed, act, first, start, eps)
        parts = torch.cat([states.deter, states.stoch, raw], -1)
        weights = torch.randn_like(parts) if weights is None else weights
        losses.append((parts, torch.autograd.grad((parts * weights).sum(), sources)))
    torch.testing.assert_close(losses[0][0], losses[1][0], rtol=1e-4, atol=1e-5)
    for name, one, two in zip(["embed", "act", "deter", "stoch", *names], losses[0][1], losses[1][1], strict=True):
        torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-4, msg=lambda m, name=name: f"{name}: {m}")


@pytest.mark.parametrize("kind", KINDS)
def test_a_loss_of_some_steps_alone_has_their_gradients(kind):
    """Weights are used at every step, whether a step's state is looked at or not."""
    model = make(kind)
    embed, act, first, start, eps = inputs(model)
    params = [p for k, p in model.named_parameters() if not k.startswith("prior")]
    for pick in (lambda s: s.deter[:, 2], lambda s: s.stoch[:1, -1]):
        found = [
            torch.autograd.grad(
                pick(observe(embed, act, first, start, eps)[0]).square().sum(), params, allow_unused=True
            )
            for observe in (model.observe, lambda *args: plain_observe(model, *args))
        ]
        for p, one, two in zip(params, *found, strict=True):
            one, two = (torch.zeros_like(p) if x is None else x for x in (one, two))
            torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-4)


# ---- time


@pytest.mark.parametrize("kind", KINDS)
def test_observing_can_be_cut_anywhere(kind):
    model = make(kind)
    embed, act, first, start, eps = inputs(model)
    whole, raws = model.observe(embed, act, first, start, eps)
    state, parts = start, []
    for a, b in ((0, 3), (3, 4), (4, T)):
        found = model.observe(embed[:, a:b], act[:, a:b], first[:, a:b], state, eps[:, a:b])
        state = State(found.state.deter[:, -1], found.state.stoch[:, -1])
        parts.append((*found.state, found.raw))
    for one, two in zip((*whole, raws), (torch.cat(x, 1) for x in zip(*parts, strict=True)), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_a_first_row_forgets_all_that_preceded(kind):
    """From there on it is a fresh start, which no action led to."""
    model = make(kind)
    embed, act, first, start, eps = inputs(model)
    first[:, 3] = True
    none = act.clone()
    none[:, 3] = 0
    fresh = model.observe(embed[:, 3:], none[:, 3:], first[:, 3:], model.initial(N, torch.device("cpu")), eps[:, 3:])
    other = State(start.deter + 9, start.stoch - 4)
    changed = act.clone()
    changed[:, :4] = 7.0
    for found in (model.observe(embed, act, first, start, eps), model.observe(embed, changed, first, other, eps)):
        torch.testing.assert_close(found.state.deter[:, 3:], fresh.state.deter)
        torch.testing.assert_close(found.raw[:, 3:], fresh.raw)
    without = first.clone()
    without[:, 3] = False
    assert not torch.allclose(model.observe(embed, act, without, start, eps).raw[:, 3], fresh.raw[:, 0])


@pytest.mark.parametrize("kind", KINDS)
def test_one_step_is_a_window_of_one(kind, monkeypatch):
    model = make(kind)
    embed, act, first, start, eps = inputs(model)
    monkeypatch.setattr(model.latents, "noise", lambda *lead, device: eps[:, :1])
    found = model.obs_step(embed[:, 0], act[:, 0], first[:, 0], start)
    want = model.observe(embed[:, :1], act[:, :1], first[:, :1], start, eps[:, :1]).state
    torch.testing.assert_close(found, State(*(x[:, 0] for x in want)))


@pytest.mark.parametrize("kind", KINDS)
def test_imagining_steps_by_the_cell_and_draws_from_the_prior(kind, monkeypatch):
    model = make(kind)
    *_, start, eps = inputs(model)
    draws = iter(eps.transpose(0, 1))
    monkeypatch.setattr(model.latents, "noise", lambda *lead, device: next(draws))
    act = torch.randn(4, N, A)
    feats, chosen = model.imagine(start, lambda feat, k: act[k] + feat[:, :A], 4)
    step = {KerasGRU: plain_v1, NormGRU: plain_v2, BlockGRU: plain_v3}[type(model.cell)]
    h, z = start
    assert feats.shape == (5, N, D + z.shape[-1])
    for k in range(4):
        torch.testing.assert_close(chosen[k], act[k] + h[:, :A], rtol=1e-4, atol=1e-5)
        h = step(model.cell, h, z, chosen[k])
        z = plain_draw(model.latents, model.prior(h), eps[:, k])
        torch.testing.assert_close(feats[k + 1], torch.cat([h, z], -1), rtol=1e-4, atol=1e-5)


def test_gradients_of_a_rollout_reach_actions_and_weights_as_in_the_plain_form(monkeypatch):
    """V1 and V2 learn to act by them."""
    for kind in ("v1", "v2"):
        model = make(kind)
        *_, start, eps = inputs(model)
        act = torch.randn(4, N, A, requires_grad=True)
        draws = iter(eps.transpose(0, 1))
        monkeypatch.setattr(model.latents, "noise", lambda *lead, device, draws=draws: next(draws))
        feats, _ = model.imagine(start, lambda feat, k, act=act: act[k], 4)
        (h, z), step = start, {"v1": plain_v1, "v2": plain_v2}[kind]
        for k in range(4):
            h = step(model.cell, h, z, act[k])
            z = plain_draw(model.latents, model.prior(h), eps[:, k])
        sources = [act, *model.cell.parameters(), *model.prior.parameters()]
        found = torch.autograd.grad((feats[-1, :, :D] * 3).sum() + feats[-1, :, D:].square().sum(), sources)
        want = torch.autograd.grad((h * 3).sum() + z.square().sum(), sources)
        for one, two in zip(found, want, strict=True):
            torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-4)


def test_frozen_weights_take_no_gradient_and_pass_it_on():
    model = make("v3").requires_grad_(False)
    embed, act, first, start, eps = inputs(model)
    states, _ = model.observe(embed.requires_grad_(), act, first, start, eps)
    states.deter.sum().backward()
    assert embed.grad.abs().sum() > 0
    assert all(p.grad is None for p in model.parameters())


# ---- the cells


def test_v3_s_actions_are_squashed_elementwise_and_a_reset_s_is_a_vector_of_zeros():
    model = make("v3")
    state = inputs(model)[3]
    step = model.stepper()
    for far, near in (((3.0, -0.5), (1.0, -0.5)), ((-7.0, 2.0), (-1.0, 1.0))):
        one, two = (step(state, torch.tensor(a).expand(N, A)).deter for a in (far, near))
        torch.testing.assert_close(one, two)
    first, zero = torch.ones(N, 1, dtype=torch.bool), torch.zeros(N, 1, A)
    acts = [model.cell.acts(act, (~first).unsqueeze(-1).float()) for act in (zero, zero + 1)]
    assert torch.equal(*acts)
    assert not torch.equal(acts[0], model.cell.acts(zero + 1, torch.ones(N, 1, 1)))


@pytest.mark.parametrize("kind", KINDS)
def test_a_cell_s_step_and_its_gradients_in_bf16_are_float32_s_but_for_its_precision(kind):
    cell, (*_, act, _, (h, z), _) = make(kind).cell, inputs(make(kind))
    sources = [x.requires_grad_() for x in (h, z, act)] + list(cell.parameters())
    found = []
    for dtype in (torch.float32, torch.bfloat16):
        after = cell.begin(dtype)(h, z, cell.acts(act[:, 0].to(dtype), torch.ones(N, 1, dtype=dtype)))
        found.append([after, *torch.autograd.grad(after.float().square().sum(), sources)])
    for one, two in zip(*found, strict=True):
        assert two.dtype == torch.float32
        assert torch.cosine_similarity(one.flatten(), two.flatten(), dim=0) > 0.999


def test_a_small_scan_on_a_cpu_is_float32_and_a_large_one_is_not(monkeypatch):
    model = make("v3")
    embed, act, first, start, eps = inputs(model)
    low = embed.bfloat16()
    assert torch.equal(
        model.observe(low, act, first, start, eps).raw, model.observe(low.float(), act, first, start, eps).raw
    )
    monkeypatch.setattr("dreamlab.nn.rssm.FEW", 0)
    assert model.observe(low, act, first, start, eps).raw.dtype == torch.bfloat16


def test_gates_have_plain_autograd_s_gradients():
    torch.manual_seed(0)
    gates = torch.randn(2, 3, 3, 4, dtype=torch.float64, requires_grad=True)
    h = torch.randn(2, 12, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(gru_gates, (gates, h))


def test_gates_at_their_ends():
    h = torch.randn(2, 12)
    gates = torch.randn(2, 3, 3, 4)
    gates[:, :, 2] = -200
    torch.testing.assert_close(gru_gates(gates, h), h)
    torch.testing.assert_close(gru_gates(torch.zeros(2, 3, 3, 4), h), 0.7310586 * h)
    gates[:, :, 2] = 200
    want = torch.tanh(torch.sigmoid(gates[:, :, 0]) * gates[:, :, 1]).flatten(-2)
    torch.testing.assert_close(gru_gates(gates, h), want)


def test_h_stays_between_minus_one_and_one():
    """Which is why half a float's bits hold it."""
    model = make("v3")
    for p in model.parameters():
        p.data.mul_(5)
    embed, act, first, _, eps = inputs(model)
    states, _ = model.observe(50 * embed, act, first, model.initial(N, torch.device("cpu")), eps)
    assert states.deter.abs().max() <= 1


# ---- latents


def test_classes_are_drawn_as_often_as_they_are_likely():
    z = Categorical(2, 4, unimix=0.01)
    raw = torch.tensor([[2.0, 0, -1, 0.5], [-30, 0, 30, 0]]).flatten()
    drawn = z.draw(raw.expand(40_000, -1), z.noise(40_000, device=torch.device("cpu")))
    assert ((drawn == 0) | (drawn == 1)).all()
    assert (drawn.unflatten(-1, (2, 4)).sum(-1) == 1).all()
    want = 0.99 * raw.unflatten(-1, (2, 4)).softmax(-1) + 0.01 / 4
    torch.testing.assert_close(drawn.mean(0), want.flatten(), rtol=0, atol=0.01)
    assert 0 < drawn[:, 4].mean() < 0.005  # the uniform's share of what is else impossible


@pytest.mark.parametrize("classes", [4, 32])  # short and long axes have ways of their own
def test_draws_pass_the_jacobian_of_the_mixed_probabilities(classes):
    torch.manual_seed(0)
    z = Categorical(2, classes, unimix=0.01)
    raw, noise = torch.randn(2 * classes, requires_grad=True), z.noise(device=torch.device("cpu"))
    found = torch.autograd.functional.jacobian(lambda x: z.draw(x, noise), raw)
    want = torch.block_diag(*(0.99 * (torch.diag(p) - torch.outer(p, p)) for p in raw.view(2, -1).softmax(-1)))
    torch.testing.assert_close(found, want)
    p = 0.99 * raw.view(2, -1).softmax(-1) + 0.01 / classes
    assert torch.equal(z.draw(raw, noise).view(2, -1).argmax(-1), (p * noise).argmax(-1))


def test_probabilities_have_a_floor_and_divergences_a_ceiling():
    z, sure = Categorical(1, 32, unimix=0.01), torch.full((2, 32), -1e4)
    sure[0, 0] = sure[1, 1] = 1e4
    stats = z.stats(sure)
    torch.testing.assert_close(stats.exp().min(), torch.tensor(0.01 / 32))
    torch.testing.assert_close(z.kl(stats[0], stats[1]), torch.tensor(7.98), rtol=0, atol=0.01)
    assert (z.kl(stats, stats) == 0).all()


@pytest.mark.parametrize("unimix", [0.0, 0.01])
def test_divergence_and_entropy_are_sums_over_the_variables(unimix):
    z = Categorical(S, K, unimix)
    one, two = torch.randn(2, 5, S * K)
    probs = [(1 - unimix) * x.unflatten(-1, (S, K)).softmax(-1) + unimix / K for x in (one, two)]
    apart = [torch.distributions.Categorical(probs=p) for p in probs]
    want = torch.distributions.kl_divergence(*apart).sum(-1)
    torch.testing.assert_close(z.kl(z.stats(one), z.stats(two)), want)
    torch.testing.assert_close(z.entropy(z.stats(one)), apart[0].entropy().sum(-1))
    assert torch.equal(z.mode(one).unflatten(-1, (S, K)).argmax(-1), one.unflatten(-1, (S, K)).argmax(-1))


def test_gaussian_latents_are_torch_s():
    for std, plain in ((softplus_std, F.softplus), (sigmoid2_std, lambda x: 2 * torch.sigmoid(x / 2))):
        z, (one, two) = Gaussian(S, std), torch.randn(2, 5, 2 * S)
        apart = [torch.distributions.Normal(x[..., :S], plain(x[..., S:]) + 0.1) for x in (one, two)]
        torch.testing.assert_close(z.kl(z.stats(one), z.stats(two)), torch.distributions.kl_divergence(*apart).sum(-1))
        torch.testing.assert_close(z.entropy(z.stats(one)), apart[0].entropy().sum(-1))
        assert torch.equal(z.mode(one), one[..., :S])
        assert torch.equal(z.unpack(z.pack(one[..., :S])), one[..., :S])


def test_samples_survive_a_byte_for_each_variable():
    z = Categorical(S, 255)
    sample = z.draw(torch.randn(6, S * 255), z.noise(6, device=torch.device("cpu")))
    sample[2] = 0  # the state of zeros, before anything was seen
    packed = z.pack(sample * (sample != 0))
    assert (packed.dtype, packed.shape) == (torch.uint8, (6, S))
    torch.testing.assert_close(z.unpack(packed)[[0, 1, 3, 4, 5]], sample[[0, 1, 3, 4, 5]])
    assert (z.unpack(torch.zeros(2, S, dtype=torch.uint8)) == 0).all()
