"""V, the vision: a convolutional variational autoencoder (Ha & Schmidhuber 2018, arXiv:1803.10122, appendix A.1).

No padding, stride 2 everywhere; batch normalisation after each convolution is an option that is not the paper's.
At 64x64::

    image 3x64x64 ─conv4─ 32x31x31 ─conv4─ 64x14x14 ─conv4─ 128x6x6 ─conv4─ 256x2x2 ─dense─ mu, logvar (D)
    z (D) ─dense─ 1024x1x1 ─deconv5─ 128x5x5 ─deconv5─ 64x13x13 ─deconv6─ 32x30x30 ─deconv6─ 3x64x64, sigmoid

Other sizes follow one rule: convolutions are stacked until the map is at most 3 wide or four are made, channels
doubling from 32; the decoder has as many stages, and its kernels are the most equal ones, ascending, that land
on the size exactly. At 64 the rule gives the paper's layers; 16x16 takes two stages.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from dreamlab.core.errors import UserError
from dreamlab.nn.reports import grid

if TYPE_CHECKING:
    from dreamlab.core.types import Obs

SIZES = range(8, 129)
TOLERANCE = 0.1
"""a value is right if it is within a tenth of the brightness range: 25 of 255"""
ACTIVE = 0.01
"""a latent dimension is active if its mean's variance over the data is above this (Burda et al. 2016)"""


class Layers(NamedTuple):
    """Sizes of V for one image size."""

    channels: tuple[int, ...]
    """of the encoder's maps"""
    width: int
    """of the encoder's last map"""
    kernels: tuple[int, ...]
    """of the decoder"""


def layers(size: int) -> Layers:
    """The layers that fit square images of this size.

    Raises:
        UserError: V has no form for this size.
    """
    if size not in SIZES:
        raise UserError(
            f"V sees square images of {SIZES.start} to {SIZES.stop - 1} pixels (the paper: 64), got {size}; "
            "type: --env.size 64 64"
        )
    width = size
    channels: list[int] = []
    while width > 3 and len(channels) < 4:
        width = (width - 4) // 2 + 1
        channels.append(32 * 2 ** len(channels))
    choices = itertools.combinations_with_replacement(range(3, 18), len(channels))
    fits = [k for k in choices if grown(k) == size]
    return Layers(tuple(channels), width, min(fits, key=lambda k: (k[-1] - k[0], k)))


def grown(kernels: tuple[int, ...]) -> int:
    """Width that transposed convolutions of stride 2 make of a single pixel."""
    width = 1
    for kernel in kernels:
        width = 2 * (width - 1) + kernel
    return width


class Seeing(Protocol):
    """What V is, for images and for vectors: a module that turns what is seen (x) into z, and z into what it means."""

    key: str
    """which observation it sees"""
    latent: int

    def state_dict(self) -> dict[str, Tensor]: ...
    def load_state_dict(self, state: Mapping[str, Tensor]) -> object: ...

    def inputs(self, obs: Obs) -> Float[Tensor, N * x]:
        """x of observations with any leading axes."""
        ...

    def adapt(self, x: Float[Tensor, N * x]) -> None:
        """Take a training batch into running statistics, if there are any."""
        ...

    def encode(self, x: Float[Tensor, N * x]) -> tuple[Float[Tensor, "N D"], Float[Tensor, "N D"]]:
        """Mean and log-variance of z."""
        ...

    def decode(self, z: Float[Tensor, "N D"]) -> Float[Tensor, N * x]:
        """The x that z stands for."""
        ...

    def error(self, x: Float[Tensor, N * x], recon: Float[Tensor, N * x]) -> Float[Tensor, " N"]:
        """What a reconstruction costs."""
        ...

    def losses(
        self, x: Tensor, recon: Tensor, mu: Tensor, logvar: Tensor, kl_floor: float
    ) -> dict[str, Float[Tensor, " N"]]:
        """``reconstruction`` and ``kl`` of every x."""
        ...


class Vision(nn.Module):
    """Encodes an image into a Gaussian over z, decodes z into an image. Images are (N, C, s, s) in [0, 1].

    Raises:
        UserError: the images are not square, or of a size without a form.
    """

    key = "image"

    def __init__(self, image: tuple[int, ...], latent: int, batch_norm: bool = False, loss: str = "squared") -> None:
        super().__init__()
        colours, height, width = image
        if height != width:
            raise UserError(f"V sees square images, got {height}x{width}; type: --env.size 64 64")
        form = layers(height)
        flat, dense = form.channels[-1] * form.width**2, 4 * form.channels[-1]
        self.latent = latent
        self.encoder = nn.Sequential()
        for before, after in itertools.pairwise((colours, *form.channels)):
            norm = [nn.BatchNorm2d(after)] if batch_norm else []
            self.encoder.extend([nn.Conv2d(before, after, 4, stride=2), *norm, nn.ReLU()])
        self.mu = nn.Linear(flat, latent)
        self.logvar = nn.Linear(flat, latent)
        self.dense = nn.Linear(latent, dense)
        widths = (dense, *form.channels[-2::-1], colours)
        self.decoder = nn.Sequential()
        for before, after, kernel in zip(widths[:-1], widths[1:], form.kernels, strict=True):
            norm = [nn.BatchNorm2d(after)] if batch_norm and after != colours else []
            self.decoder.extend([nn.ConvTranspose2d(before, after, kernel, stride=2), *norm, nn.ReLU()])
        self.decoder[-1] = nn.Sigmoid()
        self.error = ERRORS[loss]
        self.apply(_glorot)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def inputs(self, obs: Obs) -> Float[Tensor, "N C s s"]:
        """The image's bytes as V sees them."""
        return pixels(obs["image"])

    def adapt(self, x: Tensor) -> None:
        """Nothing: batch normalisation keeps its own statistics."""

    def losses(
        self, x: Tensor, recon: Tensor, mu: Tensor, logvar: Tensor, kl_floor: float
    ) -> dict[str, Float[Tensor, " N"]]:
        """``vision_losses`` with this V's error."""
        return vision_losses(x, recon, mu, logvar, kl_floor, self.error)

    def encode(self, image: Float[Tensor, "N C s s"]) -> tuple[Float[Tensor, "N D"], Float[Tensor, "N D"]]:
        """Mean and log-variance of z; decodes nothing."""
        feat = self.encoder(image.contiguous(memory_format=torch.channels_last)).flatten(1)  # (N, F)
        return self.mu(feat).float(), self.logvar(feat).float()  # (N, D) each

    def decode(self, z: Float[Tensor, "N D"]) -> Float[Tensor, "N C s s"]:
        """The image that z stands for.

        The first transposed convolution sees one pixel, so it is a matrix product, and much faster as one.
        """
        first, rest = self.decoder[0], self.decoder[1:]
        assert isinstance(first, nn.ConvTranspose2d)
        assert first.bias is not None
        size = first.kernel_size[0]
        weight = first.weight.permute(0, 2, 3, 1).flatten(1)  # (I, k*k*O), a view where channels are last
        grown = (self.dense(z) @ weight).unflatten(1, (size, size, -1)).permute(0, 3, 1, 2)  # (N, O, k, k)
        return rest(grown + first.bias[:, None, None]).float()  # (N, C, s, s)


def _glorot(module: nn.Module) -> None:
    """TF1's initialisation: Glorot-uniform weights, zero biases."""
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        nn.init.zeros_(module.bias)  # type: ignore[arg-type]


def pixels(image: UInt8[Tensor, "*batch C s s"]) -> Float[Tensor, "N C s s"]:
    """Stored bytes as V sees them: one leading axis, in [0, 1], channels last in memory."""
    image = image.reshape(-1, *image.shape[-3:])
    return image.contiguous(memory_format=torch.channels_last).float().div_(255)


def draw(mu: Tensor, logvar: Tensor, rng: torch.Generator | None) -> Tensor:
    """z ~ N(mu, exp(logvar)), with noise from this generator."""
    noise = torch.empty(mu.shape, device=mu.device).normal_(generator=rng)
    return torch.addcmul(mu, (0.5 * logvar).exp(), noise)


def kl_to_unit(mu: Float[Tensor, "N D"], logvar: Float[Tensor, "N D"]) -> Float[Tensor, "N D"]:
    """KL(N(mu, exp(logvar)) | N(0, 1)) of every dimension, in nats."""
    return -0.5 * (1 + logvar - mu.square() - logvar.exp())


def squared_error(x: Float[Tensor, N * x], recon: Float[Tensor, N * x]) -> Float[Tensor, " N"]:
    """Squared error, summed over x."""
    return (x - recon).square().flatten(1).sum(1)


def cross_entropy(x: Float[Tensor, N * x], recon: Float[Tensor, N * x]) -> Float[Tensor, " N"]:
    """Binary cross-entropy of values in [0, 1] in nats, summed over x; least, but not 0, where recon = x."""
    return F.binary_cross_entropy(recon, x, reduction="none").flatten(1).sum(1)


Error = Callable[[Tensor, Tensor], Tensor]
ERRORS: dict[str, Error] = {"squared": squared_error, "bce": cross_entropy}


def vision_losses(
    x: Float[Tensor, N * x],
    recon: Float[Tensor, N * x],
    mu: Float[Tensor, "N D"],
    logvar: Float[Tensor, "N D"],
    kl_floor: float,
    error: Error = squared_error,
) -> dict[str, Float[Tensor, " N"]]:
    """The error summed over the image, and the image's KL, which costs at least ``kl_floor`` * D."""
    kl = kl_to_unit(mu, logvar).sum(-1)  # (N,)
    return {
        "reconstruction": error(x, recon),  # (N,)
        "kl": kl.clamp(min=kl_floor * mu.shape[-1]),  # (N,)
    }


def pixel_accuracy(image: Tensor, recon: Tensor) -> Tensor:
    """Share of colour values within a tenth of the brightness range (scalar in [0, 1])."""
    return ((image - recon).abs() <= TOLERANCE).float().mean()


def active_units(mu: Float[Tensor, "N D"]) -> Tensor:
    """How many latent dimensions tell images apart: the variance of mu over the data is above ``ACTIVE``."""
    return (mu.var(0) > ACTIVE).sum().float()


@torch.no_grad()
def reconstructions(vision: Seeing, image: Float[Tensor, "N C s s"]) -> UInt8[Tensor, "C h w"]:
    """A picture: the images above, what V makes of them below."""
    return grid(torch.stack([image, vision.decode(vision.encode(image)[0])]))


@torch.no_grad()
def traversal(vision: Seeing, image: Float[Tensor, "N C s s"], count: int = 8) -> UInt8[Tensor, "C h w"]:
    """A picture: a row for each of the ``count`` most varied dimensions of z, moved from -3 to 3 in one image."""
    mu = vision.encode(image)[0]
    order = mu.var(0).argsort(descending=True)[:count]
    values = torch.linspace(-3, 3, 7, device=mu.device)
    z = mu[0].expand(len(order), len(values), -1).clone()  # (count, 7, D)
    z[torch.arange(len(order)), :, order] = values
    return grid(vision.decode(z.flatten(0, 1)).unflatten(0, z.shape[:2]))
