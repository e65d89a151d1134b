"""The Dreamers' networks between images and features.

``Strided`` and ``Destrided`` are V1's and V2's (as World Models': valid convolutions of stride 2); ``Pooled`` and
``Grown`` V3's: 5x5 convolutions at every size, halved by max-pooling and doubled by repeating pixels.

V3's decoder is the same numbers by less work. A 5x5 kernel over an image whose pixels were repeated twice sees only
3x3 of the small image, another mixture of the kernel's weights at each of the four positions: ``Grown`` convolves
the small image 3x3 into four times the channels, and lays them out afterwards (9 products for 25).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from dreamlab.core.errors import UserError
from dreamlab.nn.blocks import BlockLinear, Conv, Deconv, Init, Linear, RMSNormSiLU, rms_silu

# ---- V1 and V2


class Strides(NamedTuple):
    """Sizes of networks of stride 2 for one image size."""

    channels: tuple[int, ...]
    """of the encoder's maps"""
    width: int
    """of the encoder's last map"""
    kernels: tuple[int, ...]
    """of the decoder"""


def strides(size: int, depth: int) -> Strides:
    """The layers that fit square images: convolutions of 4x4 until the map is at most 3 wide or four are made.

    The decoder has as many, and its kernels are the most equal ones, ascending, that land on the size exactly. At
    64 that is the papers' 5, 5, 6, 6.

    Raises:
        UserError: no decoder lands on this size.
    """
    width = size
    channels: list[int] = []
    while width > 3 and len(channels) < 4:
        width = (width - 4) // 2 + 1
        channels.append(depth * 2 ** len(channels))
    choices = itertools.combinations_with_replacement(range(3, 18), len(channels))
    fits = [k for k in choices if grown(k) == size]
    if not channels or not fits:
        raise UserError(f"no stride-2 decoder fits images of {size} pixels (8 to 128 work); type: --env.size 64 64")
    return Strides(tuple(channels), width, min(fits, key=lambda k: (k[-1] - k[0], k)))


def grown(kernels: Sequence[int]) -> int:
    """Width that transposed convolutions of stride 2 make of a single pixel."""
    width = 1
    for kernel in kernels:
        width = 2 * (width - 1) + kernel
    return width


def square(shape: Sequence[int]) -> int:
    """The side of images (C, h, w).

    Raises:
        UserError: they are not square.
    """
    if shape[-2] != shape[-1]:
        raise UserError(f"this network sees square images, got {shape[-2]}x{shape[-1]}; type: --env.size 64 64")
    return int(shape[-1])


class Strided(nn.Module):
    """V1's and V2's encoder: four 4x4 convolutions of stride 2, each with an activation (V2's Crafter: and a norm)."""

    def __init__(self, shape: Sequence[int], depth: int, act: Callable[[Tensor], Tensor], norm: bool = False) -> None:
        super().__init__()
        form = strides(square(shape), depth)
        self.act = act
        self.convs = nn.ModuleList(Conv(a, b, 4, stride=2) for a, b in itertools.pairwise((shape[0], *form.channels)))
        self.norms = nn.ModuleList(ChannelNorm(c) if norm else nn.Identity() for c in form.channels)
        self.width = form.channels[-1] * form.width**2

    def forward(self, x: Float[Tensor, "N C h w"]) -> Float[Tensor, "N E"]:
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = self.act(norm(conv(x)))
        return x.flatten(1)


class ChannelNorm(nn.Module):
    """Layer normalisation over the channels of each pixel, as Keras does it."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels, eps=1e-3)

    def forward(self, x: Float[Tensor, "N C h w"]) -> Float[Tensor, "N C h w"]:
        return self.norm(x.movedim(1, -1).float()).movedim(-1, 1).to(x.dtype)


class Destrided(nn.Module):
    """V1's and V2's decoder: dense to 32 d channels of one pixel, then transposed convolutions of stride 2."""

    def __init__(
        self, feat: int, shape: Sequence[int], depth: int, act: Callable[[Tensor], Tensor], norm: bool = False
    ) -> None:
        super().__init__()
        form = strides(square(shape), depth)
        self.act = act
        self.dense = Linear(feat, 4 * form.channels[-1])
        widths = (4 * form.channels[-1], *form.channels[-2::-1], shape[0])
        pairs = zip(itertools.pairwise(widths), form.kernels, strict=True)
        self.convs = nn.ModuleList(Deconv(a, b, kernel) for (a, b), kernel in pairs)
        self.norms = nn.ModuleList(ChannelNorm(c) if norm else nn.Identity() for c in widths[1:-1])

    def forward(self, feat: Float[Tensor, "N F"]) -> Float[Tensor, "N C h w"]:
        x = self.dense(feat)[..., None, None]
        for conv, norm in zip(self.convs[:-1], self.norms, strict=True):
            x = self.act(norm(conv(x)))
        return self.convs[-1](x)


# ---- V3


def refuse_sizes(shape: Sequence[int], stages: int) -> None:
    """Raises UserError where images (C, h, w) cannot be halved ``stages`` times."""
    h, w = shape[-2:]
    if h % 2**stages or w % 2**stages:
        fits = next((s for s in range(stages, -1, -1) if not (h % 2**s or w % 2**s)), 0)
        near = max(2**stages, round(h / 2**stages) * 2**stages), max(2**stages, round(w / 2**stages) * 2**stages)
        raise UserError(
            f"images of {h}x{w} cannot be halved {stages} times, as the {stages} stages of convolutions do; type "
            f"--env.size {near[0]} {near[1]}, or fewer stages, at most {fits} for this size (--agent.mults)"
        )


class Pooled(nn.Module):
    """V3's encoder: stages of conv 5x5, 2x2 max-pool, RMS norm over channels, SiLU."""

    def __init__(self, shape: Sequence[int], channels: Sequence[int], init: Init) -> None:
        super().__init__()
        refuse_sizes(shape, len(channels))
        self.convs = nn.ModuleList(Conv(a, b, 5, init, padding=2) for a, b in itertools.pairwise((shape[0], *channels)))
        self.norms = nn.ModuleList(RMSNormSiLU(c) for c in channels)
        self.width = channels[-1] * (shape[-2] >> len(channels)) * (shape[-1] >> len(channels))

    def forward(self, x: Float[Tensor, "N C h w"]) -> Float[Tensor, "N E"]:
        """Flattened as (row, column, channel)."""
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = F.max_pool2d(wide_conv(x, conv), 2)  # type: ignore[arg-type]
            x = norm(x.movedim(1, -1)).movedim(-1, 1)  # channels last in memory
        return x.movedim(1, -1).flatten(1)


# A CPU multiplies 16 numbers at a time, and where a pixel has 8 or fewer, half of them are nothing. Pixels side by side
# may be taken as one of twice the channels: with channels last in memory they are that already. Three pairs hold the
# six taps of a 5x5 kernel that the two see, so this is a fifth more products.

FEW = 8
"""channels up to which pairs of pixels are faster"""


def wide_conv(x: Float[Tensor, "N I h w"], conv: Conv) -> Float[Tensor, "N O h w"]:
    """``conv(x)`` of a 5x5 kernel with padding 2, over pairs of pixels in the direction in which channels are few."""
    if not torch.is_grad_enabled():  # to make the kernels takes longer than acting's one image saves
        return conv(x)  # type: ignore[no-any-return]
    out, size = conv.weight.shape[:2]
    weight, bias = conv.weight.to(x.dtype), conv.bias.to(x.dtype)
    if out <= FEW:
        weight = paired_weight(weight).contiguous(memory_format=torch.channels_last)
        return apart(F.conv2d(paired(x), weight, bias.repeat(2), padding=(2, 1)))
    if size <= FEW and x.requires_grad:
        return _PairedBack.apply(x, weight, bias)  # type: ignore[no-any-return]
    return conv(x)  # type: ignore[no-any-return]


def paired(x: Float[Tensor, "N C h w"]) -> Float[Tensor, "N 2*C h w/2"]:
    """Pixels side by side as one, the left one's channels first."""
    return x.movedim(1, -1).unflatten(-2, (-1, 2)).flatten(-2).movedim(-1, 1)


def apart(x: Float[Tensor, "N 2*C h w/2"]) -> Float[Tensor, "N C h w"]:
    """``paired`` undone."""
    return x.movedim(1, -1).unflatten(-1, (2, -1)).flatten(-3, -2).movedim(-1, 1)


def paired_weight(weight: Float[Tensor, "O I 5 5"]) -> Float[Tensor, "2*O 2*I 5 3"]:
    """The kernel over pairs that makes the same of them."""
    taps = torch.stack([F.pad(weight, (0, 1)), F.pad(weight, (1, 0))])  # (2, O, I, 5, 6): what the left one sees, right
    return taps.unflatten(-1, (3, 2)).permute(0, 1, 5, 2, 3, 4).flatten(0, 1).flatten(1, 2)


class _PairedBack(torch.autograd.Function):
    """A convolution whose gradient of x, which has few channels, is made of pairs."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return F.conv2d(x, weight, bias, padding=2)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:  # type: ignore[override]
        x, weight = ctx.saved_tensors
        back, ones = torch.ops.aten.convolution_backward, [1, 1]
        _, to_weight, to_bias = back(
            grad, x, weight, [len(weight)], ones, [2, 2], ones, False, [0, 0], 1, [False, True, True]
        )
        wide = paired_weight(weight).contiguous(memory_format=torch.channels_last)
        to_x, _, _ = back(
            paired(grad), paired(x), wide, None, ones, [2, 1], ones, False, [0, 0], 1, [True, False, False]
        )
        return apart(to_x), to_weight, to_bias


class Grown(nn.Module):
    """V3's decoder: [h, z] to a small map, then stages of doubling, conv 5x5, RMS norm, SiLU; the last one is bare.

    The small map is the sum of a block-dense path from h, of which block g fills its own group of channels, and a
    dense path from z.
    """

    place: Tensor

    def __init__(
        self,
        deter: int,
        stoch: int,
        shape: Sequence[int],
        channels: Sequence[int],
        units: int,
        blocks: int,
        init: Init,
    ) -> None:
        """``channels`` from small to large images, the first those of the small map."""
        super().__init__()
        stages = len(channels)
        refuse_sizes(shape, stages)
        self.deter, self.blocks = deter, blocks
        self.small = (shape[-2] >> stages, shape[-1] >> stages, channels[0])  # (h, w, C)
        whole = self.small[0] * self.small[1] * self.small[2]
        self.from_deter = BlockLinear(deter, whole, blocks, init)
        self.from_stoch = Linear(stoch, 2 * units, init)
        self.stoch_norm = RMSNormSiLU(2 * units)
        self.stoch_out = Linear(2 * units, whole, init)
        self.norm = RMSNormSiLU(channels[0])
        self.convs = nn.ModuleList(Conv(a, b, 5, init) for a, b in itertools.pairwise((*channels, shape[0])))
        self.norms = nn.ModuleList(RMSNormSiLU(c) for c in channels[1:])
        self.register_buffer("place", repeats(), persistent=False)

    def forward(self, feat: Float[Tensor, "N F"]) -> Float[Tensor, "N C h w"]:
        """Logits of the image, of which the sigmoid is to be taken."""
        return F.pixel_shuffle(self.unshuffled(feat), 2)

    def unshuffled(self, feat: Float[Tensor, "N F"]) -> Float[Tensor, "N 4*C h/2 w/2"]:
        """``F.pixel_unshuffle(forward(feat), 2)``, channels last in memory: as the last convolution leaves them.

        A loss need not know where pixels are, and laying them out, there and back, is as much as that convolution.
        """
        h, w, c = self.small
        deter, stoch = feat[:, : self.deter], feat[:, self.deter :]
        grouped = self.from_deter(deter).view(-1, self.blocks, h, w, c // self.blocks)
        x = grouped.permute(0, 2, 3, 1, 4).reshape(-1, h, w, c)
        x = x + self.stoch_out(self.stoch_norm(self.from_stoch(stoch))).view(-1, h, w, c)
        x = self.norm(x)
        for conv, norm in zip(self.convs[:-1], self.norms, strict=True):
            x = laid_out(rms_silu(grown_conv(x, conv, self.place), norm.scale, norm.eps))  # type: ignore[arg-type]
        last: Conv = self.convs[-1]  # type: ignore[assignment]
        return F.conv2d(
            x.movedim(-1, 1),
            grown_weight(last, self.place, x.dtype, "opqiab"),
            last.bias.to(x.dtype).repeat_interleave(4),
            padding=1,
        )


def grown_conv(x: Float[Tensor, "N h w I"], conv: Conv, place: Tensor) -> Float[Tensor, "N h w 4 O"]:
    """conv5x5(every pixel of x twice in each direction): its four positions in each pixel of x, channels last.

    ``place`` is ``repeats()``.
    """
    n, h, w, _ = x.shape
    weight = grown_weight(conv, place, x.dtype, "pqoiab")
    y = F.conv2d(x.movedim(-1, 1), weight, conv.bias.to(x.dtype).repeat(4), padding=1)
    return y.movedim(1, -1).reshape(n, h, w, 4, -1)


def grown_weight(conv: Conv, place: Tensor, dtype: torch.dtype, order: str) -> Float[Tensor, "4*O I 3 3"]:
    """The 3x3 kernels of all four positions; ``order`` of position (p, q), channels (o, i) and taps (a, b)."""
    weight = torch.einsum(f"pay,qbx,oiyx->{order}", place, place, conv.weight)
    return weight.flatten(0, 2).to(dtype, memory_format=torch.channels_last)


def laid_out(x: Float[Tensor, "N h w 4 C"]) -> Float[Tensor, "N 2*h 2*w C"]:
    """The four positions of each pixel side by side."""
    n, h, w, _, c = x.shape
    return x.view(n, h, w, 2, 2, c).transpose(2, 3).reshape(n, 2 * h, 2 * w, c)


def repeats() -> Tensor:
    """(2, 3, 5): at position p, tap dy (of -2 .. 2) falls on the small pixel a (of -1 .. 1)."""
    place = torch.zeros(2, 3, 5)
    for p, dy in itertools.product(range(2), range(-2, 3)):
        place[p, (p + dy) // 2 + 1, dy + 2] = 1
    return place


def unit(image: UInt8[Tensor, "N C h w"], dtype: torch.dtype = torch.float32) -> Float[Tensor, "N C h w"]:
    """Bytes as fresh numbers in [0, 1], channels last in memory: moving bytes costs a quarter of moving numbers."""
    return image.contiguous(memory_format=torch.channels_last).to(dtype).div_(255)


def unshuffled(image: UInt8[Tensor, "N C h w"]) -> UInt8[Tensor, "N 4*C h/2 w/2"]:
    """``F.pixel_unshuffle(image, 2)``, channels last in memory, by moving pairs of bytes: six times faster on a CPU."""
    n, c, h, w = image.shape
    pairs = image.contiguous().view(torch.int16).view(n, c, h // 2, 2, w // 2)
    out = pairs.new_empty(n, h // 2, w // 2, c, 2)
    for i, p in itertools.product(range(c), range(2)):
        out[..., i, p] = pairs[:, i, :, p]
    return out.view(torch.uint8).flatten(3).movedim(-1, 1)
