"""The latest picture of each name in ``pictures/`` and the latest film in ``videos/``, to be looked at."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from dreamlab.core.pictures import to_rgb
from dreamlab.logs import logger
from dreamlab.logs.video import FPS, enlarge, write_mp4

SMALLEST = 512
"""pixels: what is smaller is enlarged by a whole factor, so that viewers do not blur it"""


class Sink(logger.Sink):
    """``vision/reconstruction`` becomes ``pictures/vision-reconstruction.png``, or ``videos/...mp4`` for a film."""

    def __init__(self, run: Path) -> None:
        self.run = run

    def write(self, step: int, scalars: Mapping[str, float], media: logger.Media) -> None:
        for key, pixels in media.items():
            name = key.replace("/", "-")
            if pixels.ndim == 3:
                write_png(self.run / "pictures" / f"{name}.png", enlarge(to_rgb(pixels)[None], SMALLEST)[0])
            else:
                write_mp4(self.run / "videos" / f"{name}.mp4", enlarge(to_rgb(pixels), SMALLEST), FPS)


def write_png(path: Path, image) -> None:
    """Write an image uint8 (h, w, 3), wholly or not at all."""
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    Image.fromarray(image).save(temporary, format="PNG", optimize=True)
    os.replace(temporary, path)
