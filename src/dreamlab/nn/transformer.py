"""A causal transformer (pre-LayerNorm GPT) whose cache of keys and values is passed in and returned.

::

    x (B, T, D) ─▶ dropout ─▶ [ + attention(norm x), + MLP(norm x) ] x layers ─▶ norm ─▶ (B, T, D)

``forward`` reads whole sequences, ``extend`` goes on from a cache: the same numbers. A cache has a place for every
position from the start, and tells how many are filled:

    slots     0 1 2 3 4 5 . . . . .       size 6; two more inputs are written to slots 6 and 7,
              └─ filled ─┘                and see every slot up to their own

Under autocast products are bf16, norms and what is added up float32, and a cache is kept as the products are.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from dreamlab.nn.attention import Lengths, above_diagonal, attention, by_heads, drop, packed, plus_dropped

CHUNK = 68
"""slots that lie together in a cache on a CPU, where products in bf16 copy all that does not"""

LINE = 64
"""bytes that a processor fetches at once"""

Attend = Callable[[Tensor], Tensor]
"""query, key and value (..., T, 3, heads, d) -> (..., T, heads, d)"""

More = Callable[["list[Layer]", Tensor, Sequence[Tensor], Sequence[Tensor], int], Tensor]
"""``one_more``, ``two_more``"""


class Cache(NamedTuple):
    """Keys and values of N rows, a tensor for each layer: (N, heads, C, S / C, d), slots in C chunks.

    Values may lie in P strips of their numbers, (N, heads * P, C, S / C, d / P): what is summed over slots is then read
    in the order in which it lies.

    Extending writes into these tensors, behind ``size``: carry on from the newest cache alone, clone one to branch.
    """

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    size: Tensor
    """(N,) int64: slots that are filled"""

    @property
    def chunks(self) -> int:
        """C."""
        return self.keys[0].shape[2]

    @property
    def slots(self) -> int:
        """S."""
        return self.keys[0].shape[2] * self.keys[0].shape[3]


class Transformer(nn.Module):
    """Layers of causal attention and MLP (four times as wide, GELU). Positions are the caller's to add."""

    def __init__(self, layers: int, heads: int, width: int, dropout: float = 0.0) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"heads must divide width, got {heads} and {width}")
        self.width, self.heads, self.dropout = width, heads, dropout
        self.layers = nn.ModuleList([Layer(heads, width, dropout) for _ in range(layers)])
        self.norm = nn.LayerNorm(width)
        self.fused: dict[int, More] = {}  # by the number of inputs
        self.lent: dict[torch.dtype, list[Layer]] = {}  # by precision; a dict: not modules of this one

    def forward(self, x: Float[Tensor, "B T D"], lengths: Sequence[int] | None = None) -> Float[Tensor, "B T D"]:
        """Output t has seen inputs 0 to t. Dropout while training.

        Args:
            lengths: inputs that each sequence has, if some end before T: outputs behind mean nothing, and a CPU
                computes hardly any of them.

        Raises:
            ValueError: not one for each sequence, or more than T.
        """
        if lengths is not None and (len(lengths) != len(x) or max(lengths, default=0) > x.shape[1]):
            raise ValueError(f"lengths must be {len(x)} of at most {x.shape[1]}, got {list(lengths)}")
        p = self.dropout if self.training else 0.0
        sizes: int | Lengths
        if lengths and any(lengths) and x.device.type == "cpu" and min(lengths) < x.shape[1]:
            rows, sizes, in_place = packed(x, lengths)
        else:
            rows, sizes, in_place = x.flatten(0, 1), x.shape[1], lambda y: y.unflatten(0, x.shape[:2])
        rows = drop(rows, p)
        for layer in self.layers:
            rows = layer(rows, lambda qkv: attention(qkv, sizes, p))
        return in_place(self.norm(rows))

    def fuse(self, compiled: Callable[[Any], Any]) -> None:
        """Extend by one or two inputs through ``compiled(one_more)`` and ``(two_more)``, if these are others.

        Caches made before go on as before. For CPUs: a library's product of one query with its keys reads memory at a
        third of the speed it has. The weights are those of when the newest cache of that precision was made: they are
        cast then, and laid out, and not for every input.
        """
        fused = compiled(one_more), compiled(two_more)
        plain = fused == (one_more, two_more)  # as they are, they are slower than plain products
        self.fused = {} if plain else dict(zip((1, 2), fused, strict=True))

    def cache(self, n: int, slots: int) -> Cache:
        """An empty cache, in the precision that products have here and now; slots are rounded up to whole chunks."""
        weight = self.norm.weight
        kind = weight.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight.dtype
        if self.fused:
            self.lent[dtype] = lend(list(self.layers), self.lent.get(dtype, []), dtype)  # type: ignore[arg-type]
        chunks = math.ceil(slots / CHUNK) if kind == "cpu" and not self.fused else 1
        size, d = math.ceil(slots / max(chunks, 1)), self.width // self.heads
        strips = math.ceil(d * dtype.itemsize / LINE) if self.fused else 1
        strips = strips if d % strips == 0 else 1

        def empty(strips: int) -> Tensor:  # zeros: what is masked out is still multiplied by 0
            shape = (chunks, n, self.heads * strips, size, d // strips)
            return torch.zeros(shape, dtype=dtype, device=weight.device).permute(1, 2, 0, 3, 4)

        keys, values = (tuple(empty(strips) for _ in self.layers) for strips in (1, strips))
        return Cache(keys, values, torch.zeros(n, dtype=torch.int64, device=weight.device))

    def extend(
        self, x: Float[Tensor, "N T D"], cache: Cache, at: int | Int[Tensor, " N"] | None = None
    ) -> tuple[Float[Tensor, "N T D"], Cache]:
        """Go on from a cache: output t has seen what is in it and inputs 0 to t. For inference: no dropout.

        Args:
            at: slots that are filled; by default ``cache.size``. A plain number says that all rows have as many,
                and then only those are read, without a mask; it is the caller's to know. A tensor reads all slots
                under a mask: the same operations whatever it holds, so that a GPU can capture them.

        Raises:
            ValueError: more inputs than a plain number leaves slots (a tensor is not looked into).
        """
        at = cache.size if at is None else at
        t = x.shape[1]
        if isinstance(at, int) and at + t > cache.slots:
            raise ValueError(f"{t} inputs do not fit behind {at} filled slots of {cache.slots}")
        dtype = cache.keys[0].dtype
        lends = t in self.fused and dtype in self.lent and cache.chunks == 1 and not torch.is_grad_enabled()
        if isinstance(at, int) and lends:
            casts = dtype != self.norm.weight.dtype
            with torch.autocast(x.device.type, dtype if casts else None, enabled=casts):
                x = self.fused[t](self.lent[dtype], x, cache.keys, cache.values, at)
            return self.norm(x), cache._replace(size=torch.full_like(cache.size, at + t))
        if isinstance(at, int):
            attends: list[Attend] = [_alike(*kv, at) for kv in zip(cache.keys, cache.values, strict=True)]
        else:
            where = at[:, None] + torch.arange(t, device=x.device)  # (N, T)
            seen = torch.arange(cache.slots, device=x.device) <= where[:, None, :, None]  # (N, 1, T, S)
            attends = [_masked(*kv, where, seen) for kv in zip(cache.keys, cache.values, strict=True)]
        for layer, attend in zip(self.layers, attends, strict=True):
            x = layer(x, attend)
        size = torch.full_like(cache.size, at + t) if isinstance(at, int) else at + t
        return self.norm(x), cache._replace(size=size)


class Layer(nn.Module):
    """x + attention(norm x), then x + MLP(norm x)."""

    def __init__(self, heads: int, width: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.norm_attention, self.norm_mlp = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.project = nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Float[Tensor, "*batch T D"], attend: Attend) -> Float[Tensor, "*batch T D"]:
        p = self.dropout if self.training else 0.0
        qkv = self.qkv(self.norm_attention(x)).unflatten(-1, (3, self.heads, -1))  # (..., T, 3, heads, d)
        x = plus_dropped(x, self.project, attend(qkv).flatten(-2), p)
        return plus_dropped(x, self.down, F.gelu(self.up(self.norm_mlp(x))), p)


def one_more(
    layers: list[Layer], x: Float[Tensor, "N 1 D"], keys: Sequence[Tensor], values: Sequence[Tensor], at: int
) -> Float[Tensor, "N 1 D"]:
    """What layers make of one input behind ``at`` filled slots of their caches of one chunk, where it is written.

    All layers are compiled as one: that takes longer, once, and each call of what was compiled costs as much as a tenth
    of a layer.
    """
    for layer, cached in zip(layers, zip(keys, values, strict=True), strict=True):
        x = layer(x, _summed(*cached, at))
    return x


def two_more(
    layers: list[Layer], x: Float[Tensor, "N 2 D"], keys: Sequence[Tensor], values: Sequence[Tensor], at: int
) -> Float[Tensor, "N 2 D"]:
    """``one_more`` for two inputs, compiled on its own: the two would be compiled for any number."""
    return one_more(layers, x, keys, values, at)


@torch.inference_mode(False)  # else what was made while somebody only looked could not be written any more
@torch.no_grad()
def lend(layers: list[Layer], before: list[Layer], dtype: torch.dtype) -> list[Layer]:
    """Copies with products' weights in ``dtype``, laid out for few rows, in those lent ``before`` if they fit."""
    own = layers[0].qkv.weight
    if not before or (before[0].qkv.weight.dtype, before[0].qkv.weight.device) != (dtype, own.device):
        before = copy.deepcopy(layers)
        for part in itertools.chain(*(layer.requires_grad_(False).eval().modules() for layer in before)):
            if isinstance(part, nn.Linear):
                part.to(dtype)
                if dtype == torch.float32:  # inputs by outputs: a seventh faster there
                    part.weight.data = part.weight.T.contiguous().T
    for lent, layer in zip(before, layers, strict=True):
        for copied, live in zip(lent.parameters(), layer.parameters(), strict=True):
            copied.copy_(live)
    return before


@torch.no_grad()
def initialise(module: nn.Module) -> None:
    """As GPT: linear and embedding weights N(0, 0.02), biases 0, LayerNorms 1 and 0. For ``nn.Module.apply``."""
    if isinstance(module, nn.Linear | nn.Embedding):
        module.weight.normal_(0.0, 0.02)
    if isinstance(module, nn.Linear) and module.bias is not None:
        module.bias.zero_()
    if isinstance(module, nn.LayerNorm):
        module.weight.fill_(1.0)
        module.bias.zero_()


# -- attention over a cache ----------------------------------------------------------------------------------


def _alike(keys: Tensor, values: Tensor, at: int) -> Attend:
    """All rows have ``at`` slots filled: the others are not read.

    Two batched products a chunk: for one query on a CPU several times faster than the fused kernel in bf16.
    """

    def attend(qkv: Tensor) -> Tensor:
        q, k, v = by_heads(qkv)
        n, heads, t, d = q.shape
        strips = values.shape[1] // heads
        _write(keys, k, at)
        _write(values, _in_strips(v, strips), at)
        if not at:
            return F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2)
        query = (q * d**-0.5).to(keys.dtype).reshape(n * heads, t, d)
        score = torch.cat([_scores(query, chunk) for chunk in _filled(keys, at + t)], -1)  # (N*heads, T, at + T)
        if t > 1:
            score[..., at:] += above_diagonal(t, score)
        weights = score.softmax(-1).to(values.dtype)
        weights = weights.repeat_interleave(strips, 0) if strips > 1 else weights
        y = [torch.bmm(*p) for p in zip(weights.split(keys.shape[3], -1), _filled(values, at + t), strict=True)]
        return _whole(sum(y[1:], y[0]).view(n, heads * strips, t, -1), strips).to(q.dtype).transpose(1, 2)

    return attend


def _summed(keys: Tensor, values: Tensor, at: int) -> Attend:
    """``_alike`` for few inputs and one chunk, without products: what a compiler makes two passes over memory of."""

    def attend(qkv: Tensor) -> Tensor:
        q, k, v = by_heads(qkv)
        (heads, t, d), strips = q.shape[1:], values.shape[1] // q.shape[1]
        keys[:, :, 0, at : at + t] = k
        values[:, :, 0, at : at + t] = _in_strips(v, strips)
        query = (q.float() * d**-0.5)[:, :, :, None]  # (N, heads, T, 1, d)
        score = (query * keys[:, :, :, : at + t].float()).sum(-1)  # (N, heads, T, at + T)
        if t > 1:
            score = torch.cat([score[..., :at], score[..., at:] + above_diagonal(t, score)], -1)
        weights = score.softmax(-1)[:, :, None, ..., None]  # (N, heads, 1, T, at + T, 1)
        kept = values[:, :, :, : at + t].float().unflatten(1, (heads, strips))  # (N, heads, P, 1, at + T, d / P)
        return _whole((weights * kept).sum(-2).flatten(1, 2), strips).to(q.dtype).transpose(1, 2)

    return attend


def _in_strips(x: Float[Tensor, "N H T d"], strips: int) -> Float[Tensor, "N HP T w"]:
    """Each head's numbers as P heads of w = d / P."""
    return x.unflatten(-1, (strips, -1)).transpose(2, 3).flatten(1, 2)


def _whole(x: Float[Tensor, "N HP T w"], strips: int) -> Float[Tensor, "N H T d"]:
    """The numbers of P strips put together again."""
    return x.unflatten(1, (-1, strips)).transpose(2, 3).flatten(3)


def _write(slots: Tensor, new: Tensor, at: int) -> None:
    """New keys or values (N, heads, T, d) into slots from ``at`` on."""
    size, done = slots.shape[3], 0
    while done < new.shape[2]:
        chunk, begin = divmod(at + done, size)
        part = new[:, :, done : done + size - begin]
        slots[:, :, chunk, begin : begin + part.shape[2]] = part
        done += part.shape[2]


def _filled(slots: Tensor, n: int) -> list[Tensor]:
    """The first n slots, by chunks (N*heads, up to S / C, d)."""
    size = slots.shape[3]
    return [slots[:, :, c].flatten(0, 1)[:, : n - c * size] for c in range(math.ceil(n / size))]


def _scores(query: Tensor, keys: Tensor) -> Tensor:
    """(M, T, n) of (M, T, d) and (M, n, d), in the order that is faster on a CPU: that depends on the precision."""
    return torch.bmm(keys, query.mT).mT if keys.dtype == torch.float32 else torch.bmm(query, keys.mT)


def _masked(keys: Tensor, values: Tensor, where: Tensor, seen: Tensor) -> Attend:
    """Every row writes to its own slots ``where`` (N, T) and sees those that are ``seen`` (N, 1, T, S)."""
    size = keys.shape[3]
    rows = torch.arange(len(where), device=where.device)[:, None]  # (N, 1)
    chunk, slot = where.div(size, rounding_mode="floor"), where % size

    def attend(qkv: Tensor) -> Tensor:
        q, k, v = by_heads(qkv)
        keys[rows, :, chunk, slot] = k.transpose(1, 2).to(keys.dtype)  # (N, T, heads, d)
        strips = values.shape[1] // q.shape[1]
        values[rows, :, chunk, slot] = _in_strips(v, strips).transpose(1, 2).to(values.dtype)
        whole = keys.flatten(2, 3), _whole(values.flatten(2, 3), strips)  # (N, heads, S, d): copied if in several parts
        y = F.scaled_dot_product_attention(q.to(keys.dtype), *whole, attn_mask=seen)
        return y.to(q.dtype).transpose(1, 2)

    return attend
