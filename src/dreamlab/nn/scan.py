"""Weights that are used at every step of a scan, whose gradient is one product over all steps.

Backpropagation through time makes one small product dW += dy^T x a step, and each reads and writes the whole
gradient: at 16 rows that is most of what going back costs. Here each step keeps its x and dy, and when the
last of them has been passed there is one product over all of them::

    weight ─ lend ─ token ─┬─ apply(x1) ─ y1
                           ├─ apply(x2) ─ y2         back: every apply gives dx at once and notes (x, dy);
                           └─ apply(x3) ─ y3               lend, which comes after all of them, makes dW

The numbers are those of plain layers, summed in another order; a test holds the two together.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dreamlab.nn.blocks import BlockLinear, Linear, block_product


class Lent:
    """A layer for one scan: its weights cast once, their gradients made once. Call it as the layer.

    Where its weights take no gradient it is the plain product.
    """

    def __init__(self, layer: Linear | BlockLinear, dtype: torch.dtype, part: slice | None = None) -> None:
        """``part``: only these columns of a dense layer's input, without its bias."""
        weight = layer.weight if part is None else layer.weight[:, part]  # type: ignore[index]
        bias = layer.bias if part is None else None
        self.blocks = isinstance(layer, BlockLinear)
        self.weight = weight.detach().to(dtype)
        self.bias = None if bias is None else bias.detach().to(dtype)
        self.seen: list[tuple[Tensor, Tensor]] = []
        learns = torch.is_grad_enabled() and weight.requires_grad
        self.token = _Lend.apply(self, weight, bias) if learns else None

    def __call__(self, x: Tensor) -> Tensor:
        x = x.to(self.weight.dtype)
        return self.product(x) if self.token is None else _Apply.apply(self, x, self.token)  # type: ignore[no-any-return]

    def product(self, x: Tensor) -> Tensor:
        """The layer's output (N, O)."""
        if not self.blocks:
            return F.linear(x, self.weight, self.bias)
        return block_product(x, self.weight, self.bias)

    def passed(self, x: Tensor, grad: Tensor) -> Tensor:
        """dx of dy, once both are noted for dW."""
        if self.token is not None:
            self.seen.append((x, grad))
        return self.back(grad)

    def back(self, grad: Tensor) -> Tensor:
        """dx of dy."""
        if not self.blocks:
            return grad @ self.weight
        return block_product(grad, self.weight.transpose(1, 2))

    def gradients(self) -> tuple[Tensor | None, Tensor | None]:
        """dW and db of all steps."""
        if not self.seen:
            return None, None
        x, grad = (torch.cat(parts) for parts in zip(*self.seen, strict=True))  # (T * N, ...)
        self.seen.clear()
        if self.blocks:
            groups = len(self.weight)
            inputs, outputs = (v.unflatten(-1, (groups, -1)).transpose(0, 1) for v in (x, grad))
            weight = torch.bmm(inputs.transpose(1, 2), outputs)
        else:
            weight = grad.t() @ x
        return weight.float(), None if self.bias is None else grad.sum(0, dtype=torch.float32)


class _Lend(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, lent: Lent, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.lent = lent
        return weight.new_zeros(())

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor | None, Tensor | None]:  # type: ignore[override]
        lent, ctx.lent = ctx.lent, None  # else the two would hold each other, and their weights, for long
        return None, *lent.gradients()


class _Apply(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, lent: Lent, x: Tensor, token: Tensor) -> Tensor:
        ctx.lent, ctx.zero = lent, token
        ctx.save_for_backward(x)
        return lent.product(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor | None, Tensor]:  # type: ignore[override]
        ctx.lent.seen.append((*ctx.saved_tensors, grad))
        return None, ctx.lent.back(grad) if ctx.needs_input_grad[1] else None, ctx.zero


def columns(layer: Linear, x: Tensor, part: slice) -> Tensor:
    """A dense layer's share for its last input columns, bias included; the other columns' share is made in the scan."""
    bias = None if layer.bias is None else layer.bias.to(x.dtype)
    return F.linear(x, layer.weight[:, part].to(x.dtype), bias)
