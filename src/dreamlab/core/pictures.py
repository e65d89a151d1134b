"""Frames as they come, to images as agents see them: uint8 (C, h, w)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
from PIL import Image

from dreamlab.core.errors import UserError

Crop = tuple[int, int, int, int]
"""rows and columns of a frame to keep: top, bottom, left, right"""
Layout = Literal["first", "last"]
"""where a frame's channels are: (C, H, W), or (H, W, C)"""


def picture(frame: np.ndarray, size: tuple[int, int], crop: Crop | None = None, grey: bool = False) -> np.ndarray:
    """A frame (H, W), (H, W, C) or (C, H, W) as uint8 (C, h, w): cropped, then resized, then perhaps grey.

    Resized bilinearly with antialiasing.

    Raises:
        UserError: the crop is larger than the frame.
    """
    return pictures(frame[None], size, crop, grey)[0]


def pictures(
    frames: np.ndarray,
    size: tuple[int, int] | None,
    crop: Crop | None = None,
    grey: bool = False,
    layout: Layout | None = None,
) -> np.ndarray:
    """Frames (N, H, W), (N, H, W, C) or (N, C, H, W) as uint8 (N, C, h, w); without ``size`` as large as they are.

    Without ``layout`` the shape tells where the channels are.

    Raises:
        UserError: the crop is larger than the frames.
    """
    frames = channels_last(frames, layout)
    if crop is not None:
        top, bottom, left, right = crop
        if bottom > frames.shape[1] or right > frames.shape[2]:
            raise UserError(f"crop {crop} asks for more than a frame of {frames.shape[1]} by {frames.shape[2]} has")
        frames = frames[:, top:bottom, left:right]
    if grey and frames.shape[-1] == 3:
        frames = _each(frames, lambda f: np.asarray(Image.fromarray(np.ascontiguousarray(f)).convert("L"))[..., None])
    if size is not None and frames.shape[1:3] != tuple(size):
        frames = _each(frames, lambda f: _resized(np.ascontiguousarray(f), size))
    return np.ascontiguousarray(frames.transpose(0, 3, 1, 2))  # (N, C, h, w)


def channels_last(frames: np.ndarray, layout: Layout | None = None) -> np.ndarray:
    """Frames as (N, H, W, C): three axes have one channel; without ``layout``, fewer rows than columns are channels."""
    if frames.ndim == 3:
        return frames[..., None]
    if layout is None:
        layout = "first" if frames.shape[-1] not in (1, 3, 4) and frames.shape[1] < frames.shape[-1] else "last"
    return frames.transpose(0, 2, 3, 1) if layout == "first" else frames


def _each(frames: np.ndarray, change: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    return np.stack([change(frame) for frame in frames])


def _resized(frame: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    h, w = size
    if frame.shape[-1] == 3:
        return np.asarray(Image.fromarray(frame).resize((w, h), Image.Resampling.BILINEAR))
    channels = [Image.fromarray(c).resize((w, h), Image.Resampling.BILINEAR) for c in np.moveaxis(frame, -1, 0)]
    return np.stack([np.asarray(c) for c in channels], -1)


PALETTE = (
    (80, 170, 255),
    (255, 225, 60),
    (255, 80, 200),
    (60, 255, 120),
    (255, 140, 40),
    (150, 110, 255),
    (70, 230, 230),
    (255, 70, 70),
    (180, 230, 60),
    (235, 225, 205),
)
"""colours of planes, and again from the first; the first four together make white"""


def to_rgb(pixels: np.ndarray) -> np.ndarray:
    """An image of any number of channels, to be shown: uint8 (..., C, h, w) as (..., h, w, 3).

    One channel is grey and three are a picture as they are. Any other number are planes: each in a colour of its
    own, and the brighter value of red, green and blue wins where several are lit.
    """
    channels = pixels.shape[-3]
    if channels == 1:
        pixels = pixels.repeat(3, axis=-3)
    if channels in (1, 3):
        return np.ascontiguousarray(np.moveaxis(pixels, -3, -1))  # (..., h, w, 3)
    rgb = np.zeros((*pixels.shape[:-3], *pixels.shape[-2:], 3), np.uint16)
    for plane in range(channels):
        colour = np.array(PALETTE[plane % len(PALETTE)], np.uint16)
        lit = pixels[..., plane, :, :, None] * colour // 255  # (..., h, w, 3)
        np.maximum(rgb, lit, out=rgb)
    return rgb.astype(np.uint8)
