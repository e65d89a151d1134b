"""Films survive being written and read, whatever their size; grids and captions keep every pixel of a frame."""

from __future__ import annotations

import io

import numpy as np
import pytest

from dreamlab.core.pictures import PALETTE, to_rgb
from dreamlab.logs import pictures
from dreamlab.logs.video import FPS, caption, read_mp4, tile, to_gif, upscale, write_mp4


def moving_square(length: int, height: int, width: int) -> np.ndarray:
    frames = np.full((length, height, width, 3), (30, 90, 160), np.uint8)
    for t in range(length):
        frames[t, 8:24, 4 + t : 20 + t] = (220, 180, 40)
    return frames


@pytest.mark.parametrize(("height", "width"), [(64, 64), (63, 65), (33, 48)])
def test_mp4_round_trip_is_close_and_pads_to_even_sizes(tmp_path, height, width):
    frames = moving_square(9, height, width)
    write_mp4(tmp_path / "deep" / "film.mp4", frames, FPS)
    back = read_mp4(tmp_path / "deep" / "film.mp4")
    assert back.shape == (9, height + height % 2, width + width % 2, 3)
    error = np.abs(back[:, :height, :width].astype(int) - frames)
    assert error.mean() < 4
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["film.mp4"]  # nothing temporary is left
    flat = back[:, -4:, -4:].reshape(-1, 3).mean(0)
    assert flat == pytest.approx([30, 90, 160], abs=3)  # colours keep their meaning through YUV


def test_a_film_that_cannot_be_written_leaves_the_old_one(tmp_path):
    path = tmp_path / "film.mp4"
    path.write_bytes(b"old")
    with pytest.raises(ValueError, match="uint8"):
        write_mp4(path, np.zeros((0, 4, 4, 3), np.uint8), FPS)
    with pytest.raises(ValueError, match="float64"):
        write_mp4(path, np.zeros((2, 4, 4, 3)), FPS)
    assert path.read_bytes() == b"old"


def test_gif_has_every_frame():
    from PIL import Image, ImageSequence

    image = Image.open(io.BytesIO(to_gif(moving_square(6, 32, 40), 10)))
    assert (len(list(ImageSequence.Iterator(image))), image.size, image.info["duration"]) == (6, (40, 32), 100)


def test_an_image_of_any_number_of_channels_can_be_shown():
    """Grey and colour are as they are; planes have colours of their own, and all together are white, as in grids."""
    rng = np.random.default_rng(0)
    for channels in range(1, 14):
        pixels = rng.integers(0, 256, (2, channels, 5, 6), np.uint8)
        shown = to_rgb(pixels)
        assert (shown.shape, shown.dtype) == ((2, 5, 6, 3), np.uint8)
        assert (to_rgb(pixels[1]) == shown[1]).all()
        assert not to_rgb(np.zeros_like(pixels)).any()
        if channels in (1, 3):
            assert (shown == pixels.transpose(0, 2, 3, 1)).all()
        else:
            for k in range(channels):
                alone = np.zeros((channels, 1, 1), np.uint8)
                alone[k] = 255
                assert tuple(to_rgb(alone)[0, 0]) == PALETTE[k % len(PALETTE)]
        if channels > 3:
            assert (to_rgb(np.full_like(pixels, 255)) == 255).all()
    assert len(set(PALETTE)) == len(PALETTE)


def test_a_caption_adds_a_band_and_leaves_the_frames_alone():
    frames = moving_square(4, 120, 400)
    film = caption(frames, "trained", [f"step {t}" for t in range(4)])
    band = film.shape[1] - 120
    assert band > 0
    assert film.shape[1] % 2 == 0
    assert (film[:, band:] == frames).all()
    assert (film[0, :band] != film[3, :band]).any()
    small = caption(moving_square(1, 64, 64), "a long caption that would not fit into sixty-four pixels", "step 1")
    assert small.shape[2] >= 320


def test_a_grid_shows_each_film_in_its_place_and_holds_the_last_frame_of_a_short_one():
    rng = np.random.default_rng(0)
    films = [[rng.integers(60, 255, (t, 16, 20, 3), np.uint8) for t in (5, 3)] for _ in range(2)]
    grid = tile(films, ["real", "dream"], 3, title="A dream", context=2)
    assert grid.shape[0] == 5
    assert grid.shape[1] % 2 == grid.shape[2] % 2 == 0
    for row in films:
        for film in row:
            wanted = upscale(film, 3)[min(4, len(film) - 1)]
            places = np.lib.stride_tricks.sliding_window_view(grid[4, ..., 0], wanted.shape[:2])
            assert (places == wanted[..., 0]).all((-1, -2)).sum() == 1
    assert (grid[0] != grid[1]).any()  # the counter and the bar move


def test_the_latest_picture_and_film_lie_in_the_run_folder(tmp_path):
    from PIL import Image

    sink = pictures.Sink(tmp_path)
    for shade in (10, 200):
        sink.write(shade, {}, {"vision/grid": np.full((3, 40, 50), shade, np.uint8)})
    sink.write(1, {}, {"eval/film": np.full((4, 1, 16, 16), 80, np.uint8)})
    image = np.asarray(Image.open(tmp_path / "pictures" / "vision-grid.png"))
    assert image.shape == (400, 500, 3)
    assert (image == 200).all()
    assert len(read_mp4(tmp_path / "videos" / "eval-film.mp4")) == 4
