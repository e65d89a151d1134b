"""What a player records: the frames of a dream, and of reality beside it, written as a film into ``dreams/``."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from dreamlab.core.errors import RunError, UserError
from dreamlab.logs.video import caption, enlarge, write_pieces

BYTES = 64 << 20
"""of pictures that one player's recording may hold"""
FRAMES = 4500
"""three minutes at 25 frames a second"""
PIECE = 64
LONGER_SIDE = 384


class Recording:
    """Frames as they were shown. Reality is black where it was not there."""

    def __init__(self) -> None:
        self.frames: list[tuple[np.ndarray, np.ndarray | None, str]] = []
        self.bytes = 0

    @property
    def full(self) -> bool:
        """Whether no more is taken."""
        return len(self.frames) >= FRAMES or self.bytes >= BYTES

    @property
    def most(self) -> int:
        """Frames that it may hold, if they go on as large as those that it has."""
        return min(FRAMES, -(-BYTES * len(self.frames) // max(1, self.bytes)))

    def add(self, dream: np.ndarray, real: np.ndarray | None, text: str) -> None:
        """One tick: pictures (h, w, 3), and what stands above them."""
        if not self.full:
            self.frames.append((dream, real, text))
            self.bytes += dream.nbytes + (0 if real is None else real.nbytes)

    def write(self, folder: Path, name: str, title: str, fps: float) -> Path:
        """The film, ``dreams/NAME.mp4`` in the run's folder.

        Raises:
            UserError: nothing was recorded, or ``dreams/`` leads out of the run.
            RunError: it cannot be written.
        """
        if not self.frames:
            raise UserError("Nothing was recorded yet. Start the recording, play, and save then.")
        place = folder / "dreams"
        if not place.resolve().is_relative_to(folder.resolve()):
            raise UserError("The folder dreams/ of this run leads out of it, so that nothing is written there.")
        path = place / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}.mp4"
        path = path if not path.exists() else path.with_stem(f"{path.stem}-{time.time_ns() % 1000}")
        try:
            write_pieces(path, self._pieces(title), fps)
        except OSError as error:
            raise RunError(f"The film cannot be written ({error.strerror or error}).") from error
        return path

    def _pieces(self, title: str) -> Iterator[np.ndarray]:
        beside = any(real is not None for _, real, _ in self.frames)
        for start in range(0, len(self.frames), PIECE):
            part = self.frames[start : start + PIECE]
            film = enlarge(np.stack([dream for dream, _, _ in part]), LONGER_SIDE)
            if beside:
                real = np.stack([np.zeros_like(dream) if real is None else real for dream, real, _ in part])
                gap = np.full((*film.shape[:2], 16, 3), 22, np.uint8)
                film = np.concatenate([film, gap, enlarge(real, LONGER_SIDE)], axis=2)
            words = f"{title}: dream, then reality" if beside else f"{title}: dream"
            yield caption(film, words, [text for *_, text in part])
