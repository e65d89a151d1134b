"""The tokenizer: a frame becomes K of V tokens, and tokens a frame (Micheli, Alonso & Fleuret 2023, 2209.00588v3).

A discrete autoencoder. At the paper's sizes, every stage 64 channels wide::

    frame 3x64x64 ─conv─ 64 ─2R─↓─ 32 ─2R─↓─ 16 ─2RA─↓─ 8 ─2RA─↓─ 4 ─2R─ RAR ─conv─ z 512x4x4
    z ─ the nearest of 512 codes each ─ 16 tokens
    codes 512x4x4 ─conv─ RAR ─3R─ 4 ─↑─ 8 ─3RA─↑─ 16 ─3RA─↑─ 32 ─3R─↑─ 64 ─3R─ conv ─ frame 3x64x64
    R: a residual block, A: attention over the pixels

The gradient goes straight through the choice of codes. Codes are moved by gradient towards what the encoder gives
(no running mean, no revival), the encoder is held to its codes, and the frame is to be like itself, which is a part
of its own (``perceptual.py``). All starts as in PyTorch, the codebook uniform in (-1/V, 1/V).

Maps are channels-last in memory. Norms, attention's softmax, the choice of codes and losses compute in float32.
"""

from __future__ import annotations

import math
import platform
from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, Shaped, UInt8
from torch import Tensor, nn

from dreamlab.agents.iris.config import TokenizerConfig
from dreamlab.agents.iris.perceptual import Reconstruction
from dreamlab.core.errors import UserError
from dreamlab.nn.compute import emulates_bf16, looking
from dreamlab.nn.convolutions import unit
from dreamlab.nn.group_norm import GroupNorm, GroupNormSwish


class Tokenizer(nn.Module):
    """Frames (C, h, w) to tokens (K,), row by row of their grid, and back.

    Raises:
        UserError: the frames cannot be halved so often.
    """

    def __init__(self, shape: tuple[int, int, int], config: TokenizerConfig) -> None:
        super().__init__()
        refuse_sizes(shape, config.downs)
        self.shape = shape
        self.grid = (shape[1] >> config.downs, shape[2] >> config.downs)
        self.tokens = math.prod(self.grid)
        self.scales = {"codebook": config.codebook_scale, "commitment": config.commitment_scale}
        self.encoder = Encoder(shape, config)
        self.before = nn.Conv2d(config.embed, config.embed, 1)
        self.codebook = nn.Embedding(config.vocabulary, config.embed)
        self.after = nn.Conv2d(config.embed, config.embed, 1)
        self.decoder = Decoder(shape, config)
        self.used: Tensor
        self.register_buffer("used", torch.zeros(config.vocabulary, dtype=torch.bool))  # since the last revival
        nn.init.uniform_(self.codebook.weight, -1 / config.vocabulary, 1 / config.vocabulary)
        _strengthen(self, config.gain)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def encode(self, x: Float[Tensor, "N C h w"]) -> Float[Tensor, "N E gh gw"]:
        """What is to be quantised, of frames in [-1, 1]."""
        return self.before(self.encoder(x.contiguous(memory_format=torch.channels_last)))

    def quantise(self, z: Float[Tensor, "N E gh gw"]) -> tuple[Int[Tensor, "N K"], Float[Tensor, "N E gh gw"]]:
        """The nearest codes, as tokens and as themselves; of the latter the codebook gets the gradient."""
        codes = self.codebook.weight
        with torch.no_grad(), torch.autocast(z.device.type, enabled=False):
            flat = z.float().movedim(1, -1).flatten(0, -2)  # (N * K, E)
            # |z - e|^2 without |z|^2, which is the same for every code and would cost the last digits
            distance = torch.addmm(codes.square().sum(1), flat, codes.T, alpha=-2)  # (N * K, V)
            tokens = distance.argmin(1).view(len(z), self.tokens)
        return tokens, self.codes(tokens)

    def codes(self, tokens: Int[Tensor, "N K"]) -> Float[Tensor, "N E gh gw"]:
        """The codes of tokens, on their grid."""
        return self.codebook(tokens).unflatten(1, self.grid).movedim(-1, 1)  # channels last in memory

    def decode(self, z_q: Float[Tensor, "N E gh gw"]) -> Float[Tensor, "N C h w"]:
        """Frames where [-1, 1] is black to white, not clamped to it."""
        return self.decoder(self.after(z_q))

    @torch.no_grad()
    def tokenise(self, image: UInt8[Tensor, "N C h w"]) -> Int[Tensor, "N K"]:
        """The tokens of frames."""
        return self.quantise(self.encode(signed(image)))[0]

    @torch.no_grad()
    def picture(self, tokens: Int[Tensor, "N K"]) -> Float[Tensor, "N C h w"]:
        """The frames that tokens stand for, in [0, 1]."""
        return self.decode(self.codes(tokens)).float().add_(1).div_(2).clamp_(0, 1)

    def losses(
        self, image: UInt8[Tensor, "N C h w"], recipe: Reconstruction
    ) -> tuple[Tensor, dict[str, Tensor], Int[Tensor, "N K"]]:
        """What is to be made small, its terms before they are weighed (detached), and the tokens used."""
        x = signed(image)
        z = self.encode(x).float()
        tokens, z_q = self.quantise(z)
        x_hat = self.decode(straight_through(z, z_q)).float()
        terms = {
            **recipe(x, x_hat, self.training),
            "codebook": F.mse_loss(z_q, z.detach()),
            "commitment": F.mse_loss(z, z_q.detach()),
        }
        own = {"codebook": recipe.codebook_scale, "commitment": recipe.commitment_scale}
        scales = {**recipe.scales, **own, **{name: scale for name, scale in self.scales.items() if scale is not None}}
        return *_weighed(terms, scales), tokens

    def continuous_losses(
        self, image: UInt8[Tensor, "N C h w"], recipe: Reconstruction
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The same of an autoencoder that hands its decoder what its encoder says, not codes (ours)."""
        x = signed(image)
        return _weighed(recipe(x, self.decode(self.encode(x)).float(), self.training), recipe.scales)

    @torch.no_grad()
    def revive(self, image: UInt8[Tensor, "N C h w"]) -> None:
        """Move the codes that no token has named since the last time, one by one, to what the encoder says at places.

        A place is drawn in proportion to its squared distance from the nearest code that is kept or was moved before:
        k-means++ (Arthur & Vassilvitskii 2007). Places drawn evenly are almost all background.
        """
        z = self.encode(signed(image)).float().movedim(1, -1).flatten(0, -2)  # (N * K, E)
        codes = self.codebook.weight
        kept = codes[self.used]
        far = torch.cdist(z, kept).amin(1).square() if len(kept) else z.new_ones(len(z))
        for i in (~self.used).nonzero().flatten().tolist():
            place = z[torch.multinomial(far + TINY, 1)]  # (1, E)
            codes[i : i + 1] = place
            far = torch.minimum(far, (z - place).square().sum(1))
        self.used.zero_()


TINY = 1e-12
"""added to squared distances, so that there is something to draw where all places have a code of their own"""


def _weighed(terms: dict[str, Tensor], scales: Mapping[str, float]) -> tuple[Tensor, dict[str, Tensor]]:
    """The sum of terms by their scales, and the terms, detached."""
    if terms.keys() != scales.keys():
        raise KeyError(f"losses {sorted(terms)} do not match scales {sorted(scales)}")
    total = torch.stack([scales[name] * term for name, term in terms.items()]).sum()
    return total, {name: term.detach() for name, term in terms.items()}


@torch.no_grad()
def _strengthen(tokenizer: nn.Module, gain: float) -> None:
    """Multiply what convolutions outside residual blocks start with."""
    inner = {conv for block in tokenizer.modules() if isinstance(block, Residual) for conv in block.convs}
    for module in tokenizer.modules():
        if isinstance(module, nn.Conv2d) and module not in inner:
            module.weight.mul_(gain)


def straight_through(z: Tensor, z_q: Tensor) -> Tensor:
    """z_q, whose gradient goes to z as it is and not to z_q."""
    return z + (z_q - z).detach()


def signed(image: UInt8[Tensor, "N C h w"]) -> Float[Tensor, "N C h w"]:
    """Bytes as fresh numbers in [-1, 1], channels last in memory."""
    return unit(image).mul_(2).sub_(1)


def refuse_sizes(shape: Sequence[int], downs: int) -> None:
    """Raises UserError where frames (C, h, w) cannot be halved ``downs`` times."""
    h, w = shape[-2:]
    least = 2**downs
    if h % least or w % least:
        fits = next(s for s in range(downs, -1, -1) if not (h % 2**s or w % 2**s))
        near = [max(least, round(side / least) * least) for side in (h, w)]
        fewer = f", or for this size at most: --agent.tokenizer.downs {fits}" if fits else ""
        raise UserError(
            f"frames of {h}x{w} cannot be halved {downs} times, as the tokenizer does; sides that {least} divides fit; "
            f"type: --env.size {near[0]} {near[1]}{fewer}"
        )


# ---- networks


class Residual(nn.Module):
    """x + two times norm with swish and a 3x3 convolution. For the layers here: it may write over x (``added``)."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(GroupNormSwish(channels, groups) for _ in range(2))
        self.convs = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2))

    def forward(self, x: Float[Tensor, "N C h w"]) -> Float[Tensor, "N C h w"]:
        h = self.norms[1](self.convs[0](self.norms[0](x)), over=True)
        return added(x, self.convs[1], h)  # type: ignore[arg-type]


IN_ONE_PASS = torch.backends.mkldnn.is_available() and platform.machine().lower() in ("x86_64", "amd64")
"""whether the CPU's library adds while it convolves, as torch.compile has it do"""


def added(x: Float[Tensor, "N C h w"], conv: nn.Conv2d, h: Float[Tensor, "N C h w"]) -> Float[Tensor, "N C h w"]:
    """x + conv(h); without gradients, on a CPU, while it convolves (rounded once), and over x, which is lost."""
    if not (looking(h) and IN_ONE_PASS and h.dtype == x.dtype and library_knows(h)):
        return x + conv(h)
    weight, bias = conv.weight.to(h.dtype), None if conv.bias is None else conv.bias.to(h.dtype)
    form = conv.padding, conv.stride, conv.dilation, conv.groups
    convolved = torch.ops.mkldnn._convolution_pointwise_.binary
    return convolved(x, h, weight, bias, *form, "add", 1.0, None, [], None)  # type: ignore[no-any-return]


def library_knows(x: Tensor) -> bool:
    """Whether the CPU's library has such numbers: others it convolves for PyTorch alone, by a way round."""
    return x.dtype == torch.float32 or (x.dtype == torch.bfloat16 and not emulates_bf16(x.device))


class Attention(nn.Module):
    """x + what each pixel fetches from all, with one head."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.norm = GroupNorm(channels, groups)
        self.qkv = nn.Linear(channels, 3 * channels)  # 1x1 convolutions, all three as one product
        self.out = nn.Linear(channels, channels)

    def forward(self, x: Float[Tensor, "N C h w"]) -> Float[Tensor, "N C h w"]:
        pixels = self.norm(x).movedim(1, -1).flatten(1, 2)  # (N, h * w, C)
        q, k, v = self.qkv(pixels).unsqueeze(1).chunk(3, -1)  # (N, 1, h * w, C) each
        found = F.scaled_dot_product_attention(q, k, v).squeeze(1)
        return x + self.out(found).unflatten(1, x.shape[2:]).movedim(-1, 1)


class Down(nn.Module):
    """Half the size: one pixel of zeros right and below, then a 3x3 convolution of stride 2.

    Of even sides two pixels all around, and the first row and column left out, are the same, and no copy of the map.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2, padding=2)

    def forward(self, x: Float[Tensor, "N C h w"]) -> Float[Tensor, "N C h2 w2"]:
        return self.conv(x)[..., 1:, 1:]  # type: ignore[no-any-return]


class Up(nn.Module):
    """Twice the size: every pixel four times, then a 3x3 convolution.

    As one transposed convolution, 4 products for 9: what a kernel finds over repeated pixels is a sum of its weights.
    """

    place: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.register_buffer("place", repeated(), persistent=False)

    def forward(self, x: Float[Tensor, "N C h w"]) -> Float[Tensor, "N C h2 w2"]:
        weight = torch.einsum("ay,bx,oiyx->ioab", self.place, self.place, self.conv.weight)
        weight = weight.contiguous(memory_format=torch.channels_last)
        return F.conv_transpose2d(x, weight, self.conv.bias, stride=2, padding=1)


def repeated() -> Float[Tensor, "4 3"]:
    """Taps of a 3-wide kernel that reach a pixel, repeated twice, from the four places that see it, left to right."""
    return torch.tensor([[0.0, 0, 1], [0, 1, 1], [1, 1, 0], [1, 0, 0]])


class Encoder(nn.Module):
    """Frames to maps of ``embed`` channels, 2^downs times smaller."""

    def __init__(self, shape: tuple[int, int, int], config: TokenizerConfig) -> None:
        super().__init__()
        channels, groups = config.channels, config.groups
        layers: list[nn.Module] = [nn.Conv2d(shape[0], channels, 3, padding=1)]
        for halved in range(config.downs + 1):
            layers += [Down(channels)] if halved else []
            layers += _stage(config, config.residuals, min(shape[1:]) >> halved)
        layers += _middle(config)
        layers += [GroupNormSwish(channels, groups), nn.Conv2d(channels, config.embed, 3, padding=1)]
        self.layers = nn.Sequential(*layers)
        self.cuts = [0, *(i + 1 for i, layer in enumerate(layers) if isinstance(layer, Down)), len(layers)]
        self.numbers = math.prod(shape[1:]) * channels  # in a map of the frame's size

    def forward(self, x: Float[Tensor, "N C h w"]) -> Float[Tensor, "N E gh gw"]:
        return self._through(x, len(self.cuts) - 2)

    def _through(self, x: Tensor, last: int) -> Tensor:
        """Up to the stage ``last``, of which each makes smaller maps than the one before."""

        def stage(part: Tensor) -> Tensor:
            part = self._through(part, last - 1) if last else part
            return self.layers[slice(*self.cuts[last : last + 2])](part)  # type: ignore[no-any-return]

        return in_pieces(stage, x, self.numbers >> 2 * last)


class Decoder(nn.Module):
    """Maps of ``embed`` channels to frames; a residual block more at each size than the encoder has."""

    def __init__(self, shape: tuple[int, int, int], config: TokenizerConfig) -> None:
        super().__init__()
        channels, groups = config.channels, config.groups
        layers: list[nn.Module] = [nn.Conv2d(config.embed, channels, 3, padding=1), *_middle(config)]
        for halved in range(config.downs, -1, -1):
            layers += _stage(config, config.residuals + 1, min(shape[1:]) >> halved)
            layers += [Up(channels)] if halved else []
        layers += [GroupNormSwish(channels, groups), nn.Conv2d(channels, shape[0], 3, padding=1)]
        self.layers = nn.Sequential(*layers)
        self.cuts = [0, *(i for i, layer in enumerate(layers) if isinstance(layer, Up)), len(layers)]
        self.numbers = math.prod(shape[1:]) * channels  # in a map of the frame's size

    def forward(self, z: Float[Tensor, "N E gh gw"]) -> Float[Tensor, "N C h w"]:
        return self._through(z, 0)

    def _through(self, z: Tensor, first: int) -> Tensor:
        """From the stage ``first`` on, of which each makes larger maps than the one before."""

        def stage(part: Tensor) -> Tensor:
            part = self.layers[slice(*self.cuts[first : first + 2])](part)
            return self._through(part, first + 1) if first + 2 < len(self.cuts) else part

        return in_pieces(stage, z, self.numbers >> 2 * (len(self.cuts) - 2 - first))


NEAR = 8 << 20
"""bytes that a processor's nearer caches hold of maps, from which one layer reads what the last one wrote"""


def in_pieces(
    layers: Callable[[Tensor], Tensor], x: Float[Tensor, "N C h w"], numbers: int
) -> Float[Tensor, "N C2 h2 w2"]:
    """layers(x); without gradients, on a CPU, of as many frames at once as stay near.

    Args:
        numbers: in the largest map between the layers, for a frame.
    """
    if not looking(x):
        return layers(x)
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
    n = max(1, NEAR // (numbers * dtype.itemsize))
    return torch.cat([layers(part) for part in x.split(n)]) if len(x) > n else layers(x)


def _stage(config: TokenizerConfig, residuals: int, pixels: int) -> list[nn.Module]:
    """Residual blocks of one size, with attention after each where the smaller side is of such pixels."""
    layers: list[nn.Module] = []
    for _ in range(residuals):
        layers.append(Residual(config.channels, config.groups))
        layers += [Attention(config.channels, config.groups)] if pixels in config.attention else []
    return layers


def _middle(config: TokenizerConfig) -> list[nn.Module]:
    sizes = config.channels, config.groups
    return [Residual(*sizes), Attention(*sizes), Residual(*sizes)]


# ---- how the codebook is used


def counts(tokens: Int[Tensor, "*batch"], vocabulary: int) -> Float[Tensor, " V"]:
    """How often each token occurs."""
    flat = tokens.flatten()
    zeros = torch.zeros(vocabulary, device=flat.device)
    return zeros.index_add_(0, flat, torch.ones_like(flat, dtype=zeros.dtype))


def usage(tokens: Int[Tensor, "*batch"], vocabulary: int) -> dict[str, Tensor]:
    """Share of the codes that occur, and the perplexity: how many equally frequent codes would be as varied."""
    found = counts(tokens, vocabulary)
    share = found / found.sum()
    return {
        "codebook_usage": (found > 0).float().mean(),
        "codebook_perplexity": torch.special.entr(share).sum().exp(),
    }


RAMP = ((40, 20, 90), (150, 40, 130), (235, 90, 70), (255, 185, 60), (255, 250, 200))
"""colours of codes from those that occur once to the most frequent, by equal steps of the logarithm"""
UNUSED = (38, 38, 38)
"""of codes that do not occur"""


def usage_picture(found: Shaped[Tensor, " V"], side: int = 256) -> UInt8[Tensor, "3 H W"]:
    """The codebook's use: a square for each code, row by row, the brighter the more often it occurs; unused ones grey.

    Args:
        found: how often each occurs (``counts``).
        side: pixels that the picture has at least, in each direction.
    """
    found = found.detach().float().cpu()
    columns = math.ceil(math.sqrt(len(found)))
    rows = math.ceil(len(found) / columns)
    level = found.clamp(min=1).log() / found.max().clamp(min=2).log()  # (V,) in [0, 1]
    ramp = torch.tensor(RAMP, dtype=torch.float32)
    place = level * (len(RAMP) - 1)
    low = place.floor().long().clamp(max=len(RAMP) - 2)
    colour = torch.lerp(ramp[low], ramp[low + 1], (place - low)[:, None])  # (V, 3)
    colour = torch.where(found[:, None] > 0, colour, torch.tensor(UNUSED).float())
    cells = torch.zeros(rows * columns, 3)
    cells[: len(found)] = colour
    size = max(4, math.ceil(side / rows))
    sheet = cells.view(rows, columns, 3).movedim(-1, 0)
    sheet = sheet.repeat_interleave(size, 1).repeat_interleave(size, 2)  # (3, rows * size, columns * size)
    sheet[:, ::size] = 0
    sheet[:, :, ::size] = 0
    return F.pad(sheet, (0, 1, 0, 1)).round().byte()
