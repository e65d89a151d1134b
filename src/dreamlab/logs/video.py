"""Films: writing and reading mp4, animated GIFs, captions, and grids of films side by side.

A film is uint8 (T, H, W, 3) here; the channel-first films of the rest of the house pass through
``core.pictures.to_rgb``.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Sequence
from fractions import Fraction
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL import ImageDraw, ImageFont

FPS = 15.0
"""frames per second of films whose maker knows no better"""

NARROWEST = 320
"""pixels: a captioned film is at least this wide"""

BACKGROUND, SURFACE, FAINT = (22, 25, 33), (36, 41, 53), (62, 69, 86)
INK, MUTED = (232, 235, 242), (150, 159, 178)
SEEN, IMAGINED = (126, 138, 162), (240, 171, 84)


def upscale(frames: np.ndarray, scale: int) -> np.ndarray:
    """Every pixel of (T, h, w, 3) as a square of ``scale`` pixels."""
    return frames.repeat(scale, axis=1).repeat(scale, axis=2)  # (T, h*scale, w*scale, 3)


def enlarge(frames: np.ndarray, size: int) -> np.ndarray:
    """Upscaled by the whole factor that brings the longer side of (T, h, w, 3) nearest below ``size``."""
    return upscale(frames, max(1, size // max(frames.shape[1:3])))


def write_mp4(path: Path, frames: np.ndarray, fps: float = FPS, crf: int = 18) -> None:
    """Write frames uint8 (T, H, W, 3) as H.264 that every browser plays, wholly or not at all.

    Odd sizes are padded by repeating the edge, as yuv420p needs even ones. ``crf``: lower is finer.

    Raises:
        ValueError: not a film, or one without frames.
    """
    write_pieces(path, [frames], fps, crf)


def write_pieces(path: Path, pieces: Iterable[np.ndarray], fps: float = FPS, crf: int = 18) -> None:
    """``write_mp4`` of a film that comes in pieces (T, H, W, 3), all of one size, so that it need not fit into memory.

    Raises:
        ValueError: no film, or one without frames.
    """
    import av
    from av.video.reformatter import ColorRange, Colorspace

    films = map(_even, pieces)
    try:
        frames = next(films)
    except StopIteration:
        raise ValueError("a film has at least one frame") from None
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    try:
        with av.open(str(temporary), "w", format="mp4", options={"movflags": "+faststart"}) as file:
            stream = file.add_stream("libx264", rate=Fraction(fps).limit_denominator(1000))
            stream.height, stream.width = frames.shape[1:3]
            stream.pix_fmt = "yuv420p"
            stream.options = {"crf": str(crf), "preset": "medium", "threads": "1"}
            context = stream.codec_context
            context.colorspace, context.color_range = Colorspace.ITU709, ColorRange.MPEG
            for rgb in chain(frames, chain.from_iterable(films)):
                frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(rgb), format="rgb24")
                file.mux(stream.encode(frame.reformat(format="yuv420p", dst_colorspace=Colorspace.ITU709)))
            file.mux(stream.encode())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _even(frames: np.ndarray) -> np.ndarray:
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8 or 0 in frames.shape:
        raise ValueError(f"a film is uint8 (T, H, W, 3), got {frames.dtype} {frames.shape}")
    _, height, width, _ = frames.shape
    return np.pad(frames, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), mode="edge")


def read_mp4(path: Path) -> np.ndarray:
    """The frames uint8 (T, H, W, 3) of a film; H and W are even, as they were padded."""
    import av

    with av.open(str(path)) as file:
        frames = [frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)]
    return np.stack(frames)


def to_gif(frames: np.ndarray, fps: float = FPS) -> bytes:
    """Frames uint8 (T, H, W, 3) as an animated GIF that repeats, each frame with colours of its own."""
    from PIL import Image

    images = [Image.fromarray(frame).quantize(256, dither=Image.Dither.NONE) for frame in frames]
    file = io.BytesIO()
    milliseconds = max(20, round(100 / fps) * 10)  # GIF counts in hundredths; viewers slow down below two
    images[0].save(file, format="GIF", save_all=True, append_images=images[1:], duration=milliseconds, loop=0)
    return file.getvalue()


def caption(frames: np.ndarray, text: str | Sequence[str], right: str | Sequence[str] = "") -> np.ndarray:
    """Frames (T, H, W, 3) with a dark band above: ``text`` on its left, ``right`` on its right.

    Either is one string or one for each frame; together they take one line where they fit, else two.
    Frames that are too narrow for text are upscaled first.
    """
    from PIL import Image, ImageDraw

    frames = upscale(frames, -(-NARROWEST // frames.shape[2]))
    length, height, width, _ = frames.shape
    lines = [(_at(text, t), _at(right, t)) for t in range(length)]
    largest = max(14, min(22, width // 24))
    margin = largest * 3 // 4
    room = width - 2 * margin
    size = next((s for s in range(largest, 12, -1) if all(_width(*line, s) <= room for line in lines)), 0)
    one, size = bool(size), size or 14
    line_height = size * 3 // 2
    band = line_height * (1 if one else 2) + size
    band += (band + height) % 2
    film = np.empty((length, height + band, width, 3), np.uint8)
    film[:, band:] = frames
    for t, line in enumerate(lines):
        if t and line == lines[t - 1]:
            film[t, :band] = film[t - 1, :band]
            continue
        image = Image.new("RGB", (width, band), BACKGROUND)
        draw = ImageDraw.Draw(image)
        y = (size + line_height) / 2
        _text(draw, (margin, y), line[0], size, INK, room, "lm")
        if one:
            _text(draw, (width - margin, y), line[1], size, MUTED, room, "rm")
        else:
            _text(draw, (margin, y + line_height), line[1], size, MUTED, room, "lm")
        film[t, :band] = np.asarray(image)
    return film


def tile(
    rows: Sequence[Sequence[np.ndarray]],
    labels: Sequence[str],
    scale: int = 3,
    *,
    title: str = "",
    names: Sequence[str] = (),
    context: int = 0,
) -> np.ndarray:
    """A grid of films on a calm dark ground, with column labels, row names and a step counter.

    Each row is one film uint8 (T, h, w, 3) a column, all of one size; a shorter film holds its last frame.
    Pixels become squares of ``scale``. With ``context`` the first so many frames are marked as seen and the
    rest as imagined: in the counter, and in a thin bar at the foot. Returns (T, H, W, 3) with even H and W.
    """
    from PIL import Image, ImageDraw

    films = [[upscale(film, scale) for film in row] for row in rows]
    length = max(len(film) for row in films for film in row)
    _, height, width, _ = films[0][0].shape
    grid = _Grid(len(films), len(labels), height, width, bool(names))
    ground = Image.new("RGB", (grid.width, grid.height), BACKGROUND)
    draw = ImageDraw.Draw(ground)
    grid.letter(draw, title, labels, names)
    out = np.empty((length, grid.height, grid.width, 3), np.uint8)
    for t in range(length):
        image = ground.copy()
        grid.count(ImageDraw.Draw(image), t, length, context)
        out[t] = np.asarray(image)
        for i, row in enumerate(films):
            for j, film in enumerate(row):
                x, y = grid.corner(i, j)
                out[t, y : y + height, x : x + width] = film[min(t, len(film) - 1)]
    return out


class _Grid:
    """Where things stand in a tiled film: header, labels, cells, foot."""

    def __init__(self, rows: int, columns: int, height: int, width: int, named: bool) -> None:
        self.cell_height, self.cell_width = height, width
        self.size = max(13, min(20, width // 9))
        self.margin, self.gap = round(self.size * 1.6), round(self.size * 0.8)
        self.side = round(self.size * 6) if named else 0
        self.top = self.margin + round(self.size * 4.2)
        self.bottom = self.top + rows * (height + self.gap) - self.gap
        self.right = self.margin + self.side + columns * (width + self.gap) - self.gap
        self.height = self.bottom + round(self.size * 1.5) + self.margin
        self.width = self.right + self.margin
        self.height += self.height % 2
        self.width += self.width % 2

    def corner(self, row: int, column: int) -> tuple[int, int]:
        """(x, y) of a cell."""
        x = self.margin + self.side + column * (self.cell_width + self.gap)
        return x, self.top + row * (self.cell_height + self.gap)

    def letter(self, draw: ImageDraw.ImageDraw, title: str, labels: Sequence[str], names: Sequence[str]) -> None:
        """What does not change: title, column labels, row names."""
        room = self.right - self.margin - round(self.size * 9)
        _text(draw, (self.margin, self.margin + self.size * 0.6), title, self.size * 1.15, INK, room, "lm")
        for column, label in enumerate(labels):
            x, y = self.corner(0, column)
            _text(draw, (x, y - self.size * 0.9), label, self.size, MUTED, self.cell_width, "lm")
        for row, name in enumerate(names):
            _, y = self.corner(row, 0)
            middle = y + self.cell_height // 2
            _text(draw, (self.margin, middle), name, self.size, MUTED, self.side - self.gap, "lm")

    def count(self, draw: ImageDraw.ImageDraw, t: int, length: int, context: int) -> None:
        """What changes: the step counter, and the bar of what is seen and what is imagined."""
        seen = t < context
        text = f"step {t + 1} of {length}"
        if context:
            text = f"seen {t + 1} of {context}" if seen else f"imagined {t + 1 - context} of {length - context}"
        ink = INK if not context else SEEN if seen else IMAGINED
        _text(draw, (self.right, self.margin + self.size * 0.6), text, self.size, ink, self.size * 9, "rm")

        left, thick = self.margin + self.side, max(3, self.size // 4)
        y = self.bottom + round(self.size * 1.5) - thick // 2
        whole, split = self.right - left, left
        if context:
            split = left + round((self.right - left) * min(context, length) / length)
            draw.rectangle((left, y, split - 3, y + thick - 1), fill=FAINT)
        draw.rectangle((split, y, self.right - 1, y + thick - 1), fill=SURFACE)
        end = left + round(whole * (t + 1) / length)
        if context and end > left:
            draw.rectangle((left, y, min(end, split - 2) - 1, y + thick - 1), fill=SEEN)
        if end > split:
            draw.rectangle((split, y, end - 1, y + thick - 1), fill=IMAGINED)


def _at(text: str | Sequence[str], t: int) -> str:
    return text if isinstance(text, str) else text[min(t, len(text) - 1)]


@lru_cache(maxsize=64)
def _font(size: int) -> ImageFont.FreeTypeFont:
    from PIL import ImageFont

    return ImageFont.load_default(size=size)  # type: ignore[return-value]


def _text(
    draw: ImageDraw.ImageDraw,
    at: tuple[float, float],
    text: str,
    size: float,
    fill: tuple[int, int, int],
    room: float,
    anchor: str,
) -> None:
    """Draw text into ``room`` pixels, smaller or cut short where it must be."""
    size = round(size)
    while size > 11 and draw.textlength(text, font=_font(size)) > room:
        size -= 1
    if draw.textlength(text, font=_font(size)) > room:
        while text and draw.textlength(text + "…", font=_font(size)) > room:
            text = text[:-1]
        text = text.rstrip() + "…" if text else ""
    draw.text(at, text, fill=fill, font=_font(size), anchor=anchor)


def _width(left: str, right: str, size: int) -> float:
    """Pixels that two texts on one line need, with a gap between them."""
    return _font(size).getlength(left) + _font(size).getlength(right) + 2 * size * bool(right)
