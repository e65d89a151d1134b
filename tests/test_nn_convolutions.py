"""V3's faster convolutions equal plain ones in values and gradients; V1's and V2's land on the papers' sizes."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from dreamlab.core.errors import UserError
from dreamlab.nn.blocks import rms_silu, truncated
from dreamlab.nn.convolutions import Destrided, Grown, Pooled, Strided, strides, unshuffled


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


def same(found, want, *sources):
    """Values, and the gradients to all sources."""
    torch.testing.assert_close(found, want)
    grad = torch.randn(found.shape)
    torch.testing.assert_close(
        torch.autograd.grad(found, sources, grad), torch.autograd.grad(want, sources, grad), rtol=1e-4, atol=1e-4
    )


def moved(net: torch.nn.Module):
    """No bias at 0, no scale at 1."""
    for p in net.parameters():
        p.data.add_(0.3 * torch.randn_like(p))
    return net


def plain_conv(x, layer):
    return F.conv2d(x, layer.weight, layer.bias, padding=2)


def plain_norm(x, norm):
    return rms_silu(x.movedim(1, -1), norm.scale).movedim(-1, 1)


@pytest.mark.parametrize("shape", [(3, 16, 16), (1, 4, 12), (2, 4, 4)])
def test_convolving_before_growing_is_repeating_pixels_and_convolving(shape):
    net, feat = moved(Grown(16, 6, shape, (8, 4), 5, 4, truncated())), torch.randn(2, 22, requires_grad=True)
    deter, stoch = feat.split((16, 6), -1)
    x = (deter @ torch.block_diag(*net.from_deter.weight) + net.from_deter.bias).view(2, 4, -1, 2)
    x = x.transpose(1, 2).reshape(2, shape[1] // 4, shape[2] // 4, 8)
    x = x + net.stoch_out(net.stoch_norm(net.from_stoch(stoch))).view_as(x)
    x = rms_silu(x, net.norm.scale).movedim(-1, 1)
    for layer, norm in zip(net.convs, (*net.norms, None), strict=True):
        x = plain_conv(x.repeat_interleave(2, 2).repeat_interleave(2, 3), layer)
        x = x if norm is None else plain_norm(x, norm)
    same(net(feat), x, feat, *net.parameters())


def test_a_decoder_s_block_fills_its_own_channels():
    net = Grown(16, 6, (3, 8, 8), (8, 4), 5, 4, truncated())
    seen = []
    net.norm.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    feat = torch.randn(2, 22)
    other = feat.clone()
    other[:, 4:8] += 1  # h of block 1
    assert net(feat).shape == net(other).shape == (2, 3, 8, 8)
    changed = (seen[0] != seen[1]).flatten(0, 2).any(0)
    assert changed.tolist() == [False] * 2 + [True] * 2 + [False] * 4


@pytest.mark.parametrize(
    ("shape", "typed"), [((3, 60, 64), "--env.size 64 64"), ((1, 28, 28), "at most 2 for this size")]
)
def test_images_that_cannot_be_halved_are_refused_with_what_to_type(shape, typed):
    for make in (
        lambda: Pooled(shape, (8,) * 4, truncated()),
        lambda: Grown(16, 6, shape, (8,) * 4, 5, 4, truncated()),
    ):
        with pytest.raises(UserError, match=f"{shape[1]}x{shape[2]} cannot be halved 4 times") as error:
            make()
        assert typed in str(error.value)
        assert "--agent.mults" in str(error.value)


def test_v1_s_sizes_are_the_papers_at_64_and_any_decoder_lands():
    assert strides(64, 32) == ((32, 64, 128, 256), 2, (5, 5, 6, 6))
    for size in (8, 16, 28, 32, 84, 96, 128):
        net = Destrided(7, (3, size, size), 2, F.elu)
        assert net(torch.randn(2, 7)).shape == (2, 3, size, size)
        see = Strided((3, size, size), 2, F.elu, norm=True)
        assert see(torch.randn(2, 3, size, size)).shape == (2, see.width)
    with pytest.raises(UserError, match=r"type: --env\.size 64 64"):
        strides(3, 32)
    with pytest.raises(UserError, match="square images, got 32x64"):
        Strided((3, 32, 64), 2, F.elu)


@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 4, 12), (4, 2, 2)])
@pytest.mark.parametrize("stages", [1, 2])
def test_v3_s_encoder_convolves_pools_and_norms(shape, stages):
    shape = (shape[0], shape[1] * stages, shape[2] * stages)
    net, x = moved(Pooled(shape, (4, 10)[:stages], truncated())), torch.rand(2, *shape) - 0.5
    want = x.requires_grad_()
    for layer, norm in zip(net.convs, net.norms, strict=True):
        want = plain_norm(F.max_pool2d(plain_conv(want, layer), 2), norm)
    assert net(x).shape == (2, net.width)
    same(net(x), want.permute(0, 2, 3, 1).flatten(1), x, *net.parameters())


def test_images_are_unshuffled_as_torch_does_it():
    image = torch.randint(0, 256, (3, 2, 6, 8), dtype=torch.uint8)
    assert torch.equal(unshuffled(image), F.pixel_unshuffle(image, 2))
    assert torch.equal(unshuffled(image[:, 1:]), F.pixel_unshuffle(image[:, 1:], 2))
    assert unshuffled(image).is_contiguous(memory_format=torch.channels_last)
