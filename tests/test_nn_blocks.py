"""Layers against plain forms of them: block-diagonal products, norms, initial weights, precision."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from dreamlab.nn.blocks import (
    MLP,
    BlockLinear,
    Conv,
    LayerNorm,
    LayerNormElu,
    Linear,
    RMSNormSiLU,
    glorot,
    norm_back,
    rms_silu,
    truncated,
)


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


def leaf(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, requires_grad=True)


def test_a_block_layer_is_a_dense_one_with_a_block_diagonal_matrix():
    layer, x = BlockLinear(12, 8, 4, truncated()), leaf(5, 12)
    torch.nn.init.normal_(layer.bias)
    dense = torch.block_diag(*layer.weight).t()
    want = F.linear(x, dense, layer.bias)
    torch.testing.assert_close(layer(x), want)
    sources = (x, layer.weight, layer.bias)
    grad = torch.randn(5, 8)
    torch.testing.assert_close(torch.autograd.grad(layer(x), sources, grad), torch.autograd.grad(want, sources, grad))


def test_a_block_sees_its_own_input_alone():
    layer, x = BlockLinear(12, 8, 4, truncated()), torch.randn(5, 12)
    before, moved = layer(x), x.clone()
    moved[:, 3:6] += 1  # block 1's
    changed = (layer(moved) != before).any(0)
    assert changed.tolist() == [False] * 2 + [True] * 2 + [False] * 4


def test_blocks_must_divide_both_widths():
    with pytest.raises(ValueError, match="8 blocks do not divide widths 20 and 16"):
        BlockLinear(20, 16, 8, truncated())


@pytest.mark.parametrize("shape", [(7, 6), (3, 5, 6), (4, 2, 6)])
def test_rms_norm_and_silu_as_one_equal_the_two(shape):
    x, scale = (3 * torch.randn(shape)).requires_grad_(), leaf(*shape[-2:] if shape[-2] == 2 else shape[-1:])
    exact = x.double(), scale.double()
    want = F.silu(exact[0] / (exact[0].square().mean(-1, keepdim=True) + 1e-4).sqrt() * exact[1])
    found, grad = rms_silu(x, scale), torch.randn(shape)
    torch.testing.assert_close(found, want.float())
    torch.testing.assert_close(
        torch.autograd.grad(found, (x, scale), grad), torch.autograd.grad(want, (x, scale), grad.double())
    )


@pytest.mark.parametrize("shape", [(3, 5, 6), (2, 64)])
def test_a_norm_goes_back_as_its_derivative_says(shape):
    x, grad = torch.randn(shape, dtype=torch.float64, requires_grad=True), torch.randn(shape, dtype=torch.float64)
    inverse = (x.square().mean(-1, keepdim=True) + 1e-4).rsqrt()
    want = torch.autograd.grad(x * inverse, x, grad)[0]
    assert torch.allclose(norm_back(grad.clone(), (x * inverse).detach(), inverse.detach()), want)


def test_rms_norm_and_silu_as_one_pass_gradcheck():
    x, scale = (torch.randn(*shape, dtype=torch.float64, requires_grad=True) for shape in ((4, 2, 5), (2, 5)))
    assert torch.autograd.gradcheck(rms_silu, (x, scale))


def test_rms_norm_of_nothing_is_nothing_and_passes_finite_gradients():
    x = torch.zeros(2, 6, requires_grad=True)
    y = RMSNormSiLU(6)(x)
    (grad,) = torch.autograd.grad(y.sum(), x)
    assert (y == 0).all()
    torch.testing.assert_close(grad, torch.full((2, 6), 0.5 / math.sqrt(1e-4)))  # silu'(0) / sqrt(eps)


def test_rms_norm_computes_in_float32_and_answers_in_what_it_was_given():
    x = 300 * torch.randn(4, 64)  # whose squares a half would not hold
    found = RMSNormSiLU(64)(x.bfloat16())
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), RMSNormSiLU(64)(x.bfloat16().float()), rtol=1e-2, atol=1e-2)


def test_layer_norm_is_keras():
    x = torch.randn(4, 9)
    want = (x - x.mean(-1, keepdim=True)) / (x.var(-1, unbiased=False, keepdim=True) + 1e-3).sqrt()
    torch.testing.assert_close(LayerNorm(9)(x), want)
    torch.testing.assert_close(LayerNormElu(9)(x), F.elu(want))


def test_truncated_weights_have_their_fan_in_s_deviation_and_end_at_two():
    weight = torch.empty(400, 300)
    truncated(0.5)(weight, 300, 400)
    std = 0.5 / math.sqrt(300)
    assert float(weight.std()) == pytest.approx(std, rel=0.01)
    assert float(weight.abs().max()) <= 2 * 1.1368 * std
    truncated(0.0)(weight, 300, 400)
    assert (weight == 0).all()


def test_block_weights_start_by_the_whole_fan_in():
    layer = BlockLinear(800, 800, 8, truncated())
    assert float(layer.weight.detach().std()) == pytest.approx(1 / math.sqrt(800), rel=0.02)
    assert (layer.bias == 0).all()


def test_glorot_is_uniform_and_counts_a_kernel_s_area():
    conv = Conv(30, 40, 4, glorot)
    limit = math.sqrt(6 / (16 * 70))
    assert float(conv.weight.detach().abs().max()) == pytest.approx(limit, rel=0.01)
    assert float(conv.weight.detach().std()) == pytest.approx(limit / math.sqrt(3), rel=0.02)


def test_layers_compute_in_their_input_s_precision_and_keep_float32_weights():
    net = MLP(6, 8, 2, 3, RMSNormSiLU)
    y = net(torch.randn(4, 6).bfloat16())
    y.float().sum().backward()
    assert y.dtype == torch.bfloat16
    assert {p.grad.dtype for p in net.parameters()} == {torch.float32}


def test_networks_are_dense_layers_one_after_another():
    net, x = MLP(6, 8, 2, 3, RMSNormSiLU, last=truncated(0.0)), torch.randn(4, 6)
    assert (net(x) == 0).all()
    assert net.width == 8
    bare = MLP(6, 8, 2, None, RMSNormSiLU)
    first, _, second, _ = bare.hidden
    assert isinstance(first, Linear)
    torch.testing.assert_close(bare(x), rms_silu(second(rms_silu(first(x), torch.ones(8))), torch.ones(8)))
    shallow = MLP(6, 8, 0, 3, RMSNormSiLU)
    assert shallow.width == 6
    torch.testing.assert_close(shallow(x), F.linear(x, shallow.out.weight))
