"""Group normalisation and swish as one step: forward PyTorch's own, backward by other sums.

PyTorch's backward of group normalisation walks channels-last maps on a CPU a channel at a time: ten times slower
than the forward, and in bf16 thirty times, as long as the convolution beside it. Here it is a few passes over whole
maps. What is kept for it is x and two numbers a group; eager autograd would keep the normalised map, too.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class GroupNormSwish(nn.Module):
    """swish(norm(x)), where each group of channels of a frame is brought to mean 0 and variance 1."""

    def __init__(self, channels: int, groups: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))
        self.groups, self.eps = groups, eps

    def forward(self, x: Float[Tensor, "N C h w"]) -> Float[Tensor, "N C h w"]:
        if torch.is_grad_enabled() and x.is_cpu:
            return _GroupNormSwish.apply(x, self.weight, self.bias, self.groups, self.eps)  # type: ignore[no-any-return]
        y = F.group_norm(x, self.groups, self.weight, self.bias, self.eps)
        return F.silu(y, inplace=not torch.is_grad_enabled())


class _GroupNormSwish(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float) -> Tensor:
        n, c, h, w = x.shape
        y, mean, inverse = torch.native_group_norm(x, weight, bias, n, c, h * w, groups, eps)
        ctx.save_for_backward(x, weight, bias, mean, inverse)
        return F.silu(y, inplace=True)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:  # type: ignore[override]
        x, weight, bias, mean, inverse = ctx.saved_tensors
        n, c, h, w = x.shape
        groups = mean.shape[1]
        wide, grad = (v.movedim(1, -1).contiguous().view(n, h * w, c).float() for v in (x, grad))
        mean, inverse = (v.float().repeat_interleave(c // groups, 1).unsqueeze(1) for v in (mean, inverse))  # (N, 1, C)
        slope = inverse * weight
        y = torch.addcmul(bias - mean * slope, wide, slope)  # the normalised map again
        inner = torch.ops.aten.silu_backward(grad, y)  # (N, h * w, C)
        along, plain = torch.mul(inner, wide, out=y).sum(1, keepdim=True), inner.sum(1, keepdim=True)  # (N, 1, C)
        to_weight = (along - plain * mean) * inverse
        # what the group's own variance and mean take back, as a multiple of x and a number
        share = groups / (c * h * w)
        of_x = -_grouped(to_weight * weight, groups) * inverse.square() * share
        rest = -of_x * mean - _grouped(plain * weight, groups) * inverse * share
        back = torch.addcmul(rest, inner, slope).addcmul_(wide, of_x)  # (N, h * w, C)
        return back.to(x.dtype).view(n, h, w, c).movedim(-1, 1), to_weight.sum((0, 1)), plain.sum((0, 1)), None, None


def _grouped(v: Float[Tensor, "N 1 C"], groups: int) -> Float[Tensor, "N 1 C"]:
    """Each channel's group's sum."""
    each = v.shape[-1] // groups
    return v.unflatten(-1, (groups, each)).sum(-1).repeat_interleave(each, -1)
