"""What a reconstruction costs: the paper's loss, which needs two networks' weights, and the published one without.

``lpips`` is the paper's (Micheli, Alonso & Fleuret 2023, arXiv:2209.00588v3): L1 in [-1, 1] and LPIPS (Zhang et al.
2018, arXiv:1801.03924), the distance of two pictures in the features of a VGG16 that was trained on ImageNet.
``none`` is Delta-IRIS's (arXiv:2406.19320): in [0, 1], squared error, a little L1, and each frame's worst pixel, which
keeps balls and bullets from being averaged away. Published scores are the former's, so a recipe has a name to be
told beside scores.

LPIPS stands outside the tokenizer's parameters: frozen, in no checkpoint. Its weights are read from where the
packages torchvision and lpips leave them; neither is imported, and nothing is ever downloaded.
"""

from __future__ import annotations

import importlib.util
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from dreamlab.core.errors import UserError

VGG = "vgg16-397923af.pth"
"""torchvision's name of VGG16's ImageNet weights, in the checkpoints of torch's hub folder"""
HEADS = Path("weights/v0.1/vgg.pth")
"""in the package lpips: the learned weights of the five differences"""
STAGES = ((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28))
"""VGG16's convolutions as torchvision numbers them: relu1_2, 2_2, 3_3, 4_3 and 5_3 end a stage, max-pools part them"""
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
"""of red, green and blue in [-1, 1], before VGG16"""
SMALLEST = 2 ** (len(STAGES) - 1)
"""pixels of a frame's side below which the last stage would see none"""


WITHOUT = "without it, type: --agent.tokenizer.perceptual none"


class Reconstruction(Protocol):
    """What a reconstruction costs, and how its quantisation is weighed against it unless the settings say."""

    name: str
    """to be told beside scores"""
    codebook_scale: float
    """of the loss that moves codes to the encoder's output"""
    commitment_scale: float
    """of the loss that holds the encoder to its codes"""
    scales: Mapping[str, float]
    """of each term"""

    def __call__(
        self, x: Float[Tensor, "N C h w"], x_hat: Float[Tensor, "N C h w"], training: bool = False
    ) -> dict[str, Float[Tensor, ""]]:
        """The terms, not yet weighed, of frames and their reconstructions in [-1, 1], in float32."""
        ...


class WithLpips:
    """The paper's: mean |x - x_hat| + mean LPIPS(x, x_hat)."""

    name = "L1 + LPIPS"
    codebook_scale, commitment_scale = 1.0, 1.0
    scales: Mapping[str, float] = {"l1": 1.0, "lpips": 1.0}

    def __init__(self, lpips: Lpips) -> None:
        self.lpips = lpips

    def __call__(self, x: Tensor, x_hat: Tensor, training: bool = False) -> dict[str, Tensor]:
        with torch.autocast(x.device.type, enabled=False):  # differences of unit features are mostly rounding in bf16
            distance = self.lpips(x, x_hat, training)
        return {"l1": (x - x_hat).abs().mean(), "lpips": distance.mean()}


class WithoutLpips:
    """Delta-IRIS's, in [0, 1]: squared error, L1, and the largest squared error of each frame.

    Its terms are some fifty times smaller than the paper's, and so must be the pull on the encoder. The codebook's
    loss reaches nothing but the codebook, which nothing else moves: its weight stays 1, because 1/50 would bring the
    gradients of codes that are seldom used down to Adam's epsilon.

    Args:
        worst: weight of the worst pixel.
    """

    codebook_scale, commitment_scale = 1.0, 0.02

    def __init__(self, worst: float = 0.01) -> None:
        self.name = f"without LPIPS: MSE + 0.1 L1 + {worst:g} worst pixel"
        self.scales: Mapping[str, float] = {"mse": 1.0, "l1": 0.1, "worst": worst}

    def __call__(self, x: Tensor, x_hat: Tensor, training: bool = False) -> dict[str, Tensor]:
        error = (x - x_hat) / 2  # of pixels in [0, 1]
        squared = error.square()
        return {"mse": squared.mean(), "l1": error.abs().mean(), "worst": squared.flatten(1).amax(1).mean()}


class Lpips:
    """LPIPS of pairs of pictures in [-1, 1], by frozen weights that follow the pictures' device.

    As the paper's code trains with it, half of the differences are dropped (and the others doubled) while training:
    there the network, once put into evaluation mode, is switched back with everything else.

    Args:
        vgg: VGG16's state as torchvision names it.
        heads: of the five differences, as the package lpips names them.
    """

    def __init__(self, vgg: Mapping[str, Tensor], heads: Mapping[str, Tensor]) -> None:
        self.convs = [
            [(_frozen(vgg[f"features.{i}.weight"]), _frozen(vgg[f"features.{i}.bias"])) for i in stage]
            for stage in STAGES
        ]
        self.heads = [_frozen(heads[f"lin{i}.model.1.weight"]) for i in range(len(STAGES))]  # (1, C, 1, 1) each
        self.shift, self.scale = (torch.tensor(rgb).view(1, 3, 1, 1) for rgb in (SHIFT, SCALE))

    def __call__(
        self, x: Float[Tensor, "N C h w"], x_hat: Float[Tensor, "N C h w"], training: bool = False
    ) -> Float[Tensor, " N"]:
        self._follow(x.device)
        total = x.new_zeros(len(x))
        with torch.no_grad():
            real = self.features(x)
        for a, b, head in zip(real, self.features(x_hat), self.heads, strict=True):
            difference = F.dropout((_unit(a) - _unit(b)).square(), 0.5, training)  # (N, C, h, w)
            total = total + (difference * head).sum(1).mean((1, 2))
        return total

    def features(self, x: Float[Tensor, "N C h w"]) -> list[Tensor]:
        """What VGG16 sees at the end of each stage; grey is three equal colours to it."""
        x = (x.expand(-1, 3, -1, -1) - self.shift) / self.scale
        x = x.contiguous(memory_format=torch.channels_last)
        found: list[Tensor] = []
        for stage in self.convs:
            x = F.max_pool2d(found[-1], 2) if found else x
            for weight, bias in stage:
                x = F.relu(F.conv2d(x, weight, bias, padding=1))
            found.append(x)
        return found

    def _follow(self, device: torch.device) -> None:
        if self.shift.device == device:
            return
        self.convs = [[(w.to(device), b.to(device)) for w, b in stage] for stage in self.convs]
        self.heads = [head.to(device) for head in self.heads]
        self.shift, self.scale = self.shift.to(device), self.scale.to(device)


def _frozen(weight: Tensor) -> Tensor:
    weight = weight.detach().float()
    return weight.contiguous(memory_format=torch.channels_last) if weight.ndim == 4 else weight


def _unit(feat: Float[Tensor, "N C h w"]) -> Float[Tensor, "N C h w"]:
    """Each pixel's features at length 1, in float32."""
    feat = feat.float()
    return feat / (torch.linalg.vector_norm(feat, dim=1, keepdim=True) + 1e-10)


# ---- which one


def name(kind: str, worst: float = 0.01) -> str:
    """What scores call the recipe ``lpips`` or ``none``."""
    return WithLpips.name if kind == "lpips" else WithoutLpips(worst).name


def settle(kind: str, channels: int, side: int = 64) -> str:
    """The setting ``perceptual`` as ``lpips`` or ``none``: ``auto`` is lpips where frames and weights let it be.

    Args:
        channels: of the frames; LPIPS sees colours or grey.
        side: the smaller one of the frames, in pixels.

    Raises:
        UserError: ``lpips`` was asked for, and these frames are none for it.
    """
    against = _unfit(channels, side)
    if kind == "auto":
        return "none" if against or missing() else "lpips"
    if kind == "lpips" and against:
        raise UserError(f"LPIPS cannot be used: {'; '.join(against)}; {WITHOUT}")
    return kind


def make(kind: str, worst: float = 0.01) -> Reconstruction:
    """The recipe ``lpips`` or ``none``, the latter with this weight of the worst pixel.

    Raises:
        UserError: LPIPS's weights are not there, or are others.
    """
    if kind == "none":
        return WithoutLpips(worst)
    if lacking := missing():
        raise UserError(f"LPIPS cannot be used: {'; '.join(lacking)}; {WITHOUT}")
    return WithLpips(read())


def _unfit(channels: int, side: int) -> list[str]:
    """Why LPIPS cannot see such frames."""
    found = []
    if channels not in (1, 3):
        found.append(f"it sees frames of 3 channels, or of 1, got {channels}")
    if side < SMALLEST:
        found.append(f"it sees frames of {SMALLEST} pixels or more, got {side}")
    return found


def vgg_path() -> Path:
    """Where torchvision leaves VGG16's weights."""
    return Path(torch.hub.get_dir()) / "checkpoints" / VGG


def heads_path() -> Path | None:
    """Where the package lpips has its weights; None without the package."""
    spec = importlib.util.find_spec("lpips")
    places = spec.submodule_search_locations if spec else None
    return Path(next(iter(places))) / HEADS if places else None


def missing() -> list[str]:
    """What LPIPS lacks here, in words: where it was looked for, and what to type."""
    found = []
    if not vgg_path().is_file():
        get = "from torchvision.models import vgg16; vgg16(weights='IMAGENET1K_V1')"
        found.append(
            f"VGG16's weights are not at {vgg_path()} (from anywhere with a network, type: pip install torchvision, "
            f'then: python -c "{get}")'
        )
    heads = heads_path()
    if heads is None:
        found.append("the package 'lpips' is not installed (type: pip install lpips)")
    elif not heads.is_file():
        found.append(f"the package 'lpips' has no {heads} (type: pip install --force-reinstall lpips)")
    return found


def read() -> Lpips:
    """LPIPS from the weights that are here.

    Raises:
        UserError: a file holds something else.
    """
    paths = [path for path in (vgg_path(), heads_path()) if path is not None]
    vgg, heads = (_load(path) for path in paths)
    try:
        made = Lpips(vgg, heads)
        _refuse_shapes(made)
    except (KeyError, ValueError) as error:
        raise UserError(f"these are not the weights of VGG16 and its LPIPS: {paths[0]}, {paths[1]} ({error})") from None
    return made


def _load(path: Path) -> dict[str, Tensor]:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # half a file, or another kind of file, fails in any of torch's ways
        raise UserError(
            f"{path} cannot be read as weights ({type(error).__name__}); get it anew, or type: "
            "--agent.tokenizer.perceptual none"
        ) from None


def _refuse_shapes(made: Lpips) -> None:
    convs: Sequence[Tensor] = [weight for stage in made.convs for weight, _ in stage]
    if convs[0].shape[1] != 3 or any(a.shape[0] != b.shape[1] for a, b in itertools.pairwise(convs)):
        raise ValueError("convolutions that do not follow each other")
    if any(head.shape != (1, stage[-1][0].shape[0], 1, 1) for head, stage in zip(made.heads, made.convs, strict=True)):
        raise ValueError("differences of other channels")
