"""Attention over whole sequences: in stripes, packed, with dropout; and that dropout is dropout."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dreamlab.nn import attention as parts
from dreamlab.nn.attention import attention, drop, kept, packed, plus_dropped


def sequences(lengths: tuple[int, ...], heads: int = 2, d: int = 3) -> Tensor:
    """(P, 3, heads, d), to be differentiated."""
    torch.manual_seed(0)
    return torch.randn(sum(lengths), 3, heads, d, dtype=torch.float64, requires_grad=True)


def one_by_one(qkv: Tensor, lengths: tuple[int, ...], weigh) -> Tensor:
    """Attention written out, each sequence alone; ``weigh`` makes what it likes of (sequence, heads, T, T) weights."""
    found = []
    for i, rows in enumerate(qkv.split(lengths)):
        q, k, v = rows.permute(1, 2, 0, 3)  # (heads, T, d)
        future = torch.ones(len(rows), len(rows), dtype=torch.bool).triu(1)
        weights = (q @ k.mT / q.shape[-1] ** 0.5).masked_fill(future, -torch.inf).softmax(-1)
        found.append((weigh(i, weights) @ v).transpose(0, 1))
    return torch.cat(found)


# -- attention -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lengths", [(1,), (4, 4), (5, 5), (13, 13), (13, 8, 8, 1), (9, 2, 0), (8, 4, 3)])
@pytest.mark.parametrize("stripe", [4, 5, 96])
def test_attention_in_stripes_is_attention(lengths, stripe: int, monkeypatch: pytest.MonkeyPatch):
    """With nothing dropped: values and gradients."""
    monkeypatch.setattr(parts, "STRIPE", stripe)
    monkeypatch.setattr(parts, "_dropped_share", lambda p: 0.0)
    found, qkv = [], sequences(lengths)
    alike = lengths[0] if len(set(lengths)) == 1 else lengths
    for y in (attention(qkv, alike, 0.1), one_by_one(qkv, lengths, lambda _, weights: weights)):
        found.append((y, *torch.autograd.grad(y.sin().sum(), qkv)))
    torch.testing.assert_close(found[0], found[1])


@pytest.mark.parametrize("lengths", [(5, 5, 5), (6, 4, 1)])
def test_the_gradient_of_dropped_attention(lengths, monkeypatch: pytest.MonkeyPatch):
    """Against a written-out twin under the same mask of every stripe."""
    monkeypatch.setattr(parts, "STRIPE", 3)
    qkv, t, masks = sequences(lengths), lengths[0], []
    whole = torch.zeros(len(lengths) * 2, t, t, dtype=torch.float64)

    def drawn(shape: tuple[int, ...], share: float) -> Tensor:
        masks.append(torch.rand(shape) < 0.7)
        whole[: shape[0], (a := 3 * (len(masks) - 1)) : a + shape[1], : shape[2]] = masks[-1].double()
        return masks[-1].short()

    monkeypatch.setattr(parts, "kept", drawn)
    y = attention(qkv, lengths, 0.25)
    (ours,) = torch.autograd.grad(y.sin().sum(), qkv)

    def dropped(i: int, weights: Tensor) -> Tensor:
        n = weights.shape[-1]
        return weights * whole[2 * i : 2 * i + 2, :n, :n] / 0.75

    twin = one_by_one(qkv, lengths, dropped)
    torch.testing.assert_close(y, twin)
    torch.testing.assert_close(ours, torch.autograd.grad(twin.sin().sum(), qkv)[0])


@pytest.mark.parametrize("offset", [0.0, 2.0])
def test_in_bf16_its_gradients_are_as_near_as_numbers_are(offset: float):
    """Of queries, keys and values each; also where all keys, and all values, have much in common."""
    lengths, found = (130, 130, 40), []
    qkv = sequences(lengths, 2, 16).detach()
    qkv[:, 1:] += offset
    for dtype in (torch.float64, torch.bfloat16):
        x = qkv.bfloat16().to(dtype).requires_grad_()
        y = parts._Stripes.apply(x, lengths, 0.0)
        (grad,) = torch.autograd.grad(y, x, torch.ones_like(y) * torch.linspace(-1, 1, 16).to(dtype))
        found.append((y.double(), *grad.double().unbind(1)))
    for exact, rough in zip(*found, strict=True):
        assert (exact - rough).abs().mean() < 0.02 * exact.abs().mean()


def test_without_dropout_and_of_one_length_it_is_torchs_own(monkeypatch: pytest.MonkeyPatch):
    qkv, called = sequences((6, 6)), []
    own = F.scaled_dot_product_attention
    monkeypatch.setattr(F, "scaled_dot_product_attention", lambda *a, **k: (called.append(1), own(*a, **k))[1])
    y = attention(qkv, 6)
    assert called
    torch.testing.assert_close(y, one_by_one(qkv, (6, 6), lambda _, weights: weights))


# -- packing -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lengths", [[3, 7, 5], [0, 7, 1], [1, 1, 1], [7, 7, 6], [2, 0, 0]])
def test_what_is_packed_is_put_in_place_again(lengths: list[int]):
    x = torch.randn(3, 7, 2)
    rows, sizes, in_place = packed(x, lengths)
    again = in_place(rows)
    assert sizes == tuple(sorted(sizes, reverse=True))
    assert len(rows) == sum(sizes)
    assert again.shape == x.shape
    for i, n in enumerate(lengths):
        assert torch.equal(again[i, :n], x[i, :n])


def test_packed_sequences_have_one_of_few_sizes_and_hardly_more_than_there_is():
    g = torch.Generator().manual_seed(0)
    x, found = torch.zeros(16, 340, 1), set()
    for _ in range(200):
        lengths = (torch.randint(1, 21, (16,), generator=g) * 17).tolist()
        rows, sizes, _ = packed(x, lengths)
        found.add(len(rows))
        longer = [size - n for size, n in zip(sizes, sorted(lengths, reverse=True), strict=True)]
        assert min(longer) >= 0
        assert sum(longer) < 170
    assert {n % 170 for n in found} == {0}


# -- dropout -------------------------------------------------------------------------------------------------


def test_so_much_is_dropped_and_the_mean_stays():
    torch.manual_seed(0)
    share = kept((1000, 999), 0.25).float().mean().item()
    assert share == pytest.approx(0.75, abs=0.003)
    dropped = drop(torch.ones(10**6), 0.1)
    assert sorted(dropped.unique().tolist()) == pytest.approx([0.0, 1 / 0.9], rel=1e-4)
    assert dropped.mean().item() == pytest.approx(1.0, abs=0.003)


@pytest.mark.parametrize("p", [1e-6, 0.5, 0.999999, 1.0])
def test_dropout_of_any_probability_stays_finite(p: float):
    torch.manual_seed(0)
    qkv, x = torch.randn(7, 3, 2, 4), torch.randn(7, 8)
    for y in (drop(x, p), plus_dropped(x, nn.Linear(8, 8), x, p), attention(qkv, 7, p), attention(qkv, (4, 3), p)):
        assert y.isfinite().all()
    assert kept((0, 3), p).shape == (0, 3)


def test_torchs_seed_says_what_is_dropped():
    masks = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        masks.append((kept((999,), 0.5), kept((999,), 0.5)))
    assert torch.equal(masks[0][0], masks[1][0])
    assert not torch.equal(masks[0][0], masks[0][1])
    assert not torch.equal(masks[0][0], masks[2][0])


def test_neighbours_are_dropped_independently():
    torch.manual_seed(0)
    mask = kept((10**6,), 0.5).float() * 2 - 1
    for lag in (1, 2, 3, 4, 5, 8):
        assert abs((mask[lag:] * mask[:-lag]).mean().item()) < 0.005


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bias", [True, False])
def test_a_sum_with_what_is_dropped(dtype: torch.dtype, bias: bool, monkeypatch: pytest.MonkeyPatch):
    """Values and gradients of a twin that is written out; under autocast what is dropped is bf16, the sum is not."""
    torch.manual_seed(0)
    mask = (torch.rand(5, 4) < 0.7).short()
    monkeypatch.setattr(parts, "kept", lambda shape, share: mask)
    half = dtype == torch.bfloat16
    layer = nn.Linear(3, 4, bias).to(torch.float32 if half else dtype)
    x, h = (torch.randn(5, n, dtype=torch.float32 if half else dtype, requires_grad=True) for n in (4, 3))
    found = []
    for ours in (True, False):
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            y = plus_dropped(x, layer, h, 0.25) if ours else x + layer(h) * mask / 0.75
        assert y.dtype == x.dtype
        found.append((y, *torch.autograd.grad(y.sin().sum(), [x, h, *layer.parameters()])))
    torch.testing.assert_close(*found, **({"rtol": 0.03, "atol": 0.03} if half else {}))
