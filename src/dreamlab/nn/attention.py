"""Causal attention over whole sequences, and dropout: on a CPU without what nobody needs.

Sequences lie packed, one behind another and the longest first, so that what is not there is not computed::

    rows (P, ...)   a a a a a b b b b b c c d          lengths (5, 5, 2, 1), P = 13

    stripes of      keys 0 1 2 3 4                      a stripe of rows sees the keys up to its own last,
    attention's            ▪ ▪ │                        and those sequences alone that reach so far
    matrix                 ▪ ▪ ▪ ▪
                           ▪ ▪ ▪ ▪ ▪
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int16
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

STRIPE = 96
"""rows of attention's matrix that are computed at once on a CPU"""

Lengths = tuple[int, ...]
"""of sequences, the longest first"""


def packed(
    x: Float[Tensor, "B T D"], lengths: Sequence[int]
) -> tuple[Float[Tensor, "P D"], Lengths, Callable[[Float[Tensor, "P D"]], Float[Tensor, "B T D"]]]:
    """The inputs that are there, the lengths in the order in which they lie, and what puts such rows in place again.

    Args:
        lengths: of each sequence; what lies behind is left out, all but a few, and means nothing in the outputs.
    """
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    sizes = _rounded([lengths[i] for i in order], x.shape[1])
    sequences = x.unbind(0)
    rows = torch.cat([sequences[i][:n] for i, n in zip(order, sizes, strict=True)])

    def in_place(rows: Tensor) -> Tensor:
        parts = zip(order, rows.split(sizes), strict=True)
        whole = {i: F.pad(part, (0, 0, 0, x.shape[1] - len(part))) for i, part in parts}
        return torch.stack([whole[i] for i in range(len(whole))])

    return rows, sizes, in_place


def _rounded(lengths: Sequence[int], t: int) -> Lengths:
    """Lengths whose sum is one of few, halves of t: the first that can be are longer, up to t.

    Else every update is of another size, for which memory is found anew and, in bf16, products are prepared anew.
    """
    missing, longer = -sum(lengths) % max(t // 2, 1), []
    for n in lengths:
        added = min(missing, t - n)
        longer.append(n + added)
        missing -= added
    return tuple(longer)


def attention(qkv: Float[Tensor, "P 3 H d"], lengths: int | Lengths, p: float = 0.0) -> Float[Tensor, "P H d"]:
    """Causal attention of sequences that lie one behind another, with dropout p of its weights.

    torch's fused kernel takes sequences of one length and has no dropout on a CPU, where it falls back to plain
    products: ``_Stripes`` does better.

    Args:
        lengths: one that all have; or, on a CPU, of each.
    """
    if not isinstance(lengths, tuple):
        if not p or qkv.device.type != "cpu" or not len(qkv):
            q, k, v = by_heads(qkv.unflatten(0, (-1, lengths)))
            return F.scaled_dot_product_attention(q, k, v, dropout_p=p, is_causal=True).transpose(1, 2).flatten(0, 1)
        lengths = (lengths,) * (len(qkv) // lengths)
    return _Stripes.apply(qkv, lengths, _dropped_share(p))  # type: ignore[no-any-return]


def by_heads(qkv: Float[Tensor, "B T 3 H d"]) -> tuple[Float[Tensor, "B H T d"], ...]:
    """Each head's queries, keys and values."""
    return qkv.permute(2, 0, 3, 1, 4).unbind(0)


class _Stripes(torch.autograd.Function):
    """y = dropped(softmax(q k^T / sqrt d, causal)) v; a stripe of rows at a time.

    On the way back a softmax's gradient is w (g - sum w g), where g is the gradient of what was dropped from w: that
    sum is the output times its own gradient (FlashAttention-2, arXiv:2307.08691, section 3.1).
    """

    @staticmethod
    def forward(ctx: Any, qkv: Tensor, lengths: Lengths, share: float) -> Tensor:  # type: ignore[override]
        """(P, 3, heads, d) -> (P, heads, d). Kept: q, k, v, y, and of each stripe its weights, before and after."""
        heads, d = qkv.shape[2:]
        q, k, v = _apart(qkv, lengths)  # (M, T, d) each, M = B * heads
        y, saved = qkv.new_empty(len(qkv), heads, d), []
        nothing, future = q.new_empty(()), above_diagonal(min(STRIPE, lengths[0]), q)
        with torch.autocast(qkv.device.type, enabled=False):
            for m, a, b in _stripes(lengths, heads):
                score = _product(q[:m, a:b], k[:m, :b].mT, d**-0.5, nothing)  # (m, b - a, b)
                score[..., a:] += future[: b - a, : b - a]
                weight = torch.softmax(score, -1, out=score)
                dropped = weight * kept(weight.shape, share) if share else weight
                _together(_product(dropped, v[:m, :b], 1 / (1 - share), nothing)[None], lengths, y[:, None], a)
                saved += [weight, dropped]
        ctx.save_for_backward(q, k, v, y, *saved)
        ctx.lengths, ctx.share = lengths, share
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        """(P, heads, d) -> (P, 3, heads, d). From the last stripe on: it reaches all keys, so its sums come first."""
        q, k, v, y, *saved = ctx.saved_tensors
        lengths, (heads, d) = ctx.lengths, y.shape[1:]
        back, to_kv = grad.new_empty(len(grad), 3, heads, d), k.new_empty(2, *k.shape)
        nothing, scale, gain, done = q.new_empty(()), d**-0.5, 1 / (1 - ctx.share), 0
        room = q.new_empty(max((weight.numel() for weight in saved), default=0))
        (less,) = _apart((grad * y).sum(-1).neg_()[:, None, :, None], lengths)  # (M, T, 1)
        (grads,) = _apart(grad[:, None], lengths)
        # rows of to_score sum to 0, in bf16 roughly: times what all keys have in common, that would be error
        beyond = k - k.mean(1, keepdim=True)
        stripes = zip(_stripes(lengths, heads), saved[::2], saved[1::2], strict=True)
        with torch.autocast(grad.device.type, enabled=False):
            for (m, a, b), weight, dropped in reversed(list(stripes)):
                here = grads[:m, a:b]
                to_score = room[: weight.numel()].view_as(weight)
                torch.baddbmm(nothing, here, v[:m, :b].mT, beta=0, alpha=gain, out=to_score)
                to_score.mul_(dropped).addcmul_(weight, less[:m, a:b])
                _together(_product(to_score, beyond[:m, :b], scale, nothing)[None], lengths, back[:, :1], a)
                to_k = _product(to_score.mT, q[:m, a:b], scale, nothing)
                to_v = _product(dropped.mT, here, gain, nothing)
                for whole, part in zip(to_kv, (to_k, to_v), strict=True):
                    whole[:done, :b] += part[:done]
                    whole[done:m, :b] = part[done:]  # matrices that end in this stripe
                done = m
        _together(to_kv, lengths, back[:, 1:])
        return back, None, None


def _apart(x: Float[Tensor, "P G H d"], lengths: Lengths) -> Float[Tensor, "G BH T d"]:
    """Each sequence's heads on their own, with zeros behind it: a matrix of T rows each."""
    g, heads, d = x.shape[1:]
    longest, t = lengths.count(lengths[0]), lengths[0]
    apart = x.new_empty(g, len(lengths), heads, t, d)
    apart[:, :longest] = x[: longest * t].unflatten(0, (longest, t)).permute(2, 0, 3, 1, 4)
    begin = longest * t
    for b, n in enumerate(lengths[longest:], longest):
        apart[:, b, :, :n] = x[begin : begin + n].permute(1, 2, 0, 3)
        apart[:, b, :, n:] = 0
        begin += n
    return apart.flatten(1, 2)


def _together(apart: Float[Tensor, "G m s d"], lengths: Lengths, x: Float[Tensor, "P G H d"], at: int = 0) -> None:
    """``_apart`` undone: rows from ``at`` on of the first m matrices are written to where they lie in x."""
    apart, t, longest = apart.unflatten(1, (-1, x.shape[2])), lengths[0], lengths.count(lengths[0])
    s = apart.shape[3]
    x[: longest * t].unflatten(0, (longest, t))[:, at : at + s] = apart[:, :longest].permute(1, 3, 0, 2, 4)
    begin = longest * t
    for b, n in enumerate(lengths[longest:], longest):
        if n > at:
            x[begin + at : begin + min(n, at + s)] = apart[:, b, :, : n - at].permute(2, 0, 1, 3)
        begin += n


def _stripes(lengths: Lengths, heads: int) -> Iterator[tuple[int, int, int]]:
    """(m, a, b): rows a to b, in the first m matrices, whose sequences reach beyond a."""
    for a in range(0, lengths[0], STRIPE):
        yield heads * sum(n > a for n in lengths), a, min(a + STRIPE, lengths[0])


def _product(
    a: Float[Tensor, "M n k"], b: Float[Tensor, "M k m"], scale: float, nothing: Float[Tensor, ""]
) -> Float[Tensor, "M n m"]:
    """scale * a b, scaled while it is written; ``nothing`` is any number of their kind."""
    return torch.baddbmm(nothing, a, b, beta=0, alpha=scale)


def above_diagonal(t: int, like: Tensor) -> Float[Tensor, "T T"]:
    """-inf where the key comes after the query, 0 elsewhere."""
    return torch.full((t, t), -math.inf, dtype=like.dtype, device=like.device).triu_(1)


# -- dropout -------------------------------------------------------------------------------------------------


def drop(x: Tensor, p: float) -> Tensor:
    """Dropout: zero with probability p, else 1 / (1 - p) times as much."""
    if not p or x.device.type != "cpu":
        return F.dropout(x, p) if p else x
    share = _dropped_share(p)
    return x * kept(x.shape, share) * (1 / (1 - share)) if share else x


def plus_dropped(
    x: Float[Tensor, "*batch D"], layer: nn.Linear, h: Float[Tensor, "*batch I"], p: float
) -> Float[Tensor, "*batch D"]:
    """x + drop(layer(h), p). With dropout on a CPU the layer's weights are read, and it is not called."""
    share = _dropped_share(p)
    if not share or x.device.type != "cpu":
        return x + drop(layer(h), p)
    gain = 1 / (1 - share)  # of the weights: the smaller ones to multiply
    y = F.linear(h, layer.weight * gain, None if layer.bias is None else layer.bias * gain)
    return _PlusKept.apply(x, y, kept(y.shape, share))  # type: ignore[no-any-return]


class _PlusKept(torch.autograd.Function):
    """x + y * mask."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, mask: Tensor) -> Tensor:  # type: ignore[override]
        ctx.save_for_backward(mask)
        ctx.dtype = y.dtype
        return torch.addcmul(x, y.to(x.dtype), mask.to(x.dtype))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:  # type: ignore[override]
        (mask,) = ctx.saved_tensors
        return grad, grad.to(ctx.dtype) * mask.to(ctx.dtype), None


def kept(shape: Sequence[int], share: float) -> Int16[Tensor, "*shape"]:
    """0 with probability ``share`` (a multiple of 2^-16), else 1; on the CPU, from torch's global generator.

    torch's own draws a number for each element, of which an update of IRIS's dynamics has a hundred million. Here one
    draw of 64 bits decides four, by numpy's fastest generator, to which torch's gives a seed; and small integers
    multiply faster than a bool masks.
    """
    n = math.prod(shape)
    if not n:
        return torch.empty(*shape, dtype=torch.int16)
    draws = np.random.Generator(np.random.SFC64(int(torch.randint(2**62, (), device="cpu"))))
    bits = torch.from_numpy(draws.integers(-(2**63), 2**63, (n + 3) // 4, dtype=np.int64))
    return bits.view(torch.int16)[:n].view(*shape).ge_(round(share * 2**16) - 2**15)


def _dropped_share(p: float) -> float:
    """p, as sixteen bits can draw it: something is left."""
    return min(round(p * 2**16), 2**16 - 1) / 2**16
