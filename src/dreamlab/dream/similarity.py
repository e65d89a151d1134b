"""How alike two pictures are: mean squared error, PSNR, SSIM. Pictures are floats in [0, 1], (N, C, h, w)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

PSNR_CAP = 100.0
"""dB given to identical pictures, whose PSNR is infinite"""


def mse(a: Tensor, b: Tensor) -> Tensor:
    """(N,) mean squared error of each pair; of vectors (N, n) too."""
    return (a - b).square().flatten(1).mean(1)


def psnr(a: Tensor, b: Tensor) -> Tensor:
    """(N,) peak signal-to-noise ratio of each pair in dB, at most PSNR_CAP: 10 log10(1 / MSE)."""
    return (-10 * mse(a, b).clamp(min=1e-30).log10()).clamp(max=PSNR_CAP)


def ssim(a: Tensor, b: Tensor) -> Tensor:
    """(N,) structural similarity of each pair (Wang, Bovik, Sheikh, Simoncelli 2004, doi:10.1109/TIP.2003.819861).

    Gaussian window 11×11, sigma 1.5 (the largest odd window that fits, in smaller pictures), K1 = 0.01,
    K2 = 0.03, data range 1, weighted population variances; mean over the windows that lie wholly inside and
    over the channels.
    """
    channels, h, w = a.shape[1:]
    side = min(h, w)
    window = gaussian_window(min(11, side - 1 + side % 2)).to(a)

    def blur(x: Tensor) -> Tensor:
        x = F.conv2d(x, window.view(1, 1, -1, 1).expand(channels, 1, -1, 1), groups=channels)
        return F.conv2d(x, window.view(1, 1, 1, -1).expand(channels, 1, 1, -1), groups=channels)

    mean_a, mean_b = blur(a), blur(b)  # (N, C, h', w')
    var_a, var_b = blur(a * a) - mean_a**2, blur(b * b) - mean_b**2
    cov = blur(a * b) - mean_a * mean_b
    c1, c2 = 0.01**2, 0.03**2
    luminance = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
    structure = (2 * cov + c2) / (var_a + var_b + c2)
    return (luminance * structure).flatten(1).mean(1)


def gaussian_window(size: int, sigma: float = 1.5) -> Tensor:
    """(size,) weights of one axis, summing to 1."""
    x = torch.arange(size, dtype=torch.float64) - (size - 1) / 2
    weights = (-(x**2) / (2 * sigma**2)).exp()
    return weights / weights.sum()
