"""Layers that the Dreamers share: dense, block-diagonal and convolutional, their norms, and their initial weights.

A layer computes in the precision of what it is given and keeps its weights in float32; norms compute in float32.
DreamerV1 and V2 start as Keras does (Glorot uniform, zero bias), DreamerV3 from truncated normals by the fan-in.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

TRUNCATION = 1.1368
"""1 / standard deviation of a normal that is cut off at two"""

Init = Callable[[Tensor, int, int], None]
"""fills a weight in place from its fan-in and fan-out"""


def glorot(weight: Tensor, fan_in: int, fan_out: int) -> None:
    """Uniform within sqrt(6 / (fan_in + fan_out)): Keras' default."""
    limit = math.sqrt(6 / (fan_in + fan_out))
    nn.init.uniform_(weight, -limit, limit)


def truncated(scale: float = 1.0) -> Init:
    """A normal of deviation scale / sqrt(fan_in), cut off at two deviations (DreamerV3). Scale 0 gives zeros."""

    def fill(weight: Tensor, fan_in: int, fan_out: int) -> None:
        std = TRUNCATION * scale / math.sqrt(fan_in)
        if std:
            nn.init.trunc_normal_(weight, 0.0, std, -2 * std, 2 * std)
        else:
            nn.init.zeros_(weight)

    return fill


class Linear(nn.Module):
    """x W^T + b."""

    def __init__(self, size: int, out: int, init: Init = glorot, bias: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out, size))
        self.bias = nn.Parameter(torch.zeros(out)) if bias else None
        init(self.weight, size, out)

    def forward(self, x: Float[Tensor, "*batch I"]) -> Float[Tensor, "*batch O"]:
        return F.linear(x, self.weight.to(x.dtype), None if self.bias is None else self.bias.to(x.dtype))


class BlockLinear(nn.Module):
    """A dense layer whose matrix is block-diagonal: block g of the output sees block g of the input.

    Weights are block-major, (G, I / G, O / G), as a batched product takes them. ``fan_in`` is the whole input's width
    unless told: DreamerV3 starts these weights sqrt(G) smaller than a block alone would.
    """

    def __init__(self, size: int, out: int, blocks: int, init: Init, bias: bool = True, fan_in: int = 0) -> None:
        super().__init__()
        if size % blocks or out % blocks:
            raise ValueError(f"{blocks} blocks do not divide widths {size} and {out}")
        self.blocks = blocks
        self.weight = nn.Parameter(torch.empty(blocks, size // blocks, out // blocks))
        self.bias = nn.Parameter(torch.zeros(out)) if bias else None
        init(self.weight, fan_in or size, out)

    def forward(self, x: Float[Tensor, "N I"]) -> Float[Tensor, "N O"]:
        return block_product(x, self.weight.to(x.dtype), None if self.bias is None else self.bias.to(x.dtype))


def block_product(
    x: Float[Tensor, "N I"], weight: Float[Tensor, "G i o"], bias: Float[Tensor, " O"] | None = None
) -> Float[Tensor, "N O"]:
    """x times a block-diagonal matrix, and a bias."""
    return grouped_product(x, weight, bias).flatten(1)


def grouped_product(
    x: Float[Tensor, "N I"], weight: Float[Tensor, "G i o"], bias: Float[Tensor, " O"] | None = None
) -> Float[Tensor, "N G o"]:
    """The same block by block, as the product leaves it: blocks lie one after another in memory."""
    groups = x.unflatten(-1, (len(weight), -1)).transpose(0, 1)  # (G, N, i)
    if bias is None:
        y = torch.bmm(groups, weight)
    else:
        y = torch.baddbmm(bias.view(len(weight), 1, -1), groups, weight)
    return y.transpose(0, 1)


class Conv(nn.Module):
    """A convolution over images (N, C, h, w)."""

    def __init__(
        self, size: int, out: int, kernel: int, init: Init = glorot, stride: int = 1, padding: int = 0
    ) -> None:
        super().__init__()
        empty = torch.empty(out, size, kernel, kernel).to(memory_format=torch.channels_last)  # as it is used
        self.weight, self.bias = nn.Parameter(empty), nn.Parameter(torch.zeros(out))
        self.stride, self.padding = stride, padding
        init(self.weight, size * kernel**2, out * kernel**2)

    def forward(self, x: Float[Tensor, "N I h w"]) -> Float[Tensor, "N O h2 w2"]:
        return F.conv2d(x, self.weight.to(x.dtype), self.bias.to(x.dtype), self.stride, self.padding)


class Deconv(nn.Module):
    """A transposed convolution of stride 2 over images (N, C, h, w)."""

    def __init__(self, size: int, out: int, kernel: int, init: Init = glorot) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(size, out, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(out))
        init(self.weight, size * kernel**2, out * kernel**2)

    def forward(self, x: Float[Tensor, "N I h w"]) -> Float[Tensor, "N O h2 w2"]:
        return F.conv_transpose2d(x, self.weight.to(x.dtype), self.bias.to(x.dtype), 2)


# ---- norms


class RMSNormSiLU(nn.Module):
    """x / rms(x) * scale over the last axis, then SiLU: one operation in DreamerV3, and so it is here."""

    def __init__(self, width: int, eps: float = 1e-4) -> None:
        super().__init__()
        self.scale, self.eps = nn.Parameter(torch.ones(width)), eps

    def forward(self, x: Float[Tensor, "*batch C"]) -> Float[Tensor, "*batch C"]:
        return rms_silu(x, self.scale, self.eps)


def rms_silu(x: Float[Tensor, "*batch C"], scale: Tensor, eps: float = 1e-4) -> Float[Tensor, "*batch C"]:
    """silu(scale * x / sqrt(mean(x^2) + eps)), in the precision of x; ``scale`` is anything that broadcasts to x."""
    if not torch.is_grad_enabled():  # a node of the graph costs more than acting's arithmetic
        return rms_silu_ahead(x, scale, eps)[0]
    return _RmsSilu.apply(x, scale, eps)  # type: ignore[no-any-return]


def rms_silu_ahead(x: Tensor, scale: Tensor, eps: float = 1e-4) -> tuple[Tensor, Tensor]:
    """The result, and 1 / rms (..., 1), which going back needs beside x."""
    norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.promote_types(x.dtype, torch.float32))
    inverse = norm.square_().div_(x.shape[-1]).add_(eps).rsqrt_()
    return F.silu((x * inverse).mul_(scale), inplace=True).to(x.dtype), inverse


def rms_silu_back(grad: Tensor, x: Tensor, scale: Tensor, inverse: Tensor) -> tuple[Tensor, Tensor | None]:
    """Gradients of x and of ``scale``, where it takes one."""
    n = x * inverse  # float32
    m = n * scale
    inner = torch.ops.aten.silu_backward.grad_input(grad.to(n.dtype), m, grad_input=m)  # written over m
    each = inner * n
    to_scale = each.sum_to_size(scale.shape) if scale.requires_grad else None
    return norm_back(inner.mul_(scale), n, inverse).to(x.dtype), to_scale


def norm_back(grad: Float[Tensor, "*batch C"], n: Float[Tensor, "*batch C"], inverse: Tensor) -> Tensor:
    """Gradient of x from that of n = x * inverse, inverse = 1 / rms(x): (grad - n mean(grad n)) * inverse.

    Weight normalisation (n = g v / |v|, here v = n with |v| = sqrt(C), g = sqrt(C) inverse) goes back the same way, and
    on a CPU that is one pass over memory. On a GPU it is made for few long rows. ``grad`` is written over.
    """
    width = n.shape[-1]
    if n.device.type != "cpu":
        along = (grad * n).sum(-1, keepdim=True) / width
        return grad.addcmul_(n, along, value=-1).mul_(inverse)
    rows, norms = n.reshape(-1, width), inverse.reshape(-1, 1)
    root = torch.full_like(norms, math.sqrt(width))
    back = torch.ops.aten._weight_norm_interface_backward(grad.reshape(rows.shape), rows, norms * root, root, 0)
    return back[0].view_as(n)


class _RmsSilu(torch.autograd.Function):
    """Keeps x and one number a row for the way back, where eager autograd would keep five maps as large as x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, eps: float) -> Tensor:
        y, inverse = rms_silu_ahead(x, scale, eps)
        ctx.save_for_backward(x, scale, inverse)
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor | None, None]:  # type: ignore[override]
        return *rms_silu_back(grad, *ctx.saved_tensors), None


class LayerNorm(nn.Module):
    """Keras' layer normalisation (epsilon 1e-3) in float32."""

    def __init__(self, width: int, eps: float = 1e-3) -> None:
        super().__init__()
        self.scale, self.offset = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))
        self.eps = eps

    def forward(self, x: Float[Tensor, "*batch C"]) -> Float[Tensor, "*batch C"]:
        return F.layer_norm(x.float(), x.shape[-1:], self.scale, self.offset, self.eps).to(x.dtype)


class Elu(nn.Module):
    """The activation of V1 and V2's dense layers, with no norm."""

    def forward(self, x: Tensor) -> Tensor:
        return F.elu(x)


class LayerNormElu(nn.Module):
    """V2's dense layers where its preset has norms (Crafter)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        return F.elu(self.norm(x))


# ---- networks


class MLP(nn.Module):
    """``layers`` times dense, norm and activation; then, where ``out`` is given, a last dense layer.

    Args:
        after: what follows a dense layer of so many units (norm, activation).
        last: initial weights of the last layer, where they are others.
    """

    def __init__(
        self,
        size: int,
        units: int,
        layers: int,
        out: int | None,
        after: Callable[[int], nn.Module],
        init: Init = glorot,
        last: Init | None = None,
    ) -> None:
        super().__init__()
        self.hidden = nn.Sequential()
        for before in [size] + [units] * (layers - 1) if layers else []:
            self.hidden.append(Linear(before, units, init))
            self.hidden.append(after(units))
        self.out = None if out is None else Linear(units if layers else size, out, last or init)
        self.width = units if layers else size

    def forward(self, x: Float[Tensor, "*batch I"]) -> Float[Tensor, "*batch O"]:
        x = self.hidden(x)
        return x if self.out is None else self.out(x)
