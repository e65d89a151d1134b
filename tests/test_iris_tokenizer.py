"""The tokenizer: the paper's sizes, what gets which gradient, its losses by hand, and that it learns."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from dreamlab.agents.iris import perceptual
from dreamlab.agents.iris import tokenizer as tokenizing
from dreamlab.agents.iris.config import TokenizerConfig
from dreamlab.agents.iris.perceptual import Lpips, WithLpips, WithoutLpips, make, settle
from dreamlab.agents.iris.tokenizer import (
    Attention,
    Down,
    Tokenizer,
    Up,
    added,
    counts,
    signed,
    straight_through,
    usage,
    usage_picture,
)
from dreamlab.core.errors import UserError
from dreamlab.nn import group_norm
from dreamlab.nn.group_norm import GroupNorm, GroupNormSwish

TINY = TokenizerConfig(channels=32, groups=8, downs=3, embed=32, vocabulary=64)


@pytest.fixture(autouse=True)
def _one_thread():
    """Tiny convolutions wait longer for other threads than they compute, the more so on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)


WITHOUT = WithoutLpips()


def tiny(shape=(3, 16, 16), config=TINY) -> Tokenizer:
    return Tokenizer(shape, config)


def as_it_is(fn):
    return lambda *given: fn(*given)


def choose(kind, *frames):
    return make(settle(kind, *frames))


def frames(n: int, shape=(3, 16, 16)) -> torch.Tensor:
    return torch.randint(0, 256, (n, *shape), dtype=torch.uint8)


def size(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def stand_in(width: int = 8) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """VGG16 and its heads with few channels and random weights, under the names of their files."""
    vgg, before = {}, 3
    for layer in [i for stage in perceptual.STAGES for i in stage]:
        vgg[f"features.{layer}.weight"] = torch.randn(width, before, 3, 3) / (9 * before) ** 0.5
        vgg[f"features.{layer}.bias"] = 0.1 * torch.randn(width)
        before = width
    return vgg, {f"lin{i}.model.1.weight": torch.rand(1, width, 1, 1) for i in range(5)}


# ---- sizes


def test_the_papers_parameter_counts():
    tokenizer = Tokenizer((3, 64, 64), TokenizerConfig())
    parts = ("encoder", "decoder", "before", "after", "codebook")
    assert [size(getattr(tokenizer, part)) for part in parts] == [1_418_240, 1_821_827, 262_656, 262_656, 262_144]
    assert size(tokenizer) == 4_027_523


@torch.no_grad()
def test_a_frame_of_the_paper_is_sixteen_tokens_and_a_frame_again():
    tokenizer = Tokenizer((3, 64, 64), TokenizerConfig())
    tokens = tokenizer.tokenise(frames(1, (3, 64, 64)))
    assert tokenizer.grid == (4, 4)
    assert tokens.shape == (1, tokenizer.tokens) == (1, 16)
    assert tokens.dtype == torch.int64
    assert 0 <= tokens.min() <= tokens.max() < 512
    picture = tokenizer.picture(tokens)
    assert picture.shape == (1, 3, 64, 64)
    assert 0 <= picture.min() <= picture.max() <= 1


def test_attention_stands_after_each_residual_block_of_its_sizes():
    tokenizer = Tokenizer((3, 64, 64), TokenizerConfig())
    found = [sum(isinstance(m, Attention) for m in part.modules()) for part in (tokenizer.encoder, tokenizer.decoder)]
    assert found == [2 + 2 + 1, 3 + 3 + 1]


@pytest.mark.parametrize("shape", [(1, 16, 16), (7, 16, 24)])
def test_any_channels_and_oblong_frames(shape):
    tokenizer = tiny(shape)
    total, _, tokens = tokenizer.losses(frames(2, shape), WITHOUT)
    assert tokenizer.grid == (2, shape[2] // 8)
    assert tokens.shape == (2, tokenizer.tokens)
    assert total.isfinite()
    assert tokenizer.picture(tokens).shape == (2, *shape)


def test_sizes_that_cannot_be_halved_are_refused_with_what_to_type():
    with pytest.raises(UserError, match=r"that 8 divides fit; type: --env.size 16 24, .*--agent.tokenizer.downs 2$"):
        tiny((3, 20, 24))


# ---- quantisation


def test_doubling_is_repeating_pixels_and_a_convolution():
    torch.manual_seed(0)
    up, x = Up(8), torch.randn(2, 8, 3, 5, requires_grad=True)
    tried = up(x), up.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
    torch.testing.assert_close(*tried, rtol=1e-5, atol=1e-5)
    wanted = (x, up.conv.weight, up.conv.bias)
    slopes = [torch.autograd.grad((y * y.detach().cos()).sum(), wanted) for y in tried]
    for a, b in zip(*slopes, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
    assert set(up.state_dict()) == {"conv.weight", "conv.bias"}


@torch.no_grad()
def test_codes_quantise_to_themselves_row_by_row():
    tokenizer = tiny((3, 16, 24))
    tokens = torch.randperm(64)[:12].view(2, 6)
    z = tokenizer.codes(tokens)
    assert torch.equal(z[1, :, 1, 0], tokenizer.codebook.weight[tokens[1, 3]])  # the second row of three
    again, z_q = tokenizer.quantise(z)
    assert torch.equal(again, tokens)
    assert torch.equal(z_q, z)


@torch.no_grad()
def test_tokens_are_the_nearest_codes_also_far_from_zero():
    tokenizer = tiny()
    tokenizer.codebook.weight.copy_(torch.randn(64, 32))
    z = 20 * torch.randn(5, 32, 2, 2)
    flat = z.double().movedim(1, -1).flatten(0, 2)
    nearest = torch.cdist(flat, tokenizer.codebook.weight.double(), compute_mode="donot_use_mm_for_euclid_dist")
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(tokenizer.quantise(z)[0].flatten(), nearest.argmin(1))


def test_the_gradient_goes_straight_through():
    z, z_q, weight = torch.randn(3, 4, requires_grad=True), torch.randn(3, 4, requires_grad=True), torch.randn(3, 4)
    (straight_through(z, z_q) * weight).sum().backward()
    assert torch.equal(z.grad, weight)
    assert z_q.grad is None
    assert torch.allclose(straight_through(z, z_q), z_q)


def test_the_codebook_learns_from_its_own_term_alone():
    image = frames(4)

    def gradients(**scales) -> tuple[torch.Tensor, torch.Tensor]:
        torch.manual_seed(1)
        tokenizer = tiny(config=replace(TINY, **scales))
        tokenizer.losses(image, WITHOUT)[0].backward()
        return tokenizer.codebook.weight.grad, tokenizer.before.weight.grad

    codes, encoder = gradients(codebook_scale=1, commitment_scale=1)
    doubled, same = gradients(codebook_scale=2, commitment_scale=1)
    same_codes, pulled = gradients(codebook_scale=1, commitment_scale=9)
    assert torch.allclose(doubled, 2 * codes)
    assert torch.equal(same, encoder)
    assert torch.equal(same_codes, codes)
    assert not torch.allclose(pulled, encoder)

    tokenizer = tiny()
    z = tokenizer.encode(frames(4).float() / 127.5 - 1)
    recon = tokenizer.decode(straight_through(z, tokenizer.quantise(z)[1])).sum()
    assert torch.autograd.grad(recon, tokenizer.codebook.weight, allow_unused=True, retain_graph=True) == (None,)
    assert torch.autograd.grad(recon, tokenizer.before.weight)[0].any()


# ---- losses


@pytest.mark.parametrize("with_lpips", [False, True])
def test_losses_by_hand(with_lpips):
    lpips = Lpips(*stand_in())
    recipe, tokenizer = WithLpips(lpips) if with_lpips else WITHOUT, tiny().eval()
    image = frames(3)
    total, metrics, tokens = tokenizer.losses(image, recipe)
    with torch.no_grad():
        x = image.float() / 127.5 - 1
        z = tokenizer.encode(x)
        assert torch.equal(tokens, tokenizer.tokenise(image))
        x_hat = tokenizer.decode(tokenizer.codes(tokens))
        vq = (z - tokenizer.codes(tokens)).square().mean()  # over all elements, those of a code, too
        if with_lpips:
            by_hand = (x - x_hat).abs().mean() + vq + 1.0 * vq + lpips(x, x_hat).mean()
        else:
            error = (x + 1) / 2 - (x_hat + 1) / 2
            worst = torch.stack([frame.square().max() for frame in error]).mean()
            by_hand = error.square().mean() + 0.1 * error.abs().mean() + 0.01 * worst + vq + 0.02 * vq
    assert torch.allclose(total, by_hand, rtol=1e-5)
    assert metrics.keys() == {*recipe.scales, "codebook", "commitment"}
    assert not any(value.requires_grad for value in metrics.values())


def test_the_worst_pixel_is_each_frames_own():
    x = torch.zeros(2, 1, 4, 4)
    x_hat = x.clone()
    x_hat[0, 0, 1, 2], x_hat[0, 0, 3, 3] = -2.0, 1.0  # one pixel wholly wrong, in [0, 1]
    assert WithoutLpips()(x, x_hat)["worst"] == 0.5


def test_lpips_is_the_sum_over_five_taps():
    vgg, heads = stand_in()
    lpips = Lpips(vgg, heads)
    x, x_hat = torch.rand(2, 2, 3, 32, 32) * 2 - 1
    assert not lpips(x, x).any()

    def taps(x: torch.Tensor) -> list[torch.Tensor]:  # as torchvision's list of layers
        x = (x - torch.tensor([-0.030, -0.088, -0.188]).view(3, 1, 1)) / torch.tensor([0.458, 0.448, 0.450]).view(
            3, 1, 1
        )
        found = []
        for layer in range(30):
            if layer in (4, 9, 16, 23):
                x = F.max_pool2d(x, 2)
            elif f"features.{layer}.weight" in vgg:
                x = F.conv2d(x, vgg[f"features.{layer}.weight"], vgg[f"features.{layer}.bias"], padding=1)
            else:
                x = x.relu()
            found += [x] if layer in (3, 8, 15, 22, 29) else []
        return found

    expected = torch.zeros(2)
    for i, (a, b) in enumerate(zip(taps(x), taps(x_hat), strict=True)):
        for n in range(2):
            for r in range(a.shape[2]):
                for s in range(a.shape[3]):
                    one, other = a[n, :, r, s], b[n, :, r, s]
                    apart = one / (one.norm() + 1e-10) - other / (other.norm() + 1e-10)
                    expected[n] += (heads[f"lin{i}.model.1.weight"].flatten() * apart**2).sum() / a[0, 0].numel()
    assert torch.allclose(lpips(x, x_hat), expected, rtol=1e-4)


def test_lpips_drops_differences_while_training_and_is_no_part_of_the_tokenizer():
    recipe = WithLpips(Lpips(*stand_in(width=16)))
    x, x_hat = torch.rand(2, 8, 3, 16, 16) * 2 - 1
    still, moving = (recipe(x, x_hat, training)["lpips"] for training in (False, True))
    assert recipe(x, x_hat)["lpips"] == still != moving
    assert torch.allclose(still, moving, rtol=0.3)  # the same on average
    grey = x[:, :1]
    assert torch.equal(recipe.lpips(grey, -grey), recipe.lpips(grey.expand(-1, 3, -1, -1), -grey.expand(-1, 3, -1, -1)))


# ---- which recipe


@pytest.fixture
def places(tmp_path: Path, monkeypatch) -> dict[str, Path]:
    """Empty folders where the weights would be."""
    found = {"vgg": tmp_path / perceptual.VGG, "heads": tmp_path / "heads.pth"}
    monkeypatch.setattr(perceptual, "vgg_path", lambda: found["vgg"])
    monkeypatch.setattr(perceptual, "heads_path", lambda: found["heads"])
    return found


def test_missing_weights_are_named_with_where_they_were_looked_for(places, monkeypatch):
    with pytest.raises(UserError) as error:
        choose("lpips", 3)
    for words in (str(places["vgg"]), "torchvision", str(places["heads"]), "--agent.tokenizer.perceptual none"):
        assert words in str(error.value)
    monkeypatch.setattr(perceptual, "heads_path", lambda: None)
    with pytest.raises(UserError, match="pip install lpips"):
        choose("lpips", 3)
    assert choose("auto", 3).name == choose("none", 3).name == WithoutLpips().name


def test_weights_that_are_there_are_used_where_frames_are_fit_for_them(places):
    vgg, heads = stand_in()
    torch.save(vgg, places["vgg"])
    torch.save(heads, places["heads"])
    assert choose("auto", 3).name == choose("lpips", 1).name == "L1 + LPIPS"
    for unfit in ((4, 64), (3, 10)):
        assert choose("auto", *unfit).name == WithoutLpips().name
        with pytest.raises(UserError, match="it sees frames of"):
            choose("lpips", *unfit)
    torch.save(heads, places["vgg"])
    with pytest.raises(UserError, match="not the weights of VGG16"):
        choose("lpips", 3)
    places["vgg"].write_bytes(b"half a file")
    with pytest.raises(UserError, match="cannot be read as weights"):
        choose("auto", 3)


# ---- arithmetic


@pytest.mark.parametrize("swish", [False, True])
@pytest.mark.parametrize("side", [5, 32])
@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_norms_have_pytorchs_values_and_gradients(swish, side, layout):
    norm = (GroupNormSwish if swish else GroupNorm)(12, 4)
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    x = (3 * torch.randn(2, 12, side, side + 2) + 1).contiguous(memory_format=layout).requires_grad_()
    inputs, grad = (x, norm.weight, norm.bias), torch.randn(2, 12, side, side + 2)
    twin = F.group_norm(x, 4, norm.weight, norm.bias, 1e-6)
    twin = F.silu(twin) if swish else twin
    with torch.no_grad():
        assert torch.allclose(norm(x), twin, atol=1e-5)
    own, theirs = (torch.autograd.grad(y, inputs, grad) for y in (norm(x), twin))
    for a, b in zip(own, theirs, strict=True):
        assert torch.allclose(a, b, rtol=1e-4, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("compiled", [as_it_is, pytest.param(torch.compile, marks=pytest.mark.slow)])
@pytest.mark.parametrize("mean", [0.0, 300.0])
def test_two_passes_over_a_map_make_a_norm_with_swish(compiled, mean):
    """Also far from zero, where a plain mean of squares would leave few digits of a variance of 1."""
    fused = torch.nn.Sequential(GroupNormSwish(12, 4))
    group_norm.fuse(fused, compiled)
    weight, bias = torch.linspace(-1, 2, 12), torch.linspace(-1, 1, 12)
    fused[0].weight.copy_(weight)
    fused[0].bias.copy_(bias)
    for side in (2, 7, 32):
        x = (mean + torch.randn(3, 12, side, side + 1)).contiguous(memory_format=torch.channels_last)
        x[0, :, 0, 0] += 100  # a corner like no other
        twin = F.silu(F.group_norm(x.double(), 4, weight.double(), bias.double(), 1e-6))
        before = x.clone(memory_format=torch.preserve_format)
        y = fused(x)
        torch.testing.assert_close(y, twin.float(), atol=1e-5 + 1e-6 * mean, rtol=1e-5)
        assert y.is_contiguous(memory_format=torch.channels_last)
        assert torch.equal(x, before)
        over = fused[0](x, over=True)
        assert over.data_ptr() == x.data_ptr()
        torch.testing.assert_close(over, y)


def test_with_nothing_to_compile_with_norms_stay_as_they_are():
    norm = GroupNormSwish(12, 4)
    group_norm.fuse(norm, as_it_is)
    group_norm.fuse(norm, lambda fn: fn)
    assert norm.passes is None


def test_norms_take_maps_of_any_strides_and_refuse_a_second_derivative():
    x = torch.randn(2, 12, 64, 128)[..., ::2].requires_grad_()
    norm = GroupNorm(12, 4)
    y = norm(x)
    torch.testing.assert_close(y, F.group_norm(x, 4, eps=1e-6), atol=1e-5, rtol=1e-5)
    (slope,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        slope.sum().backward()


@pytest.mark.parametrize(("h", "w"), [(8, 8), (2, 6), (4, 2)])
def test_a_halving_pads_right_and_below(h, w):
    down, x = Down(3), torch.randn(2, 3, h, w, requires_grad=True)
    conv = torch.nn.functional.conv2d
    twin = conv(torch.nn.functional.pad(x, (0, 1, 0, 1)), down.conv.weight, down.conv.bias, stride=2)
    y = down(x)
    assert y.shape == (2, 3, h // 2, w // 2)
    torch.testing.assert_close(y, twin)
    grads = [torch.autograd.grad(z.sin().sum(), [x, down.conv.weight]) for z in (y, twin)]
    torch.testing.assert_close(*grads, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("near", "pieces"),
    [
        (2 * 32 * 32, {32: [2, 2, 1], 16: [5], 8: [5]}),
        (2 * 16 * 16, {32: [1] * 5, 16: [2, 2, 1], 8: [5]}),
    ],
)
def test_without_gradients_frames_go_in_pieces_and_sums_in_one_pass_to_the_same_numbers(near, pieces, monkeypatch):
    """Two frames' largest maps; then two of the next size, within which the largest go one by one."""
    tokenizer, x, z_q = tiny((3, 32, 32)), signed(frames(5, (3, 32, 32))), torch.randn(5, 32, 4, 4)
    group_norm.fuse(tokenizer, as_it_is)
    learning, given = (tokenizer.encode(x).detach(), tokenizer.decode(z_q).detach()), (x.clone(), z_q.clone())
    sizes: dict[int, list[int]] = {32: [], 16: [], 8: []}  # of pieces, by the side of their maps

    def listen(layer, given):
        side = given[0].shape[-1] * (2 if isinstance(layer, Up) else 1)
        sizes[side].append(len(given[0]))

    for layer in (*tokenizer.encoder.layers, *tokenizer.decoder.layers):
        if isinstance(layer, Down | Up):
            layer.register_forward_pre_hook(listen)
    monkeypatch.setattr(tokenizing, "NEAR", near * 32 * 4)  # bytes of 32 channels
    with torch.no_grad():
        looking = tokenizer.encode(x), tokenizer.decode(z_q)
    assert sizes == {side: each * 2 for side, each in pieces.items()}
    torch.testing.assert_close(looking, learning, atol=1e-5, rtol=1e-5)
    assert torch.equal(x, given[0])  # blocks write over maps, never over what came in
    assert torch.equal(z_q, given[1])


@torch.no_grad()
@pytest.mark.skipif(not tokenizing.IN_ONE_PASS, reason="this processor's library does not add while it convolves")
def test_a_sum_with_a_convolution_is_rounded_once_at_most(monkeypatch):
    conv, x, h = torch.nn.Conv2d(8, 8, 3, padding=1), torch.randn(2, 8, 9, 7), torch.randn(2, 8, 9, 7)
    conv.requires_grad_(False)  # for the trace below
    with torch.profiler.profile() as profile:
        y = added(over := x.clone(), conv, h)
    assert "mkldnn::_convolution_pointwise_" in {event.key for event in profile.key_averages()}
    assert y.data_ptr() == over.data_ptr()
    torch.testing.assert_close(y, x + conv(h), atol=1e-6, rtol=1e-6)
    bare = torch.nn.Conv2d(8, 8, 3, padding=1, bias=False)
    torch.testing.assert_close(added(x.clone(), bare, h), x + bare(h), atol=1e-6, rtol=1e-6)
    traced = torch.jit.trace(lambda x, h: added(x, conv, h), (x, h))
    assert torch.equal(traced(x, h), x + conv(h))
    with torch.autocast("cpu", torch.bfloat16):
        x, h = x.bfloat16(), h.bfloat16()
        y = added(x.clone(), conv, h)
        twice = x + conv(h)
    assert y.dtype == torch.bfloat16
    exact = x.float() + F.conv2d(h.float(), conv.weight.bfloat16().float(), conv.bias.bfloat16().float(), padding=1)
    assert (y - exact).abs().max() <= (twice - exact).abs().max() + 1e-3
    monkeypatch.setattr(tokenizing, "emulates_bf16", lambda device: True)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(added(x, conv, h), twice)  # the library would refuse
    wide = conv.double()
    assert torch.equal(added(x.double(), wide, h.double()), x.double() + wide(h.double()))


def test_bf16_is_close_to_fp32():
    tokenizer = tiny()
    image = frames(8)
    z = tokenizer.encode(image.float() / 127.5 - 1)
    loss = tokenizer.losses(image, WITHOUT)[0]
    loss.backward()
    grads = [p.grad.clone() for p in tokenizer.encoder.parameters()]
    tokenizer.zero_grad()
    with torch.autocast("cpu", torch.bfloat16):
        near = tokenizer.encode(image.float() / 127.5 - 1)
        again = tokenizer.losses(image, WITHOUT)[0]
    again.backward()
    assert again.dtype == torch.float32
    assert (z - near).norm() < 0.02 * z.norm()
    assert torch.allclose(loss, again, rtol=0.02)
    norm = torch.stack([g.norm() for g in grads]).norm()
    apart = torch.stack(
        [(g - p.grad).norm() for g, p in zip(grads, tokenizer.encoder.parameters(), strict=True)]
    ).norm()
    assert apart < 0.2 * norm


@pytest.mark.slow
def test_it_overfits_a_batch():
    config = TokenizerConfig(channels=16, groups=4, downs=2, residuals=1, embed=16, vocabulary=32)
    tokenizer = tiny((3, 8, 8), config)
    patches = 255 * torch.randint(0, 2, (8, 3, 2, 2), dtype=torch.uint8)  # each of the eight colours, one a token
    image = patches.repeat_interleave(4, 2).repeat_interleave(4, 3)
    adam = torch.optim.Adam(tokenizer.parameters(), 3e-3)
    for _ in range(180):
        loss, _, _ = tokenizer.losses(image, WITHOUT)
        adam.zero_grad()
        loss.backward()
        adam.step()
    error = (tokenizer.picture(tokenizer.tokenise(image)) - image / 255).abs()
    assert error.mean() < 0.05  # of 0.5 at first
    assert usage(tokenizer.tokenise(image), 32)["codebook_usage"] >= 4 / 32


# ---- use of the codebook


def test_usage_and_perplexity():
    tokens = torch.tensor([[3, 3], [5, 5]])
    found = usage(tokens, 8)
    assert found["codebook_usage"] == 2 / 8
    assert torch.isclose(found["codebook_perplexity"], torch.tensor(2.0))
    assert torch.isclose(usage(torch.arange(8), 8)["codebook_perplexity"], torch.tensor(8.0))
    assert counts(tokens, 8).tolist() == [0, 0, 0, 2, 0, 2, 0, 0]


def test_the_picture_of_use_tells_unused_rare_and_frequent_codes_apart():
    sheet = usage_picture(torch.tensor([0, 1, 10, 1000]), side=64)
    assert sheet.dtype == torch.uint8
    assert sheet.shape == (3, 65, 65)
    middle = sheet[:, [16, 16, 48, 48], [16, 48, 16, 48]].float()  # (3, code)
    light = middle.mean(0)
    assert light[1] < light[2] < light[3]
    assert middle[:, 0].unique().numel() == 1  # grey, which no code in use is
    assert usage_picture(torch.ones(512)).shape[1] >= 256


def test_codes_that_nothing_names_are_moved_to_where_frames_are():
    tokenizer, image = tiny(), frames(4)
    before = tokenizer.codebook.weight.detach().clone()
    tokenizer.used[[3, 7]] = True
    tokenizer.revive(image)
    after = tokenizer.codebook.weight.detach()
    assert torch.equal(after[[3, 7]], before[[3, 7]])
    with torch.no_grad():
        z = tokenizer.encode(image.float() / 127.5 - 1).movedim(1, -1).flatten(0, -2)
    moved = [i for i in range(64) if i not in (3, 7)]
    assert (after[moved, None] - z).abs().amax(-1).amin(1).max() < 1e-5
    assert not tokenizer.used.any()


def test_revived_codes_go_to_what_is_rare():
    """One pixel of a hundred frames that differs gets a code of its own, where a draw among all places misses it."""
    tokenizer = tiny()
    image = torch.full((100, *tokenizer.shape), 90, dtype=torch.uint8)
    image[0, :, 3, 5] = 255
    tokenizer.used[0] = True
    with torch.no_grad():
        plain, odd = tokenizer.encode(signed(image[[1, 0]]))  # (E, gh, gw) each
        tokenizer.codebook.weight[0] = plain[:, 0, 0]
        place = (plain - odd).square().sum(0).argmax()
    tokenizer.revive(image)
    _, codes = tokenizer.quantise(tokenizer.encode(signed(image[:1])))
    assert torch.allclose(codes[0].flatten(1)[:, place], odd.flatten(1)[:, place], atol=1e-5)


def test_an_autoencoder_first_then_codes_where_its_frames_are():
    """The continuous losses leave the codebook alone, and end where the quantised ones would with a code for each."""
    tokenizer, image, recipe = tiny(), frames(4), WithoutLpips()
    loss, terms = tokenizer.continuous_losses(image, recipe)
    loss.backward()
    assert tokenizer.codebook.weight.grad is None
    with torch.no_grad():
        z = tokenizer.encode(signed(image[:1]))
        tokenizer.codebook.weight[: tokenizer.tokens] = z[0].flatten(1).T
    quantised, found, _ = tokenizer.losses(image[:1], recipe)
    whole, same = tokenizer.continuous_losses(image[:1], recipe)
    assert torch.allclose(whole, quantised, atol=1e-6)
    assert terms.keys() == same.keys() == found.keys() - {"codebook", "commitment"}


def test_a_gain_keeps_the_size_of_what_convolutions_outside_residual_blocks_see():
    torch.manual_seed(0)
    plain = tiny()
    torch.manual_seed(0)
    strong = Tokenizer(plain.shape, replace(TINY, gain=3.0))
    for (name, a), b in zip(plain.named_parameters(), strong.parameters(), strict=True):
        outside = a.ndim == 4 and ".convs." not in name
        assert torch.equal(b, a * 3 if outside else a), name
