"""The studio's catalogue, curves and comparisons: what is said is what lies in the folders, whatever lies there."""

from __future__ import annotations

import json
import math
import os
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
from test_cli_ls import write_run

from dreamlab.evals.run_folder import RunFolder
from dreamlab.evals.scored import _clock
from dreamlab.run import holding
from dreamlab.run.replay import Replay
from dreamlab.studio import cells, curves
from dreamlab.studio.catalogue import Catalogue, Unknown
from dreamlab.studio.curves import Curves, Reader

pytest.importorskip("fastapi")
pytest.importorskip("httpx")


def lines(n: int, every: int = 3, begin: int = 0) -> list[dict[str, float]]:
    """Lines as a run writes them: a loss each, counters now and then, an evaluation rarely."""
    rng = np.random.default_rng(begin)
    found = []
    for i in range(begin, begin + n):
        line = {"step": 10 * i, "train/loss": float(rng.normal()), "train/ret": math.sin(i / 2000)}
        if i % every == 0:
            speeds = {"run/steps_per_second": 5.0 + i % 7, "run/updates_per_second": 2.0}
            line |= {"run/env_steps": 40.0 * i, "run/updates": float(i // 2), **speeds}
        found += [line] + ([{"step": 10 * i, "eval/mean": float(i)}] if i % 100 == 99 else [])
    return found


def text(found: list[dict[str, float]]) -> bytes:
    return "".join(json.dumps(line) + "\n" for line in found).encode()


def read(path: Path) -> Reader:
    reader = Reader(path)
    reader.read_on()
    return reader


def client(root: Path, tmp_path: Path, **given):
    from fastapi.testclient import TestClient

    from dreamlab.studio.app import application
    from dreamlab.studio.studio import Studio

    studio = Studio(root, lambda *_: None, tmp_path / "cache", **given)  # type: ignore[arg-type, return-value]
    return TestClient(application(studio), base_url="http://127.0.0.1")


# -- curves ------------------------------------------------------------------------------------------------------


def test_short_files_are_read_as_by_brute_force(tmp_path):
    (tmp_path / "metrics.jsonl").write_bytes(text(lines(300)))
    brute = RunFolder(tmp_path).metrics
    at, env_steps, seconds = _clock(brute)
    reader = read(tmp_path / "metrics.jsonl")
    assert set(reader.cells.keys) == set(brute)
    for key, (steps, values) in brute.items():
        axes = {
            "step": steps,
            "env_steps": np.interp(steps, at, env_steps),
            "wall": np.interp(steps, at, seconds),
        }
        for axis, x in axes.items():
            curve = reader.cells.curve(key, axis, 10_000)  # type: ignore[arg-type]
            np.testing.assert_allclose(curve.x, x, rtol=1e-9)
            np.testing.assert_array_equal(curve.y, values)
            np.testing.assert_array_equal(curve.low, values)
            np.testing.assert_array_equal(curve.high, values)
    assert reader.seconds == pytest.approx(seconds[-1])


def test_cells_and_pixels_hold_the_count_mean_least_and_greatest_of_their_lines(tmp_path):
    found = lines(3 * cells.CELLS + 77)
    (tmp_path / "metrics.jsonl").write_bytes(text(found))
    reader = read(tmp_path / "metrics.jsonl")
    per, size = reader.cells.per, reader.cells.size
    assert cells.CELLS // 2 <= size <= cells.CELLS
    assert reader.cells.lines == len(found)
    for i in (0, 1, size // 2, size - 1):
        loss = [line["train/loss"] for line in found[i * per : (i + 1) * per] if "train/loss" in line]
        expected = (len(loss), sum(loss), min(loss), max(loss))
        np.testing.assert_allclose(reader.cells.keys["train/loss"][:, i], expected)
    values = np.array([line["train/loss"] for line in found if "train/loss" in line])
    for points in (2, 50, 333):
        curve = reader.cells.curve("train/loss", "step", points)
        assert len(curve.x) <= points
        assert (np.diff(curve.x) > 0).all()
        assert (curve.low <= curve.y).all() and (curve.y <= curve.high).all()  # noqa: PT018
        assert (curve.low.min(), curve.high.max()) == (values.min(), values.max())


def test_a_file_that_grows_is_read_on_and_a_half_line_waits(tmp_path):
    path, whole = tmp_path / "metrics.jsonl", text(lines(900))
    path.write_bytes(b"")
    reader, rng = Reader(path), np.random.default_rng(0)
    written = 0
    while written < len(whole):
        more = int(rng.integers(1, 9000))
        with path.open("ab") as file:
            file.write(whole[written : written + more])
        written += more
        before = reader.offset
        reader.read_on()
        assert before <= reader.offset <= written
    assert reader.turn == 1
    same(reader, read(path))


def test_a_file_that_was_cut_back_or_written_anew_is_read_again(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(text(lines(400)))
    reader = read(path)
    os.truncate(path, len(text(lines(200))))  # as a resumed run does
    with path.open("ab") as file:
        file.write(text(lines(300, begin=200)))
    reader.read_on()
    assert reader.turn == 2
    same(reader, read(path))
    path.unlink()
    path.write_bytes(text(lines(800, every=2)))
    reader.read_on()
    assert reader.turn == 3
    same(reader, read(path))


def test_a_long_file_is_sampled_then_read_by_a_process_of_its_own(tmp_path, monkeypatch):
    run = tmp_path / "run"
    run.mkdir()
    found = lines(20_000)
    (run / "metrics.jsonl").write_bytes(text(found))
    monkeypatch.setattr(curves, "WHOLE", 1 << 18)
    monkeypatch.setattr(curves, "ENDS", 1 << 14)
    monkeypatch.setattr(curves, "SAMPLES", 200)
    held = Curves(tmp_path / "cache")
    sampled, count = held.read(run, lambda reader: (reader.sampled, reader.cells.lines))
    assert sampled
    assert 200 < count < len(found)
    about = held.read(run, lambda reader: reader.cells.curve("train/ret", "env_steps", 100))
    np.testing.assert_allclose(about.y, np.sin(about.x / 40 / 2000), atol=0.1)
    held._refining.wait(60)
    with (run / "metrics.jsonl").open("ab") as file:
        file.write(text(lines(50, begin=20_000)))
    reader = held.read(run, lambda reader: reader)
    assert not reader.sampled
    monkeypatch.setattr(curves, "WHOLE", 1 << 30)
    same(reader, read(run / "metrics.jsonl"))
    assert Curves(tmp_path / "cache").read(run, lambda reader: reader.sampled) is False  # the cache is there to stay
    assert [p.name for p in run.iterdir()] == ["metrics.jsonl"]
    held.close()


@pytest.mark.parametrize(
    "broken",
    [
        b"\xff\xfe\n",
        b'{"step"\n',
        b"[" * 9000 + b"\n",
        b'1], [{"step": 1\n',
        b'{"step": 1, "a": NaN}\n',
        b"\n",
        b'{"step": 1, "a": 1%s}\n' % (b"0" * 400),
        b'{"step": 1%s}\n' % (b"0" * 400),
        b'{"step": 1, "a": "x", "b": [1], "c": true}\n',
    ],
)
def test_broken_lines_harm_no_other(broken, tmp_path):
    (tmp_path / "metrics.jsonl").write_bytes(text(lines(50)) + broken + text(lines(50, begin=50)))
    curve = read(tmp_path / "metrics.jsonl").cells.curve("train/loss", "step", 1000)
    np.testing.assert_array_equal(curve.x, 10.0 * np.arange(100))


def same(a: Reader, b: Reader) -> None:
    assert (a.cells.lines, a.offset, set(a.cells.keys)) == (b.cells.lines, b.offset, set(b.cells.keys))
    for key in a.cells.keys:
        ours, theirs = (reader.cells.curve(key, "wall", 300) for reader in (a, b))
        for name in ("x", "y", "low", "high"):
            np.testing.assert_allclose(getattr(ours, name), getattr(theirs, name), rtol=1e-9)


def test_a_file_of_ever_new_keys_takes_a_bounded_room(tmp_path, monkeypatch):
    monkeypatch.setattr(cells, "KEYS", 20)
    (tmp_path / "metrics.jsonl").write_bytes(text([{"step": i, f"train/{i}": 1.0} for i in range(100)]))
    assert len(read(tmp_path / "metrics.jsonl").cells.keys) == 20


# -- the catalogue -------------------------------------------------------------------------------------------------


def snapshot(root: Path) -> dict[str, tuple[int, int]]:
    return {str(p): (p.lstat().st_mtime_ns, p.lstat().st_size) for p in sorted(root.rglob("*"))}


def test_broken_runs_say_so_and_harm_no_other(tmp_path):
    root = tmp_path / "runs"
    write_run(root / "good")
    (write_run(root / "bad") / "config.yaml").write_text("agent: [")
    (root / "half").mkdir()
    (root / "half" / "config.yaml").write_text("agent: dqn\nenv: {id: CartPole-v1}\n")
    write_run(root / os.fsdecode(b"\xffodd"))
    held = "\n".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9 if i else ['1'] * 9)}]" for i in range(12))
    (write_run(root / "endless") / "config.yaml").write_text(f"agent: x\nenv: {{id: y}}\n{held}\n")
    os.mkfifo(write_run(root / "pipe") / "error.txt")
    (root / "pipe" / "metrics.jsonl").unlink()
    os.mkfifo(root / "pipe" / "metrics.jsonl")
    os.mkfifo(write_run(root / "held") / ".lock")
    os.mkfifo(write_run(root / "scored") / "evaluations" / "9.json")
    before = snapshot(root)
    rows = {row["run"]: row for row in Catalogue(root, lambda agent: agent != "dqn").rows()}
    assert set(rows) == {"good", "bad", "half", "pipe", "held", "scored", "endless", "\ufffdodd"}
    assert rows["good"]["problem"] is None
    assert rows["good"]["playable"]
    assert "config.yaml" in rows["bad"]["problem"]
    assert not rows["bad"]["playable"]
    assert "no world model" in rows["half"]["why"]
    assert "is no file" in rows["pipe"]["problem"]
    assert "is no file" in rows["held"]["problem"]
    assert rows["scored"]["playable"]
    assert "more than" in rows["endless"]["problem"]
    assert snapshot(root) == before


def test_links_out_of_the_root_are_not_followed(tmp_path):
    root = tmp_path / "runs"
    outside = write_run(tmp_path / "secret")
    write_run(root / "a")
    (root / "b").symlink_to(outside)
    (root / "sweep").symlink_to(tmp_path)
    inner = write_run(root / "c")
    (inner / "metrics.jsonl").unlink()
    (inner / "metrics.jsonl").symlink_to(outside / "metrics.jsonl")
    (root / "same").symlink_to(root / "a")
    (write_run(root / "d") / "replay").symlink_to(outside)
    catalogue = Catalogue(root)
    assert {row["run"] for row in catalogue.rows()} == {"a", "c", "d"}
    assert "link out of" in next(row["problem"] for row in catalogue.rows() if row["run"] == "c")
    for name in ("b", "c", "d", "sweep/secret", "../secret", "/etc", "", ".", str(outside)):
        with pytest.raises(Unknown):
            catalogue.place(name)
    assert catalogue.place("a") == root / "a"


def test_a_run_alone_is_a_root_too(tmp_path, monkeypatch):
    run = write_run(tmp_path / "demo")
    assert [row["run"] for row in Catalogue(run).rows()] == ["demo"]
    monkeypatch.chdir(run)
    assert Catalogue(Path()).place("demo") == Path()


def test_a_run_that_is_deleted_or_comes_while_watched(tmp_path, monkeypatch):
    monkeypatch.setattr("dreamlab.studio.catalogue.FRESH", 0)
    monkeypatch.setattr("dreamlab.studio.catalogue.NEW", 0)
    write_run(tmp_path / "a")
    catalogue = Catalogue(tmp_path)
    assert [row["run"] for row in catalogue.rows()] == ["a"]
    write_run(tmp_path / "b", step=700)
    assert {row["run"] for row in catalogue.rows()} == {"a", "b"}
    with (tmp_path / "b" / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": 1100, "vision/loss": 1.0}) + "\n")
    assert catalogue.row("b")["step"] == 1100
    with holding.locked(tmp_path / "b"):
        assert catalogue.row("b")["state"] == "running"
    assert catalogue.row("b")["state"] == "stopped"
    shutil.rmtree(tmp_path / "a")
    assert [row["run"] for row in catalogue.rows()] == ["b"]
    with pytest.raises(Unknown):
        catalogue.row("a")


def test_a_running_run_says_when_it_ends(tmp_path):
    run = write_run(tmp_path / "a")
    counted = [
        {"step": s, "vision/loss": 1.0, "run/env_steps": 1000.0, "run/updates": float(s - 1000),
         "run/steps_per_second": 0.0, "run/updates_per_second": 4.0}
        for s in (1100, 1200, 1300)
    ]  # fmt: skip
    (run / "metrics.jsonl").write_bytes(text(counted))
    with holding.locked(run):
        row = Catalogue(tmp_path).row("a")
    assert (row["phase"], row["done"], row["eta_of"]) == ("vision", pytest.approx(0.6), "run")
    assert row["eta"] == pytest.approx(200 / 4, abs=3)


def test_whoever_looks_cannot_make_a_starting_training_fail(tmp_path):
    run, stop = write_run(tmp_path / "a"), threading.Event()

    def looks() -> None:
        while not stop.is_set():
            holding.is_training(run)

    watchers = [threading.Thread(target=looks) for _ in range(3)]
    for watcher in watchers:
        watcher.start()
    try:
        for _ in range(50):
            with holding.locked(run):
                pass
    finally:
        stop.set()
        for watcher in watchers:
            watcher.join()


def test_looking_at_rows_makes_no_folder(tmp_path):
    replay = Replay(tmp_path / "replay", 1)
    values = {"is_first": np.ones(1, bool), "is_last": np.ones(1, bool)}
    replay.append(values)
    state = replay.state_dict()
    shutil.rmtree(tmp_path / "replay")
    with pytest.raises(Exception, match="missing"):
        Replay.view(tmp_path / "replay", state)
    assert not (tmp_path / "replay").exists()


# -- over HTTP ------------------------------------------------------------------------------------------------------


@pytest.fixture
def studio(tmp_path):
    root = tmp_path / "runs"
    run = write_run(root / "sweep" / "a")
    (run / "metrics.jsonl").write_bytes(text(lines(200)))
    (run / "pictures").mkdir()
    (run / "pictures" / "x-y.png").write_bytes(b"\x89PNG" + bytes(100))
    (run / "pictures" / "out.png").symlink_to("/etc/hostname")
    (run / "videos").mkdir()
    (run / "videos" / "film.mp4").write_bytes(bytes(range(200)))
    write_run(root / "b", mean=None)
    with client(root, tmp_path) as asking:
        yield asking, root


def test_runs_details_curves_and_media(studio):
    asking, root = studio
    before = snapshot(root)
    reply = asking.get("/api/runs")
    assert {row["run"] for row in reply.json()["runs"]} == {"sweep/a", "b"}
    assert all(len(row["spark"]) <= 60 for row in reply.json()["runs"])
    again = asking.get("/api/runs", headers={"If-None-Match": reply.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    one = asking.get("/api/run/sweep/a").json()
    assert one["checkpoints"] == [1000]
    assert one["settings"]["env"] == {"id": "CarRacing-v3"}
    assert [f["path"] for f in one["films"]] == ["videos/film.mp4"]
    assert one["evaluations"][0]["mean"] == 812.3
    told = asking.get("/api/curves/sweep/a", params={"key": ["train/ret", "nothing"], "x": "step", "points": 50}).json()
    assert list(told["curves"]) == ["train/ret"]
    assert len(told["curves"]["train/ret"]["x"]) <= 50
    assert set(told["curves"]["train/ret"]) == {"x", "y", "low", "high"}
    later = asking.get("/api/curves/sweep/a", params={"key": "train/ret", "since": told["version"]}).json()
    assert (later["same"], later["curves"]) == (True, {})
    part = asking.get("/api/media/sweep/a/videos/film.mp4", headers={"Range": "bytes=10-19"})
    assert (part.status_code, part.content) == (206, bytes(range(10, 20)))
    assert asking.get("/api/curves/b").json()["keys"] != []
    assert snapshot(root) == before


@pytest.mark.parametrize(
    "path",
    [
        "run/nobody", "run/..%2f..%2fetc", "run/%2fetc", "curves/..%2fa", "media/sweep/a/config.yaml",
        "media/sweep/a/videos/..%2fconfig.yaml", "media/sweep/a/pictures/out.png", "media/sweep/a/videos/none.mp4",
        "media/..%2f..%2fetc/videos/passwd", "media/x", "compared/..%2f..%2fx", "compared/0123456789abcdef01234567",
    ],
)  # fmt: skip
def test_what_is_not_of_a_run_is_not_handed_out(path, studio):
    reply = studio[0].get(f"/api/{path}")
    assert reply.status_code == 404
    assert "error" in reply.json() or reply.json() == {"detail": "Not Found"}


def test_comparisons_are_made_once_and_name_what_is_missing(studio, monkeypatch):
    asking, root = studio
    made = []

    def write(found, out):
        made.append(found)
        (out / "report.html").write_text("<!doctype html><p>page")

    monkeypatch.setattr("dreamlab.evals.comparison_page.write", write)
    score = {"agent": "world-models", "env": "CarRacing-v3", "protocol": {}, "mean": 1.0, "std": 0.5}
    (root / "sweep" / "a" / "evaluations" / "1000.json").write_text(json.dumps({**score, "returns": [0.5, 1.5]}))
    before = snapshot(root)
    told = asking.post("/api/compare", json={"runs": ["sweep/a", "b"]}).json()
    assert "dreamlab evaluate" in told["said"][0]
    page = asking.get(told["page"])
    assert page.text == "<!doctype html><p>page"
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert asking.post("/api/compare", json={"runs": ["sweep/a", "b"]}).json() == told
    assert len(made) == 1
    lacking = asking.post("/api/compare", json={"runs": ["b"]})
    assert (lacking.status_code, "dreamlab evaluate" in lacking.json()["error"]) == (400, True)
    assert asking.post("/api/compare", json={"runs": []}).status_code == 400
    assert asking.post("/api/compare", json={"runs": ["../b"]}).status_code == 404
    assert snapshot(root) == before


def test_numbers_that_json_lacks_are_null(studio):
    asking, root = studio
    (root / "b" / "evaluations").mkdir()
    (root / "b" / "evaluations" / "1.json").write_text('{"mean": NaN, "std": Infinity, "returns": [NaN, "x", 1]}')
    one = asking.get("/api/run/b").json()
    assert (one["evaluations"][0]["mean"], one["evaluations"][0]["error"]) == (None, None)
