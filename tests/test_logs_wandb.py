"""W&B gets what the other sinks get, in the run's folder alone, and never stops a run."""

from __future__ import annotations

import json
import os
import struct
import sys
import time
import types
from importlib.machinery import ModuleSpec
from pathlib import Path

import numpy as np
import pytest

from dreamlab.cli.main import main
from dreamlab.core.config import write_yaml
from dreamlab.core.errors import UserError
from dreamlab.logs import wandb as sink_module
from dreamlab.logs.logger import Logger, Sink, open_sinks
from dreamlab.logs.video import read_mp4

CONFIG = {"agent": "world-models", "env": {"id": "tiny/Catch"}, "config": {"vision": {"latent": 4}}}
TRAIN = ["train", "random", "--env", "tiny/Catch", "--steps", "120", "--log-every", "50", "--env.no-workers"]
TRAIN += ["--eval-episodes", "2", "--threads", "1"]


class Heard(Sink):
    def __init__(self):
        self.lines = []

    def message(self, text):
        self.lines.append(text)


class Console(Heard):
    """Takes warnings: the logger knows the console by its module's name."""


Console.__module__ = "dreamlab.logs.console"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run's folder, in a working directory that must stay as it is."""
    run = tmp_path / "runs" / "catch-1"
    run.mkdir(parents=True)
    write_yaml(run / "config.yaml", CONFIG)
    monkeypatch.chdir(tmp_path)
    return run


# -- offline, read back ------------------------------------------------------------------------------------------


def records(path: Path) -> list:
    """What a .wandb file holds: protocol buffers in LevelDB's log format, in blocks of 32 KiB after 7 bytes."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, found, whole, at = path.read_bytes(), [], b"", 7
    assert data[:4] == b":W&B"
    while at + 7 <= len(data):
        left = 32768 - at % 32768
        if left < 7:
            at += left
            continue
        _, length, kind = struct.unpack("<IHB", data[at : at + 7])  # checksum, bytes, whole or first or middle or last
        whole = data[at + 7 : at + 7 + length] if kind in (1, 2) else whole + data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):
            found.append(Record.FromString(whole))
    return found


def values(items) -> dict:
    return {(item.key or "/".join(item.nested_key)): json.loads(item.value_json) for item in items}


def read_back(run: Path) -> tuple:
    """The run's description and its rows by step, of the newest offline run in a folder."""
    import wandb

    wandb.teardown()  # as at the end of a process: its own process has written everything then
    newest = sorted(run.glob("wandb/offline-run-*/*.wandb"), key=lambda path: path.stat().st_mtime_ns)[-1]
    rows, about = {}, None
    for record in records(newest):
        if record.HasField("run") and about is None:
            about = record.run
        if record.HasField("history"):
            row = values(record.history.item)
            rows[row.pop("_step")] = row
    return newest.parent, about, rows


def test_an_offline_run_holds_what_was_logged_and_goes_on_under_its_id(folder, monkeypatch, capfd):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setitem(sys.modules, "moviepy", None)  # W&B would encode films with it
    film = np.random.default_rng(0).integers(0, 255, (5, 1, 8, 6), np.uint8)
    heard, jsonl = Heard(), open_sinks(folder, ["jsonl"])[0]
    log = Logger([heard, jsonl, *open_sinks(folder, ["wandb"], {"wandb": {"project": "catch"}})])
    log.add("vision", {"loss": 2.0, "grid": np.full((3, 8, 6), 77, np.uint8), "film": film})
    log.write(40)
    log.write(80, **{"vision/loss": 1.0, "run/updates": 3})
    log.write(80, **{"eval/mean": 9.0})
    state = log.state_dict()
    log.write(90, **{"vision/loss": 0.5})
    log.close()
    place, about, rows = read_back(folder)

    assert (about.project, about.run_group, about.display_name) == ("catch", "world-models-tiny/Catch", "catch-1")
    config = values(about.config.update)
    assert {key: config[key] for key in CONFIG} == CONFIG
    scalars = {s: {k: v for k, v in row.items() if k.count("/") == 1} for s, row in rows.items()}
    written: dict = {}
    for line in (folder / "metrics.jsonl").read_text().splitlines():
        line = json.loads(line)
        written.setdefault(line.pop("step"), {}).update(line)
    assert scalars == written
    from PIL import Image

    image = np.asarray(Image.open(place / "files" / rows[40]["vision/grid/path"]))
    assert image.shape[2] == 3
    assert (image == 77).all()
    assert len(read_mp4(place / "files" / rows[40]["vision/film/path"])) == 5

    time.sleep(1.0 - time.time() % 1.0)  # W&B names its folders by the second
    log = Logger([heard, *open_sinks(folder, ["wandb"])])
    log.load_state_dict(json.loads(json.dumps(state)))
    log.write(90, **{"vision/loss": 0.5})
    log.close()
    place, again, rows = read_back(folder)
    assert again.run_id == about.run_id == state["sinks"]["wandb"]["id"]
    assert {s: row["vision/loss"] for s, row in rows.items()} == {90: 0.5}

    assert len([line for line in heard.lines if "offline" in line and "wandb sync" in line]) == len(heard.lines) == 2
    assert capfd.readouterr() == ("", "")  # W&B itself says nothing
    assert os.listdir() == ["runs"]


def test_train_logs_to_a_project_and_the_run_is_the_same_without_it(tmp_path, monkeypatch, capfd):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.chdir(tmp_path)
    assert main([*TRAIN, "--run", "r", "--wandb", "team/catch"]) == 0
    assert "wandb sync" in capfd.readouterr().out
    _, about, rows = read_back(tmp_path / "r")
    assert (about.entity, about.project) == ("team", "catch")
    lines = [json.loads(line) for line in Path("r/metrics.jsonl").read_text().splitlines()]
    assert list(rows) == sorted({line["step"] for line in lines}) == [50, 100, 120]
    assert rows[120]["eval/mean"] == lines[-1]["eval/mean"]
    assert "wandb" not in Path("r/config.yaml").read_text()
    assert main([*TRAIN, "--run", "r", "--steps", "160"]) == 0
    assert len(list(Path("r").glob("wandb/offline-run-*"))) == 1
    assert os.listdir() == ["r"]


def test_a_comparison_is_one_run_with_its_table_pictures_and_films(tmp_path, monkeypatch, capsys):
    pytest.importorskip("wandb")
    from test_compare import write_run

    from dreamlab.logs.pictures import write_png
    from dreamlab.logs.video import write_mp4

    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.chdir(tmp_path)
    runs = [write_run(tmp_path / f"iris-{seed}", seed=seed, ret=-3.0) for seed in range(2)]
    write_mp4(runs[0] / "videos" / "1000-seed0.mp4", np.full((4, 16, 16, 3), 90, np.uint8))
    write_png(runs[0] / "pictures" / "train-reconstructions.png", np.full((16, 32, 3), 90, np.uint8))
    assert main(["compare", *map(str, runs), "--out", "out", "--wandb", "team/pong"]) == 0
    assert "wandb sync" in capsys.readouterr().out
    place, about, rows = read_back(tmp_path / "out")
    assert (about.entity, about.project, about.job_type) == ("team", "pong", "compare")
    (row,) = rows.values()
    assert row["score/ALE/Pong-v5/iris"] == pytest.approx(-3.0, abs=1.0)
    files = [place / "files" / value for key, value in row.items() if key.endswith("/path")]
    assert all(file.exists() for file in files)
    groups = {key.split("/")[0] for key in row if not key.startswith("_")}
    assert groups == {"score", "comparison", "film", "reconstructions"}
    table = json.loads((place / "files" / row["comparison/summary/path"]).read_text())
    assert dict(zip(table["columns"], table["data"][0], strict=True))["agent"] == "iris"
    from PIL import Image

    drawn = {key.split("/")[1] for key in row if key.endswith("/path") and key.startswith("comparison/")}
    assert drawn >= {"summary", "published", "scores", "episodes", "steps", "time", "aggregates", "efficiency"}
    assert Image.open(place / "files" / row["comparison/scores/path"]).width > 500


def test_a_score_and_its_film_reach_wandb_for_an_agent_without_a_model(tmp_path, monkeypatch, capfd):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.chdir(tmp_path)
    assert main([*TRAIN, "--run", "r"]) == 0
    assert main(["evaluate", "r", "--episodes", "3", "--video", "--wandb", "catch"]) == 0
    assert "wandb sync" in capfd.readouterr().out
    place, about, rows = read_back(tmp_path / "r")
    assert (about.run_group, about.job_type, about.display_name) == ("random-tiny/Catch", "evaluate", "r")
    ((step, row),) = rows.items()
    assert step == 120
    (stored,) = Path("r/evaluations").glob("*-3episodes.json")
    assert row["eval/mean"] == json.loads(stored.read_text())["mean"]
    assert len(read_mp4(place / "files" / row["film/tiny/Catch/path"])) > 3


# -- trouble -----------------------------------------------------------------------------------------------------


class Fake(types.ModuleType):
    """A stand-in for the package; fails or hangs where it is told to."""

    def __init__(self, mode: str = "online", key: bool = True, start: int = 0, **trouble):
        super().__init__("wandb")
        self.__spec__ = ModuleSpec("wandb", None, origin="fake")
        self.Settings = self.Image = self.Video = lambda *a, **k: a
        self.setup = lambda _: types.SimpleNamespace(settings=types.SimpleNamespace(mode=mode))
        self.login = lambda **_: key
        self.rows, self.trouble = [], trouble
        self.step, self.offline, self.url = start, False, "https://wandb.example/run"

    def __getattr__(self, name):
        if name not in ("init", "log", "finish"):
            raise AttributeError(name)

        def call(*args, **kwargs):
            trouble = self.trouble.get(name)
            if isinstance(trouble, Exception):
                raise trouble
            time.sleep(trouble or 0)
            self.rows += [(kwargs["step"], *args)] if name == "log" else []
            return self

        return call


@pytest.mark.parametrize(
    ("trouble", "words"),
    [
        ({"init": ConnectionError("no route")}, "no route"),
        ({"init": 30.0}, "longer than"),
        ({"log": ValueError("the server said no")}, "said no"),
        ({"finish": 30.0}, "longer than"),
        ({"key": False}, "wandb login"),
    ],
    ids=str,
)
def test_trouble_is_one_warning_and_the_run_goes_on(trouble, words, folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", Fake(**trouble))
    monkeypatch.setattr(sink_module, "PATIENCE", 0.1)
    began, heard = time.monotonic(), Console()
    log = Logger([heard, *open_sinks(folder, ["jsonl", "wandb"])])
    for step in (1, 2):
        log.write(step, **{"g/x": 1.0})
    log.close()
    assert len((folder / "metrics.jsonl").read_text().splitlines()) == 2
    assert [words in line for line in heard.lines if "warning" in line] == [True]
    assert time.monotonic() - began < 5


def test_a_whole_run_is_trained_where_wandb_fails(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "wandb", Fake(init=ConnectionError("no route")))
    assert main([*TRAIN, "--run", str(tmp_path / "r"), "--wandb", "catch"]) == 0
    said = capsys.readouterr().out
    assert said.count("no route") == 1
    assert "done: step 120" in said


def test_more_of_the_step_at_which_a_job_ended_is_not_lost(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", fake := Fake(start=81))  # W&B holds rows up to step 80
    log = Logger(open_sinks(folder, ["wandb"]))
    for step in (70, 80, 90):
        log.write(step, **{"g/x": float(step)})
    assert [step for step, _ in fake.rows] == [70, 81, 90]


@pytest.mark.parametrize("left_behind", [False, True])
def test_a_missing_package_is_told_before_anything_starts(left_behind, tmp_path, monkeypatch):
    spec = ModuleSpec("wandb", None) if left_behind else None  # a folder wandb/ looks like a package without origin
    monkeypatch.setattr(sink_module, "find_spec", lambda _: spec)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"dreamlab\[wandb\]"):
        open_sinks(tmp_path, ["wandb"])
    assert main([*TRAIN, "--wandb", "catch"]) == 2
    assert os.listdir() == []
