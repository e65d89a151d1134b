"""Group normalisation, alone and with swish, of channels-last maps on a CPU.

PyTorch walks such maps a channel at a time where they are small (below 32x32), and always on the way back: many
times slower than arithmetic and memory ask for, in bf16 as long as the convolution beside it. Here both are a few
passes over whole maps, in float32. What is kept for the way back is x and two numbers a group; eager autograd would
keep the normalised map for the swish, too. Elsewhere than on a CPU it is PyTorch's own.

Without gradients both can be two compiled passes over memory (``fuse``), where PyTorch makes five.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from dreamlab.nn.compute import looking

LARGE = 1024
"""pixels from which PyTorch's forward is a few passes itself"""

STRETCHES = 64
"""that pixels are summed in, at most: a power of 2"""


class GroupNorm(nn.Module):
    """Each group of channels of a frame at mean 0 and variance 1, then a scale and an offset for each channel."""

    def __init__(self, channels: int, groups: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))
        self.groups, self.eps = groups, eps

    def forward(self, x: Float[Tensor, "N C h w"]) -> Float[Tensor, "N C h w"]:
        if not x.is_cpu:
            return F.group_norm(x, self.groups, self.weight, self.bias, self.eps)
        if not torch.is_grad_enabled():
            return _normalised(x, self.weight, self.bias, self.groups, self.eps)[0]
        return _GroupNorm.apply(x, self.weight, self.bias, self.groups, self.eps)  # type: ignore[no-any-return]


class GroupNormSwish(GroupNorm):
    """``GroupNorm``, then x sigmoid(x)."""

    passes: tuple[Callable[..., Any], ...] | None = None
    """``line``, ``swish`` and ``swish_over``, compiled"""

    def forward(self, x: Float[Tensor, "N C h w"], over: bool = False) -> Float[Tensor, "N C h w"]:
        """Normalised, then y sigmoid(y).

        Args:
            over: x is needed no more: where it goes through compiled passes the result is written over it.
        """
        if x.is_cpu and torch.is_grad_enabled():
            return _GroupNormSwish.apply(x, self.weight, self.bias, self.groups, self.eps)  # type: ignore[no-any-return]
        if self.passes is not None and _worth_compiling(x):
            line, swish, swish_over = self.passes
            rows = x.movedim(1, -1).contiguous().flatten(1, 2)
            stretches = rows.unflatten(1, (math.gcd(rows.shape[1] // 2, STRETCHES), -1))
            scaled = line(stretches, self.weight, self.bias, self.groups, self.eps)
            y = swish_over(rows, *scaled) if over else swish(rows, *scaled)
            return y.unflatten(1, x.shape[2:]).movedim(-1, 1)  # type: ignore[no-any-return]
        return F.silu(super().forward(x), inplace=not torch.is_grad_enabled())


def _worth_compiling(x: Float[Tensor, "N C h w"]) -> bool:
    """Several frames of an even number of pixels: for sizes of 1 a compiler makes forms of their own, and few fit."""
    return looking(x) and len(x) > 1 and not (x.shape[2] * x.shape[3]) % 2


def fuse(module: nn.Module, compiled: Callable[[Any], Any]) -> None:
    """Without gradients, on a CPU, norms with swish in ``module`` go through ``compiled(...)``, if that is another."""
    plain = line, swish, swish_over
    passes = tuple(map(compiled, plain))
    for part in module.modules():
        if isinstance(part, GroupNormSwish):
            part.passes = None if passes == plain else passes


def line(
    rows: Float[Tensor, "N K p C"], weight: Float[Tensor, " C"], bias: Float[Tensor, " C"], groups: int, eps: float
) -> tuple[Float[Tensor, "N 1 C"], Float[Tensor, "N 1 C"]]:
    """What normalising multiplies each channel by, and then adds to it.

    Pixels come in K stretches, short ones of most maps: what a compiler makes of a sum over rows then stays in the
    nearest cache.
    """
    pixels, each = rows.shape[1] * rows.shape[2], rows.shape[-1] // groups
    near = rows[:, :, 0].float().mean(1)  # (N, C): the mean of a few, beyond which squares lose no digits
    beyond = rows.float() - near[:, None, None]
    total, squares = beyond.sum(2).sum(1), beyond.square().sum(2).sum(1)
    mean = _grouped(total + pixels * near, groups) / (pixels * each)  # (N, G)
    gap = near - _spread(mean, each).squeeze(1)
    variance = _grouped(squares + gap * (2 * total + pixels * gap), groups) / (pixels * each)
    scale = _spread((variance.clamp(min=0) + eps).rsqrt(), each) * weight
    return scale, bias - _spread(mean, each) * scale


def swish(rows: Float[Tensor, "N P C"], scale: Float[Tensor, "N 1 C"], offset: Float[Tensor, "N 1 C"]) -> Tensor:
    """y sigmoid(y) of y = rows * scale + offset, in float32, as rows are."""
    y = torch.addcmul(offset, rows.float(), scale)
    return (y * y.sigmoid()).to(rows.dtype)


def swish_over(rows: Float[Tensor, "N P C"], scale: Float[Tensor, "N 1 C"], offset: Float[Tensor, "N 1 C"]) -> Tensor:
    """``swish``, written over the rows: a map less that pushes others out of the nearer caches."""
    return rows.copy_(swish(rows, scale, offset))


class _GroupNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float) -> Tensor:
        y, mean, inverse = _normalised(x, weight, bias, groups, eps)
        ctx.save_for_backward(x, weight, bias, mean, inverse)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:  # type: ignore[override]
        x, weight, _, mean, inverse = ctx.saved_tensors
        return *_back(_rows(grad), _rows(x), x, weight, mean, inverse), None, None


class _GroupNormSwish(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float) -> Tensor:
        return F.silu(_GroupNorm.forward(ctx, x, weight, bias, groups, eps), inplace=True)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:  # type: ignore[override]
        x, weight, bias, mean, inverse = ctx.saved_tensors
        rows, each = _rows(x), x.shape[1] // mean.shape[1]
        slope = _spread(inverse, each) * weight
        y = torch.addcmul(bias - _spread(mean, each) * slope, rows, slope)  # the normalised map again
        inner = torch.ops.aten.silu_backward(_rows(grad), y)
        return *_back(inner, rows, x, weight, mean, inverse), None, None


def _rows(x: Float[Tensor, "N C h w"]) -> Float[Tensor, "N P C"]:
    """Pixels by channels, in float32; a view where x is channels-last and float32."""
    return x.movedim(1, -1).contiguous().flatten(1, 2).float()


def _maps(rows: Float[Tensor, "N P C"], like: Float[Tensor, "N C h w"]) -> Float[Tensor, "N C h w"]:
    return rows.to(like.dtype).unflatten(1, like.shape[2:]).movedim(-1, 1)


def _spread(v: Float[Tensor, "N G"], each: int) -> Float[Tensor, "N 1 C"]:
    """A number of each group for each of its channels."""
    return v.repeat_interleave(each, 1).unsqueeze(1)


def _grouped(v: Float[Tensor, "N 1 C"], groups: int) -> Float[Tensor, "N G"]:
    """The sum over each group's channels."""
    return v.flatten(1).unflatten(1, (groups, -1)).sum(-1)


def _normalised(x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """The result like x; and each group's mean and 1 / deviation (N, G), in float32."""
    n, c, h, w = x.shape
    if h * w >= LARGE:
        if not (x.is_contiguous() or x.is_contiguous(memory_format=torch.channels_last)):
            x = x.contiguous()  # the library takes no others
        y, mean, inverse = torch.native_group_norm(x, weight, bias, n, c, h * w, groups, eps)
        return y, mean.float(), inverse.float()
    rows, each, count = _rows(x), c // groups, c * h * w // groups
    mean = _grouped(rows.sum(1, keepdim=True), groups) / count
    centred = rows - _spread(mean, each)  # before it is squared: no digits are lost
    inverse = (_grouped(centred.square().sum(1, keepdim=True), groups) / count + eps).rsqrt()
    y = torch.addcmul(bias, centred, _spread(inverse, each) * weight)
    return _maps(y, x), mean, inverse


def _back(
    grad: Float[Tensor, "N P C"],
    rows: Float[Tensor, "N P C"],
    x: Float[Tensor, "N C h w"],
    weight: Tensor,
    mean: Float[Tensor, "N G"],
    inverse: Float[Tensor, "N G"],
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of x, weight and bias from the normalised map's."""
    groups, each, count = mean.shape[1], x.shape[1] // mean.shape[1], x[0].numel() // mean.shape[1]
    plain, along = grad.sum(1, keepdim=True), (grad * rows).sum(1, keepdim=True)  # (N, 1, C)
    to_weight = (along - plain * _spread(mean, each)) * _spread(inverse, each)
    # what goes through the group's own deviation and mean, as a multiple of x and a number
    of_x = -_grouped(to_weight * weight, groups) * inverse.square() / count
    rest = -of_x * mean - _grouped(plain * weight, groups) * inverse / count
    back = torch.addcmul(_spread(rest, each), grad, _spread(inverse, each) * weight)
    return _maps(back.addcmul_(rows, _spread(of_x, each)), x), to_weight.sum((0, 1)), plain.sum((0, 1))
