"""TensorBoard event files in the run folder: scalars, pictures, and films as animated GIFs.

``SummaryWriter.add_video`` writes nothing, silently, with moviepy 2. A film is therefore encoded here and
put into an image summary, which TensorBoard plays.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dreamlab.core.pictures import to_rgb
from dreamlab.logs import logger
from dreamlab.logs.video import FPS, enlarge, to_gif

if TYPE_CHECKING:
    import numpy as np
    from torch.utils.tensorboard import SummaryWriter

SMALLEST = 256
"""pixels: films and pictures are enlarged to about this"""


class Sink(logger.Sink):
    """Writes lazily: neither TensorBoard nor a file before the first value.

    Event files cannot be cut back. A resumed run writes a new one that begins by declaring every later step
    of the older ones void (``purge_step``), which TensorBoard obeys.
    """

    def __init__(self, run: Path) -> None:
        self.run = run
        self.step = -1
        self._writer: SummaryWriter | None = None

    def write(self, step: int, scalars: Mapping[str, float], media: logger.Media) -> None:
        writer = self._open()
        for key, value in scalars.items():
            writer.add_scalar(key, value, step)
        for key, pixels in media.items():
            if pixels.ndim == 3:
                writer.add_image(key, enlarge(to_rgb(pixels)[None], SMALLEST)[0], step, dataformats="HWC")
            else:
                _add_film(writer, key, enlarge(to_rgb(pixels), SMALLEST), step)
        self.step = step

    def state_dict(self) -> dict[str, Any]:
        self.flush()
        return {"step": self.step}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.close()
        self.step = int(state["step"])

    def flush(self) -> None:
        if self._writer is not None:
            self._writer.flush()

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _open(self) -> SummaryWriter:
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter

            older = any(self.run.glob("events.out.tfevents.*"))
            self._writer = SummaryWriter(str(self.run), purge_step=self.step + 1 if older else None)
        return self._writer


def _add_film(writer: SummaryWriter, key: str, frames: np.ndarray, step: int) -> None:
    """An animated GIF in an image summary: what ``add_video`` would write if it worked."""
    from tensorboard.compat.proto.summary_pb2 import Summary

    _, height, width, channels = frames.shape
    image = Summary.Image(height=height, width=width, colorspace=channels, encoded_image_string=to_gif(frames, FPS))
    writer._get_file_writer().add_summary(Summary(value=[Summary.Value(tag=key, image=image)]), step)
