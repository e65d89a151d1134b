"""The report is one file that asks nobody for anything, shows what is there, and survives what is broken."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from dreamlab.evals import plots
from dreamlab.evals.report import write_report
from dreamlab.logs.pictures import write_png
from dreamlab.logs.video import caption, tile, write_mp4

HOSTILE = "<script src='http://evil.example/x.js'>"


def ball(length: int, seed: int) -> np.ndarray:
    """A film (T, 32, 32, 3) of a ball on a slope."""
    y, x = np.mgrid[:32, :32]
    frames = np.full((length, 32, 32, 3), (64, 122, 84), np.uint8)
    frames[:, y > 20 + x // 6] = (96, 92, 100)
    for t in range(length):
        frames[t, (x - 2 - (t + seed) % 28) ** 2 + (y - 14 - t // 6) ** 2 < 14] = (226, 190, 90)
    return frames


def write_run(run: Path) -> Path:
    """A small synthetic run folder with everything in it."""
    for name in ("videos", "dreams", "pictures", "evaluations"):
        (run / name).mkdir(parents=True)
    rng = np.random.default_rng(0)
    score = {
        name: {"mean": float(r.mean()), "std": float(r.std()), "returns": r.tolist()}
        for name, r in {
            "random": rng.normal(-30, 6, 16),
            "untrained": rng.normal(-38, 9, 16),
            "trained": rng.normal(120, 40, 16),
        }.items()
    }
    (run / "summary.json").write_text(json.dumps({**score, "wall_seconds": 512.3, "peak_memory_mib": 2810}))
    (run / "config.yaml").write_text(
        f'agent: world-models\nseed: 3\nenv:\n  id: Ball-v0\n  size: 32\nvision:\n  latent: 32\n  about: "{HOSTILE}"\n'
    )
    with (run / "metrics.jsonl").open("w") as file:
        for step in range(0, 900, 3):
            phase = ("collect", "vision", "memory", "controller")[step // 225]
            noise = rng.normal(0, 0.05)
            line = {"step": step, "run/env_steps": step * 10, "run/updates": step, "run/memory_mib": 900 + step}
            names = {
                "collect": ("ret", "length"),
                "vision": ("loss", "kl"),
                "memory": ("loss", "nll", "one_step_error"),
            }
            for name in names.get(phase, ("mean", "best", "sigma")):
                line[f"{phase}/{name}"] = 40 * np.exp(-(step % 225) / 80) + noise + 1
            file.write(json.dumps(line) + "\n")
        file.write(json.dumps({"step": 900, "vision/pixel_accuracy": 0.912, "vision/active_units": 27}) + "\n")
    film = ball(24, 0)
    texts = [f"step {t}" for t in range(24)]
    write_mp4(run / "videos" / "trained.mp4", caption(film, f"trained · Ball-v0 {HOSTILE}", texts), 15)
    write_mp4(run / "videos" / "random.mp4", caption(ball(24, 9), "random · Ball-v0", texts), 15)
    dream = np.clip(film.astype(int) + rng.integers(0, 40, film.shape), 0, 255).astype(np.uint8)
    difference = np.abs(film.astype(int) - dream).astype(np.uint8)
    labels = ["real", "reconstruction", "dream", "difference"]
    write_mp4(
        run / "dreams" / "dream-1.mp4", tile([[film, dream, dream, difference]], labels, 6, title="Ball-v0", context=6)
    )
    h = np.arange(1, 51)
    lines = {"model": 0.002 * h**0.6, "repeat_last": 0.004 * h**0.7, "mean_frame": np.full(50, 0.03)}
    errors: dict = {"horizon": h.tolist()}
    for name, mse in lines.items():
        errors[name] = {"mse": mse.tolist(), "psnr": (-10 * np.log10(mse)).tolist(), "ssim": (1 - 8 * mse).tolist()}
    errors["latent"] = {"model": (0.1 * h**0.5).tolist(), "repeat_last": (0.2 * h**0.5).tolist()}
    errors["reward_mae"] = (0.02 * h**0.4).tolist()
    (run / "dreams" / "dream.json").write_text(json.dumps(errors))
    pairs = np.concatenate([film[:16:2], dream[:16:2]], 1)  # (8, 64, 32, 3): real above its reconstruction
    write_png(run / "pictures" / "vision-reconstruction.png", np.concatenate(list(pairs), 1).repeat(3, 0).repeat(3, 1))
    evaluation = {
        "agent": "world-models",
        "env": "Ball-v0",
        **score["trained"],
        "lengths": [200] * 16,
        "protocol": {"env": {"id": "Ball-v0", "note": HOSTILE}, "episodes": 16, "seed": 0, "policy": "mean"},
    }
    (run / "evaluations" / "step-900.json").write_text(json.dumps(evaluation))
    return run


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> str:
    return write_report(write_run(tmp_path_factory.mktemp("runs") / "ball")).read_text()


class Tags(HTMLParser):
    """Opened and closed tags, and every address an element would ask for."""

    EMPTY = ("meta", "img", "br", "path", "use", "rect", "link")

    def __init__(self):
        super().__init__()
        self.open, self.names, self.addresses = [], [], []

    def handle_starttag(self, tag, attrs):
        self.names.append(tag)
        self.addresses += [value for key, value in attrs if key in ("src", "href", "xlink:href", "poster", "data")]
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in self.EMPTY:
            assert self.open.pop() == tag

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in self.EMPTY:
            self.open.pop()


def parsed(page: str) -> Tags:
    tags = Tags()
    tags.feed(page)
    assert not tags.open
    return tags


def test_the_page_asks_nobody_for_anything(page):
    tags = parsed(page)
    assert tags.addresses
    assert all(address.startswith(("data:", "#")) for address in tags.addresses)
    assert "script" not in tags.names
    assert "link" not in tags.names
    assert not re.search(r"@import|url\((?!#)", page)
    shown = page.replace("&lt;script src=&#x27;http://evil.example/x.js&#x27;&gt;", "")
    assert set(re.findall(r"https?://[^\s\"'<>]+", shown)) <= {
        "http://www.w3.org/2000/svg",
        "http://www.w3.org/1999/xlink",
    }


def test_text_of_files_is_escaped(page):
    assert "&lt;script src=" in page
    assert "<script" not in page


def test_everything_in_the_folder_is_shown(page):
    tags = parsed(page)
    assert tags.names.count("video") == 3
    assert tags.names.count("img") == 1
    assert tags.names.count("svg") >= 1 + 5 + 10
    for text in (
        "world-models on Ball-v0",
        "Score in Ball-v0",
        "Beside a random",
        "Curves",
        "Evaluations",
        "Settings",
        "2,810 MiB",
        "8.54 min",
        "0.912",
    ):
        assert text in page
    assert "Not here yet" not in page
    assert "could not be read" not in page


def test_the_best_policy_is_marked_and_films_of_the_trained_agent_come_first(page):
    assert re.search(r'<tr class="best"><th scope="row">trained</th>', page)
    captions = re.findall(r"<figcaption><b>(trained|random)</b>", page)
    assert captions == ["trained", "random"]


def test_an_empty_folder_makes_a_page_that_says_what_is_missing(tmp_path):
    page = write_report(tmp_path).read_text()
    parsed(page)
    assert "Not here yet" in page
    assert "dreamlab dream" in page
    assert "could not be read" not in page


def test_broken_files_are_named_and_the_rest_is_shown(tmp_path):
    run = write_run(tmp_path / "run")
    (run / "summary.json").write_text('{"random": {"mean": 1')
    (run / "evaluations" / "odd.json").write_text('{"mean": "high", "std": 1, "returns": "many"}')
    (run / "dreams" / "short.json").write_text('{"horizon": [1, 2, 3], "model": {"mse": [1]}}')
    (run / "dreams" / "list.json").write_text("[1]")
    (run / "config.yaml").write_text("a: [1\n")
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 901, "vision/lo\n')
    page = write_report(run).read_text()
    parsed(page)
    notices = page[page.index("could not be read") : page.index("<main>")]
    for name in ("summary.json", "evaluations/odd.json", "dreams/short.json", "dreams/list.json", "config.yaml"):
        assert name in notices
    assert "the first is line 302" in notices
    assert "Curves" in page
    assert page.count("<video") == 3


def test_svg_plots_turn_dark_with_the_page():
    figure = plots.returns({"random": [1.0, 2.0], "trained": [5.0, 7.0]})
    text = plots.svg(figure)
    assert text.startswith("<svg")
    assert "var(--plot-ink" in text
    assert "<metadata" not in text
    assert plots.svg(plots.returns({"random": [1.0, 2.0], "trained": [5.0, 7.0]})) == text  # the same every time
    assert plots.png(figure).startswith(b"\x89PNG")


def test_curves_with_many_points_are_thinned_to_their_means():
    values = np.random.default_rng(0).normal(5, 1, 10_000)
    steps, thin = plots._thin(np.arange(10_000.0), values)
    assert len(thin) == plots.POINTS
    assert thin.mean() == pytest.approx(values.mean(), abs=0.01)
    assert (np.diff(steps) > 0).all()
    flat = plots.running_mean(np.ones(50), 5)
    assert flat == pytest.approx(np.ones(50))
